"""The scheduler seam: watches `scheduler.step` and yields a record of every step, for any scheduler."""

import functools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# Latents of at most this many steps are kept until the end, where distances to the final latents are taken.
MEASURED_STEPS = 128


@dataclass(frozen=True)
class StepRecord:
    """What one denoiser call and scheduler step did.

    Attributes:
        step_index: Number of the call, from 0.
        timestep: As given to the denoiser.
        log_snr: Log of the signal-to-noise power ratio at that timestep.
        x_t: Noisy latents in variance-preserving scale; None for steps that are not kept.
        x0: Estimate of the clean latents, with guidance; None likewise.
        x0_change: Root mean square change of x0 since the step before; None at the first.
        guidance_energy: ||eps_c - eps_u|| / ||eps_u||, how far the prompt pulls the prediction; None without guidance.
    """

    step_index: int
    timestep: float
    log_snr: float
    x_t: torch.Tensor | None
    x0: torch.Tensor | None
    x0_change: float | None
    guidance_energy: float | None = None


class NoiseLevels:
    """Noise level over (possibly fractional) timesteps for a scheduler's training schedule.

    sigma(t) is the ratio of noise to signal: log sigma is interpolated linearly between the training timesteps.
    Flow-matching schedulers have sigma = t / (T - t), as their sample is (1 - s) x0 + s noise with s = t / T.
    """

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.config
        self.trained = int(config.get("num_train_timesteps", 1000))
        self.prediction = str(config.get("prediction_type", "epsilon"))
        self.flow = "FlowMatch" in type(scheduler).__name__ or self.prediction == "flow_prediction"
        if not self.flow:
            bars = np.asarray(scheduler.alphas_cumprod.cpu(), dtype=np.float64).clip(1e-12, 1 - 1e-12)
            self._log_sigmas = 0.5 * np.log((1 - bars) / bars)

    def log_sigma(self, timestep: float) -> float:
        """Log of noise over signal."""
        if self.flow:
            s = min(max(timestep / self.trained, 1e-6), 1 - 1e-6)
            return math.log(s / (1 - s))
        return float(np.interp(timestep, np.arange(len(self._log_sigmas)), self._log_sigmas))

    def clean(self, x_t: torch.Tensor, prediction: torch.Tensor, timestep: float) -> torch.Tensor:
        """The estimate of x0 in float32 from noisy latents (as the denoiser got them) and the guided prediction."""
        x_t, prediction = x_t.float(), prediction.float()
        if self.flow:
            return x_t - (timestep / self.trained) * prediction
        sigma = math.exp(self.log_sigma(timestep))
        signal, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        if self.prediction == "v_prediction":
            return signal * x_t - noise * prediction
        if self.prediction == "sample":
            return prediction
        return (x_t - noise * prediction) / signal


class Recorder:
    """Records the steps of one scheduler in one pipeline call.

    Args:
        scheduler: A fresh scheduler; its `step` is wrapped in place.
        keep: Given the number of calls, the steps whose latents are kept.
    """

    def __init__(self, scheduler: Any, keep: Callable[[int], Collection[int]]) -> None:
        self.steps: list[StepRecord] = []
        self._scheduler = scheduler
        self._keep = keep
        self._kept: Collection[int] = ()
        self._last: torch.Tensor | None = None
        self._answer: torch.Tensor | None = None
        self._levels = NoiseLevels(scheduler)
        step = scheduler.step

        @functools.wraps(step)
        def watched(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self._record(model_output, float(timestep), sample, timestep)
            return step(model_output, timestep, sample, *args, **kwargs)

        scheduler.step = watched

    def answered(self, answer: torch.Tensor) -> None:
        """Takes note of what the denoiser said last, before guidance makes one prediction of it."""
        self._answer = answer

    def detach(self) -> None:
        """Gives the scheduler its own `step` back, so that nothing keeps the latents of a finished call."""
        vars(self._scheduler).pop("step", None)
        self._answer = None

    def _record(self, prediction: torch.Tensor, timestep: float, sample: torch.Tensor, raw_timestep: Any) -> None:
        index = len(self.steps)
        if index == 0:
            self._kept = frozenset(self._keep(len(self._scheduler.timesteps)))
        if hasattr(self._scheduler, "scale_model_input"):
            sample = self._scheduler.scale_model_input(sample, raw_timestep)
        channels = sample.shape[1]
        x0 = self._levels.clean(sample, prediction[:, :channels], timestep)
        numbers: dict[str, torch.Tensor] = {}
        if self._last is not None:
            numbers["x0_change"] = (x0 - self._last).square().mean().sqrt()
        if self._answer is not None and self._answer.shape[0] == 2 * prediction.shape[0]:
            numbers["guidance_energy"] = guidance_energy(self._answer[:, :channels])
        self._last, self._answer = x0, None
        # Read together: on a GPU each reading waits for all that was queued.
        values = dict(zip(numbers, torch.stack(list(numbers.values())).tolist(), strict=True)) if numbers else {}
        kept = index in self._kept
        self.steps.append(
            StepRecord(
                step_index=index,
                timestep=timestep,
                log_snr=-2 * self._levels.log_sigma(timestep),
                x_t=sample.float().clone() if kept else None,
                x0=x0 if kept else None,
                x0_change=values.get("x0_change"),
                guidance_energy=values.get("guidance_energy"),
            )
        )

    def measured(self) -> tuple[list[int], torch.Tensor]:
        """Step indices and x0 of the kept steps, (steps, C, H, W) or (steps, C, F, H, W)."""
        kept = [(step.step_index, step.x0) for step in self.steps if step.x0 is not None]
        return [index for index, _ in kept], torch.cat([x0 for _, x0 in kept])

    def distances(self, final: torch.Tensor) -> Iterator[tuple[int, float]]:
        """Relative L2 distance of each kept x0 to the final latents: (step_index, ||x0 - final|| / ||final||)."""
        final = final.float()
        norm = max(float(final.norm()), 1e-12)
        for step in self.steps:
            if step.x0 is not None:
                yield step.step_index, float((step.x0 - final).norm()) / norm


def guidance_energy(answer: torch.Tensor) -> torch.Tensor:
    """||eps_c - eps_u|| / ||eps_u|| of a guided prediction: rows without the prompt first, then as many with it."""
    without, given = answer.float().chunk(2)
    return (given - without).norm() / without.norm().clamp_min(1e-12)
