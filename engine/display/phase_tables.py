"""Tables of the phases of lanes: in progress with interval, and in log-SNR."""

from collections.abc import Iterable, Mapping, Sequence

from engine.analysis.borders import MeasuredBorder
from engine.analysis.clip_phases import ClipPhases, Unit
from engine.analysis.commitment import Commitment
from engine.analysis.phases import Axis
from engine.analysis.statistics import Estimate
from engine.display import html
from engine.display.formats import NONE, known, number, number_range, percent, percent_range, signed
from engine.display.tables import INTERVAL, Entry, FilledColumn, ResultTable, ShownLane, bold, name_of, table, table_of

# The span of progress claimed to be critical.
CLAIMED = (0.4, 0.8)
# Columns of the table: one border each, or the two borders of a span.
COLUMNS: dict[str, tuple[str, ...]] = {
    "Critical half of the path": ("critical_50_start", "critical_50_end"),
    "Critical 80 %": ("critical_80_start", "critical_80_end"),
    "Half of the path done": ("half_path",),
    "Recognisable": ("recognisable",),
    "Coarse shape settled": ("coarse",),
    "Fine detail settled": ("detail",),
    "Near the final picture": ("close",),
}
WORDS = {True: "yes", False: "no", None: "undecided"}


def place(figure: Estimate, axis: Axis) -> str:
    """A border, e.g. "34 %" or "−1.2"."""
    return percent(figure.value) if axis == "progress" else number(figure.value)


def interval(figure: Estimate, axis: Axis) -> str:
    """The 95 % interval of a border, or a dash."""
    return (percent_range if axis == "progress" else number_range)(figure.low, figure.high)


def within_claimed(start: Estimate, end: Estimate) -> bool | None:
    """Whether a critical phase lies within 40 to 80 %, judged by the intervals of its ends; None: undecided."""
    if not (known(start.low) and known(end.low)):
        return None
    if start.high < CLAIMED[0] or end.low > CLAIMED[1] or start.low > CLAIMED[1] or end.high < CLAIMED[0]:
        return False
    return True if start.low >= CLAIMED[0] and end.high <= CLAIMED[1] else None


def border_table(
    lanes: Sequence[ShownLane], measured: Mapping[tuple[str, str], MeasuredBorder], baseline: str
) -> ResultTable:
    """The phases of each lane."""
    shown = [name for name, keys in COLUMNS.items() if any((lane.key, keys[0]) in measured for lane in lanes)]
    rows = []
    for lane in lanes:
        cells = [_span([measured.get((lane.key, key)) for key in COLUMNS[name]]) for name in shown]
        ends = [measured.get((lane.key, key)) for key in COLUMNS["Critical half of the path"]]
        figures = [found.figures["progress"] for found in ends if found is not None and "progress" in found.figures]
        word = WORDS[within_claimed(*figures)] if len(figures) == 2 else NONE
        rows.append((name_of(lane, baseline), *cells, word))
    return table("Where the phases lie", ["Lane", *shown, "Half within 40 – 80 %?"], rows)


def _span(borders: Sequence[MeasuredBorder | None]) -> Entry:
    """One border, or the two ends of a span."""
    there = [border for border in borders if border is not None]
    if len(there) < len(borders):
        return NONE
    text, below = "", []
    axes: tuple[Axis, ...] = ("progress", "log_snr")
    for axis in axes:
        figures = [border.figures[axis] for border in there if axis in border.figures]
        if len(figures) < len(there):
            continue
        if axis == "progress":
            text = " – ".join(place(figure, axis) for figure in figures).replace(" % – ", " – ")
        else:
            below.append("log-SNR " + " to ".join(place(figure, axis) for figure in figures))
        ranges = [interval(figure, axis) for figure in figures]
        if NONE not in ranges:
            below.append(f"[{'; '.join(ranges)}]")
    never = max(border.never for border in there)
    if never:
        below.append(f"{never} of {never + there[0].runs} never")
    return bold(text, *below) if text or below else NONE


def clip_table(lanes: Iterable[ShownLane], measured: Iterable[ClipPhases], baseline: str) -> ResultTable:
    """Where motion and appearance of a lane's clips settle, and how many steps motion is ahead."""
    names = {lane.key: lane for lane in lanes}
    columns: list[FilledColumn] = [
        ("Lane", lambda found: name_of(names[found.lane], baseline)),
        ("Motion settled", lambda found: _settled(found.motion)),
        ("Appearance settled", lambda found: _settled(found.appearance)),
        ("Motion ahead by (steps)", lambda found: _lead(found.lead)),
        ("n", lambda found: f"{found.motion['step'].n} prompts, {found.motion['step'].pairs} runs"),
        ("Steps read", lambda found: str(found.kept)),
    ]
    return table_of("Where motion and appearance settle", measured, columns)


def _settled(places: Mapping[Unit, Estimate]) -> Entry:
    level, share = places.get("log_snr"), places.get("progress")
    if share is None:
        return NONE
    below = [f"log-SNR {place(level, 'log_snr')}", f"[{interval(level, 'log_snr')}]"] if level else []
    return bold(place(share, "progress"), *(text for text in below if NONE not in text))


def _lead(found: Estimate | None) -> Entry:
    if found is None:
        return NONE
    ends = interval(found, "log_snr")
    return bold(signed(found.value), *([] if ends == NONE else [f"[{ends}]"]))


def commitment_table(lanes: Iterable[ShownLane], found: Commitment) -> ResultTable:
    """Where runs commit to their first prompt, by lane."""
    names = {lane.key: lane for lane in lanes}
    points = found.points[found.points["lane"].isin(list(names))]
    columns: list[FilledColumn] = [
        ("Lane", lambda row: name_of(names[row.lane])),
        ("Committed at", lambda row: bold(percent(row.progress))),
        (INTERVAL, lambda row: percent_range(row.progress_low, row.progress_high)),
        ("Log-SNR", lambda row: number(row.log_snr)),
        (INTERVAL, lambda row: number_range(row.log_snr_low, row.log_snr_high)),
        ("Pairs", lambda row: f"{row.pairs:.0f}"),
        ("Runs", lambda row: f"{row.runs:.0f}"),
        ("Left out", lambda row: f"{row.never:.0f} of {row.never + row.runs:.0f}"),
    ]
    return table_of("Where runs commit to their first prompt", points.itertuples(), columns)


def swap_table(
    lanes: Iterable[ShownLane],
    shares: Sequence[float],
    pictures: Mapping[tuple[str, float], str],
    pair: tuple[str, str],
) -> ResultTable:
    """Final pictures of a pair of prompts: one row per lane, one column per share of calls with the first prompt."""
    rows = []
    for lane in lanes:
        cells: list[Entry] = []
        for share in shares:
            alt = f"{lane.label}: '{pair[0]}' for {share:.0%} of the calls, then '{pair[1]}'"
            source = pictures.get((lane.key, share))
            cells.append(html.picture(html.Shot(source, alt, small=True)) if source else "")
        rows.append((name_of(lane), *cells))
    columns = ["Lane", *(f"{share:.0%}" for share in shares)]
    return table("Final pictures after a prompt swap", columns, rows, style="lab-pictures lab-swaps")
