"""Results as tables: pure functions from rows to labelled cells, which `html.table` renders for pages and report."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pandas as pd

from engine.analysis.claims import ClaimVerdict, TestResult, Word
from engine.analysis.cost import Preset
from engine.analysis.recommendation import ACCEPTED
from engine.display import theme
from engine.display.formats import (
    NONE,
    count,
    cut,
    duration,
    duration_range,
    known,
    money,
    money_range,
    number,
    number_range,
    percent,
    percent_range,
    ratio,
    ratio_range,
    signed,
    whole,
)

INTERVAL = "95 % interval"
# Mark beside each verdict on a claim.
VERDICT_MARKS: dict[Word, str] = {"confirmed": "✓", "refuted": "✗", "undecided": "?", "not testable": "–"}
_DECIDED: tuple[Word, ...] = ("confirmed", "refuted")


class ShownLane(Protocol):
    """What a table needs to know about a lane: `nfe` is None if its calls have not been counted, `conditions` are those
    of a tuned lane."""

    @property
    def key(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def scheduler(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def nfe(self) -> int | None: ...
    @property
    def conditions(self) -> str: ...


@dataclass(frozen=True)
class Column:
    """A column; `kind` is the CSS class of its cells: "" for numbers, "text", or "text wrap" for long texts."""

    name: str
    kind: str = ""


@dataclass(frozen=True)
class TableCell:
    """A table cell with more than plain text.

    Attributes:
        text: Its text.
        strong: Whether it is emphasised.
        below: Small lines below the text.
        mark: A character before the text, in `colour`.
        colour: Colour of the mark.
        tag: A framed word after the text.
        across: Columns it spans.
        down: Rows it spans; the rows below have None in its place.
    """

    text: str
    strong: bool = False
    below: tuple[str, ...] = ()
    mark: str = ""
    colour: str = ""
    tag: str = ""
    across: int = 1
    down: int = 1


Entry = str | TableCell
Row = Sequence[Entry | None]
# A column, and the function that gives its cell for an item.
FilledColumn = tuple[str | Column, Callable[[Any], Entry]]

# The colours of the stage chart.
STAGE_MARKS = tuple(TableCell(stage, mark="■", colour=colour) for stage, colour in theme.STAGE_COLOURS.items())


@dataclass(frozen=True)
class ResultTable:
    """A table.

    Attributes:
        name: Accessible name.
        columns: One per cell of a row.
        rows: Cells are texts, `TableCell`s, or fragments of `engine.display.html`; the first one is the row's header.
        style: Additional classes, see `page.css`.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    style: str = ""


def table(name: str, columns: Iterable[str | Column], rows: Iterable[Row], style: str = "") -> ResultTable:
    """Makes a table; a column given as a plain name holds numbers."""
    named = tuple(Column(each) if isinstance(each, str) else each for each in columns)
    return ResultTable(name, named, tuple(rows), style)


def table_of(name: str, items: Iterable[Any], columns: Sequence[FilledColumn], style: str = "") -> ResultTable:
    """Makes a table with one row per item."""
    rows = [[cell(item) for _, cell in columns] for item in items]
    return table(name, [column for column, _ in columns], rows, style)


def text(name: str) -> Column:
    """A column of short texts."""
    return Column(name, "text")


def wrap(name: str) -> Column:
    """A column of long texts."""
    return Column(name, "text wrap")


def bold(value: str, *below: str) -> TableCell:
    """An emphasised figure with small lines below it; empty lines and dashes are dropped."""
    return TableCell(value, strong=True, below=tuple(line for line in below if line and line != NONE))


def lane_name(label: str, scheduler: str, *, is_baseline: bool = False) -> TableCell:
    """A lane's label with its scheduler's mark."""
    look = theme.look(scheduler)
    return TableCell(str(label), mark=look.glyph, colour=look.colour, tag="baseline" if is_baseline else "")


def name_of(lane: ShownLane, baseline: str = "") -> TableCell:
    """As `lane_name`, for a lane of a study."""
    return lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)


