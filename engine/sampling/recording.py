"""The scheduler seam: wraps `scheduler.step` and records every step, for any scheduler."""

import functools
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from engine.study.families import GuidanceStyle

# x0 of at most this many steps is kept until the end, to measure its distance to the final latents.
MEASURED_STEPS = 128


@dataclass(frozen=True)
class StepRecord:
    """One denoiser call and scheduler step.

    Attributes:
        step_index: Number of the call, from 0.
        timestep: As passed to the denoiser.
        log_snr: Log of the signal-to-noise power ratio at that timestep.
        x_t: Noisy latents in variance-preserving scale; None for steps that are not stored.
        x0: Estimate of the clean latents, with guidance; None for steps that are not stored.
        x0_change: Root mean square change of x0 since the previous step; None at the first.
        guidance_energy: ||eps_c - eps_u|| / ||eps_u||, the effect of guidance; None without guidance.
    """

    step_index: int
    timestep: float
    log_snr: float
    x_t: torch.Tensor | None
    x0: torch.Tensor | None
    x0_change: float | None
    guidance_energy: float | None = None


@dataclass
class HostCopies:
    """Copies of a scheduler's schedules on the host, each read once: a read from a GPU waits for all queued work."""

    _known: dict[int, tuple[torch.Tensor, list[float]]] = field(default_factory=dict)

    def values(self, schedule: torch.Tensor) -> list[float]:
        """A schedule as a list of numbers."""
        if id(schedule) not in self._known:
            self._known = {id(schedule): (schedule, schedule.tolist()), **dict(list(self._known.items())[:3])}
        return self._known[id(schedule)][1]

    def timestep(self, scheduler: Any, timestep: Any) -> float:
        """A timestep as a number; a view of the scheduler's timesteps is not read from the device."""
        if not isinstance(timestep, torch.Tensor) or timestep.device.type == "cpu" or timestep.ndim:
            return float(timestep)
        schedule = scheduler.timesteps
        place = timestep.storage_offset() - schedule.storage_offset()
        same = timestep.untyped_storage().data_ptr() == schedule.untyped_storage().data_ptr()
        if same and schedule.is_contiguous() and timestep.dtype == schedule.dtype and 0 <= place < len(schedule):
            return self.values(schedule)[place]
        return float(timestep)


class NoiseLevels:
    """Noise level as a function of (possibly fractional) timesteps, for a scheduler's training schedule.

    sigma(t) is the ratio of noise to signal; log sigma is interpolated linearly between training timesteps.
    Flow-matching schedulers have sigma = t / (T - t), since their sample is (1 - s) x0 + s noise with s = t / T.

    Attributes:
        trained: Number of training timesteps.
        prediction: What the denoiser predicts.
        flow: Whether that is a velocity from clean latents to noise.
        by_sigma: Whether levels are read from the scheduler's own sigmas, because its timesteps are rounded (flow
            solvers) or not positions in training (EDM, SVD).
        clean_share: Whether those sigmas are the share of the clean latents instead of the noise (Mochi).
        log_time: Whether timesteps are a quarter of the log of the level, as in models trained on continuous levels.
    """

    def __init__(self, scheduler: Any) -> None:
        config = scheduler.config
        self.trained = int(config.get("num_train_timesteps", 1000))
        self.prediction = str(config.get("prediction_type", "epsilon"))
        self.flow = "FlowMatch" in type(scheduler).__name__ or self.prediction == "flow_prediction"
        self.clean_share = self.flow and bool(config.get("invert_sigmas", False))
        self._denoised = getattr(scheduler, "precondition_outputs", None)
        continuous = self._denoised is not None or config.get("timestep_type") == "continuous"
        self.log_time = self._denoised is not None or (continuous and self.prediction == "v_prediction")
        self.by_sigma = (self.flow or continuous) and hasattr(scheduler, "sigmas")
        self._host = HostCopies()
        self._log_sigmas = np.zeros(1)
        if not self.flow and self._denoised is None:
            bars = np.asarray(scheduler.alphas_cumprod.cpu(), dtype=np.float64).clip(1e-12, 1 - 1e-12)
            self._log_sigmas = 0.5 * np.log((1 - bars) / bars)
        self._trained_at = np.arange(len(self._log_sigmas), dtype=np.float64)

    def log_sigma(self, timestep: float) -> float:
        """Log of noise over signal at a timestep."""
        if self.log_time:
            return 4 * timestep
        if self.flow:
            share = timestep / self.trained
            share = min(max(1 - share if self.clean_share else share, 1e-6), 1 - 1e-6)
            return math.log(share / (1 - share))
        return float(np.interp(timestep, self._trained_at, self._log_sigmas))

    def timestep_of(self, sigma: float) -> float:
        """The fractional timestep of a level: the inverse of `log_sigma`, clamped to the training timesteps."""
        log_sigma = math.log(max(sigma, 1e-12))
        if self.log_time:
            return log_sigma / 4
        if self.flow:
            share = sigma / (1 + sigma)
            return self.trained * (1 - share if self.clean_share else share)
        return float(np.interp(log_sigma, self._log_sigmas, self._trained_at))

    def at_step(self, scheduler: Any, timestep: Any) -> float:
        """Log of noise over signal at the step that a scheduler is about to take."""
        if not self.by_sigma:
            return self.log_sigma(self.timestep(scheduler, timestep))
        sigma = self._sigma(scheduler, timestep)
        if not self.flow:
            return math.log(max(sigma, 1e-12))
        share = min(max(1 - sigma if self.clean_share else sigma, 1e-6), 1 - 1e-6)
        return math.log(share / (1 - share))

    def timestep(self, scheduler: Any, timestep: Any) -> float:
        """A timestep passed to a scheduler, as a number."""
        return self._host.timestep(scheduler, timestep)

    def _sigma(self, scheduler: Any, timestep: Any) -> float:
        index = scheduler.step_index if scheduler.step_index is not None else scheduler.begin_index
        index = scheduler.index_for_timestep(timestep) if index is None else index
        return self._host.values(scheduler.sigmas)[int(index)]

    def at_scheduler(self, scheduler: Any, sample: torch.Tensor, prediction: torch.Tensor, timestep: Any) -> Any:
        """The x0 estimate of schedulers that compute it themselves (EDM), from unscaled latents; None for others."""
        if self._denoised is None:
            return None
        denoised: torch.Tensor = self._denoised(sample.float(), prediction.float(), self._sigma(scheduler, timestep))
        return denoised

    def clean(self, x_t: torch.Tensor, prediction: torch.Tensor, log_sigma: float) -> torch.Tensor:
        """The estimate of x0 in float32.

        Args:
            x_t: Noisy latents, as passed to the denoiser.
            prediction: Prediction with guidance.
            log_sigma: Log of noise over signal.
        """
        x_t, prediction = x_t.float(), prediction.float()
        sigma = math.exp(log_sigma)
        if self.flow:
            share = sigma / (1 + sigma)
            return x_t + (share if self.clean_share else -share) * prediction
        signal, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        if self.prediction == "v_prediction":
            return signal * x_t - noise * prediction
        if self.prediction == "sample":
            return prediction
        return (x_t - noise * prediction) / signal


