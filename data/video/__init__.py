"""The video model: its recipe, its weights and its card."""
