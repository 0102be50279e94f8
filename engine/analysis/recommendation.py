"""The lane that is recommended: the one that the decision names, or the baseline; with its times, and why not others.

Cheap means measured seconds: the median whole call at batch 1 in the counted environment (timing.py). As good means
that every guard of the decision (decision.py) has shown it. What was never decided on is not as good as far as is
known, whatever single metrics say. The baseline itself is always a candidate.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from engine.analysis import timing_summary as timing
from engine.analysis.comparison import Comparison
from engine.analysis.decision import Decision, LaneDecision, Status

PREFERRED = ("clip_score", "ssim", "latent_error")
ACCEPTED = "as good"
NOT_DECIDED = "not decided"
WORDS: dict[Status, str] = {
    "accepted": ACCEPTED,
    "dropped": "not as good",
    "open": "not shown yet",
    "refused": "cannot be told",
}
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
    """The recommended lane and what it was chosen from, or why there is none.

    Attributes:
        best: The lane that the decision names, or the baseline; None if it cannot be told.
        runner_up: The fastest of the others that are as good.
        passed_over: Faster lanes that are not as good, or not known to be: (lane, why).
        faster: Faster lanes that are as good too, where the decision rests on other times.
        untimed: Lanes as good as the baseline that have no times, or too few.
        reason: Why there is no best lane, in a sentence; empty if there is one.
        lines: The reasons, for people.
    """

    metric: str
    best: Candidate | None = None
    runner_up: Candidate | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    untimed: tuple[str, ...] = ()
    faster: tuple[str, ...] = ()
    reason: str = ""
    lines: tuple[str, ...] = ()

    @property
    def order_is_open(self) -> bool:
        """Whether the intervals of the first two lanes' times overlap, so that either may be the cheaper one."""
        one, other = self.best, self.runner_up
        return one is not None and other is not None and one.low_ms <= other.high_ms and other.low_ms <= one.high_ms


@dataclass(frozen=True)
class UseCase:
    """The lane to take where an image may take so much of the baseline's time.

    Attributes:
        name: Of the use.
        most: Largest share of the baseline's time; infinite: time does not matter.
        lane: Its key; "" if none is known to be as good.
        why: What it has shown, or what would tell.
    """

    name: str
    most: float
    lane: str
    why: str


USES = (("Offline", math.inf), ("Balanced", 0.75), ("Real time", 0.5))


def use_cases(decision: Decision | None, baseline: str) -> list[UseCase]:
    """The best lane under each latency, by the rule that names the recommended one: of those that every guard accepts.

    Where time does not matter that is the baseline, which the others are held to. Otherwise it is the lane with the
    fewest other pictures, and of several the cheapest.
    """
    found = []
    for name, most in USES:
        if math.isinf(most):
            found.append(UseCase(name, most, baseline, "what the others are held to"))
            continue
        rows = [row for row in decision.lanes if not row.cost > most] if decision else []
        good = [row for row in rows if row.status == "accepted"]
        if good:
            best = min(good, key=lambda row: (row.others.value if row.others else 0.0, row.cost))
            found.append(UseCase(name, most, best.lane, best.kept))
        else:
            found.append(UseCase(name, most, "", _none_yet(rows, decision)))
    return found


def _none_yet(rows: Sequence[LaneDecision], decision: Decision | None) -> str:
    """Why no lane is known to be as good under a latency, and what would tell.

    Args:
        rows: Lanes that are this fast, and those whose times are not known.
        decision: Where they stand; None if it was never asked.
    """
    if decision is None:
        return "not asked yet"
    if decision.obstacles:
        return f"it cannot be told yet. {decision.obstacles[0]}"
    asked = [row for row in rows if row.level > 0]
    open_rows = [row for row in asked if row.status == "open"]
    if open_rows:
        first = min(open_rows, key=lambda row: (row.needed[0] is None, row.needed[0] or 0))
        return f"none is known to be; {first.lane} comes next. {first.reason}"
    untold = [row for row in rows if row.status == "refused" and (row.level > 0 or math.isnan(row.cost))]
    if untold:
        known = "none is known to be" if all(row.closed for row in untold) else "it cannot be told yet"
        return " ".join([f"{known}.", *(f"{row.lane}: {row.reason}" for row in untold)])
    found = "none this fast is as good" if asked else "none is this fast"
    return f"of the lanes asked about, {found}"


def deciding(scored: Collection[str]) -> str:
    """The metric that decides unless another is asked for: the first of `PREFERRED` that has values."""
    return next((key for key in PREFERRED if key in scored), PREFERRED[0])


