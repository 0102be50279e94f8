"""Phases: how the image forms."""
