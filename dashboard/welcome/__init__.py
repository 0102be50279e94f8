"""Welcome: what a page shows as long as there is nothing to show."""