class Recorder:
    """Records the steps of one scheduler in one pipeline call, without waiting for the device.

    Args:
        scheduler: A fresh scheduler; its `step` is wrapped in place.
        keep: Maps the number of calls to the steps whose x0 is stored.
        style: How the family computes guidance.
        generator: Passed to `step` if the pipeline passes none, so that noise is reproducible.
        keep_noisy: Maps the number of calls to the steps whose noisy latents are stored; by default as `keep`.

    Attributes:
        final: Output of the last step; the pipeline's own output may already be unpacked or scaled.
    """

    def __init__(
        self,
        scheduler: Any,
        keep: Callable[[int], Collection[int]],
        style: GuidanceStyle = "batched",
        generator: torch.Generator | None = None,
        keep_noisy: Callable[[int], Collection[int]] | None = None,
    ) -> None:
        self.final: torch.Tensor | None = None
        self.scheduler = scheduler
        self._keep, self._keep_noisy, self._style = keep, keep_noisy or keep, style
        self._kept: Collection[int] = ()
        self._noisy: Collection[int] = ()
        self._records: list[StepRecord] = []
        # Values that are still on the device: (step index, field, value).
        self._pending: list[tuple[int, str, torch.Tensor]] = []
        self._last: torch.Tensor | None = None
        self._x_t: torch.Tensor | None = None
        self._answers: list[Any] = []
        self._levels = NoiseLevels(scheduler)
        step, names = scheduler.step, tuple(inspect.signature(scheduler.step).parameters)

        @functools.wraps(step)
        def watched(*args: Any, **kwargs: Any) -> Any:
            given = _step_arguments(names, args, kwargs)
            self._record(given["model_output"], given["timestep"], given["sample"])
            if "generator" in names and given.get("generator") is None and generator is not None:
                kwargs["generator"] = generator
            stepped = step(*args, **kwargs)
            self.final = stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample
            return stepped

        scheduler.step = watched

    @property
    def steps(self) -> list[StepRecord]:
        """A record of every step so far."""
        self._read(())
        return self._records

    @property
    def calls(self) -> int:
        """Number of steps so far."""
        return len(self._records)

    @property
    def latest(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """x_t and x0 of the last step, (1, C, H, W) for most families; None before the first and after `detach`."""
        return None if self._last is None or self._x_t is None else (self._x_t, self._last)

    def answered(self, answer: Any) -> None:
        """Records an output of the denoiser, before guidance."""
        self._answers.append(answer)

    def detach(self) -> None:
        """Restores the scheduler's own `step` and releases the latents of the finished call."""
        vars(self.scheduler).pop("step", None)
        self._answers, self.final, self._last, self._x_t = [], None, None, None

    def _record(self, prediction: torch.Tensor, timestep: Any, sample: torch.Tensor) -> None:
        index = len(self._records)
        if index == 0:
            calls = len(self.scheduler.timesteps)
            self._kept, self._noisy = frozenset(self._keep(calls)), frozenset(self._keep_noisy(calls))
        x0 = self._levels.at_scheduler(self.scheduler, sample, prediction, timestep)
        if hasattr(self.scheduler, "scale_model_input"):
            sample = self.scheduler.scale_model_input(sample, timestep)
        channels = sample.shape[1]
        level = self._levels.at_step(self.scheduler, timestep)
        x0 = self._levels.clean(sample, prediction[:, :channels], level) if x0 is None else x0
        if self._last is not None:
            self._pending.append((index, "x0_change", (x0 - self._last).square().mean().sqrt()))
        pair = guided_pair(self._style, self._answers, len(prediction))
        if pair is not None:
            without, given = (answer[:, :channels] for answer in pair)
            self._pending.append((index, "guidance_energy", guidance_energy(without, given)))
        self._last, self._x_t, self._answers = x0, sample, []
        self._records.append(
            StepRecord(
                step_index=index,
                timestep=self._levels.timestep(self.scheduler, timestep),
                log_snr=-2 * level,
                x_t=sample.float().clone() if index in self._noisy else None,
                x0=x0 if index in self._kept else None,
                x0_change=None,
            )
        )

    def measured(self) -> tuple[list[int], torch.Tensor]:
        """Step indices and x0 of the stored steps, (steps, C, H, W) or (steps, C, F, H, W)."""
        kept = [(step.step_index, step.x0) for step in self._records if step.x0 is not None]
        return [index for index, _ in kept], torch.cat([x0 for _, x0 in kept])

    def distances(self, final: torch.Tensor) -> list[tuple[int, float]]:
        """Relative L2 distance of each stored x0 to the final latents: (step_index, ||x0 - final|| / ||final||)."""
        final = final.float()
        kept = [(step.step_index, step.x0) for step in self._records if step.x0 is not None]
        norm, *lengths = self._read([_norm(final), *(_norm(x0 - final) for _, x0 in kept)])
        return [(index, length / max(norm, 1e-12)) for (index, _), length in zip(kept, lengths, strict=True)]

    def _read(self, more: Sequence[torch.Tensor]) -> list[float]:
        """Reads all pending values from the device at once, together with `more`, whose values are returned."""
        pending, self._pending = self._pending, []
        waiting = [*(value for _, _, value in pending), *more]
        values: list[float] = torch.stack(waiting).tolist() if waiting else []
        numbers: dict[int, dict[str, Any]] = {}
        for (index, name, _), value in zip(pending, values, strict=False):
            numbers.setdefault(index, {})[name] = value
        for index, found in numbers.items():
            self._records[index] = replace(self._records[index], **found)
        return values[len(pending) :]


def guided_pair(style: GuidanceStyle, answers: list[Any], rows: int) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The unconditional and the conditional prediction, from the denoiser outputs before a step.

    Args:
        style: How the family computes guidance.
        answers: Tensors, or lists with one tensor per row.
        rows: Rows of the guided prediction.

    Returns:
        None if guidance is off, works in another way, or is unknown.
    """
    answers = [torch.stack(answer) if isinstance(answer, list) else answer for answer in answers]
    sizes = [len(answer) for answer in answers]
    if style == "two_calls" and sizes == [rows, rows]:
        return answers[1], answers[0]
    if style in {"batched", "prompt_first"} and sizes == [2 * rows]:
        first, second = answers[0].chunk(2)
        return (first, second) if style == "batched" else (second, first)
    return None


def guidance_energy(without: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """||eps_c - eps_u|| / ||eps_u|| of the unconditional and the conditional prediction."""
    without, given = without.float(), given.float()
    return _norm(given - without) / _norm(without).clamp_min(1e-12)


def _norm(tensor: torch.Tensor) -> torch.Tensor:
    """L2 norm: `Tensor.norm` at half the overhead."""
    norm: torch.Tensor = torch.linalg.vector_norm(tensor)
    return norm


def _step_arguments(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a `step` by name; their order differs between schedulers, and some take `*args`."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if "model_output" in given and "sample" in given:
        return given
    return {**dict(zip(("model_output", "timestep", "sample"), args, strict=False)), **kwargs}
