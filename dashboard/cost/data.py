"""What the Cost page asks of the cache, and whether a saving comes at equal quality: in a word, and in a sentence."""

from dataclasses import dataclass

from dashboard.cache_access import Question
from engine.analysis.recommendation import AS_GOOD, words_of
from engine.cache import queries
from engine.display.formats import NONE, count, number, number_range, signed
from engine.results import Results

REAL = (
    "A saving is real only if GPUs are released: those that run all the time cost the same until some are given back. "
    "Then the figure in whole GPUs holds."
)


def clip_length(study_id: str) -> Question[int]:
    """How many frames the clips of a study have; 1 for pictures."""
    return Question(queries.frames_per_cell, (study_id,))


@dataclass(frozen=True)
class Equality:
    """How good the lanes are beside the baseline.

    Attributes:
        words: Lane -> verdict by the deciding metric; "baseline" for the baseline; empty if nothing was scored.
        cheapest: The cheapest lane that is as good as the baseline; "" if there is none but the baseline.
        label: The deciding metric's name.
    """

    words: dict[str, str]
    cheapest: str
    label: str

    @property
    def known(self) -> bool:
        """Whether anything was compared."""
        return bool(self.words)

    def as_good(self, lane: str) -> bool:
        """Whether a lane is known to be as good as the baseline."""
        return self.words.get(lane) in AS_GOOD


def equality(study: Results) -> Equality:
    """How good the timed lanes of a study are."""
    label = study.metric_label(study.deciding)
    if not study.compared_by(study.deciding):
        return Equality({}, "", label)
    words = {study.baseline: "baseline"} | words_of(study.comparisons, study.deciding)
    best = study.recommendation.best
    cheapest = best.lane if best and best.lane != study.baseline else ""
    return Equality({str(lane): words.get(lane, "not scored") for lane in study.times["lane"]}, cheapest, label)


def explained(equal: Equality, study: Results, lane: str) -> str:
    """What the saving of a lane is worth, in sentences."""
    chosen = study.lane(lane)
    row = study.comparison(lane)
    if not equal.known or chosen is None:
        return (
            f"Money only: the images have not been scored, and whether a lane's are as good as the baseline's is "
            f"not known. `python -m engine score {study.id}` scores them. {REAL}"
        )
    if row is None:
        return f"{chosen.label} has not been scored: whether the saving comes at equal quality is not known. {REAL}"
    gap = row.difference
    interval = number_range(gap.low, gap.high)
    figure = (
        f"{equal.label} differs by {signed(gap.value)}"
        + (f" ({interval})" if interval != NONE else "")
        + f", margin ±{number(row.margin)}, {count(gap.n, 'prompt')}"
    )
    if equal.as_good(lane):
        return f"The saving is at equal quality: {chosen.label} is {row.verdict} to the baseline; {figure}. {REAL}"
    return f"Not at equal quality as far as is known: {chosen.label} is {_word(row.verdict)}; {figure}. {REAL}"


def _word(verdict: str) -> str:
    return "compared on too few images to tell" if verdict == "too few" else verdict
