"""Measures what a scheduler does at every call, with a perfect denoiser in place of a model.

All data are zero here, so noisy latents are pure noise: x = sigma / sqrt(1 + sigma^2) z in variance-preserving scale, z
of unit power. A perfect denoiser then computes the noise from the latents alone, z = x / rms(x), and every consistent
solver keeps the latents exactly on its own noise levels. So rms(x) at a call is the level that the scheduler has
reached, which is compared with the level that the timestep stands for (`NoiseLevels`). An error w, orthogonal to z, is
added to the last prediction: its weight in the result shows whether the last step is a first-order jump to zero, whose
result is the x0 estimate of the last call.

Noise drawn by a scheduler is made orthogonal to the latents and of unit power, so that the levels of stochastic
schedulers are as exact as those of the others.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from engine.sampling.recording import NoiseLevels

SHAPE = (1, 4, 32, 32)
ERROR_SIZE = 0.1
ZERO = 1e-3
# Weights may differ by as much as the level of a rounded first timestep and that of the latents.
SAME_WEIGHT = 0.02
# Levels above these count as pure noise, and as equal.
NO_SIGNAL, ALL_NOISE = 1e3, 1e4


@dataclass(frozen=True)
class Probe:
    """The measurements of a scheduler.

    Attributes:
        timesteps: As passed to the denoiser, one per call.
        sigmas: Measured noise over signal of the latents at each call.
        told: Noise over signal that each timestep stands for.
        true_timesteps: The fractional timesteps that correspond to the measured levels.
        lowest: Noise over signal at the first training timestep, the lowest level the model knows.
        starts_as_noise: Whether the initial latents are pure noise although the first timestep stands for some signal.
        final_sigma: Noise over signal left in the final latents.
        jumps_to_zero: Whether the last step returns the x0 estimate of the last call: a first-order jump from the last
            level to zero.
        rounding: How far a merely rounded timestep may be from the exact one.
        log_time: Whether timesteps are logarithms of levels instead of positions in training.
    """

    timesteps: tuple[float, ...]
    sigmas: tuple[float, ...]
    told: tuple[float, ...]
    true_timesteps: tuple[float, ...]
    lowest: float
    starts_as_noise: bool
    final_sigma: float
    jumps_to_zero: bool
    rounding: float = 0.51
    log_time: bool = False

    @property
    def log_snr(self) -> tuple[float, ...]:
        """Log of the signal-to-noise power ratio of the latents at each call."""
        return tuple(-2 * math.log(max(sigma, 1e-12)) for sigma in self.sigmas)


class OrthogonalNoise(TorchFunctionMode):
    """While active, makes normal noise of the probe's shape orthogonal to some tensors and of unit power.

    Attributes:
        against: Those tensors; equal directions count once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.against: list[torch.Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a torch function and corrects the noise it drew."""
        drawn = func(*args, **(kwargs or {}))
        if func in {torch.randn, torch.randn_like, torch.normal} and tuple(drawn.shape) == SHAPE:
            return self.straightened(drawn)
        return drawn

    def straightened(self, drawn: torch.Tensor) -> torch.Tensor:
        """The component of a tensor orthogonal to the others, scaled to unit power."""
        noise, basis = drawn.double(), list[torch.Tensor]()
        for tensor in [*self.against, noise]:
            rest = tensor.double()
            # Twice, since once leaves rounding errors if directions are nearly equal.
            for direction in basis * 2:
                rest = rest - (rest * direction).mean() * direction
            power = float(rest.square().mean().sqrt())
            if power > 1e-5 * float(tensor.double().square().mean().sqrt()):
                basis.append(rest / power)
        return basis[-1].to(drawn.dtype)


@torch.no_grad()
def probe(
    scheduler: Any, steps: int, handed: Mapping[str, Any] | None = None, model: NoiseLevels | None = None
) -> Probe:
    """Runs a fresh scheduler over its steps, as a pipeline would.

    Args:
        scheduler: As built for a lane; not to be reused.
        steps: `num_inference_steps`.
        handed: What the pipeline passes to `set_timesteps`, if known.
        model: The noise schedule that the model was trained on; by default the scheduler's own.

    Raises:
        Exception: Any error of the scheduler.
    """
    levels = NoiseLevels(scheduler)
    names = model or levels
    _set_timesteps(scheduler, steps, handed or {})
    generator, mode = torch.Generator().manual_seed(0), OrthogonalNoise()
    _replace_noise_sampler(scheduler, generator, mode)
    noise = mode.straightened(torch.randn(SHAPE, generator=generator))
    mode.against = [noise]
    error = mode.straightened(torch.randn(SHAPE, generator=generator))
    timesteps = [float(timestep) for timestep in scheduler.timesteps]
    told = [math.exp(names.log_sigma(timestep)) for timestep in timesteps]
    latents = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    first = _level(latents, _scaled(scheduler, latents, scheduler.timesteps[0]), levels)
    # Start at the level of the first timestep: any excess in pure noise would count as signal until the end.
    start = float(scheduler.sigmas[0]) if levels.log_time else math.exp(levels.log_sigma(timesteps[0]))
    latents = latents * (_rms(start, levels) / _rms(first, levels))
    before, sigmas, step = latents, list[float](), _Steps(scheduler, generator)
    for index, timestep in enumerate(scheduler.timesteps):
        seen = _scaled(scheduler, latents, timestep)
        sigmas.append(_level(latents, seen, levels))
        last = index == len(timesteps) - 1
        prediction = _prediction(levels, scheduler, seen, sigmas[-1], error if last else None)
        mode.against, before = [latents, before, error], latents
        with mode:
            latents = step(prediction, index, latents)
    weight = float((latents * error).mean()) / ERROR_SIZE
    final = float((latents - weight * ERROR_SIZE * error).square().mean().sqrt())
    expected = _x0_weight(levels, scheduler, sigmas[-1])
    jumps = final < ZERO and abs(weight - expected) < SAME_WEIGHT * abs(expected)
    return Probe(
        tuple(timesteps),
        tuple(sigmas),
        tuple(told),
        tuple(names.timestep_of(sigma) for sigma in sigmas),
        _lowest(levels, scheduler),
        starts_as_noise=first > 2 * told[0] and told[0] < NO_SIGNAL,
        final_sigma=0.0 if final < ZERO else final,
        jumps_to_zero=jumps,
        # Flow solvers truncate timesteps, and keep a small distance from both ends.
        rounding=1e-3 if levels.log_time else 1.5 if levels.flow else 0.51,
        log_time=levels.log_time,
    )


class _Steps:
    """Calls a scheduler's `step` as pipelines do, with any further arguments it needs."""

    def __init__(self, scheduler: Any, generator: torch.Generator) -> None:
        self._scheduler, self._clean = scheduler, None
        parameters = inspect.signature(scheduler.step).parameters
        self._options = {"generator": generator} if "generator" in parameters else {}
        self._backwards = "old_pred_original_sample" in parameters

    def __call__(self, prediction: torch.Tensor, index: int, latents: torch.Tensor) -> torch.Tensor:
        timesteps = self._scheduler.timesteps
        more: dict[str, Any] = {}
        if self._backwards:  # CogVideoX DPM
            more = {
                "old_pred_original_sample": self._clean,
                "timestep_back": timesteps[index - 1] if index > 0 else None,
            }
        found = self._scheduler.step(
            model_output=prediction,
            timestep=timesteps[index],
            sample=latents,
            return_dict=False,
            **more,
            **self._options,
        )
        self._clean = found[1] if self._backwards else None
        stepped: torch.Tensor = found[0]
        return stepped.float()


def _set_timesteps(scheduler: Any, steps: int, handed: Mapping[str, Any]) -> None:
    """Sets the steps as the pipeline does; if that is unknown, with the shift for large pictures."""
    known = inspect.signature(scheduler.set_timesteps).parameters
    given = {name: value for name, value in handed.items() if name in known}
    if not given and scheduler.config.get("use_dynamic_shifting") and "mu" in known:
        given = {"mu": float(scheduler.config.get("max_shift") or 1.15)}
    if "sigmas" not in given and "timesteps" not in given:
        given["num_inference_steps"] = steps
    scheduler.set_timesteps(**given)


def _replace_noise_sampler(scheduler: Any, generator: torch.Generator, mode: OrthogonalNoise) -> None:
    """Replaces Brownian trees, whose noise is a sum of many draws and can't be corrected one by one."""
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = lambda *_: mode.straightened(torch.randn(SHAPE, generator=generator))


def _scaled(scheduler: Any, latents: torch.Tensor, timestep: Any) -> torch.Tensor:
    """The input of the denoiser."""
    scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
    return scaled.double()


def _level(latents: torch.Tensor, seen: torch.Tensor, levels: NoiseLevels) -> float:
    """Noise over signal of latents that are pure noise."""
    if levels.log_time:  # in variance-exploding scale, since the share of noise is 1 at such high levels
        return float(latents.double().square().mean().sqrt())
    share = min(float(seen.square().mean().sqrt()), 1 - 1e-12)
    return share / (1 - share) if levels.flow else share / math.sqrt(1 - share**2)


def _rms(sigma: float, levels: NoiseLevels) -> float:
    """The inverse of `_level`: root mean square of the latents."""
    return sigma if levels.log_time else _share(sigma, levels.flow)


def _share(sigma: float, flow: bool) -> float:
    """Share of noise in the denoiser's input."""
    return sigma / (1 + sigma) if flow else sigma / math.sqrt(1 + sigma**2)


def _prediction(
    levels: NoiseLevels, scheduler: Any, seen: torch.Tensor, sigma: float, error: torch.Tensor | None
) -> torch.Tensor:
    """The perfect prediction of the kind the scheduler takes, plus the error if given."""
    rms = max(float(seen.square().mean().sqrt()), 1e-12)
    perfect = seen / rms
    if hasattr(scheduler, "precondition_outputs"):
        # The prediction whose weighted sum with the latents is zero.
        weights = _edm_weights(scheduler, sigma)
        perfect = perfect * (-weights[0] * sigma / weights[1])
    elif levels.flow:
        perfect = -perfect if levels.clean_share else perfect
    elif levels.prediction == "v_prediction":
        # Without signal, the small share of noise in the velocity is below float32 precision.
        perfect = perfect / math.sqrt(1 + sigma**2) if sigma < ALL_NOISE else torch.zeros_like(seen)
    elif levels.prediction == "sample":
        perfect = torch.zeros_like(seen)
    return (perfect if error is None else perfect + ERROR_SIZE * error).float()


def _x0_weight(levels: NoiseLevels, scheduler: Any, sigma: float) -> float:
    """The factor of a prediction error in the x0 estimate."""
    if hasattr(scheduler, "precondition_outputs"):
        return _edm_weights(scheduler, sigma)[1]
    if levels.flow:
        return _share(sigma, True) * (1 if levels.clean_share else -1)
    return {"v_prediction": -_share(sigma, False), "sample": 1.0}.get(levels.prediction, -sigma)


def _edm_weights(scheduler: Any, sigma: float) -> tuple[float, float]:
    """Weights of latents and prediction in the x0 estimate, computed by the scheduler itself."""
    one, nothing = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    pairs = (one, nothing), (nothing, one)
    skip, out = (float(scheduler.precondition_outputs(latents, said, sigma)) for latents, said in pairs)
    return skip, out


def _lowest(levels: NoiseLevels, scheduler: Any) -> float:
    """Noise over signal at the lowest level that the model knows."""
    if levels.log_time:
        return float(scheduler.config.get("sigma_min") or 0.0)
    return math.exp(levels.log_sigma(levels.trained - 1.0 if levels.clean_share else float(levels.flow)))
