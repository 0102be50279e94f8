"""Cost: what the measured times cost."""
