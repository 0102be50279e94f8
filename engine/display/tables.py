"""Results as tables: pure functions from rows to labelled cells, which `html.table` sets for pages and report."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from engine.analysis.claims import ClaimVerdict, TestResult, Word
from engine.analysis.cost import Preset
from engine.analysis.recommendation import AS_GOOD
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

LANE_COLUMNS = ("Lane", "Steps", "Denoiser calls (NFE)")
INTERVAL = "95 % interval"
# Verdict on a claim -> a mark that repeats it.
VERDICT_MARKS: dict[Word, str] = {"confirmed": "✓", "refuted": "✗", "undecided": "?", "not testable": "–"}
_DECIDED: tuple[Word, ...] = ("confirmed", "refuted")


class ShownLane(Protocol):
    """What a table needs to know of a lane: its key, what people call it, and its calls if they were counted."""

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


@dataclass(frozen=True)
class Column:
    """A column: its name, and the classes of its cells: none for numbers, "text", or "text wrap" for long ones."""

    name: str
    kind: str = ""


@dataclass(frozen=True)
class TableCell:
    """A cell with more than a text.

    Attributes:
        text: What it says.
        strong: Whether it is what one looks for in its row.
        below: Small lines under it.
        mark: A character before it, in a colour.
        tag: A word in a frame behind it.
        across: Columns it takes.
        down: Rows it takes; the rows below have None in its place.
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

# The colours of the stage chart.
STAGE_MARKS = tuple(TableCell(stage, mark="■", colour=colour) for stage, colour in theme.STAGE_COLOURS.items())


@dataclass(frozen=True)
class ResultTable:
    """A table.

    Attributes:
        name: What it shows, for those who do not see it.
        columns: One for each cell of a row.
        rows: Cells are texts, `TableCell`s, or parts of `engine.display.html`.
        header: Index of the column that names the row.
        style: Further classes, as in `page.css`.
    """

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    header: int = 0
    style: str = ""


def table(
    name: str, columns: Iterable[str | Column], rows: Iterable[Row], header: int = 0, style: str = ""
) -> ResultTable:
    """A table; a column given by its name alone holds numbers."""
    named = tuple(Column(each) if isinstance(each, str) else each for each in columns)
    return ResultTable(name, named, tuple(rows), header, style)


def text(name: str) -> Column:
    """A column of words."""
    return Column(name, "text")


def wrap(name: str) -> Column:
    """A column of sentences."""
    return Column(name, "text wrap")


def bold(value: str, *below: str) -> TableCell:
    """The figure one looks for, with small lines below it."""
    return TableCell(value, strong=True, below=tuple(line for line in below if line and line != NONE))


def lane_name(label: str, scheduler: str, *, is_baseline: bool = False) -> TableCell:
    """A lane's label behind its scheduler's mark."""
    look = theme.look(scheduler)
    return TableCell(str(label), mark=look.glyph, colour=look.colour, tag="baseline" if is_baseline else "")


def name_of(lane: ShownLane, baseline: str = "") -> TableCell:
    """The name of a lane of a study."""
    return lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)


def _lane(row: pd.Series) -> TableCell:
    return lane_name(row["label"], row["scheduler"], is_baseline=bool(row["is_baseline"]))


def time_table(times: pd.DataFrame) -> ResultTable:
    """Timing summaries (`timing.summarise` with label, scheduler, steps, is_baseline), one row a lane."""
    rows = [
        (
            _lane(row),
            whole(row["steps"]),
            whole(row["nfe"]),
            bold(duration(row["median_ms"])),
            duration_range(row["low_ms"], row["high_ms"]),
            whole(row["n"]),
            bold(ratio(row["speedup"])),
            ratio_range(row["speedup_low"], row["speedup_high"]),
            str(row["settled"]),
        )
        for _, row in times.iterrows()
    ]
    return table("Times", [*LANE_COLUMNS, "Median time", INTERVAL, "n", "Speed-up", INTERVAL, "Samples"], rows)