def _lane(row: Any) -> TableCell:
    return lane_name(row.label, row.scheduler, is_baseline=bool(row.is_baseline))


def time_table(times: pd.DataFrame) -> ResultTable:
    """Timing summaries (`timing_summary.summarise` with label, scheduler, steps, is_baseline), one row per lane."""
    columns: list[FilledColumn] = [
        ("Lane", _lane),
        ("Steps", lambda row: whole(row.steps)),
        ("Denoiser calls (NFE)", lambda row: whole(row.nfe)),
        ("Median time", lambda row: bold(duration(row.median_ms))),
        (INTERVAL, lambda row: duration_range(row.low_ms, row.high_ms)),
        ("n", lambda row: whole(row.n)),
        ("Speed-up", lambda row: bold(ratio(row.speedup))),
        (INTERVAL, lambda row: ratio_range(row.speedup_low, row.speedup_high)),
        ("Samples", lambda row: str(row.settled)),
    ]
    return table_of("Times", times.itertuples(), columns)


def quality_table(rows_of_metric: pd.DataFrame) -> ResultTable:
    """Comparison of each lane with the baseline by one metric (`standings`)."""
    columns: list[FilledColumn] = [
        ("Lane", _lane),
        ("Mean", lambda row: bold(number(row.mean))),
        ("Minus baseline", lambda row: NONE if row.is_baseline else signed(row.difference)),
        (INTERVAL, lambda row: NONE if row.is_baseline else number_range(row.low, row.high)),
        ("Prompts", lambda row: whole(row.prompts)),
        ("Pairs", lambda row: whole(row.pairs)),
        ("By this metric alone", lambda row: str(row.verdict)),
    ]
    return table_of(f"Quality by {rows_of_metric.iloc[0]['metric_label']}", rows_of_metric.itertuples(), columns)


def set_table(sets: pd.DataFrame, lanes: Mapping[str, tuple[str, str]]) -> ResultTable:
    """Scores of whole lanes (`engine.cache.score_tables.lane_scores`); lanes: key -> (label, scheduler)."""

    def named(lane: str) -> tuple[str, str]:
        return lanes.get(lane, (lane, lane.partition(":")[0]))

    columns: list[FilledColumn] = [
        ("Lane", lambda row: lane_name(*named(row.lane))),
        (text("Against"), lambda row: named(row.against)[0]),
        (text("Metric"), lambda row: f"{row.label} ({row.unit})" if row.unit else str(row.label)),
        ("Value", lambda row: bold(number(row.value))),
        (INTERVAL, lambda row: number_range(row.low, row.high)),
        ("n (pictures)", lambda row: f"{whole(row.n)} of {count(row.prompts, 'prompt')}"),
        (wrap("Warning"), lambda row: _text(row.warning)),
    ]
    return table_of("Metrics of whole lanes", sets.itertuples(), columns)


def cost_table(priced: pd.DataFrame, verdicts: Mapping[str, str], *, fleet: bool = True) -> ResultTable:
    """Costs and savings (`price_lanes`), one row per lane, with ranges below the figures.

    Args:
        priced: The priced lanes; for clips, with seconds of video per dollar and per hour.
        verdicts: Lane -> verdict on its quality; lanes without one were not scored.
        fleet: Whether to show what whole GPUs cost, besides their number.
    """

    def quality(row: Any) -> str:
        word = verdicts.get(row.lane, "not scored")
        return "" if row.is_baseline else word if word == ACCEPTED else f"({word})"

    clips = "video_usd" in priced
    one = "clip" if clips else "image"
    video: list[FilledColumn] = [
        ("Seconds of video per $", lambda row: _ranged(row, "video_usd", number, number_range)),
        ("Seconds of video per busy hour", lambda row: _ranged(row, "video_hour", number, number_range)),
    ]
    columns: list[FilledColumn] = [
        ("Lane", _lane),
        ("Quality", quality),
        (f"Seconds per {one}", lambda row: f"{row.seconds:.3g}" if known(row.seconds) else NONE),
        *(video * clips),
        (f"By use: 1,000 {one}s", lambda row: money(row.usd_1k)),
        ("By use: a month", lambda row: _ranged(row, "usd_month", money, money_range)),
        ("Saved", lambda row: _saved(row, "saving_usd", money, money_range)),
        ("Saved (%)", lambda row: _saved(row, "saving_share", percent, percent_range)),
        ("Whole GPUs", lambda row: whole(row.gpus)),
    ]
    by_fleet: list[FilledColumn] = [
        ("Busy", lambda row: percent(row.fleet_busy)),
        ("Whole GPUs: a month", lambda row: bold(money(row.fleet_usd))),
        ("Saved", lambda row: _saved(row, "fleet_saving_usd", money, money_range)),
    ]
    return table_of("Cost", priced.itertuples(), columns + by_fleet * fleet)


