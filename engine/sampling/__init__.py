"""Models, schedulers and the image pass: everything that computes pictures."""

import os

# Read when transformers is imported; its notices about optional packages don't concern users of the lab.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
