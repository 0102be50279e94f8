"""Runs: starts studies from the page, one at a time, and shows earlier ones."""
