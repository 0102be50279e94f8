"""The autoencoder's second leg, its decoder alone, as a stage of its own."""

from data.scenes.recipe.train_autoencoder import sharpen as run

__all__ = ["run"]
