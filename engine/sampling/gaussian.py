"""The model "gaussian": an exact Gaussian-mixture denoiser behind the unmodified StableDiffusionPipeline.

The data are eight named patterns mu_k (3 x 16 x 16 latents in [-1, 1]), each with isotropic noise of std
s = COMPONENT_STD. The score of such a mixture has a closed form, so there are no weights to train, and the solution
that a scheduler must converge to is known. With x = a x0 + b n (a = sqrt(alphabar), b = sqrt(1 - alphabar)) and
v = a^2 s^2 + b^2:

    r_k = softmax_k(log w_k - |x - a mu_k|^2 / 2v),      eps = (b / v) (x - a sum_k r_k mu_k)

which equals (x - a E[x0|x]) / b without its cancellation at small b. The same ODE in VE scaling (y = x / a,
sigma = b / a) is dy/dsigma = eps, solved in gaussian_mixture.py in closed form (one component) or to high accuracy.

Schedulers end with a first-order jump from their last noise level to 0. From the lowest level, sigma_at(0) = 0.029, it
shrinks x0 - mu by s / sqrt(s^2 + sigma^2), 0.67 %: even a converged run stays that far from x0.
"""

from typing import Any, ClassVar

import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin, StableDiffusionPipeline
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from transformers import BatchEncoding

from engine.sampling.gaussian_mixture import (
    BETA_END,
    BETA_START,
    COMPONENT_STD,
    LATENT_SHAPE,
    PATTERNS,
    TRAIN_TIMESTEPS,
    component_means,
    exact_solution,
    named_patterns,
    sigma_at,
    solve_reference,
)

__all__ = [
    "COMPONENT_STD",
    "LATENT_SHAPE",
    "PATTERNS",
    "GaussianMixtureUNet",
    "build_pipeline",
    "component_means",
    "exact_solution",
    "named_patterns",
    "sigma_at",
    "solve_reference",
]


