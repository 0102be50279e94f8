"""Searching better schedules for a model, without gradients: recordings, a first guess, refinement by real runs."""
