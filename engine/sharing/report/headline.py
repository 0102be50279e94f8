"""The headline of a study in a few figures: the lane to take, the time saved, the quality kept, the money. Pure."""

from dataclasses import dataclass

from engine.analysis.comparison import Comparison
from engine.analysis.recommendation import AS_GOOD
from engine.display.formats import (
    NONE,
    count,
    duration,
    known,
    money,
    money_range,
    number,
    number_range,
    percent,
    percent_range,
    signed,
    whole,
)
from engine.sharing.report.material import Report

UNKNOWN = "Not known yet"
_REAL = "Real only if machines are given back."


@dataclass(frozen=True)
class Figure:
    """A large figure with its name and what it rests on."""

    name: str
    value: str
    note: str
    small: str = ""


def figures(report: Report) -> list[Figure]:
    """The figures, most important first."""
    best = report.summary.recommendation.best
    subject = best.lane if best and best.verdict in AS_GOOD else _fastest_other(report)
    return [_recommended(report), _time(report, subject), _quality(report, subject), _saving(report, subject)]


def sentence(report: Report) -> str:
    """The headline in one sentence."""
    summary = report.summary
    best, base = summary.recommendation.best, summary.label(summary.findings.baseline)
    if best is None:
        return summary.recommendation.lines[0]
    if best.verdict not in AS_GOOD:
        return f"No lane is known to be as good as {base} in less time: keep {base}."
    saved = percent(1 - 1 / best.speedup)
    interval = percent_range(1 - 1 / best.speedup_low, 1 - 1 / best.speedup_high)
    spread = f" [{interval}]" if interval != NONE else ""
    quality = f"is {best.verdict} by {_metric(report)}"
    return f"{summary.label(best.lane)} saves {saved}{spread} of the time of {base} and {quality}."


def passed_over(report: Report) -> str:
    """The cheaper lanes that are not known to be as good; empty if there are none."""
    cheaper = report.summary.recommendation.passed_over
    named = ", ".join(f"{report.summary.label(lane)} ({word})" for lane, word in cheaper[:6])
    more = f" and {len(cheaper) - 6} more" if len(cheaper) > 6 else ""
    return f"Faster, but not known to be as good: {named}{more}." if cheaper else ""


def comparison(report: Report, lane: str) -> Comparison | None:
    """A lane against the baseline by the metric that decides."""
    rows = (row for row in report.summary.comparisons if row.metric == report.summary.deciding)
    return next((row for row in rows if row.lane == lane), None)


def _fastest_other(report: Report) -> str:
    times = report.summary.times
    others = times[~times["is_baseline"]] if len(times) else times
    return str(others["lane"].iloc[0]) if len(others) else ""


def _metric(report: Report) -> str:
    rows = report.summary.findings.metrics
    names = dict(zip(rows["metric"], rows["label"], strict=True))
    return str(names.get(report.summary.deciding, report.summary.deciding))


def _recommended(report: Report) -> Figure:
    summary, found = report.summary, report.summary.recommendation
    if found.best is None:
        return Figure("Recommended", UNKNOWN, found.lines[0])
    base, name = summary.label(summary.findings.baseline), summary.label(found.best.lane)
    if found.best.verdict not in AS_GOOD:
        return Figure("Recommended", name, f"The baseline: no faster lane is known to be as good by {_metric(report)}.")
    second = found.runner_up
    small = f"Next: {summary.label(second.lane)}, {duration(second.median_ms)}." if second else ""
    return Figure("Recommended", name, f"The fastest lane that is as good as {base} by {_metric(report)}.", small)


def _time(report: Report, lane: str) -> Figure:
    best = report.summary.recommendation.best
    title = "Time saved" if best and best.lane == lane else "Time saved by the fastest"
    times = report.summary.times
    if not lane or times.empty:
        return Figure(title, UNKNOWN, "Nothing has been timed yet." if times.empty else "There is no other lane.")
    row, base = times.set_index("lane").loc[lane], times[times["is_baseline"]]
    if base.empty or not known(row["speedup"]):
        return Figure(title, UNKNOWN, f"{duration(row['median_ms'])} an image; the baseline was not timed here.")
    interval = percent_range(1 - 1 / row["speedup_low"], 1 - 1 / row["speedup_high"])
    note = (f"{report.summary.label(lane)}: {duration(row['median_ms'])} instead of "
            f"{duration(base['median_ms'].iloc[0])} an image, all stages.")  # fmt: skip
    small = f"95 % interval {interval}, n = {row['n']}" if interval != NONE else f"Too few samples, n = {row['n']}"
    unsettled = "" if row["settled"] == "settled" else f", {row['settled']}"
    return Figure(title, percent(1 - 1 / row["speedup"]), note, f"{small}{unsettled}; {row['device_name']}.")


def _quality(report: Report, lane: str) -> Figure:
    row = comparison(report, lane)
    if row is None:
        return Figure("Quality kept", UNKNOWN, "The images of this lane have not been scored yet.")
    best = report.summary.recommendation.best
    title = "Quality kept" if best and best.lane == lane else f"Quality of {report.summary.label(lane)}"
    gap = row.difference
    note = (f"{row.label} differs by {signed(gap.value)} from the baseline's {number(row.baseline_mean.value)}"
            + (f"; up to ±{number(row.margin)} counts as the same." if known(row.margin) else "."))  # fmt: skip
    interval = number_range(gap.low, gap.high)
    small = f"95 % interval {interval}" if interval != NONE else "Too few prompts for an interval"
    extent = f"{count(gap.n, 'prompt')}, {count(gap.pairs, 'pair')}"
    return Figure(title, row.verdict.capitalize(), note, f"{small}, {extent}.")


def _saving(report: Report, lane: str) -> Figure:
    best, priced = report.summary.recommendation.best, report.priced
    if best is None or best.lane != lane or best.verdict not in AS_GOOD:
        return Figure("Saved a month", "None known", "A saving counts only at equal quality.")
    if priced.empty or lane not in set(priced["lane"]):
        return Figure("Saved a month", UNKNOWN, "The measured times do not fit the price; see Cost.")
    row = priced.set_index("lane").loc[lane]
    work, rate = report.pricing.work, report.pricing.rate
    month = f"{whole(work.images_per_month)} images at {money(rate.usd_per_hour)} an hour"
    if not report.price_is_known:
        ends = percent_range(row["saving_share_low"], row["saving_share_high"])
        small = f"Range {ends}. " if ends != NONE else ""
        return Figure("Cost saved", percent(row["saving_share"]), "Of what is paid by use, whatever an hour costs: "
                      f"{money(row['saving_usd'])} a month for {month}.", f"{small}{_REAL}")  # fmt: skip
    ends = money_range(row["saving_usd_low"], row["saving_usd_high"])
    small = f"Range {ends}. " if ends != NONE else ""
    note = f"{month}, paid by use, {100 * work.utilisation:.0f} % busy."
    return Figure("Saved a month", money(row["saving_usd"]), note, f"{small}{_REAL}")