class GaussianMixtureUNet(ModelMixin, ConfigMixin):
    """The exact noise predictor in place of a UNet2DConditionModel; its parameters are the means."""

    @register_to_config
    def __init__(
        self,
        sample_size: int = LATENT_SHAPE[1],
        in_channels: int = LATENT_SHAPE[0],
        out_channels: int = LATENT_SHAPE[0],
        cross_attention_dim: int = len(PATTERNS),
        time_cond_proj_dim: int | None = None,
        component_std: float = COMPONENT_STD,
    ) -> None:
        super().__init__()
        self.means = torch.nn.Parameter(component_means().float(), requires_grad=False)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        timestep_cond: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[torch.Tensor]:
        """Predicts the noise in a VP-scaled sample exactly (computed in float64, returned in the sample's dtype).

        Args:
            sample: x = a x0 + b n, (B, 3, 16, 16).
            timestep: 0..999, fractions allowed: a number, or a tensor of shape (), (1,) or (B,).
            encoder_hidden_states: (B, L, 8); the normalised sum over L gives each row's component weights, and zeros
                give all eight equal weights.
            class_labels, timestep_cond, attention_mask, cross_attention_kwargs, added_cond_kwargs: Ignored; pipelines
                pass them.
            return_dict: False for a plain tuple.

        Raises:
            ValueError: Sample or embedding have another shape, e.g. for a picture size other than 64 x 64.
        """
        batch = sample.shape[0]
        if sample.shape[1:] != self.means.shape[1:]:
            expected = tuple(self.means.shape[1:])
            raise ValueError(f"Latents are {tuple(sample.shape[1:])}, this model has {expected} (64 x 64 px only).")
        if encoder_hidden_states.ndim != 3 or encoder_hidden_states.shape[::2] != (batch, len(PATTERNS)):
            found = tuple(encoder_hidden_states.shape)
            raise ValueError(f"Text embeddings are {found}, expected ({batch}, any, {len(PATTERNS)}).")
        sigma = sigma_at(timestep, sample.device).expand(batch)
        weights = encoder_hidden_states.to(sigma.dtype).sum(dim=1)
        weights = torch.where(weights.sum(dim=1, keepdim=True) == 0, torch.ones_like(weights), weights)
        noise = self._noise(sample.to(sigma.dtype).flatten(1), sigma[:, None], weights).view_as(sample)
        noise = noise.to(sample.dtype)
        return UNet2DConditionOutput(sample=noise) if return_dict else (noise,)

    def _noise(self, x: torch.Tensor, sigma: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """eps of rows x (B, 768) at sigma (B, 1) under component weights (B, 8) of any positive sum."""
        means = self.means.to(x.dtype).flatten(1)
        a = torch.rsqrt(1 + sigma**2)
        b = sigma * a
        variance = (a * self.config.component_std) ** 2 + b**2
        # |x|^2 is the same for all components; leaving it out avoids cancellation of large numbers in the softmax
        distance = a**2 * means.square().sum(1) - 2 * a * (x @ means.T)
        responsibilities = torch.softmax(weights.log() - distance / (2 * variance), dim=1)
        return b / variance * (x - a * (responsibilities @ means))


class UpsamplingVae(ModelMixin, ConfigMixin):
    """The decoder: repeats every latent value 4 x 4 times."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = LATENT_SHAPE[0],
        block_out_channels: tuple[int, ...] = (1, 1, 1),
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()), requires_grad=False)  # gives the module a dtype and a device

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Latents (B, 3, H, W) to pictures (B, 3, 4H, 4W), both nominally in [-1, 1]."""
        factor = 2 ** (len(self.config.block_out_channels) - 1)
        sample = z.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
        return DecoderOutput(sample=sample) if return_dict else (sample,)


class PatternTokenizer:
    """The tokenizer: one token (index + 1) per pattern named in the prompt, ascending, padded with 0."""

    model_max_length = len(PATTERNS)
    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def tokenize(self, text: str) -> list[str]:
        """The names of the patterns in the text."""
        return [PATTERNS[index] for index in named_patterns(text)]

    def __call__(self, text: str | list[str], padding: str = "longest", **options: Any) -> BatchEncoding:
        """input_ids and attention_mask, (B, L) int64; options (truncation, return_tensors, ...) are ignored."""
        rows = [[index + 1 for index in named_patterns(t)] for t in ([text] if isinstance(text, str) else text)]
        length = self.model_max_length if padding == "max_length" else max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], dtype=torch.long).view(len(rows), length)
        return BatchEncoding({"input_ids": ids, "attention_mask": (ids > 0).long()})


class PatternTextEncoder(ModelMixin, ConfigMixin):
    """The text encoder: token k + 1 becomes the unit vector e_k, padding becomes zero."""

    @register_to_config
    def __init__(self, use_attention_mask: bool = False) -> None:
        super().__init__()
        table = torch.cat([torch.zeros(1, len(PATTERNS)), torch.eye(len(PATTERNS))])
        self.embedding = torch.nn.Embedding.from_pretrained(table, freeze=True)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor]:
        """Maps token ids (B, L) to a one-tuple of embeddings (B, L, 8)."""
        return (self.embedding(input_ids),)


def build_pipeline(dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """A StableDiffusionPipeline for 64 x 64 px pictures of the eight patterns; it needs no files and no network.

    Its scheduler is DDIM with the keys that SD checkpoints store; spacing and prediction type stay defaults, so that
    `Other.from_config(pipe.scheduler.config)` uses Other's own. It can't be saved, since its tokenizer is a stand-in.
    """
    scheduler = DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusionPipeline(
        vae=UpsamplingVae().type(dtype),  # ModelMixin.to(dtype) logs a warning about an empty list
        text_encoder=PatternTextEncoder().type(dtype),
        tokenizer=PatternTokenizer(),
        unet=GaussianMixtureUNet().type(dtype),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
