"""The last leg of the denoiser's training, at a falling rate, as a stage of its own."""

from data.scenes.recipe.train_denoiser import finish as run

__all__ = ["run"]
