"""HTML for what Streamlit has no element for. Pure; every text that comes from the cache is escaped here.

What only one page shows stands in that page's own folder.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from pathlib import Path
from urllib.parse import urlencode

from engine.display import theme
from engine.display.formats import cut

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
STYLE = f"<style>:root {{ --lab-accent: {theme.ACCENT}; }}\n{_CSS}</style>"

SMALL_PIXELS = 256
LANE_COLUMNS = ("Lane", "Steps", "Denoiser calls (NFE)")


def title(name: str, facts: Sequence[str], description: str, level: int = 1) -> str:
    """The head of a page: the study and what its cells share; `level` of the heading, 2 below another head."""
    lines = [f'<h{level} class="lab-title">{escape(name)}</h{level}>']
    lines += [f'<p class="lab-soft">{escape(text)}</p>' for text in (cut(description, 300), " · ".join(facts)) if text]
    return f'<div class="lab">{"".join(lines)}</div>'


def heading(text: str, note: str = "") -> str:
    """A section's heading with one line of explanation."""
    extra = f'<p class="lab-soft">{with_code(note)}</p>' if note else ""
    return f'<div class="lab"><h2 class="lab-head">{escape(text)}</h2>{extra}</div>'


def note(head: str, text: str) -> str:
    """A message that takes the place of what cannot be shown; `code` in backquotes is set as code."""
    return f'<div class="lab lab-note" role="status"><h2>{escape(head)}</h2><p>{with_code(text)}</p></div>'


def soft(text: str) -> str:
    """A small line."""
    return f'<p class="lab lab-soft">{with_code(text)}</p>'


def footer(parts: Iterable[str]) -> str:
    """What stands under every figure: n, interval, environment, when."""
    return f'<p class="lab lab-foot">{escape(" · ".join(part for part in parts if part))}</p>'


def legend(text: str) -> str:
    """What the marks of a chart mean."""
    return f'<p class="lab lab-legend">{escape(text)}</p>'


def figures(items: Iterable[tuple[str, str, str]]) -> str:
    """Large figures with a name above and a note below."""
    cells = "".join(
        f'<div><div class="name">{escape(name)}</div><div class="value">{escape(value)}</div>'
        f'<div class="note">{escape(below)}</div></div>'
        for name, value, below in items
    )
    return f'<div class="lab lab-figures">{cells}</div>'


def lane_name(label: str, scheduler: str, *, is_baseline: bool = False) -> str:
    """A lane's label behind its scheduler's mark."""
    look = theme.look(scheduler)
    tag = '<span class="tag">baseline</span>' if is_baseline else ""
    return f'<span style="color:{look.colour}" aria-hidden="true">{look.glyph}</span> {escape(label)}{tag}'


def table(columns: Sequence[str], rows: Iterable[str], classes: str = "", text: Collection[str] = ()) -> str:
    head = "".join(f'<th scope="col"{" class=text" if name in text else ""}>{escape(name)}</th>' for name in columns)
    return (
        f'<div class="lab lab-scroll {classes}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def gap(text: str) -> str:
    """What stands where a picture is missing."""
    return f'<div class="lab-gap">{escape(cut(text, 90))}</div>'


def picture(source: str, alt: str, width: int, query: dict[str, str]) -> str:
    """A picture that leads to the Compare page."""
    small = ' class="small"' if width < SMALL_PIXELS else ""
    link = escape("compare?" + urlencode(query))
    return f'<a href="{link}"><img src="{escape(source)}" alt="{escape(alt)}"{small}></a>'


def method(texts: Iterable[str]) -> str:
    """A list of small paragraphs."""
    return f'<ul class="lab lab-soft">{"".join(f"<li>{with_code(text)}</li>" for text in texts)}</ul>'


def with_code(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
