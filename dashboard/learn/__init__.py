"""Learn: latent space, guidance, solvers and denoiser calls, for newcomers, with pictures from the cache."""