def quality_table(rows_of_metric: pd.DataFrame) -> ResultTable:
    """How each lane compares with the baseline by one metric (`standings`)."""
    rows = []
    for _, row in rows_of_metric.iterrows():
        gap = (NONE, NONE) if row["is_baseline"] else (signed(row["difference"]), number_range(row["low"], row["high"]))
        extent = f"{whole(row['prompts'])} / {whole(row['pairs'])}" if known(row["prompts"]) else NONE
        rows.append((_lane(row), bold(number(row["mean"])), *gap, extent, str(row["verdict"])))
    columns = ("Lane", "Mean", "Minus baseline", INTERVAL, "n (prompts / pairs)", "Verdict")
    return table(f"Quality by {rows_of_metric.iloc[0]['metric_label']}", columns, rows)


def set_table(sets: pd.DataFrame, lanes: Mapping[str, tuple[str, str]]) -> ResultTable:
    """Metrics of whole sets of pictures (`engine.cache.sets.set_quality`); lanes: key -> (label, scheduler)."""
    rows = []
    for _, row in sets.iterrows():
        label, scheduler = lanes.get(row["lane"], (str(row["lane"]), str(row["lane"]).partition(":")[0]))
        rows.append(
            (
                lane_name(label, scheduler),
                lanes.get(row["against"], (str(row["against"]), ""))[0],
                f"{row['label']} ({row['unit']})" if row["unit"] else str(row["label"]),
                bold(number(row["value"])),
                number_range(row["low"], row["high"]),
                f"{whole(row['n'])} of {count(row['prompts'], 'prompt')}",
                _said(row["warning"]),
            )
        )
    columns = ("Lane", text("Against"), text("Metric"), "Value", INTERVAL, "n (pictures)", wrap("Warning"))
    return table("Metrics of whole sets", columns, rows)


def cost_table(priced: pd.DataFrame, verdicts: Mapping[str, str], *, fleet: bool = True) -> ResultTable:
    """Costs and savings (`price_lanes`), one row a lane, ranges below their figures.

    Args:
        priced: The lanes.
        verdicts: Lane -> verdict on its quality; a lane without one was not scored.
        fleet: Whether to tell what whole GPUs cost, besides how many it takes.
    """
    rows: list[Row] = []
    for _, row in priced.iterrows():
        base = row["is_baseline"]
        word = "" if base else verdicts.get(row["lane"], "not scored")
        shown: list[Entry] = [
            _lane(row),
            word if word in AS_GOOD or base else f"({word})",
            f"{row['seconds']:.3g}" if known(row["seconds"]) else NONE,
            money(row["usd_1k"]),
            _ranged(row, "usd_month", money, money_range),
            NONE if base else _ranged(row, "saving_usd", money, money_range),
            NONE if base else _ranged(row, "saving_share", percent, percent_range),
            whole(row["gpus"]),
        ]
        if fleet:
            saved = NONE if base else _ranged(row, "fleet_saving_usd", money, money_range)
            shown += [percent(row["fleet_busy"]), bold(money(row["fleet_usd"])), saved]
        rows.append(shown)
    columns = ["Lane", "Quality", "Seconds per image", "By use: 1,000 images", "By use: a month", "Saved", "Saved (%)"]
    columns += ["Whole GPUs", "Busy", "Whole GPUs: a month", "Saved"] if fleet else ["Whole GPUs"]
    return table("Cost", columns, rows)


def _ranged(row: pd.Series, name: str, one: Callable[[float], str], both: Callable[[float, float], str]) -> TableCell:
    return bold(one(row[name]), both(row[f"{name}_low"], row[f"{name}_high"]))


