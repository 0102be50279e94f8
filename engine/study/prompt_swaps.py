"""Turns a study's commitment settings into runs whose prompt is swapped, with identities. Imports no torch."""

from dataclasses import dataclass, replace
from functools import cached_property

from engine.study.cells import Cell, cells, digest
from engine.study.source import ModelSource
from engine.study.study import Study

# Raised whenever a change of our code alters the result of such a run.
COMMITMENT_VERSION = 1


@dataclass(frozen=True)
class Swap:
    """A run that starts as one cell and ends as another of the same lane and seed.

    Attributes:
        first: The cell with the first prompt.
        second: The cell with the second prompt.
        share: Share of the denoiser calls that use the first prompt; 1 and 0 are the cells themselves.
    """

    first: Cell
    second: Cell
    share: float

    @cached_property
    def swap_id(self) -> str:
        """Digest of everything that changes its result."""
        return digest([COMMITMENT_VERSION, self.first.trajectory_id, self.second.trajectory_id, self.share])[:32]

    def call(self, calls: int) -> int:
        """The first call with the second prompt, from 0; `calls` if there is none."""
        if self.share in {0.0, 1.0}:
            return int(self.share) * calls
        return min(max(round(self.share * calls), 1), calls - 1)


def swaps(study: Study, model: ModelSource, device: str) -> list[Swap]:
    """All prompt swaps of a study, pair by pair; empty if it has no commitment settings.

    Raises:
        StudyError: As in `cells`.
    """
    if study.commitment is None:
        return []
    found = cells(replace(study, prompts=study.commitment.prompts), model, device)
    by_place = {(cell.prompt, cell.seed, cell.lane.key): cell for cell in found}
    return [
        Swap(by_place[first, seed, lane.key], by_place[second, seed, lane.key], share)
        for first, second in study.commitment.pairs
        for seed in study.seeds
        for lane in study.lanes
        for share in study.commitment.shares
    ]
