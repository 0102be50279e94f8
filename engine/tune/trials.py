"""Trials: runs of the real scheduler on many pictures at once, whose common beginnings are computed only once.

A deterministic scheduler has the same latents before its call at t_i whatever follows t_i. Denoiser outputs are
therefore memoized by picture, timesteps and coefficients so far: a schedule that differs from another from its seventh
level on costs only its last calls. Nothing here depends on the solver.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch

from engine.measuring.evidence import Pictures
from engine.sampling.batching import Hub, Parking
from engine.sampling.building import build_scheduler
from engine.sampling.calls import call_pipeline, pipeline_arguments
from engine.sampling.frames import Origin, decode
from engine.sampling.idle import row_axes
from engine.sampling.joining import TIMES, Axes, arguments_of
from engine.sampling.models import Model
from engine.sampling.recording import Recorder, StepRecord
from engine.sampling.room import raise_if_lost
from engine.sampling.standins import Denoised, denoisers, family, model_config, remembering_text
from engine.study.cells import Cell
from engine.study.lanes import Lane

MOST_BYTES = 400 * 2**20
_Key = tuple[str, int, tuple[float, ...]]


@dataclass(frozen=True)
class PromptSeed:
    """A picture: a prompt and the seed of its noise."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class TrialRun:
    """One run.

    Attributes:
        lane: The lane to run.
        shot: The picture.
        latents: Initial latents instead of the seed's noise.
        remember: Whether its beginning may be shared with other trials of the same solver and number of steps.
    """

    lane: Lane
    shot: PromptSeed
    latents: torch.Tensor | None = None
    remember: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a trial.

    Attributes:
        trial: The trial.
        final: Final latents with a batch axis of 1; None if it failed.
        steps: Its steps, with latents where requested.
        error: Why it failed.
    """

    trial: TrialRun
    final: torch.Tensor | None
    steps: Sequence[StepRecord] = ()
    error: str = ""


class KnownAnswers:
    """A least-recently-used cache of denoiser outputs, by picture and timesteps so far."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._bytes = most_bytes, 0
        self._known: OrderedDict[_Key, torch.Tensor] = OrderedDict()

    def get(self, key: _Key) -> torch.Tensor | None:
        """The output of a call; None if unknown."""
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def put(self, key: _Key, answer: torch.Tensor) -> None:
        """Stores a copy of an output, which may be a view of a larger tensor."""
        self._known[key] = answer.clone()
        self._bytes += answer.numel() * answer.element_size()
        while self._bytes > self._most:
            _, old = self._known.popitem(last=False)
            self._bytes -= old.numel() * old.element_size()


class Recalling(Parking):
    """Stands in for a denoiser and answers known calls from the cache.

    Args:
        real: The denoiser.
        axes: As for `Parking`.
        shot: The picture.
        answers: The cache.
        path: Timesteps of the run so far, shared by all denoisers of the run: the input of one depends on the steps
            of the others (Wan 2.2 has two).
        coefficients: Those of the run's steps: the input of a call depends on those of the steps before it.
    """

    def __init__(
        self,
        real: Any,
        axes: Axes | None,
        shot: PromptSeed,
        answers: KnownAnswers,
        path: list[float],
        coefficients: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__(real, axes)
        self.__dict__.update(shot=shot, answers=answers, path=path, coefficients=coefficients)

    def forward(self, *args: Any, **kwargs: Any) -> Denoised:
        """The cached output, or that of the hub."""
        given = arguments_of(self.real, args, kwargs)
        time = next(given[name] for name in given if name in TIMES)
        self.path.append(float(torch.as_tensor(time).flatten()[0]))
        used = chain.from_iterable(self.coefficients[: len(self.path) - 1])
        key = (self.shot.prompt, self.shot.seed, (*self.path, *used))
        known = self.answers.get(key)
        if known is not None:
            return Denoised((known,))
        answer = super().forward(*args, **kwargs)
        if isinstance(answer[0], torch.Tensor):
            self.answers.put(key, answer[0])
        return answer


class Trials:
    """Runs trials of one model.

    Args:
        model: The loaded model.
        like: A cell with the settings that all trials share: guidance, size, number format.
        max_batch: Most trials in flight.
    """

    def __init__(self, model: Model, like: Cell, max_batch: int) -> None:
        self._pipe = remembering_text(model.pipe)
        self._like, self._max_batch = like, max_batch
        self._answers = KnownAnswers()
        self.calls = 0

    @property
    def config(self) -> dict[str, Any]:
        """The model's own scheduler configuration."""
        return dict(model_config(self._pipe))

    @property
    def takes_latents(self) -> bool:
        """Whether a run can start from given latents."""
        return "latents" in type(self._pipe).__call__.__annotations__

    @cached_property
    def _axes(self) -> Axes | None:
        return row_axes(self._pipe, pipeline_arguments(self._pipe, self._like))

    @torch.no_grad()
    def run(
        self, trials: Sequence[TrialRun], keep: Callable[[int], Collection[int]] = lambda _: ()
    ) -> Iterator[Outcome]:
        """Runs trials and yields their outcomes as they finish, in no fixed order.

        Args:
            trials: The trials.
            keep: Maps the number of calls to the steps whose latents are stored.
        """
        yield from Hub(self._max_batch, self._tell).run(partial(self._run, trial, keep) for trial in trials)

    def pictures(self, shot: PromptSeed, latents: torch.Tensor) -> Pictures:
        """Decodes the final latents of a trial, with a batch axis of 1, to (frames, height, width, 3) bytes."""
        cell = replace(self._like, prompt=shot.prompt, seed=shot.seed)
        found: Pictures = next(decode(self._pipe, latents, [Origin(pipeline_arguments(self._pipe, cell), shot.seed)]))
        return found

    def _tell(self, calls: int) -> None:
        self.calls += calls

    def _run(self, trial: TrialRun, keep: Callable[[int], Collection[int]]) -> Outcome:
        cell = replace(self._like, lane=trial.lane, prompt=trial.shot.prompt, seed=trial.shot.seed)
        try:
            scheduler = build_scheduler(trial.lane, self.config, cell.seed)
            generator = torch.Generator("cpu").manual_seed(cell.seed)
            recorder = Recorder(scheduler, keep, family(self._pipe).style, generator)
            arguments = pipeline_arguments(self._pipe, cell)
            if trial.latents is not None:
                arguments["latents"] = trial.latents
            path: list[float] = []
            coefficients = trial.lane.schedule.coefficients if trial.lane.schedule else ()
            parked: dict[str, Parking] = {
                name: Recalling(real, self._axes, trial.shot, self._answers, path, coefficients)
                if trial.remember
                else Parking(real, self._axes)
                for name, real in denoisers(self._pipe).items()
            }
            final = call_pipeline(self._pipe, arguments, recorder, parked, generator)
            steps = tuple(recorder.steps)
            recorder.detach()
        except Exception as error:  # any error of a scheduler makes the schedule unusable
            raise_if_lost(error)
            return Outcome(trial, None, error=f"{type(error).__name__}: {error}"[:500])
        return Outcome(trial, final.float().cpu(), steps)
