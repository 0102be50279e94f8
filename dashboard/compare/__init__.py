"""Compare: how the image forms with every lane, side by side."""
