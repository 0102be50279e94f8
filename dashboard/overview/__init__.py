"""Overview: what was run, how long each lane takes, what the images look like, and what follows."""
