"""Queries of the Cost page, and whether a saving is at equal quality."""

from dataclasses import dataclass

from dashboard.cache_access import Question
from engine.analysis.recommendation import ACCEPTED, undecided
from engine.cache import queries
from engine.results import Results

REAL = (
    "A saving is real only if GPUs are released: GPUs that run all the time cost the same until some are given back. "
    "Then the figure for whole GPUs applies."
)


def clip_length(study_id: str) -> Question[int]:
    """Frames per clip of a study; 1 for pictures."""
    return Question(queries.frames_per_cell, (study_id,))


@dataclass(frozen=True)
class Equality:
    """How good the lanes are compared with the baseline.

    Attributes:
        words: Lane -> its status in the decision; "baseline" for the baseline; empty if nothing was scored.
        cheapest: The recommended lane; "" if there is none.
    """

    words: dict[str, str]
    cheapest: str

    @property
    def known(self) -> bool:
        """Whether anything was compared."""
        return bool(self.words)

    def as_good(self, lane: str) -> bool:
        """Whether a lane is known to be as good as the baseline."""
        return self.words.get(lane) == ACCEPTED


def equality(study: Results) -> Equality:
    """How good the timed lanes of a study are."""
    if not study.compared_by(study.deciding) and study.decision is None:
        return Equality({}, "")
    best = study.recommendation.best
    cheapest = best.lane if best and best.lane != study.baseline else ""
    return Equality(study.decided, cheapest)


def explained(equal: Equality, study: Results, lane: str) -> str:
    """Whether the saving of a lane is at equal quality, in sentences."""
    chosen = study.lane(lane)
    if not equal.known or chosen is None:
        return (
            f"Cost only: the images have not been scored, so whether a lane is as good as the baseline is unknown. "
            f"`python -m engine score STUDY`, with the study's file, scores them. {REAL}"
        )
    row = study.decision.row(lane) if study.decision else None
    if row is None:
        return f"Not at equal quality as far as is known. {undecided(study.lane_label(study.baseline))} {REAL}"
    if equal.as_good(lane):
        return f"The saving is at equal quality: {chosen.label} {row.kept}, and every guard accepts it. {REAL}"
    return f"Not at equal quality as far as is known. {chosen.label}: {row.reason} {REAL}"
