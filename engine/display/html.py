"""HTML of pages and report, rendered from `templates/`, which escape everything that is filled in.

Each function returns a fragment that can be nested in another one.
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

SMALL_PIXELS = 256  # smaller pictures are enlarged without smoothing


@dataclass(frozen=True)
class Shot:
    """A picture with its alternative text and a caption."""

    source: str
    alt: str
    caption: str = ""
    small: bool = False


@dataclass(frozen=True)
class Film:
    """The final picture of a cell and a strip of its steps, as URLs.

    Attributes:
        final: The final picture; None if there is none.
        strip: All steps side by side; None if there are none.
        progress: Progress of each step in the strip.
        width: Width of one picture in pixels.
        height: Height of one picture in pixels.
        alt: Alternative text.
    """

    final: str | None
    strip: str | None
    progress: tuple[float, ...]
    width: int
    height: int
    alt: str = ""


def _with_code(text: str) -> Markup:
    """The text with `parts in backticks` marked up as code."""
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
    """Renders a whole page from a template."""
    return _TEMPLATES.get_template(template).render(values)


def trusted(text: str) -> Markup:
    """Marks our own text as safe: a style sheet, or a script whose digest the page allows."""
    return Markup(text)


def inline_image(kind: str, data: bytes) -> str:
    """A picture as a data URL; `kind` as in "image/KIND"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def title(name: str, facts: Sequence[str], description: str, level: int = 1) -> Markup:
    """The head of a page: name of the study, description, and facts; `level` is that of the heading."""
    return _part("title", name, (cut(description, 300), " · ".join(facts)), level)


def heading(text: str, note: str = "") -> Markup:
    """A section heading with one line of explanation."""
    return _part("heading", text, note)


def note(head: str, text: str) -> Markup:
    """A message in place of content that cannot be shown."""
    return _part("note", head, text)


def soft(text: str) -> Markup:
    """A small line."""
    return _part("soft", text)


def footer(parts: Iterable[str]) -> Markup:
    """The line below a figure: n, interval, environment, time."""
    return _part("footer", " · ".join(part for part in parts if part))


def legend(text: str = "", marks: Iterable[Entry] = ()) -> Markup:
    """The legend of a chart."""
    return _part("legend", text, marks)


def prose(*texts: str) -> Markup:
    """Paragraphs of text."""
    return _part("prose", texts)


def method(texts: Iterable[str]) -> Markup:
    """A list of small paragraphs."""
    return _part("method", texts)


def figures(items: Iterable[Figure]) -> Markup:
    """Large figures with a name above and a note below."""
    return _part("cards", items, "figures")


def cards(items: Iterable[Figure], link: tuple[str, str] | None = None) -> Markup:
    """The headline; the last note ends with a link (text, URL)."""
    return _part("cards", items, "cards", link)


def claims(verdicts: Iterable[ClaimVerdict]) -> Markup:
    """Claims with their verdicts and the deciding figures."""
    return _part("claims", [(verdict, claim_figure(verdict)) for verdict in verdicts])


def remarks(loud: Sequence[tuple[str, str]], quiet: Sequence[str]) -> Markup:
    """Visible warnings as (severity, text), and collapsed information."""
    return _part("remarks", loud, quiet)


def table(shown: ResultTable) -> Markup:
    """A table that scrolls horizontally on narrow pages."""
    return _part("table", shown)


def picture(shot: Shot, query: Mapping[str, str] | None = None) -> Markup:
    """A picture; with a query it links to the Compare page."""
    return _part("picture", shot, "compare?" + urlencode(query) if query else "")


def gap(text: str) -> Markup:
    """A placeholder for a missing picture."""
    return _part("gap", cut(text, 90))


def shots(pictures: Iterable[Shot], style: str = "") -> Markup:
    """A row of pictures; `style`: a class of its own."""
    return _part("shots", pictures, style)


def film(shown: Film) -> Markup:
    """A final picture with the strip of steps for the scrubber."""
    return _part("film", shown)


def preformatted(text: str, style: str) -> Markup:
    """Preformatted output of a program."""
    return _part("preformatted", text, style)


def folded(summary: str, text: str, style: str) -> Markup:
    """Preformatted text, collapsed below a summary."""
    return _part("folded", summary, text, style)


def _part(name: str, *values: Any) -> Markup:
    return Markup(getattr(_PARTS, name)(*values).strip())
