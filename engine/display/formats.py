"""Formats numbers and times for display, with units; unknown values become a dash."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from numbers import Real
from typing import Any, TypeGuard

NONE = "–"


def known(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number: not None, NaN, infinite or pandas' NA."""
    return isinstance(value, Real) and math.isfinite(value)


def duration(milliseconds: float | None) -> str:
    """E.g. "8.12 ms", "78.0 ms", "812 ms", "2.39 s", "12.3 s"."""
    if not known(milliseconds):
        return NONE
    divisor, decimals, unit = _scale(milliseconds)
    return f"{milliseconds / divisor:,.{decimals}f} {unit}"


def duration_range(low: float | None, high: float | None) -> str:
    """E.g. "800 – 825 ms"; unit and decimals follow from the larger end."""
    if not (known(low) and known(high)):
        return NONE
    divisor, decimals, unit = _scale(high)
    return f"{low / divisor:,.{decimals}f} – {high / divisor:,.{decimals}f} {unit}"


def _scale(milliseconds: float) -> tuple[int, int, str]:
    """(divisor, decimals, unit) for a duration."""
    divisor, unit = (1000, "s") if milliseconds >= 1000 else (1, "ms")
    value = milliseconds / divisor
    return divisor, 0 if value >= 100 else 1 if value >= 10 else 2, unit


def ratio(value: float | None) -> str:
    """E.g. "2.46×"."""
    return f"{value:.2f}×" if known(value) else NONE


def ratio_range(low: float | None, high: float | None) -> str:
    """E.g. "2.31 – 2.60"."""
    if not (known(low) and known(high)):
        return NONE
    return f"{low:.2f} – {high:.2f}"


def number(value: float | None) -> str:
    """E.g. "87.7", "0.0435", "−1.04"."""
    return f"{value:.3g}".replace("-", "−") if known(value) else NONE


def signed(value: float | None) -> str:
    """E.g. "+0.0435", "−1.04", "0"."""
    text = number(value)
    return f"+{text}" if known(value) and value > 0 else text


def number_range(low: float | None, high: float | None) -> str:
    """E.g. "−0.142 to 0.0449"."""
    return f"{number(low)} to {number(high)}" if NONE not in (number(low), number(high)) else NONE


def whole(value: float | None) -> str:
    """E.g. "1,024"."""
    return f"{value:,.0f}" if known(value) else NONE


def when(moment: datetime | None) -> str:
    """E.g. "23 Nov 2026, 08:12 UTC", for a UTC time without time zone, as in the cache."""
    if moment is None or moment != moment:
        return NONE
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def count(number: int, one: str) -> str:
    """E.g. "1 lane", "4 lanes"."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def batch_of(size: float) -> str:
    """E.g. "one image at a time", "batch of 4"."""
    return f"batch of {size:.0f}" if size > 1 else "one image at a time"


def cut(text: str, length: int) -> str:
    """The text on one line, truncated to `length` characters with an ellipsis."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length and len(text) <= 4 * length else line[: length - 1].rstrip() + "…"


def labelled(text: str, labels: Mapping[str, str]) -> str:
    """The text with the labels of lanes in place of their keys: commands take keys, people read labels.

    Args:
        text: E.g. "Use ddim:10."
        labels: Key -> label of lanes.
    """
    if not labels:
        return text
    keys = "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))
    return re.sub(rf"(?<![\w:])(?:{keys})(?!\w)", lambda found: labels[found[0]], text)


def money(dollars: float) -> str:
    """E.g. "$0.0123", "$12.30", "$123", "$1,234", "$1.23 M"."""
    if not known(dollars):
        return NONE
    sign, size = "−" if dollars < 0 else "", abs(dollars)
    if size >= 999_999.5:
        return f"{sign}${size / 1e6:,.2f} M"
    if size >= 99.995 or size == 0:
        return f"{sign}${size:,.0f}"
    return f"{sign}${size:.2f}" if size >= 0.1 else f"{sign}${size:.3g}"


def money_range(low: float, high: float) -> str:
    """E.g. "$1,200 – $1,250"; one figure if both ends read the same."""
    ends = [money(low), money(high)]
    if NONE in ends:
        return NONE
    return ends[0] if ends[0] == ends[1] else " – ".join(ends)


def percent(share: float) -> str:
    """E.g. "38.2 %"."""
    return f"{100 * share:.1f} %".replace("-", "−") if known(share) else NONE


def percent_range(low: float, high: float) -> str:
    """E.g. "36.1 – 40.0 %"."""
    return f"{percent(low)[:-2]} – {percent(high)}" if known(low) and known(high) else NONE


def interval_note(n: float, interval: str, settled: str) -> str:
    """E.g. "95 % interval 2.31 – 2.60, n = 10"; notes if there are too few samples or they have not settled."""
    if interval == NONE:
        return f"too few samples, n = {n:.0f}"
    return f"95 % interval {interval}, n = {n:.0f}" + ("" if settled == "settled" else f", {settled}")


def far(done: int, total: int, unit: str) -> str:
    """E.g. "12 of 240 cells", or "12 cells" where nobody knows of how many."""
    return f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
