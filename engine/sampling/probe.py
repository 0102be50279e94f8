"""Measures what a scheduler really does, call by call, without a model: a denoiser whose answer is known stands in.

All data are zero here, so that noisy latents are nothing but noise: x = sigma / sqrt(1 + sigma^2) z in
variance-preserving scale, z of unit power. The perfect denoiser then knows the noise from the latents alone,
z = x / rms(x), and every consistent solver keeps the latents exactly on its own noise levels, so that rms(x) at a call
is the level the scheduler has reached, whatever its class calls it. That is compared with the level that the timestep
names to the denoiser (`NoiseLevels`). To the last prediction an error w is added, orthogonal to z: the weight of w in
the result tells a first-order jump to zero (the result is the clean-image estimate of the last call) from other last
steps.

Noise that a scheduler draws is made orthogonal to the latents and of unit power, so that levels of stochastic
schedulers are as exact as those of the others.
"""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from engine.sampling.recording import NoiseLevels

SHAPE = (1, 4, 32, 32)
ERROR_SIZE = 0.1
ZERO = 1e-3
# Weights are as far apart as the level that a rounded first timestep names and the one the latents have.
SAME_WEIGHT = 0.02
# Levels above it are pure noise, and alike.
NO_SIGNAL = 1e3


@dataclass(frozen=True)
class Probe:
    """What a scheduler did.

    Attributes:
        timesteps: As given to the denoiser, one for each of its calls.
        sigmas: Noise over signal of the latents at each call, measured.
        told: Noise over signal that the timestep names to the denoiser.
        true_timesteps: The timesteps, with fractions, that name the levels the latents have.
        lowest: Noise over signal at the first training timestep, the lowest level the model knows.
        starts_as_noise: Whether the first latents hold no signal at all, though the first timestep names some.
        final_sigma: Noise over signal left in the finished latents.
        jumps_to_zero: Whether the last step returns the clean-image estimate of the last call: a first-order jump
            from the last level to zero.
        flow: Whether the model predicts flow.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    told: tuple[float, ...]
    true_timesteps: tuple[float, ...]
    lowest: float
    starts_as_noise: bool
    final_sigma: float
    jumps_to_zero: bool
    flow: bool = False

    @property
    def log_snr(self) -> tuple[float, ...]:
        """Log of the signal-to-noise power ratio of the latents at each call."""
        return tuple(-2 * math.log(max(sigma, 1e-12)) for sigma in self.sigmas)


class OrthogonalNoise(TorchFunctionMode):
    """While it is on, normal noise of the probe's shape has unit power and is orthogonal to some tensors.

    Attributes:
        against: Those tensors; equal directions count once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.against: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function of torch, and straightens what it drew."""
        drawn = func(*args, **(kwargs or {}))
        if func in {torch.randn, torch.randn_like, torch.normal} and tuple(drawn.shape) == SHAPE:
            return self.straightened(drawn)
        return drawn

    def straightened(self, drawn: torch.Tensor) -> torch.Tensor:
        """The part of a tensor that is orthogonal to the others, of unit power."""
        noise, basis = drawn.double(), list[torch.Tensor]()
        for tensor in [*self.against, noise]:
            rest = tensor.double()
            # Twice, as once leaves rounding errors where directions are nearly equal.
            for direction in basis * 2:
                rest = rest - (rest * direction).mean() * direction
            power = float(rest.square().mean().sqrt())
            if power > 1e-5 * float(tensor.double().square().mean().sqrt()):
                basis.append(rest / power)
        return basis[-1].to(drawn.dtype)


@torch.no_grad()
def probe(scheduler: Any, steps: int) -> Probe:
    """Runs a fresh scheduler over its steps, as a pipeline would.

    Args:
        scheduler: As built for a lane; it is used up.
        steps: `num_inference_steps`.

    Raises:
        Exception: Whatever the scheduler raises.
    """
    levels = NoiseLevels(scheduler)
    _set_timesteps(scheduler, steps)
    generator, mode = torch.Generator().manual_seed(0), OrthogonalNoise()
    _replace_noise_sampler(scheduler, generator, mode)
    noise = mode.straightened(torch.randn(SHAPE, generator=generator))
    mode.against = [noise]
    error = mode.straightened(torch.randn(SHAPE, generator=generator))
    timesteps = [float(timestep) for timestep in scheduler.timesteps]
    told = [math.exp(levels.log_sigma(timestep)) for timestep in timesteps]
    latents = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    first = _level(_scaled(scheduler, latents, scheduler.timesteps[0]), levels.flow)
    # From the level that the first timestep names: what else is in pure noise would count as signal to the end.
    latents = latents * (_share(told[0], levels.flow) / _share(first, levels.flow))
    before, sigmas = latents, list[float]()
    options = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for index, timestep in enumerate(scheduler.timesteps):
        seen = _scaled(scheduler, latents, timestep)
        sigmas.append(_level(seen, levels.flow))
        prediction = _prediction(levels, seen, error if index == len(timesteps) - 1 else None)
        mode.against, before = [latents, before, error], latents
        with mode:
            latents = scheduler.step(prediction, timestep, latents, return_dict=False, **options)[0].float()
    weight = float((latents * error).mean()) / ERROR_SIZE
    final = float((latents - weight * ERROR_SIZE * error).square().mean().sqrt())
    expected = _x0_weight(levels, sigmas[-1])
    jumps = final < ZERO and abs(weight - expected) < SAME_WEIGHT * abs(expected)
    return Probe(
        tuple(timesteps),
        tuple(sigmas),
        tuple(told),
        _timesteps_of(sigmas, levels),
        math.exp(levels.log_sigma(1.0 if levels.flow else 0.0)),
        starts_as_noise=first > 2 * told[0] and told[0] < NO_SIGNAL,
        final_sigma=0.0 if final < ZERO else final,
        jumps_to_zero=jumps,
        flow=levels.flow,
    )


def _set_timesteps(scheduler: Any, steps: int) -> None:
    """Sets the steps; where the shift follows the picture size, that of the native one, the largest."""
    config = scheduler.config
    if config.get("use_dynamic_shifting") and "mu" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(steps, mu=float(config.get("max_shift") or 1.15))
    else:
        scheduler.set_timesteps(steps)


def _timesteps_of(sigmas: list[float], levels: NoiseLevels) -> tuple[float, ...]:
    """The inverse of `NoiseLevels.log_sigma`, within the training timesteps."""
    trained = np.arange(levels.trained + levels.flow)
    known = [levels.log_sigma(float(timestep)) for timestep in trained]
    return tuple(np.interp(np.log(np.maximum(sigmas, 1e-12)), known, trained).tolist())


def _replace_noise_sampler(scheduler: Any, generator: torch.Generator, mode: OrthogonalNoise) -> None:
    """Brownian trees draw by halves and sums, which cannot be straightened one by one."""
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = lambda *_: mode.straightened(torch.randn(SHAPE, generator=generator))


def _scaled(scheduler: Any, latents: torch.Tensor, timestep: Any) -> torch.Tensor:
    """What the denoiser would get."""
    scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
    return scaled.double()


def _level(seen: torch.Tensor, flow: bool) -> float:
    """Noise over signal of latents that are nothing but noise."""
    share = min(float(seen.square().mean().sqrt()), 1 - 1e-9)
    return share / (1 - share) if flow else share / math.sqrt(1 - share**2)


def _share(sigma: float, flow: bool) -> float:
    """The inverse of `_level`: rms of the latents at a level."""
    return sigma / (1 + sigma) if flow else sigma / math.sqrt(1 + sigma**2)


def _prediction(levels: NoiseLevels, seen: torch.Tensor, error: torch.Tensor | None) -> torch.Tensor:
    """The perfect prediction of the kind the scheduler takes, with the error on top if there is one."""
    share = float(seen.square().mean().sqrt())
    perfect = seen / max(share, 1e-12)
    if levels.prediction == "v_prediction" and not levels.flow:
        perfect = perfect * math.sqrt(max(1 - share**2, 0.0))
    elif levels.prediction == "sample":
        perfect = torch.zeros_like(seen)
    return (perfect if error is None else perfect + ERROR_SIZE * error).float()


def _x0_weight(levels: NoiseLevels, sigma: float) -> float:
    """What an error of the prediction is multiplied with in the clean-image estimate."""
    if levels.flow:
        return -_share(sigma, True)
    return {"v_prediction": -_share(sigma, False), "sample": 1.0}.get(levels.prediction, -sigma)
