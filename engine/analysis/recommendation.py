"""The cheapest lane that is as good as the baseline: a statistical statement, with the runner-up and why.

Cheap means measured seconds: the median whole call at batch 1, in the environment that was timed last. As good means
that comparison.py finds the lane "equivalent" or "better" by the metric. "Undecided" lanes are not as good as far as is
known; they are named, for more prompts may clear them. The baseline itself is always a candidate.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from engine.analysis import timing
from engine.analysis.comparison import Comparison, compare
from engine.cache.findings import Floor

PREFERRED = ("clip_score", "ssim", "latent_error")
AS_GOOD = frozenset({"equivalent", "better"})


@dataclass(frozen=True)
class Candidate:
    """A lane that is as good as the baseline, and what it takes."""

    lane: str
    median_ms: float
    low_ms: float
    high_ms: float
    samples: int
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
        passed_over: Cheaper lanes that are not known to be as good: (lane, verdict).
        cautions: Comparisons of the best lane by other metrics that call it worse than the baseline.
        lines: The reasons, for people.
    """

    metric: str
    best: Candidate | None
    runner_up: Candidate | None
    passed_over: tuple[tuple[str, str], ...]
    cautions: tuple[Comparison, ...]
    lines: tuple[str, ...]

    @property
    def order_is_open(self) -> bool:
        """Whether the intervals of the first two lanes' times overlap, so that either may be the cheaper one."""
        return self.best is not None and self.runner_up is not None and self.runner_up.low_ms <= self.best.high_ms


def deciding(scored: Collection[str]) -> str:
    """The metric that decides unless another is asked for: the first of `PREFERRED` that has values."""
    return next((key for key in PREFERRED if key in scored), PREFERRED[0])


def recommend(
    quality: pd.DataFrame, metrics: pd.DataFrame, timings: pd.DataFrame, baseline: str, metric: str | None = None,
    floors: Mapping[str, Floor] | None = None,
) -> Recommendation:  # fmt: skip
    """The recommendation by one metric.

    Args:
        quality: Columns of `engine.cache.quality.quality`.
        metrics: Columns of `engine.cache.quality.metrics`.
        timings: Columns of `engine.cache.queries.timings`.
        baseline: The lane that others have to match.
        metric: Its key; the first of `PREFERRED` that has values unless given.
        floors: As in `compare`.
    """
    scored = set(quality["metric"])
    metric = metric or deciding(scored)
    samples = timings[(timings["batch_size"] == 1) & (timings["stage"] == "total")]
    if metric not in scored:
        return _none(metric, f"The study has no values of '{metric}'; score it first.")
    if samples.empty:
        return _none(metric, "No lane has been timed; run the study with [timing] repeats.")
    last = samples.sort_values("created_at")["environment_id"].iloc[-1]
    times = timing.summarise(samples[samples["environment_id"] == last], baseline)
    return choose(times, compare(quality, metrics, baseline, floors), baseline, metric)


def choose(times: pd.DataFrame, found: Sequence[Comparison], baseline: str, metric: str) -> Recommendation:
    """The recommendation from times and comparisons that are there already.

    Args:
        times: Rows of `timing.summarise`, of one environment and batch size.
        found: Comparisons by that metric, and by others, which are no grounds but are told of.
        baseline: The lane that others have to match.
        metric: Its key.
    """
    times = times.set_index("lane")
    if baseline not in times.index:
        return _none(metric, f"The baseline '{baseline}' has not been timed where the other lanes were.")
    rows = {row.lane: row for row in found if row.metric == metric}
    words = {baseline: "the baseline itself"} | {lane: row.verdict for lane, row in rows.items()}
    good = {baseline, *(lane for lane, row in rows.items() if row.verdict in AS_GOOD)}
    ranked = [_candidate(lane, row, words[lane]) for lane, row in times.iterrows() if lane in good]
    ranked.sort(key=lambda candidate: candidate.median_ms)
    best, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else None
    cheaper = times[times["median_ms"] < best.median_ms].index
    passed = tuple((lane, words.get(lane, "not scored")) for lane in cheaper)
    cautions = tuple(row for row in found if row.lane == best.lane and row.metric != metric and row.verdict == "worse")
    chosen = Recommendation(metric, best, runner_up, passed, cautions, ())
    return replace(chosen, lines=tuple(_lines(chosen, rows, str(times["device_name"].iloc[0]))))


def _none(metric: str, reason: str) -> Recommendation:
    return Recommendation(metric, None, None, (), (), (f"No recommendation: {reason}",))


def _candidate(lane: object, row: "pd.Series", verdict: str) -> Candidate:
    return Candidate(str(lane), float(row["median_ms"]), float(row["low_ms"]), float(row["high_ms"]), int(row["n"]),
                     float(row["speedup"]), float(row["speedup_low"]), float(row["speedup_high"]),
                     verdict)  # fmt: skip


def _lines(chosen: Recommendation, rows: Mapping[str, Comparison], device: str) -> Iterator[str]:
    best, runner_up = chosen.best, chosen.runner_up
    if best is None:
        return
    yield f"Cheapest lane as good as the baseline by '{chosen.metric}': {best.lane}, {_cost(best)} on {device}."
    yield _why(best, rows)
    for row in chosen.cautions:
        yield f"By another metric it is worse: {row.label} {_figure(row)}."
    if runner_up is not None:
        overlap = " The intervals of their times overlap: which is cheaper is open." if chosen.order_is_open else ""
        yield f"Runner-up: {runner_up.lane}, {_cost(runner_up)}.{overlap} {_why(runner_up, rows)}"
    for lane, verdict in chosen.passed_over:
        yield f"Cheaper, but not known to be as good: {lane} ({verdict})."


def _cost(candidate: Candidate) -> str:
    time = f"{candidate.median_ms:.0f} ms [{candidate.low_ms:.0f}, {candidate.high_ms:.0f}] (n = {candidate.samples})"
    if candidate.verdict == "the baseline itself":
        return time
    return (f"{time}, {candidate.speedup:.2f} times as fast "
            f"[{candidate.speedup_low:.2f}, {candidate.speedup_high:.2f}]")  # fmt: skip


def _why(candidate: Candidate, found: Mapping[str, Comparison]) -> str:
    row = found.get(candidate.lane)
    if row is None:
        return "It is the baseline itself."
    return f"It is {row.verdict}: {_figure(row)}."


def _figure(row: Comparison) -> str:
    gap = row.difference
    return (f"difference {gap.value:+.3g} [{gap.low:.3g}, {gap.high:.3g}], "
            f"margin {row.margin:.3g} ({row.margin_from}), {gap.n} prompts, {gap.pairs} pairs")  # fmt: skip
