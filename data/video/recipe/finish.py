"""The last leg of the denoiser's training, as a stage of its own."""

from data.video.recipe.train_mover import finish as run

__all__ = ["run"]
