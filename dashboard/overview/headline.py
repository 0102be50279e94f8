"""What a study says in four figures: the lane to take, the time saved, what it does to the images, the money. Pure."""

import math
from dataclasses import dataclass
from urllib.parse import urlencode

import pandas as pd

from dashboard import markup
from dashboard.studies import StudyView
from dashboard.verdicts import Verdicts
from engine.analysis.comparison import Comparison
from engine.analysis.cost import Pricing, price_lanes
from engine.analysis.recommendation import AS_GOOD, Candidate, Recommendation, choose
from engine.analysis.statistics import MIN_PROMPTS
from engine.display.formats import (
    NONE,
    batch_of,
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
    when,
    whole,
)  # fmt: skip

NOT_KNOWN = "Not known yet"
NOT_SCORED = "The images have not been scored yet; `python -m engine score` does so."


@dataclass(frozen=True)
class Card:
    """A large figure with its name, what it means, and a small print; `scheduler` gives it that scheduler's mark."""

    name: str
    value: str
    note: str
    small: str = ""
    scheduler: str = ""
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Headline:
    """The cards and what they rest on.

    Attributes:
        lane: The lane they are about; "" if there is none.
        passed_over: Cheaper lanes that are not known to be as good, in a sentence.
    """

    cards: tuple[Card, ...]
    lane: str
    passed_over: str
    footer: tuple[str, ...]


def headline(study: StudyView, table: pd.DataFrame, verdicts: Verdicts, pricing: Pricing | None) -> Headline:
    """The headline of a study.

    Args:
        study: The study.
        table: Timing summaries of one environment and batch size (`StudyView.timings`).
        verdicts: Comparisons by the deciding metric at least.
        pricing: At what to price the lanes; None if that is not known.
    """
    unknown = not_known(study, table, verdicts)
    found = None if unknown else choose(table, verdicts.by(verdicts.deciding), study.baseline, verdicts.deciding)
    best = found.best if found else None
    lane = _subject(study, table, best)
    row = verdicts.lane(lane)
    cards = (
        _recommended(study, verdicts, found, unknown),
        _time(study, table, lane, best),
        _quality(study, verdicts, row, lane, best),
        _saving(study, table, lane, best, pricing),
    )
    return Headline(cards, lane, _passed_over(study, found), tuple(_footer(study, table, lane, row)))


def not_known(study: StudyView, table: pd.DataFrame, verdicts: Verdicts) -> str:
    """Why no lane can be recommended; empty if one can."""
    found = verdicts.by(verdicts.deciding)
    if len(study.lanes) < 2:
        return "The study has one lane; there is nothing to compare it with."
    if not found:
        reasons = [reason for reason in verdicts.metrics["unavailable"] if isinstance(reason, str)]
        return reasons[0] if reasons and len(reasons) == len(verdicts.metrics) else NOT_SCORED
    if table.empty:
        return "Nothing has been timed yet."
    if not table["is_baseline"].any():
        return "The baseline has not been timed here."
    if all(row.verdict == "too few" for row in found):
        most = max(found, key=lambda row: row.difference.pairs)
        return (f"Too few images to tell: {_extent(most)}; a verdict takes {MIN_PROMPTS} prompts and {most.smallest_n} "
                "pairs. Prompts can be added: only they are computed.")  # fmt: skip
    if all(math.isnan(row.margin) for row in found):
        return f"How much {verdicts.metric_label} may differ is {found[0].margin_from}."
    return ""


def _subject(study: StudyView, table: pd.DataFrame, best: Candidate | None) -> str:
    """The lane that the cards are about: the recommended one, or else the fastest but the baseline."""
    if best is not None and best.lane != study.baseline:
        return best.lane
    others = table[~table["is_baseline"]]
    return str(others["lane"].iloc[0]) if len(others) else ""


def _recommended(study: StudyView, verdicts: Verdicts, found: Recommendation | None, unknown: str) -> Card:
    if found is None or found.best is None:
        return Card("Recommended", NOT_KNOWN, unknown)
    best, base = study.lane(found.best.lane), label(study, study.baseline)
    scheduler, name = (best.scheduler, best.label) if best else ("", found.best.lane)
    if found.best.lane == study.baseline:
        note = f"The baseline: no cheaper lane is known to be as good by {verdicts.metric_label}."
        return Card("Recommended", name, note, scheduler=scheduler)
    second = found.runner_up
    small = f"Runner-up: {label(study, second.lane)}, {duration(second.median_ms)}." if second else ""
    note = f"The cheapest lane that is as good as {base} by {verdicts.metric_label}."
    return Card("Recommended", name, note, small, scheduler)


