"""Handing results on: the report as a file, and taking over what others send."""
