"""The quantities that claims are about: each a function from a study's results to a figure with interval and n."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd

from engine.analysis import phases, votes
from engine.analysis import statistics as st
from engine.analysis import timing_summary as timing
from engine.analysis.comparison import paired
from engine.analysis.decision import Decision, LaneDecision


class Untestable(Exception):
    """The cache holds no answer; the message says what is missing."""


@dataclass(frozen=True)
class MeasuredQuantity:
    """A figure with its 95 % interval.

    Attributes:
        n: What it rests on, in words.
        note: A remark for the reader.
    """

    value: float
    low: float
    high: float
    n: str
    note: str = ""


class StudyTables(Protocol):
    """The tables that claims are tested on, as in `engine.results.Results`."""

    @property
    def id(self) -> str: ...
    @property
    def cells(self) -> pd.DataFrame: ...
    @property
    def metrics(self) -> pd.DataFrame: ...
    @property
    def quality(self) -> pd.DataFrame: ...
    @property
    def frame_quality(self) -> pd.DataFrame: ...
    @property
    def step_metrics(self) -> pd.DataFrame: ...
    @property
    def samples(self) -> pd.DataFrame: ...
    @property
    def votes(self) -> pd.DataFrame: ...
    @property
    def decision(self) -> Decision | None: ...


Quantity = Callable[[StudyTables, Mapping[str, Any]], MeasuredQuantity]


def speedup(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Median time of the baseline over that of the lane; of the environments with both, in the one that counts."""
    lane, baseline, batch_size = str(test["lane"]), str(test["baseline"]), int(test.get("batch_size", 1))
    samples = results.samples[results.samples["batch_size"] == batch_size]
    both = [set(samples[samples["lane"] == key]["environment_id"]) for key in (lane, baseline)]
    shared = both[0] & both[1]
    if not shared:
        raise Untestable(
            f"'{lane}' and '{baseline}' have not been timed in one environment at batch {batch_size}; "
            "run the study with [timing] repeats"
        )
    samples = samples[samples["environment_id"].isin(shared) & samples["lane"].isin([lane, baseline])]
    table = timing.summarise(samples[samples["environment_id"] == timing.counted_environment(samples)], baseline)
    row = table[table["lane"] == lane].iloc[0]
    if math.isnan(row["speedup_low"]):
        raise Untestable(f"too few timing samples: {row['n']} of '{lane}', at least {timing.MIN_SAMPLES} are needed")
    note = f"whole call, batch {batch_size}, on {row['device_name']}"
    if row["settled"] != "settled":
        note += f"; the samples are {row['settled']}"
    return MeasuredQuantity(row["speedup"], row["speedup_low"], row["speedup_high"], f"{row['n']} repeats", note)


