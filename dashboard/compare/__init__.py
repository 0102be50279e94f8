"""Compare: how the image forms under every lane, side by side."""
