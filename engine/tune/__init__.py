"""Searches better schedules for a model, without gradients: recordings, a first estimate, refinement by real runs."""