def _ranged(row: Any, name: str, one: Callable[[float], str], both: Callable[[float, float], str]) -> TableCell:
    return bold(one(getattr(row, name)), both(getattr(row, f"{name}_low"), getattr(row, f"{name}_high")))


def _saved(row: Any, name: str, one: Callable[[float], str], both: Callable[[float, float], str]) -> Entry:
    return NONE if row.is_baseline else _ranged(row, name, one, both)


def price_table(presets: Iterable[Preset]) -> ResultTable:
    """GPU prices with dates and sources."""
    columns: list[FilledColumn] = [
        ("GPU", lambda preset: preset.gpu),
        (text("Provider"), lambda preset: preset.provider),
        (text("Product"), lambda preset: preset.product),
        ("Per hour", lambda preset: f"${preset.usd_per_hour:.3f}"),
        (text("Billing"), lambda preset: preset.billing),
        ("Sold in", lambda preset: str(preset.sold_in)),
        ("As of", lambda preset: str(preset.as_of)),
        ("Confidence", lambda preset: preset.confidence),
        (wrap("Source"), lambda preset: preset.source),
    ]
    return table_of("Prices of GPUs", presets, columns)


def claim_figure(verdict: ClaimVerdict) -> str:
    """The figure that decided a claim, or why there is none."""
    result = verdict.deciding
    if result is None:
        return verdict.reason
    if not result.figure:
        return result.reason
    more = f"; {len(verdict.tests)} tests in all" if len(verdict.tests) > 1 else ""
    return f"{result.quantity}: {result.figure}, {result.n}{more}"


def claim_table(verdicts: Sequence[ClaimVerdict]) -> ResultTable:
    """Every test of every claim: hypothesis, result and n."""
    rows: list[Row] = []
    for verdict in verdicts:
        results = verdict.tests or (TestResult(verdict.word, "", "", "", verdict.reason),)
        for place, result in enumerate(results):
            claim = None if place else TableCell(verdict.text, down=len(results))
            word = TableCell(result.word.capitalize(), result.word in _DECIDED, mark=VERDICT_MARKS[result.word])
            rows.append((claim, word, result.hypothesis, result.figure or NONE, result.n or NONE, result.reason))
    found = wrap("Found [95 % interval]")
    columns = (wrap("Claim"), text("Verdict"), wrap("Tested as"), found, text("n"), wrap("Note"))
    return table("Tests of the claims", columns, rows)


def _lane_columns(baseline: str) -> list[FilledColumn]:
    return [
        ("Lane", lambda lane: name_of(lane, baseline)),
        ("Steps", lambda lane: whole(lane.steps)),
        ("Denoiser calls (NFE)", lambda lane: whole(lane.nfe)),
    ]


def outcome_table(lanes: Iterable[ShownLane], counts: pd.DataFrame, baseline: str) -> ResultTable:
    """Number of cells by lane and outcome; `counts` has columns done, failed, missing, indexed by lane key."""
    columns: list[FilledColumn] = [
        *_lane_columns(baseline),
        ("Done", lambda lane: whole(counts.at[lane.key, "done"])),
        ("Failed", lambda lane: whole(counts.at[lane.key, "failed"])),
        ("Missing", lambda lane: whole(counts.at[lane.key, "missing"])),
    ]
    return table_of("Cells of each lane", lanes, columns, "lab-narrow")