def call_reduction(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """1 - denoiser calls of the lane / those of the baseline, as counted."""
    calls = {key: _cells(results, str(test[key]))["nfe"] for key in ("lane", "baseline")}
    ratios = 1 - np.array([calls["lane"].min(), calls["lane"].max()]) / float(calls["baseline"].mean())
    n = f"{len(calls['lane'])} and {len(calls['baseline'])} cells"
    counted = f"{calls['lane'].mean():g} instead of {calls['baseline'].mean():g} calls, counted"
    return MeasuredQuantity(float(ratios.mean()), float(ratios.min()), float(ratios.max()), n, counted)


def quality_ratio(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Mean of the lane over mean of the baseline; only for metrics whose zero means "none of it"."""
    metric = _metric(results, str(test["metric"]))
    if not metric["has_true_zero"] or metric["direction"] != "higher":
        raise Untestable(f"a percentage of '{metric['metric']}' means nothing: it has no true zero to count up from")
    pairs = _pairs(results, str(test["metric"]), str(test["lane"]), str(test["baseline"]), int(metric["smallest_n"]))
    means = [st.prompt_means(pairs[column].to_numpy(), pairs["prompt"].tolist()) for column in ("value", "value_base")]
    value, low, high = st.ratio(*means)
    if math.isnan(low):
        raise Untestable(f"the baseline's mean is {means[1].mean():.3g}, or there are too few prompts for an interval")
    sides = [st.estimate(mean, range(len(mean))) for mean in means]
    note = f"means {sides[0]} and {sides[1]} by '{metric['metric']}'"
    if metric["span"] > 0:  # NaN if unbounded
        ends = st.bounded_interval(means[0] - means[1], float(metric["span"]))
        bounds = [1 + end / float(means[1].mean()) for end in ends]
        low, high = min(low, bounds[0]), max(high, bounds[1])
    return MeasuredQuantity(value, low, high, _n(len(means[0]), len(pairs)), note)


def preference(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Share of blind votes for the lane against the baseline, those of inattentive voters left out."""
    lane, baseline = str(test["lane"]), str(test["baseline"])
    steps = results.cells.groupby("study_lane")["steps"].first().to_dict()
    left_out = votes.inattentive(results.votes, steps) if len(results.votes) else set()
    found = votes.preference(votes.counted(results.votes, left_out), lane, baseline) if len(results.votes) else None
    if found is None or math.isnan(found.low):
        cast = f"{found.votes} votes on {found.prompts} prompts" if found and found.votes else "no votes"
        raise Untestable(
            f"only people can tell, and there are {cast} between '{lane}' and '{baseline}' that count; the Vote page "
            f"collects them, {votes.votes_needed()} or more on as many prompts as can be had"
        )
    n = f"{found.votes} votes, {found.prompts} prompts, {found.voters} voters"
    note = f"{len(left_out)} voters left out, as they failed the attention checks" if left_out else ""
    return MeasuredQuantity(found.value, found.low, found.high, n, note)


def device_ratio(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Time of the lane on a CPU over that on a GPU, one image at a time; of the machines that timed it last.

    The samples of two machines are not paired, and the interval holds for these machines and runs.
    """
    lane = str(test["lane"])
    samples = results.samples
    samples = samples[(samples["lane"] == lane) & (samples["stage"] == "total") & (samples["batch_size"] == 1)]
    sides = []
    for name, kinds in (("a CPU", ["cpu"]), ("a GPU", ["cuda", "mps"])):
        own = samples[samples["device"].isin(kinds)]
        own = own[own["environment_id"] == timing.counted_environment(own)]
        if len(own) < timing.MIN_SAMPLES:
            raise Untestable(
                f"'{lane}' has {len(own)} timing samples on {name}, {timing.MIN_SAMPLES} are needed; run the study "
                "there and `import` that cache here"
            )
        sides.append(own)
    slow, fast = (side["seconds"].to_numpy(dtype=np.float64) for side in sides)
    low, high = timing.ratio_interval(slow, fast, paired=False)
    machines = " against ".join(str(side["device_name"].iloc[0]) for side in sides)
    return MeasuredQuantity(
        float(np.median(slow) / np.median(fast)), low, high, f"{len(slow)} and {len(fast)} repeats", machines
    )


def noise_removed(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Share of the latents' noise that is gone after a share `end` of the calls; no sampling, so no spread.

    Noise is its standard deviation where latents have variance 1, 1 / sqrt(1 + signal-to-noise power ratio). The
    latents after a call are those that the next call gets.
    """
    lane, end = str(test["lane"]), float(test["end"])
    rows = results.step_metrics
    rows = rows[(rows["lane"] == lane) & (rows["metric"] == "x0_distance")].dropna(subset=["log_snr"])
    if rows.empty:
        raise Untestable(f"no recorded noise levels of lane '{lane}'")
    shares = []
    for _, run in rows.groupby(["prompt", "seed"]):
        levels = run.sort_values("progress")
        noise = 1 / np.sqrt(1 + np.exp(levels["log_snr"].to_numpy(dtype=np.float64)))
        begins = levels["progress"].to_numpy(dtype=np.float64) - 1 / len(levels)
        shares.append(float(1 - np.interp(end, [*begins, 1.0], [*noise, 0.0]) / noise[0]))
    return MeasuredQuantity(float(np.mean(shares)), min(shares), max(shares), f"{len(shares)} cells")


def path_share(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Share of the x0 path length between two values of progress."""
    return _of_paths(results, test, lambda path: path.share(float(test["start"]), float(test["end"])))


def critical_start(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Where the shortest interval begins that holds a share (default half) of the x0 path length."""
    return _of_paths(results, test, lambda path: path.critical_phase(float(test.get("share", 0.5)))[0])


def critical_end(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Where that interval ends."""
    return _of_paths(results, test, lambda path: path.critical_phase(float(test.get("share", 0.5)))[1])


def recognisable_at(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Progress from which on CLIP recognises the concept in x0 to the end, between the kept frames on either side."""
    return _mean_progress(_settled_frames(results, str(test["lane"])))


def recognisable_earlier(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """How much earlier the lane is recognisable than the baseline, in progress, paired.

    The first picture comes after one call, which is a larger share of few calls than of many: runs that are recognised
    in it differ by that much whatever they show. They are counted in the note.
    """
    late, early = (_settled_frames(results, str(test[key])) for key in ("baseline", "lane"))
    found = _mean_gap(late, early)
    first = [min((value for value in side.values() if value is not None), default=math.nan) for side in (late, early)]
    at_once = sum(late[key] == first[0] and early[key] == first[1] for key in late if key in early)
    if not at_once:
        return found
    grid = (
        f"{at_once} of {len(late)} are recognised in the first picture under both, which alone puts them "
        f"{first[0] - first[1]:+.3g} apart"
    )
    return replace(found, note="; ".join(filter(None, [found.note, grid])))


def close_at(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """Progress from which on x0 is within a distance (relative L2 in latent space) of the run's own final latents."""
    return _mean_progress(_settled_distances(results, str(test["lane"]), float(test["distance"])))


def close_earlier(results: StudyTables, test: Mapping[str, Any]) -> MeasuredQuantity:
    """How much earlier the lane is that close than the baseline, in progress, paired."""
    lanes, distance = (str(test["baseline"]), str(test["lane"])), float(test["distance"])
    return _mean_gap(*(_settled_distances(results, lane, distance) for lane in lanes))


QUANTITIES: dict[str, Quantity] = {
    function.__name__: function
    for function in (
        speedup,
        call_reduction,
        quality_ratio,
        preference,
        device_ratio,
        noise_removed,
        path_share,
        critical_start,
        critical_end,
        recognisable_at,
        recognisable_earlier,
        close_at,
        close_earlier,
    )
}


def equivalence(results: StudyTables, test: Mapping[str, Any]) -> LaneDecision:
    """Where a lane stands in the study's decision.

    Raises:
        Untestable: Nobody has asked, or it cannot be told.
    """
    lane, baseline, found = str(test["lane"]), str(test["baseline"]), results.decision
    if found is None or found.baseline != baseline:
        raise Untestable("whether it is as good has not been asked; `python -m engine decide STUDY`")
    row = found.row(lane)
    if row is None:
        raise Untestable(f"'{lane}' is not among the lanes that were decided on")
    if row.status == "refused":
        raise Untestable(row.reason)
    return row


def _cells(results: StudyTables, lane: str) -> pd.DataFrame:
    rows = results.cells[(results.cells["study_lane"] == lane) & (results.cells["status"] == "done")]
    if rows.empty:
        raise Untestable(f"the study '{results.id}' has no finished cell of lane '{lane}'")
    return rows


def _metric(results: StudyTables, key: str) -> dict[str, Any]:
    rows = results.metrics[results.metrics["metric"] == key].to_dict("records")
    if not rows:
        raise Untestable(f"the study has not been scored with '{key}'; `python -m engine score STUDY`")
    if isinstance(rows[0]["unavailable"], str):
        raise Untestable(rows[0]["unavailable"])
    return dict(rows[0])


def _pairs(results: StudyTables, key: str, lane: str, baseline: str, smallest_n: int) -> pd.DataFrame:
    values = results.quality[results.quality["metric"] == key]
    pairs = paired(values, values[values["lane"] == baseline], lane)
    prompts = pairs["prompt"].nunique()
    if len(pairs) < smallest_n or prompts < st.MIN_PROMPTS:
        raise Untestable(
            f"too few: {_n(prompts, len(pairs))} with '{key}' for '{lane}' and '{baseline}'; "
            f"{smallest_n} pairs of {st.MIN_PROMPTS} prompts are needed"
        )
    return pairs


def _of_paths(results: StudyTables, test: Mapping[str, Any], value: Callable[[phases.Path], float]) -> MeasuredQuantity:
    lane = str(test["lane"])
    found = phases.paths(results.step_metrics, lane)
    if not found:
        raise Untestable(f"no recorded steps of lane '{lane}'")
    return _measured([value(path) for path in found.values()], [prompt for prompt, _ in found])


def _settled_frames(results: StudyTables, lane: str) -> dict[tuple[str, int], float | None]:
    _metric(results, "recognised")
    rows = results.frame_quality
    rows = rows[(rows["lane"] == lane) & (rows["kind"] == "x0") & (rows["metric"] == "recognised")]
    if rows.empty:
        raise Untestable(f"no scored x0 frames of lane '{lane}'; the study needs [frames] kinds with \"x0\"")
    return phases.settled_at(rows, lambda values: values >= 0.5)


def _settled_distances(results: StudyTables, lane: str, distance: float) -> dict[tuple[str, int], float | None]:
    rows = results.step_metrics
    rows = rows[(rows["lane"] == lane) & (rows["metric"] == "x0_distance")]
    if rows.empty:
        raise Untestable(f"no recorded distances of lane '{lane}'")
    return phases.settled_at(rows, lambda values: values <= distance)


def _mean_progress(found: dict[tuple[str, int], float | None]) -> MeasuredQuantity:
    reached = {key: value for key, value in found.items() if value is not None}
    never = len(found) - len(reached)
    return _measured(list(reached.values()), [prompt for prompt, _ in reached], _never(never, len(found)))


def _mean_gap(
    late: dict[tuple[str, int], float | None], early: dict[tuple[str, int], float | None]
) -> MeasuredQuantity:
    pairs = {key: (late[key], early[key]) for key in late if key in early}
    gaps = {key: a - b for key, (a, b) in pairs.items() if a is not None and b is not None}
    never = len(pairs) - len(gaps)
    return _measured(list(gaps.values()), [prompt for prompt, _ in gaps], _never(never, len(pairs)), least=-1.0)


def _never(never: int, n: int) -> str:
    return f"{never} of {n} left out, as they never get there" if never else ""


def _measured(values: list[float], prompts: list[str], note: str = "", least: float = 0.0) -> MeasuredQuantity:
    """The mean of values of which none is above 1: shares and progress, or differences of progress."""
    if len(set(prompts)) < st.MIN_PROMPTS:
        raise Untestable(f"too few: {_n(len(set(prompts)), len(values))}, at least {st.MIN_PROMPTS} prompts are needed")
    found = st.ranged_estimate(values, prompts, least, 1.0)
    return MeasuredQuantity(found.value, found.low, found.high, _n(found.n, found.pairs), note)


def _n(prompts: int, pairs: int) -> str:
    return f"{prompts} prompts, {pairs} cells"