def price_table(presets: Iterable[Preset]) -> ResultTable:
    """Prices of GPUs with their dates and sources."""
    rows = [
        (
            preset.gpu,
            preset.provider,
            preset.product,
            f"${preset.usd_per_hour:.3f}",
            preset.billing,
            str(preset.sold_in),
            str(preset.as_of),
            preset.confidence,
            preset.source,
        )
        for preset in presets
    ]
    names = (text("Provider"), text("Product"), "Per hour", text("Billing"), "Sold in", "As of", "Confidence")
    return table("Prices of GPUs", ("GPU", *names, wrap("Source")), rows)


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
    """Every test of every claim: what was asked, what was found, and what it rests on."""
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


def outcome_table(lanes: Iterable[ShownLane], counts: pd.DataFrame, baseline: str) -> ResultTable:
    """Cells of each lane by outcome; `counts` has columns done, failed, missing by lane key."""
    rows: list[Row] = [
        (
            name_of(lane, baseline),
            str(lane.steps),
            whole(lane.nfe),
            *(whole(counts.at[lane.key, state]) for state in ("done", "failed", "missing")),
        )
        for lane in lanes
    ]
    return table("Cells of each lane", (*LANE_COLUMNS, "Done", "Failed", "Missing"), rows, style="lab-narrow")


def failure_table(failures: pd.DataFrame, labels: Mapping[str, str]) -> ResultTable:
    """Failed cells: study_lane, prompt, seed, error; `labels` are the lanes' names."""
    rows: list[Row] = [
        (
            labels.get(row["study_lane"], row["study_lane"]),
            cut(row["prompt"], 120),
            str(row["seed"]),
            cut(_said(row["error"]), 600),
        )
        for _, row in failures.iterrows()
    ]
    return table("Failed cells", ("Lane", wrap("Prompt"), "Seed", wrap("Error")), rows)


def environment_table(environments: pd.DataFrame, timed_elsewhere: Iterable[str] = ()) -> ResultTable:
    """Where the cells of a study were made (`queries.environments`), and machines that have only timed its lanes."""
    rows: list[Row] = [
        (
            str(row["device_name"]),
            *(str(row[name]) for name in ("device", "memory", "torch", "diffusers")),
            _details(row["details"]),
            f"{int(row['cells']):,}",
        )
        for _, row in environments.iterrows()
    ]
    rows += [(name, *[NONE] * 4, "times only", "0") for name in timed_elsewhere]
    columns = (text("Device"), text("Memory"), text("torch"), text("diffusers"), wrap("Details"), "Cells")
    return table("Machines", [wrap("Machine"), *columns], rows)


def model_table(models: pd.DataFrame) -> ResultTable:
    """The models of a study's cells."""
    rows = [
        (str(row["source"]), str(row["family"]), whole(row["parameters"]), str(row["fingerprint"]))
        for _, row in models.iterrows()
    ]
    columns = (wrap("Model"), text("Pipeline"), "Parameters", Column("SHA-256 of its files", "text wrap code"))
    return table("Models", columns, rows)


def calls_table(lanes: Iterable[ShownLane], timings: pd.DataFrame, baseline: str) -> ResultTable:
    """Steps, denoiser calls and time of each lane, and the time of one call."""
    times = timings.drop_duplicates("lane").set_index("lane")["median_ms"]
    rows = []
    for lane in lanes:
        median = float(times[lane.key]) if lane.key in times.index else float("nan")
        each = median / lane.nfe if lane.nfe and known(median) else float("nan")
        calls = f"{lane.nfe / lane.steps:.2f}" if lane.nfe and lane.steps else NONE
        shown = (whole(lane.steps), whole(lane.nfe), calls, duration(median), duration(each))
        rows.append((name_of(lane, baseline), *shown))
    columns = (*LANE_COLUMNS, "Calls per step", "Median time", "Time per call")
    return table("Calls and times of each lane", columns, rows, style="lab-narrow")


def order_table(orders: pd.DataFrame) -> ResultTable:
    """Observed orders (`engine.analysis.convergence`), or why there is none."""
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


def _said(value: object) -> str:
    return value if isinstance(value, str) else ""


def _details(value: object) -> str:
    try:
        found: Any = json.loads(str(value))
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{key} {part}" for key, part in found.items() if part not in ("", None))
