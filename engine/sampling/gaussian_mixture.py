"""The data of the model "gaussian": eight named patterns plus noise, their noise levels and their exact ODE solutions.

Pure mathematics without diffusers: the distribution behind gaussian.py, and what its schedulers must converge to.
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp

COMPONENT_STD = 0.25
LATENT_SHAPE = (3, 16, 16)
TRAIN_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
_SUPERSAMPLING = 8

Array = np.ndarray[Any, np.dtype[np.float64]]
Shape = Callable[[Array, Array], np.ndarray[Any, Any]]
Start = Literal["vp", "ve"]


class Pattern(NamedTuple):
    """One component: coverage in 0..1 as a function of x (right) and y (down) in [-1, 1], and two hex colours."""

    coverage: Shape
    foreground: str
    background: str = "1B2A41"


_PATTERNS: dict[str, Pattern] = {
    "disc": Pattern(lambda x, y: np.hypot(x, y) < 0.72, "E69F00"),
    "ring": Pattern(lambda x, y: np.abs(np.hypot(x, y) - 0.62) < 0.2, "56B4E9"),
    "square": Pattern(lambda x, y: np.maximum(np.abs(x), np.abs(y)) < 0.625, "E63946"),
    "triangle": Pattern(lambda x, y: (np.abs(x) < (y + 0.75) * 0.56) & (y < 0.7), "009E73"),
    "cross": Pattern(lambda x, y: (np.minimum(abs(x), abs(y)) < 0.25) & (np.maximum(abs(x), abs(y)) < 0.8), "CC79A7"),
    "stripes": Pattern(lambda x, y: np.floor((x + 1) * 4) % 2, "F0E442", "2A6F97"),
    "checker": Pattern(lambda x, y: (np.floor((x + 1) * 2) + np.floor((y + 1) * 2)) % 2, "F4F1DE", "3D405B"),
    "gradient": Pattern(lambda x, y: (x - y + 2) / 4, "FFDDA1", "0B1D51"),
}
PATTERNS: tuple[str, ...] = tuple(_PATTERNS)


def component_means() -> torch.Tensor:
    """The means mu_k, (8, 3, 16, 16) float64 in [-1, 1]; multiples of 1/128, so exact in every float dtype."""
    size, cells = LATENT_SHAPE[1], LATENT_SHAPE[1] * _SUPERSAMPLING
    axis = (np.arange(cells) + 0.5) / cells * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    means = []
    for coverage, *colours in _PATTERNS.values():
        share = np.asarray(coverage(x, y), dtype=np.float64)
        share = share.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING).mean(axis=(1, 3))
        front, back = (np.array(list(bytes.fromhex(c))).reshape(3, 1, 1) / 127.5 - 1 for c in colours)
        means.append(share * front + (1 - share) * back)
    return torch.from_numpy(np.round(np.stack(means) * 128) / 128)


def named_patterns(prompt: str) -> tuple[int, ...]:
    """Ascending indices into PATTERNS of the names in the prompt (whole words, any case)."""
    words = set(re.findall(r"\w+", prompt.lower()))
    return tuple(index for index, name in enumerate(PATTERNS) if name in words)


@lru_cache
def _log_sigmas(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """log sigma at the integer timesteps 0..999 of SD's scaled-linear betas."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, dim=0)
    return (0.5 * torch.log((1 - alphas_cumprod) / alphas_cumprod)).to(device, dtype)


def sigma_at(timestep: torch.Tensor | float, device: torch.device | None = None) -> torch.Tensor:
    """sigma = sqrt((1 - alphabar) / alphabar) at integer or fractional timesteps of any shape.

    log sigma is linear in t between integer timesteps, as in the schedulers' own `_sigma_to_t`; timesteps outside
    0..999 are clamped. Float64 (float32 on devices without it), on the given device or the timestep's own.
    """
    if device is None:
        device = timestep.device if isinstance(timestep, torch.Tensor) else torch.device("cpu")
    dtype = torch.float32 if device.type == "mps" else torch.float64
    table = _log_sigmas(device, dtype)
    time = torch.as_tensor(timestep, dtype=dtype, device=device).clamp(0, TRAIN_TIMESTEPS - 1)
    low = time.floor().clamp(max=TRAIN_TIMESTEPS - 2)
    index = low.long()
    return torch.exp(torch.lerp(table[index], table[index + 1], time - low))


def _start(noise: torch.Tensor, sigma_start: float, sigma_end: float, start: Start) -> torch.Tensor:
    """Checks the arguments and scales unit noise to the VE sample at sigma_start, (B, 768) float64."""
    if noise.ndim != 4 or tuple(noise.shape[1:]) != LATENT_SHAPE:
        raise ValueError(f"Noise is {tuple(noise.shape)}, expected (B, {', '.join(map(str, LATENT_SHAPE))}).")
    if not 0 <= sigma_end < sigma_start < math.inf:
        raise ValueError(f"Need 0 <= sigma_end < sigma_start, got {sigma_end} and {sigma_start}.")
    if start not in ("vp", "ve"):
        raise ValueError(f"Unknown start {start!r}: 'vp' or 've'.")
    scale = sigma_start if start == "ve" else math.hypot(1.0, sigma_start)
    return scale * noise.detach().cpu().to(torch.float64).flatten(1)


