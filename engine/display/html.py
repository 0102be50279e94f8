"""The HTML of pages and report, from the templates beside. Everything that is filled in is escaped there.

Each function returns a part that may stand inside another one.
"""

import base64
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from engine.analysis.claims import ClaimVerdict
from engine.display import theme
from engine.display.formats import count, cut
from engine.display.headline import Figure
from engine.display.tables import VERDICT_MARKS, Entry, ResultTable, claim_figure

SMALL_PIXELS = 256  # smaller pictures are enlarged as they are, without smoothing


@dataclass(frozen=True)
class Shot:
    """A picture with what it shows, and a line below it."""

    source: str
    alt: str
    caption: str = ""
    small: bool = False


@dataclass(frozen=True)
class Film:
    """The final picture of a cell and the strip of its steps, as addresses.

    Attributes:
        final: The final picture; None if there is none.
        strip: All steps beside each other; None if there are none.
        progress: Of each step in the strip.
        width: Of one picture in pixels; the strip has as many times that.
        height: Likewise.
        alt: What they show, for screen readers.
    """

    final: str | None
    strip: str | None
    progress: tuple[float, ...]
    width: int
    height: int
    alt: str = ""


def _with_code(text: str) -> Markup:
    """The text with `such parts` set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


_TEMPLATES = Environment(
    loader=PackageLoader("engine.display"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_FILTERS: dict[str, Callable[..., Any]] = {
    "code": _with_code,
    "count": count,
    "look": theme.look,
    "verdict_mark": VERDICT_MARKS.__getitem__,
}
_TEMPLATES.filters.update(_FILTERS)
_PARTS: Any = _TEMPLATES.get_template("parts.html").module


def document(template: str, **values: Any) -> str:
    """A whole page from a template, which calls the parts itself."""
    return _TEMPLATES.get_template(template).render(values)


def trusted(text: str) -> Markup:
    """A text of our own that is not escaped: a style sheet, or a script whose digest the page allows."""
    return Markup(text)


def inline_image(kind: str, data: bytes) -> str:
    """A picture as an address that needs no network; `kind` as in "image/KIND"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def title(name: str, facts: Sequence[str], description: str, level: int = 1) -> Markup:
    """The head of a page: the study and what its cells share; `level` of the heading, 2 below another head."""
    return _part("title", name, (cut(description, 300), " · ".join(facts)), level)


def heading(text: str, note: str = "") -> Markup:
    """A section's heading with one line of explanation."""
    return _part("heading", text, note)


def note(head: str, text: str) -> Markup:
    """A message in place of what cannot be shown."""
    return _part("note", head, text)


def soft(text: str) -> Markup:
    """A small line."""
    return _part("soft", text)


def footer(parts: Iterable[str]) -> Markup:
    """The line under a figure: n, interval, environment, when."""
    return _part("footer", " · ".join(part for part in parts if part))


def legend(text: str = "", marks: Iterable[Entry] = ()) -> Markup:
    """What the marks of a chart mean."""
    return _part("legend", text, marks)


def prose(*texts: str) -> Markup:
    """Paragraphs to read."""
    return _part("prose", texts)


def method(texts: Iterable[str]) -> Markup:
    """A list of small paragraphs."""
    return _part("method", texts)


def figures(items: Iterable[Figure]) -> Markup:
    """Large figures with a name above and a note below."""
    return _part("cards", items, "figures")


def cards(items: Iterable[Figure], link: tuple[str, str] | None = None) -> Markup:
    """The headline; the note of the last figure ends with a link (text, address)."""
    return _part("cards", items, "cards", link)


def claims(verdicts: Iterable[ClaimVerdict]) -> Markup:
    """Every claim with its verdict and the figure behind it."""
    return _part("claims", [(verdict, claim_figure(verdict)) for verdict in verdicts])


def remarks(loud: Sequence[tuple[str, str]], quiet: Sequence[str]) -> Markup:
    """Warnings (severity, text) to see, and mere information to unfold."""
    return _part("remarks", loud, quiet)


def table(shown: ResultTable) -> Markup:
    """A table that scrolls sideways where the page is narrow."""
    return _part("table", shown)


def picture(shot: Shot, query: Mapping[str, str] | None = None) -> Markup:
    """A picture; with a query it leads to the Compare page."""
    return _part("picture", shot, "compare?" + urlencode(query) if query else "")


def gap(text: str) -> Markup:
    """A placeholder for a missing picture."""
    return _part("gap", cut(text, 90))


def shots(pictures: Iterable[Shot]) -> Markup:
    """A row of pictures."""
    return _part("shots", pictures)


def film(shown: Film) -> Markup:
    """A final picture, and the strip behind it for the scrubber."""
    return _part("film", shown)


def preformatted(text: str, style: str) -> Markup:
    """Output of a program, line by line."""
    return _part("preformatted", text, style)


def folded(summary: str, text: str, style: str) -> Markup:
    """A text to unfold, line by line as it is."""
    return _part("folded", summary, text, style)


def _part(name: str, *values: Any) -> Markup:
    return Markup(getattr(_PARTS, name)(*values).strip())
