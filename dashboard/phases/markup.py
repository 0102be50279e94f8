"""Cards and tables of the Phases page, as HTML or text; every text from the cache is escaped."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from dashboard import markup
from engine.analysis.borders import BORDERS, Measured
from engine.analysis.commitment import Commitment
from engine.analysis.outcomes import StudyLane
from engine.analysis.phases import Axis
from engine.analysis.statistics import Estimate
from engine.display.formats import NONE, known, number, number_range, percent, percent_range

# The span of progress that is said to be critical.
CLAIMED = (0.4, 0.8)
# Columns of the table: pairs of borders that make a span, and single ones.
COLUMNS: dict[str, tuple[str, ...]] = {
    "Critical half of the path": ("critical_50_start", "critical_50_end"),
    "Critical 80 %": ("critical_80_start", "critical_80_end"),
    "Half of the path done": ("half_path",),
    "Recognisable": ("recognisable",),
    "Coarse shape settled": ("coarse",),
    "Fine detail settled": ("detail",),
    "Near the final picture": ("close",),
}
# How a place is set on each axis.
FORMS: tuple[tuple[Axis, str], ...] = (
    ("progress", "<b>{}</b>"),
    ("log_snr", '<span class="soft">log-SNR {}</span>'),
)
WORDS = {True: "yes", False: "no", None: "undecided"}


def place(figure: Estimate, axis: Axis) -> str:
    """A border, e.g. "34 %" or "−1.2"."""
    return percent(figure.value) if axis == "progress" else number(figure.value)


def interval(figure: Estimate, axis: Axis) -> str:
    """Its 95 % interval, or a dash."""
    return (percent_range if axis == "progress" else number_range)(figure.low, figure.high)


def within_claimed(start: Estimate, end: Estimate) -> bool | None:
    """Whether a critical phase lies from 40 to 80 %, by the intervals of its ends; None: undecided."""
    if not (known(start.low) and known(end.low)):
        return None
    if start.high < CLAIMED[0] or end.low > CLAIMED[1] or start.low > CLAIMED[1] or end.high < CLAIMED[0]:
        return False
    return True if start.low >= CLAIMED[0] and end.high <= CLAIMED[1] else None


def border_table(lanes: Sequence[StudyLane], measured: Mapping[tuple[str, str], Measured], baseline: str) -> str:
    """Where the phases of each lane lie: in progress with its interval, and in log-SNR below."""
    shown = [name for name, keys in COLUMNS.items() if any((lane.key, keys[0]) in measured for lane in lanes)]
    rows = []
    for lane in lanes:
        cells = [_cell([measured.get((lane.key, key)) for key in COLUMNS[name]]) for name in shown]
        ends = [measured.get((lane.key, key)) for key in COLUMNS["Critical half of the path"]]
        figures = [found.figures["progress"] for found in ends if found is not None and "progress" in found.figures]
        word = WORDS[within_claimed(*figures)] if len(figures) == 2 else NONE
        name = markup.lane_name(lane.label, lane.scheduler, is_baseline=lane.key == baseline)
        rows.append(f'<tr><th scope="row">{name}</th>{"".join(cells)}<td>{word}</td></tr>')
    return markup.table(["Lane", *shown, "Half within 40 – 80 %?"], rows, "lab-borders")


def _cell(found: Sequence[Measured | None]) -> str:
    there = [border for border in found if border is not None]
    if len(there) < len(found):
        return f"<td>{NONE}</td>"
    lines = []
    for axis, form in FORMS:
        figures = [border.figures[axis] for border in there if axis in border.figures]
        if len(figures) < len(found):
            continue
        values = (" – " if axis == "progress" else " to ").join(place(figure, axis) for figure in figures)
        values = values.replace(" % – ", " – ")
        lines.append(form.format(values))
        ranges = [interval(figure, axis) for figure in figures]
        if NONE not in ranges:
            lines.append(f'<span class="soft">[{"; ".join(ranges)}]</span>')
    never = max(border.never for border in there)
    if never:
        lines.append(f'<span class="soft">{never} of {never + there[0].runs} never</span>')
    return f"<td>{'<br>'.join(lines) or NONE}</td>"


def commitment_table(lanes: Sequence[StudyLane], found: Commitment) -> str:
    """Where runs come to keep to their first prompt, lane by lane."""
    points = found.points.set_index("lane")
    rows = []
    for lane in lanes:
        if lane.key not in points.index:
            continue
        row = points.loc[lane.key]
        never = f"{row['never']:.0f} of {row['never'] + row['runs']:.0f}"
        cells = (
            percent_range(row["progress_low"], row["progress_high"]),
            number(row["log_snr"]),
            number_range(row["log_snr_low"], row["log_snr_high"]),
            f"{row['pairs']:.0f}",
            f"{row['runs']:.0f}",
            never,
        )
        name = markup.lane_name(lane.label, lane.scheduler)
        rest = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{name}</th><td><b>{percent(row["progress"])}</b></td>{rest}</tr>')
    columns = ["Lane", "Committed at", "95 % interval", "Log-SNR", "95 % interval", "Pairs", "Runs", "Left out"]
    return markup.table(columns, rows)


def swap_pictures(
    lanes: Sequence[StudyLane],
    shares: Sequence[float],
    pictures: Mapping[tuple[str, float], str],
    pair: tuple[str, str],
) -> str:
    """Final pictures of a pair of prompts: a row a lane, a column a share of the calls with the first prompt."""
    head = "".join(f'<th scope="col">{share:.0%}</th>' for share in shares)
    body = ""
    for lane in lanes:
        cells = ""
        for share in shares:
            source = pictures.get((lane.key, share))
            alt = f"{lane.label}: '{pair[0]}' for {share:.0%} of the calls, then '{pair[1]}'"
            cells += (
                f'<td><img class="small" src="{escape(source)}" alt="{escape(alt)}"></td>' if source else "<td></td>"
            )
        body += f'<tr><th scope="row">{markup.lane_name(lane.label, lane.scheduler)}</th>{cells}</tr>'
    return (
        '<div class="lab lab-scroll lab-pictures lab-swaps"><table><thead><tr><th scope="col"></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def lane_legend(lanes: Sequence[StudyLane]) -> str:
    """The marks of the lanes."""
    items = "".join(f"<span>{markup.lane_name(lane.label, lane.scheduler)}</span>" for lane in lanes)
    return f'<p class="lab lab-legend">{items}</p>'


def definitions() -> Iterable[str]:
    """What each border means."""
    return (f"{border.label}: {border.definition}." for border in BORDERS)