def failure_table(failures: pd.DataFrame, labels: Mapping[str, str]) -> ResultTable:
    """Failed cells (columns study_lane, prompt, seed, error); `labels` maps lanes to display names."""
    columns: list[FilledColumn] = [
        ("Lane", lambda row: labels.get(row.study_lane, row.study_lane)),
        (wrap("Prompt"), lambda row: cut(row.prompt, 120)),
        ("Seed", lambda row: str(row.seed)),
        (wrap("Error"), lambda row: cut(_text(row.error), 600)),
    ]
    return table_of("Failed cells", failures.itertuples(), columns)


def environment_table(environments: pd.DataFrame, timed_elsewhere: Iterable[str] = ()) -> ResultTable:
    """Environments that computed cells of a study (`queries.environments`), and machines that only timed its lanes."""
    columns: list[FilledColumn] = [
        (wrap("Machine"), lambda row: str(row.device_name)),
        (text("Device"), lambda row: str(row.device)),
        (text("Memory"), lambda row: str(row.memory)),
        (text("torch"), lambda row: str(row.torch)),
        (text("diffusers"), lambda row: str(row.diffusers)),
        (wrap("Details"), lambda row: _details(row.details)),
        (wrap("At once"), _at_once),
        ("Cells", lambda row: whole(row.cells)),
    ]
    found = table_of("Machines", environments.itertuples(), columns)
    more = tuple((name, *[NONE] * 4, "times only", NONE, "0") for name in timed_elsewhere)
    return replace(found, rows=(*found.rows, *more))


def _at_once(row: Any) -> str:
    """How many cells could share a forward, and what decided it."""
    if not known(row.most_batch):
        return NONE
    least, most = whole(row.least_batch), whole(row.most_batch)
    return f"{most if least == most else f'{least} to {most}'} ({row.batch_by})"


def model_table(models: pd.DataFrame) -> ResultTable:
    """The models of a study."""
    columns: list[FilledColumn] = [
        (wrap("Model"), lambda row: str(row.source)),
        (text("Pipeline"), lambda row: str(row.family)),
        ("Parameters", lambda row: whole(row.parameters)),
        (Column("SHA-256 of its files", "text wrap code"), lambda row: str(row.fingerprint)),
    ]
    return table_of("Models", models.itertuples(), columns)


def calls_table(lanes: Iterable[ShownLane], timings: pd.DataFrame, baseline: str) -> ResultTable:
    """Steps, denoiser calls, time, and time per call of each lane."""
    times = timings.drop_duplicates("lane").set_index("lane")["median_ms"].to_dict()
    columns: list[FilledColumn] = [
        *_lane_columns(baseline),
        ("Calls per step", lambda lane: f"{lane.nfe / lane.steps:.2f}" if lane.nfe and lane.steps else NONE),
        ("Median time", lambda lane: duration(times.get(lane.key))),
        ("Time per call", lambda lane: duration(times.get(lane.key, math.nan) / (lane.nfe or math.nan))),
    ]
    return table_of("Calls and times of each lane", lanes, columns, "lab-narrow")


def order_table(orders: pd.DataFrame) -> ResultTable:
    """Observed orders (`engine.analysis.convergence`), or the reason why there is none."""
    rows: list[Row] = []
    for _, row in orders.iterrows():
        name = lane_name(row["label"], row["scheduler"])
        if row["reason"]:
            rows.append((name, TableCell(str(row["reason"]), across=4)))
            continue
        calls = f"{whole(row['nfe_first'])} to {whole(row['nfe_last'])}"
        interval = number_range(row["low"], row["high"])
        rows.append((name, bold(f"{row['order']:.2f}"), interval, calls, whole(row["n"])))
    return table("Observed orders", ("Scheduler", "Observed order", INTERVAL, "Denoiser calls", "n (prompts)"), rows)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _details(value: object) -> str:
    try:
        found: Any = json.loads(str(value))
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{key} {part}" for key, part in found.items() if part not in ("", None))
