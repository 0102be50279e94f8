"""What a page that was run without a browser shows, and the study it shows it of."""

import html
import json
import re
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from engine.cache.connection import reading
from engine.results import Results, read_results


def words(page: AppTest) -> str:
    """All HTML that a page shows, without the style sheet; the page must not have failed."""
    assert not page.exception
    return "\n".join(element.proto.body for element in page.get("html") if "<style>" not in element.proto.body)


def plain(text: str) -> str:
    """The text in some HTML."""
    return html.unescape(re.sub(r"<[^>]*>", "", text)).strip()


def cards(page: AppTest) -> dict[str, tuple[str, str]]:
    """The large figures: name -> (value, note)."""
    pattern = r'<div class="name">(.*?)</div><div class="value">(.*?)</div><p>(.*?)</p>'
    return {plain(name): (plain(value), plain(note)) for name, value, note in re.findall(pattern, words(page))}


def address(page: AppTest) -> dict[str, str]:
    """What a page writes to its address, as somebody would copy it."""
    parts = (json.loads(part.proto.json) for part in page.get("bidi_component"))
    written = next(part for part in parts if "study" in part and all(isinstance(value, str) for value in part.values()))
    return {name: value for name, value in written.items() if value != ""}


def charts(page: AppTest) -> list[Any]:
    """The specifications of all charts."""
    return [json.loads(element.proto.spec) for element in page.get("vega_lite_chart")]


def study_results(cache: Path, study_id: str = "quick") -> Results:
    """What the pages know of a study."""
    with reading(cache) as db:
        return read_results(db, study_id)
