"""The cheapest lane that is as good as the baseline: a statistical statement, with the runner-up and why.

Cheap means measured seconds: the median whole call at batch 1, in the environment that was timed last. As good means
that comparison.py finds the lane "equivalent" or "better" by the metric. "Undecided" lanes are not as good as far as is
known; they are named, for more prompts may clear them. The baseline itself is always a candidate.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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
        lines: The reasons, for people.
    """

    metric: str
    best: Candidate | None
    runner_up: Candidate | None
    passed_over: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]


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
    values = quality[quality["metric"] == metric]
    return choose(times, compare(values, metrics, baseline, floors), baseline, metric)


def choose(times: pd.DataFrame, found: Sequence[Comparison], baseline: str, metric: str) -> Recommendation:
    """The recommendation from times and comparisons that are there already.

    Args:
        times: Rows of `timing.summarise`, of one environment and batch size.
        found: Comparisons by the one metric.
        baseline: The lane that others have to match.
        metric: Its key.
    """
    times = times.set_index("lane")
    if baseline not in times.index:
        return _none(metric, f"The baseline '{baseline}' has not been timed where the other lanes were.")
    rows = {row.lane: row for row in found}
    words = {baseline: "the baseline itself"} | {lane: row.verdict for lane, row in rows.items()}
    good = {baseline, *(lane for lane, row in rows.items() if row.verdict in AS_GOOD)}
    ranked = [_candidate(lane, row, words[lane]) for lane, row in times.iterrows() if lane in good]
    ranked.sort(key=lambda candidate: candidate.median_ms)
    best, runner_up = ranked[0], ranked[1] if len(ranked) > 1 else None
    cheaper = times[times["median_ms"] < best.median_ms].index
    passed = tuple((lane, words.get(lane, "not scored")) for lane in cheaper)
    lines = _lines(best, runner_up, passed, rows, metric, str(times["device_name"].iloc[0]))
    return Recommendation(metric, best, runner_up, passed, tuple(lines))


def _none(metric: str, reason: str) -> Recommendation:
    return Recommendation(metric, None, None, (), (f"No recommendation: {reason}",))


def _candidate(lane: object, row: "pd.Series", verdict: str) -> Candidate:
    return Candidate(str(lane), float(row["median_ms"]), float(row["low_ms"]), float(row["high_ms"]), int(row["n"]),
                     float(row["speedup"]), float(row["speedup_low"]), float(row["speedup_high"]),
                     verdict)  # fmt: skip


def _lines(
    best: Candidate, runner_up: Candidate | None, passed: tuple[tuple[str, str], ...], found: dict[str, Comparison],
    metric: str, device: str,
) -> list[str]:  # fmt: skip
    lines = [f"Cheapest lane as good as the baseline by '{metric}': {best.lane}, {_cost(best)} on {device}."]
    lines += [_why(best, found)]
    if runner_up is not None:
        lines.append(f"Runner-up: {runner_up.lane}, {_cost(runner_up)}. {_why(runner_up, found)}")
    lines += [f"Cheaper, but not known to be as good: {lane} ({verdict})." for lane, verdict in passed]
    return lines


def _cost(candidate: Candidate) -> str:
    time = f"{candidate.median_ms:.0f} ms [{candidate.low_ms:.0f}, {candidate.high_ms:.0f}] (n = {candidate.samples})"
    if candidate.verdict == "the baseline itself":
        return time
    return (f"{time}, {candidate.speedup:.2f} times as fast "
            f"[{candidate.speedup_low:.2f}, {candidate.speedup_high:.2f}]")  # fmt: skip


def _why(candidate: Candidate, found: dict[str, Comparison]) -> str:
    row = found.get(candidate.lane)
    if row is None:
        return "It is the baseline itself."
    gap = row.difference
    figure = f"{gap.value:+.3g} [{gap.low:.3g}, {gap.high:.3g}]"
    return (f"It is {row.verdict}: difference {figure}, margin {row.margin:.3g} ({row.margin_from}), "
            f"{gap.n} prompts, {gap.pairs} pairs.")  # fmt: skip
