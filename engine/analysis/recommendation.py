"""The cheapest lane that is as good as the baseline: a statistical statement, with the runner-up and why.

Cheap means measured seconds: the median whole call at batch 1 in the counted environment (timing.py). As good means
that comparison.py finds the lane "equivalent" or "better" by the metric that decides, and that no other metric objects
by calling it "worse": a score of what a picture shows can stay where it is while the pictures themselves are no longer
what the solver was asked for. PSNR may not object, as a logarithm of the error: what a difference of it means depends
on where it starts.
"Undecided" lanes are not as good as far as is known; they are named, for more prompts may clear them. The baseline
itself is always a candidate.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from engine.analysis import statistics as st
from engine.analysis import timing_summary as timing
from engine.analysis.comparison import Comparison

PREFERRED = ("clip_score", "ssim", "latent_error")
AS_GOOD = frozenset({"equivalent", "better"})
NO_OBJECTION = frozenset({"psnr"})
NOT_TIMED = "Nothing has been timed yet."


@dataclass(frozen=True)
class Candidate:
    """A lane that is as good as the baseline, and what it takes; `settled` as in `timing.settled`."""

    lane: str
    median_ms: float
    low_ms: float
    high_ms: float
    samples: int
    settled: str
    speedup: float
    speedup_low: float
    speedup_high: float
    verdict: str


@dataclass(frozen=True)
class Recommendation:
    """The cheapest candidate and the next, or why there is none.

    Attributes:
        best: The cheapest lane that is as good as the baseline; None if it cannot be told.
        runner_up: The next cheapest.
        passed_over: Cheaper lanes that are not as good, or not known to be: (lane, why).
        untimed: Lanes as good as the baseline that have no times, or too few.
        reason: Why there is no best lane, in a sentence; empty if there is one.
        lines: The reasons, for people.
    """

    metric: str
    best: Candidate | None = None
    runner_up: Candidate | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    untimed: tuple[str, ...] = ()
    reason: str = ""
    lines: tuple[str, ...] = ()

    @property
    def order_is_open(self) -> bool:
        """Whether the intervals of the first two lanes' times overlap, so that either may be the cheaper one."""
        return self.best is not None and self.runner_up is not None and self.runner_up.low_ms <= self.best.high_ms


def deciding(scored: Collection[str]) -> str:
    """The metric that decides unless another is asked for: the first of `PREFERRED` that has values."""
    return next((key for key in PREFERRED if key in scored), PREFERRED[0])


def recommend(
    times: pd.DataFrame, found: Sequence[Comparison], baseline: str, metric: str, *, scored: bool = True
) -> Recommendation:
    """The recommendation by one metric.

    Args:
        times: Rows of `timing.summarise`, of one environment and batch size.
        found: Comparisons by that metric, and by others, which may object.
        baseline: The lane that others have to match.
        metric: Its key.
        scored: Whether the study has any values of it.
    """
    if not scored:
        return _none(metric, f"The study has no values of '{metric}'; score it first.")
    rows = {row.lane: row for row in found if row.metric == metric}
    if reason := _unknown(times, list(rows.values()), baseline):
        return _none(metric, reason)
    table = times[times["n"] >= timing.MIN_SAMPLES].set_index("lane")
    words = {baseline: "the baseline itself"} | words_of(found, metric)
    good = {baseline, *(lane for lane, word in words.items() if word in AS_GOOD)}
    ranked = [_candidate(lane, row, words[lane]) for lane, row in table.iterrows() if lane in good]
    ranked.sort(key=lambda candidate: candidate.median_ms)
    best = ranked[0]
    cheaper = table[table["median_ms"] < best.median_ms].index
    chosen = Recommendation(
        metric,
        best,
        ranked[1] if len(ranked) > 1 else None,
        tuple((lane, words.get(lane, "not scored")) for lane in cheaper),
        tuple(sorted(good - set(table.index))),
    )
    return replace(chosen, lines=tuple(_lines(chosen, rows, str(table["device_name"].iloc[0]))))


