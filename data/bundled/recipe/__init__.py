"""How the bundled model was made: dataset, autoencoder, CLIP, denoiser, evaluation."""
