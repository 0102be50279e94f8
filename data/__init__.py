"""Files shipped with the project: the bundled model, its recipe, prompt sets and presets."""