def recommend(
    times: pd.DataFrame,
    found: Sequence[Comparison],
    baseline: str,
    metric: str,
    decision: Decision | None,
    *,
    scored: bool = True,
) -> Recommendation:
    """The recommendation.

    Args:
        times: Rows of `timing.summarise`, of one environment and batch size.
        found: Comparisons by a metric that is shown with it, and by others.
        baseline: The lane that others have to match.
        metric: Key of the metric that is shown.
        decision: What the study's prompts have shown; None if it was never asked.
        scored: Whether the study has any values of the metric.
    """
    if not scored and decision is None:
        return _none(metric, f"The study has no values of '{metric}'; score it first.")
    rows = {row.lane: row for row in found if row.metric == metric}
    if not rows and decision is None:
        return _none(metric, "No lane has been scored beside the baseline.")
    if reason := _unknown(times, baseline):
        return _none(metric, reason)
    table = times[times["n"] >= timing.MIN_SAMPLES].set_index("lane")
    words = words_of([*table.index, *rows, *(row.lane for row in (decision.lanes if decision else ()))], decision)
    words[baseline] = "the baseline itself"
    good = {baseline, *(lane for lane, word in words.items() if word == ACCEPTED)}
    ranked = [_candidate(lane, row, words[lane]) for lane, row in table.iterrows() if lane in good]
    named = decision.lane if decision else None
    if decision and named and named not in table.index:
        told = dict(zip(times["lane"], times["n"], strict=True)).get(named, 0)
        few = f"The decision names {named}, which has too few timing samples here: "
        few += f"{told}, {timing.MIN_SAMPLES} are needed."
        return replace(_none(metric, few), lines=(decision.sentence, few))
    ranked.sort(key=lambda candidate: (candidate.lane != named, candidate.median_ms))
    best = ranked[0] if named else next(candidate for candidate in ranked if candidate.lane == baseline)
    faster = [str(lane) for lane in table[table["median_ms"] < best.median_ms].index if lane != baseline]
    chosen = Recommendation(
        metric,
        best,
        next((candidate for candidate in ranked if candidate is not best), None),
        tuple((lane, words[lane]) for lane in faster if lane not in good),
        tuple(sorted(good - set(table.index))),
        tuple(lane for lane in faster if lane in good),
    )
    why = decision.sentence if decision else undecided(baseline)
    return replace(chosen, lines=tuple(_lines(chosen, why, str(table["device_name"].iloc[0]))))


def undecided(baseline: str) -> str:
    """What to say of a study whose lanes nobody has decided on."""
    return (
        f"Keep {baseline}: whether another lane is as good has not been asked. `python -m engine decide STUDY` adds "
        "prompts until it is known."
    )


def words_of(lanes: Collection[str], decision: Decision | None) -> dict[str, str]:
    """Where each lane stands, in two or three words."""
    status = {row.lane: WORDS[row.status] for row in decision.lanes} if decision else {}
    return {lane: status.get(lane, NOT_DECIDED) for lane in lanes}


def _unknown(times: pd.DataFrame, baseline: str) -> str:
    """Why no lane can be recommended; empty if one can."""
    if times.empty:
        return NOT_TIMED
    own = times[times["lane"] == baseline]
    if own.empty:
        return "The baseline has not been timed here."
    if own["n"].iloc[0] < timing.MIN_SAMPLES:
        return f"Too few timing samples of the baseline: {own['n'].iloc[0]}, {timing.MIN_SAMPLES} are needed."
    return ""


def _none(metric: str, reason: str) -> Recommendation:
    return Recommendation(metric, reason=reason, lines=(f"No recommendation: {reason}",))


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


def _lines(chosen: Recommendation, why: str, device: str) -> Iterator[str]:
    best, runner_up = chosen.best, chosen.runner_up
    if best is None:
        return
    yield why
    yield f"{best.lane}: {_cost(best)} on {device}."
    if runner_up is not None:
        overlap = " The intervals of their times overlap: which is cheaper is open." if chosen.order_is_open else ""
        yield f"Runner-up: {runner_up.lane}, {_cost(runner_up)}.{overlap}"
    for lane, word in chosen.passed_over:
        yield f"Cheaper, but not as good as far as is known: {lane} ({word})."
    for lane in chosen.faster:
        yield f"Also as good, and faster by these times: {lane}."
    for lane in chosen.untimed:
        yield f"As good, but with fewer than {timing.MIN_SAMPLES} timing samples: {lane}."


def _cost(candidate: Candidate) -> str:
    sampled = f"n = {candidate.samples}" + ("" if candidate.settled == "settled" else f", {candidate.settled}")
    time = f"{candidate.median_ms:.0f} ms [{candidate.low_ms:.0f}, {candidate.high_ms:.0f}] ({sampled})"
    if candidate.verdict == "the baseline itself":
        return time
    return f"{time}, {candidate.speedup:.2f} times as fast [{candidate.speedup_low:.2f}, {candidate.speedup_high:.2f}]"
