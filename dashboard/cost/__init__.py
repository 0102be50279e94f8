"""Cost: measured times in money."""