def words_of(found: Sequence[Comparison], metric: str) -> dict[str, str]:
    """The verdict on each lane: that of the metric that decides, and what others object to one that is as good."""
    return {row.lane: _word(row, found) for row in found if row.metric == metric}


def _unknown(times: pd.DataFrame, found: Sequence[Comparison], baseline: str) -> str:
    """Why no lane can be recommended; empty if one can."""
    if not found:
        return "No lane has been scored beside the baseline."
    if times.empty:
        return NOT_TIMED
    own = times[times["lane"] == baseline]
    if own.empty:
        return "The baseline has not been timed here."
    if own["n"].iloc[0] < timing.MIN_SAMPLES:
        return f"Too few timing samples of the baseline: {own['n'].iloc[0]}, {timing.MIN_SAMPLES} are needed."
    if all(row.verdict == "too few" for row in found):
        most = max(found, key=lambda row: row.difference.pairs)
        return (
            f"Too few images to tell: {most.extent}; a verdict takes {st.MIN_PROMPTS} prompts and "
            f"{most.smallest_n} pairs. Prompts can be added: only they are computed."
        )
    if all(row.margin != row.margin for row in found):
        return f"How much {found[0].label} may differ is {found[0].margin_from}."
    return ""


def _none(metric: str, reason: str) -> Recommendation:
    return Recommendation(metric, reason=reason, lines=(f"No recommendation: {reason}",))


def _word(row: Comparison, found: Sequence[Comparison]) -> str:
    objections = [
        other.label
        for other in found
        if other.lane == row.lane and other.metric not in {row.metric, *NO_OBJECTION} and other.verdict == "worse"
    ]
    if row.verdict not in AS_GOOD or not objections:
        return row.verdict
    return f"{row.verdict} by {row.label}, worse by {' and '.join(objections)}"


def _candidate(lane: object, row: "pd.Series", verdict: str) -> Candidate:
    return Candidate(
        str(lane),
        float(row["median_ms"]),
        float(row["low_ms"]),
        float(row["high_ms"]),
        int(row["n"]),
        str(row["settled"]),
        float(row["speedup"]),
        float(row["speedup_low"]),
        float(row["speedup_high"]),
        verdict,
    )


def _lines(chosen: Recommendation, rows: Mapping[str, Comparison], device: str) -> Iterator[str]:
    best, runner_up = chosen.best, chosen.runner_up
    if best is None:
        return
    yield f"Cheapest lane as good as the baseline by '{chosen.metric}': {best.lane}, {_cost(best)} on {device}."
    yield _why(best, rows)
    if runner_up is not None:
        overlap = " The intervals of their times overlap: which is cheaper is open." if chosen.order_is_open else ""
        yield f"Runner-up: {runner_up.lane}, {_cost(runner_up)}.{overlap} {_why(runner_up, rows)}"
    for lane, why in chosen.passed_over:
        yield f"Cheaper, but not as good as far as is known: {lane} ({why})."
    for lane in chosen.untimed:
        yield f"As good, but with fewer than {timing.MIN_SAMPLES} timing samples: {lane}."


def _cost(candidate: Candidate) -> str:
    sampled = f"n = {candidate.samples}" + ("" if candidate.settled == "settled" else f", {candidate.settled}")
    time = f"{candidate.median_ms:.0f} ms [{candidate.low_ms:.0f}, {candidate.high_ms:.0f}] ({sampled})"
    if candidate.verdict == "the baseline itself":
        return time
    return f"{time}, {candidate.speedup:.2f} times as fast [{candidate.speedup_low:.2f}, {candidate.speedup_high:.2f}]"


def _why(candidate: Candidate, found: Mapping[str, Comparison]) -> str:
    row = found.get(candidate.lane)
    if row is None:
        return "It is the baseline itself."
    gap = row.difference
    return (
        f"It is {row.verdict}: difference {gap.value:+.3g} [{gap.low:.3g}, {gap.high:.3g}], "
        f"margin {row.margin:.3g} ({row.margin_from}), {row.extent}. No other metric objects."
    )