def _time(study: StudyView, table: pd.DataFrame, lane: str, best: Candidate | None) -> Card:
    title = "Time saved" if _is_best(lane, best) else "Time saved by the fastest"
    if table.empty or not lane:
        return Card(title, NOT_KNOWN, "Nothing has been timed yet." if table.empty else "No other lane was timed.")
    row = table.set_index("lane").loc[lane]
    name = "" if _is_best(lane, best) else f"{label(study, lane)}: "
    if not known(row["speedup"]):
        return Card(title, NOT_KNOWN, f"{name}{duration(row['median_ms'])}; the baseline has not been timed here.")
    base = table[table["is_baseline"]].iloc[0]
    interval = percent_range(1 - 1 / row["speedup_low"], 1 - 1 / row["speedup_high"])
    note = f"{name}{duration(row['median_ms'])} instead of {duration(base['median_ms'])} an image, all stages."
    return Card(title, percent(1 - 1 / row["speedup"]), note,
                _sentence(markup.interval_note(row["n"], interval, row["settled"])))  # fmt: skip


def _quality(
    study: StudyView, verdicts: Verdicts, row: Comparison | None, lane: str, best: Candidate | None
) -> Card:  # fmt: skip
    title = "Quality" if _is_best(lane, best) or not lane else f"Quality of {label(study, lane)}"
    if row is None:
        return Card(title, NOT_KNOWN, "No score to compare it by.")
    gap = row.difference
    base = f"{label(study, study.baseline)}'s {number(row.baseline_mean.value)}"
    note = f"{verdicts.metric_label} differs by {signed(gap.value)} from {base}"
    note += f"; up to ±{number(row.margin)} counts as the same." if known(row.margin) else "."
    interval = number_range(gap.low, gap.high)
    small = f"95 % interval {interval}" if interval != NONE else "Too few prompts for an interval"
    word = "Too few images" if row.verdict == "too few" else row.verdict.capitalize()
    return Card(title, word, note, f"{small}, {_extent(row)}.")


def _saving(
    study: StudyView, table: pd.DataFrame, lane: str, best: Candidate | None, pricing: Pricing | None
) -> Card:  # fmt: skip
    link = ("Cost page", "cost?" + urlencode({"study": study.id, "lane": lane}))
    if not _is_best(lane, best) or pricing is None:
        why = "A saving counts only at equal quality." if pricing else "There are no prices to go by."
        return Card("Saved a month", "None known", why, link=link)
    priced = price_lanes(table, pricing.rate, pricing.work).set_index("lane").loc[lane]
    work = pricing.work
    note = (f"Assumed: {whole(work.images_per_month)} images, {money(pricing.rate.usd_per_hour)} per GPU hour, "
            f"{100 * work.utilisation:.0f} % busy. Set your own on the")  # fmt: skip
    ends = money_range(priced["saving_usd_low"], priced["saving_usd_high"])
    small = f"Range {ends}. Real only if GPUs are given back." if ends != NONE else "Real only if GPUs are given back."
    return Card("Saved a month", money(priced["saving_usd"]), note, small, link=link)


def _passed_over(study: StudyView, found: Recommendation | None) -> str:
    if found is None or not found.passed_over:
        return ""
    named = ", ".join(f"{label(study, lane)} ({word})" for lane, word in found.passed_over[:4])
    more = f" and {len(found.passed_over) - 4} more" if len(found.passed_over) > 4 else ""
    return f"Cheaper, but not known to be as good: {named}{more}."


def _footer(study: StudyView, table: pd.DataFrame, lane: str, row: Comparison | None) -> list[str]:
    progress = study.progress
    outcome = [f"{progress.done} of {study.total} cells", f"{progress.failed} failed" if progress.failed else "",
               f"{progress.missing} not run" if progress.missing else ""]  # fmt: skip
    parts = [", ".join(filter(None, outcome)), f"quality: n = {_extent(row)}" if row else ""]
    times = table[table["lane"] == lane] if lane else table.head(0)
    for _, timed in times.iterrows():
        parts += [
            f"times: n = {timed['n']}, {batch_of(timed['batch_size'])}",
            str(timed["device_name"]),
            when(timed["last_at"]),
        ]
    return [*parts, "95 % bootstrap intervals"] if row or len(times) else parts


def _is_best(lane: str, best: Candidate | None) -> bool:
    return best is not None and best.lane == lane and best.verdict in AS_GOOD


def _extent(row: Comparison) -> str:
    return f"{count(row.difference.n, 'prompt')}, {count(row.difference.pairs, 'pair')}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def label(study: StudyView, lane: str) -> str:
    """A lane's name for people."""
    found = study.lane(lane)
    return found.label if found else lane
