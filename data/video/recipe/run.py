"""Runs one stage of the recipe: `python -m data.video.recipe.run STAGE --config FILE --work DIR`."""

from data.scenes.recipe.run import main

STAGES = {
    "paint": ("dataset", "paint_clips"),
    "autoencoder": ("autoencoder", "train_autoencoder"),
    "encode": ("dataset", "encode_clips"),
    "denoiser": ("denoiser", "train_mover"),
    "finish": ("denoiser", "finish"),
    "export": ("export", "export_clips"),
    "evaluate": ("evaluate", "evaluate_clips"),
}

if __name__ == "__main__":
    main(stages=STAGES, package="data.video.recipe")
