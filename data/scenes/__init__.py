"""The scenes model: its recipe, its weights and its card."""
