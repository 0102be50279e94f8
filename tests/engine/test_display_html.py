"""The parts of pages and report: strangers' texts stay texts, and tables say what their cells belong to."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from engine.analysis.claims import ClaimVerdict, TestResult
from engine.display import html
from engine.display.headline import Figure
from engine.display.tables import TableCell, bold, lane_name, table, text, wrap

ROOT = Path(__file__).resolve().parents[2]
EVIL = "</p></td><script>hurt()</script>\"'><img src=x onerror='hurt()'>"
SHOT = html.Shot(EVIL, EVIL, EVIL)
RESULT = TestResult("refuted", *[EVIL] * 5)
PARTS = {
    "title": html.title(EVIL, [EVIL], EVIL),
    "heading": html.heading(EVIL, EVIL),
    "note": html.note(EVIL, EVIL),
    "soft": html.soft(EVIL),
    "footer": html.footer([EVIL]),
    "legend": html.legend(EVIL, [EVIL, lane_name(EVIL, EVIL)]),
    "prose": html.prose(EVIL),
    "method": html.method([EVIL]),
    "figures": html.figures([Figure(*[EVIL] * 5)]),
    "cards": html.cards([Figure(*[EVIL] * 5)], (EVIL, EVIL)),
    "claims": html.claims([ClaimVerdict(EVIL, EVIL, "refuted", (RESULT,), EVIL)]),
    "remarks": html.remarks([(EVIL, EVIL)], [EVIL]),
    "table": html.table(table(EVIL, [EVIL, wrap(EVIL)], [(lane_name(EVIL, EVIL), bold(EVIL, EVIL))])),
    "picture": html.picture(SHOT, {EVIL: EVIL}),
    "gap": html.gap(EVIL),
    "shots": html.shots([SHOT]),
    "film": html.film(html.Film(EVIL, EVIL, (0.5,), 8, 8, EVIL)),
    "preformatted": html.preformatted(EVIL, "lab-plan"),
    "folded": html.folded(EVIL, EVIL, "lab-log"),
}


class Elements(HTMLParser):
    """The elements of a part with their attributes; every one that is opened is closed."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(part)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in {"img", "br"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


@pytest.mark.parametrize("name", PARTS)
def test_no_text_becomes_an_element_or_an_attribute(name: str) -> None:
    found = Elements(PARTS[name]).found
    assert found
    assert "script" not in {tag for tag, _ in found}
    assert not [names for _, names in found if any(attribute.startswith("on") for attribute in names)]


def test_what_stands_in_backquotes_is_set_as_code_and_escaped() -> None:
    assert html.soft("run `a <b>` now") == '<p class="lab lab-soft">run <code>a &lt;b&gt;</code> now</p>'


def test_every_head_of_a_table_has_its_scope_and_the_table_a_name_and_a_place_in_the_tab_order() -> None:
    rows = [
        (TableCell("one", down=2), "1", "first"),
        (None, bold("2", "about"), "second"),
        ("two", TableCell("nothing", across=2)),
    ]
    shown = html.table(table("Numbers", ["Name", "Value", text("Word")], rows))
    found = Elements(shown).found
    assert found[0][1] | {"class": ""} == {"class": "", "role": "region", "aria-label": "Numbers", "tabindex": "0"}
    heads = [names for tag, names in found if tag == "th"]
    assert [names["scope"] for names in heads] == ["col"] * 3 + ["row"] * 2
    assert heads[3]["rowspan"] == "2"
    cells = [names for tag, names in found if tag == "td"]
    assert [names.get("class") for names in cells] == [None, "text", None, "text", "text wrap soft"]
    assert cells[-1]["colspan"] == "2"
    assert '<b>2</b><br><span class="soft">about</span>' in shown


def test_addresses_of_pictures_are_made_in_one_place() -> None:
    files = [file for top in ("engine", "dashboard") for file in (ROOT / top).rglob("*.py")]
    named = [file.name for file in files if "data:image" in file.read_text(encoding="utf-8")]
    assert named == ["html.py"]