def exact_solution(
    noise: torch.Tensor, prompt: str, sigma_start: float, sigma_end: float = 0.0, *, start: Start = "vp"
) -> torch.Tensor:
    """Closed-form solution of the probability-flow ODE for a prompt that names one pattern, at guidance 1.

    For one Gaussian eps = sigma (y - mu) / (s^2 + sigma^2), so dy/dsigma = eps separates and
    y(sigma_end) = mu + (y(sigma_start) - mu) sqrt((s^2 + sigma_end^2) / (s^2 + sigma_start^2)).

    No run starts at x0 + sigma_start n. As a VE sample y, pipelines start from
      "vp": y = sqrt(1 + sigma_start^2) noise, unit noise as the VP sample: DDIM, DDPM, PNDM, DEIS, DPM++ 2M, 3M, 2S,
            UniPC, SA (init_noise_sigma is 1), and Euler, Heun, LMS, KDPM2 with spacing "leading";
      "ve": y = sigma_start noise: Euler, Heun, LMS, KDPM2 with spacing "linspace" or "trailing" (so their sample is
            0.23 % smaller at sigma 14.6). sigma_start is sigma_at(first timestep), 14.61 at t = 999.

    Args:
        noise: Unit Gaussian noise, (B, 3, 16, 16), before the pipeline scales it.
        prompt: Names exactly one pattern.
        sigma_start: Noise level at the start.
        sigma_end: Noise level at the end, 0 for x0.
        start: The start convention.

    Returns:
        The VE sample at sigma_end, float64, in the shape of noise. At sigma_end = 0 it is x0; divided by
        sqrt(1 + sigma_end^2) it is the VP sample (where a DDIM run with set_alpha_to_one=False stops).

    Raises:
        ValueError: The prompt doesn't name exactly one pattern, or another argument is out of range.
    """
    named = named_patterns(prompt)
    if len(named) != 1:
        raise ValueError(f"The closed form needs one pattern; {prompt!r} names {len(named)}. Use solve_reference.")
    y = _start(noise, sigma_start, sigma_end, start)
    mean = component_means()[named[0]].flatten()
    shrink = math.hypot(COMPONENT_STD, sigma_end) / math.hypot(COMPONENT_STD, sigma_start)
    return (mean + (y - mean) * shrink).view_as(noise)


def _mixture_eps(y: Array, sigma: float, means: Array) -> Array:
    """eps at VE samples y (B, D) for equally weighted components (K, D): -sigma times the score."""
    variance = COMPONENT_STD**2 + sigma**2
    difference = y[:, None, :] - means[None, :, :]
    log_density = -np.sum(difference**2, axis=2) / (2 * variance)
    density = np.exp(log_density - log_density.max(axis=1, keepdims=True))
    share = density / density.sum(axis=1, keepdims=True)
    return sigma / variance * np.einsum("bk,bkd->bd", share, difference)


def solve_reference(
    noise: torch.Tensor,
    prompt: str,
    guidance_scale: float,
    sigma_start: float,
    sigma_end: float = 0.0,
    *,
    negative_prompt: str = "",
    start: Start = "vp",
    rtol: float = 1e-9,
) -> torch.Tensor:
    """Accurate solution of the guided ODE dy/dsigma = eps_u + g (eps_c - eps_u) for any prompts.

    Shares no formula with the model: float64 numpy, VE scaling, DOP853 (Dormand-Prince 8(5,3), Hairer, Norsett and
    Wanner, Solving ODEs I) in log sigma. Guidance as in Ho and Salimans 2022, arXiv:2207.12598.

    Args:
        noise, prompt, sigma_start, sigma_end, start: As for exact_solution; the prompt may name any patterns.
        guidance_scale: g; 1 for the conditional model alone.
        negative_prompt: The prompt behind eps_u; an empty one stands for all eight patterns.
        rtol: Relative tolerance of the solver.

    Returns:
        The VE sample at sigma_end (x0 at 0), float64, in the shape of noise.

    Raises:
        ValueError: An argument is out of range.
        RuntimeError: The solver failed.
    """
    y = _start(noise, sigma_start, sigma_end, start).numpy()
    means = component_means().flatten(1).numpy()
    wanted, unwanted = (means[list(named_patterns(text) or range(len(means)))] for text in (prompt, negative_prompt))

    def slope(log_sigma: float, flat: Array) -> Array:
        sigma, rows = math.exp(log_sigma), flat.reshape(y.shape)
        wanted_eps, unwanted_eps = (_mixture_eps(rows, sigma, components) for components in (wanted, unwanted))
        return (sigma * (unwanted_eps + guidance_scale * (wanted_eps - unwanted_eps))).ravel()

    # log sigma cannot reach 0: y changes by (sigma / s)^2 / 2 below sigma, 1e-11 here
    span = (math.log(sigma_start), math.log(max(sigma_end, 1e-6)))
    solution = solve_ivp(slope, span, y.ravel(), method="DOP853", rtol=rtol, atol=rtol * COMPONENT_STD, t_eval=span[1:])
    if not solution.success:
        raise RuntimeError(f"The reference solver failed: {solution.message}")
    return torch.from_numpy(solution.y[:, -1].reshape(noise.shape))
