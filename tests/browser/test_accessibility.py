"""Every page in a real browser: what axe-core finds, titles and headings, alt texts, and what the address carries."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

PATIENCE = 30_000  # ms
SETTLE = 1_000  # ms: charts are drawn after the texts
# Page -> (address, what has to be there before it is looked at, its title).
PAGES = {
    "overview": ("/", ".lab-pictures img", "Overview"),
    "compare": ("/compare", ".player .tiles img", "Compare"),
    "phases": ("/phases", ".lab-title", "Phases"),
    "speed": ("/speed", ".lab-legend", "Speed and quality"),
    "cost": ("/cost", ".lab-figures", "Cost"),
    "vote": ("/vote", ".lab-title", "Vote"),
    "runs": ("/runs", ".lab-title", "Runs"),
    "learn": ("/learn", ".lab-shots img", "Learn"),
}
StartDashboard = Callable[..., str]
Axe = Callable[[Any], list[str]]


@pytest.fixture(scope="module")
def dashboard(start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a dashboard over a scored study and a newer one of a lane and a prompt; it may run and take votes."""
    cache = tmp_path_factory.mktemp("accessible") / "cache.duckdb"
    synthetic.write_scored(cache)
    synthetic.write(cache, synthetic.study("single", lanes=("ddim:50",), prompts=("owl",), seeds=(0,)))
    return start_dashboard(cache, "--allow-runs")


@pytest.fixture(params=["light", "dark"])
def laptop(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of a laptop's size, in the light and in the dark colour scheme."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, color_scheme=request.param)
    yield context.new_page()
    context.close()


def visit(page: Any, dashboard: str, name: str, query: str = "?study=quick") -> None:
    address, sign, _ = PAGES[name]
    page.goto(f"{dashboard}{address}{query}")
    page.locator(sign).first.wait_for(timeout=PATIENCE)
    page.wait_for_timeout(SETTLE)


@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_serious_violation(laptop: Any, dashboard: str, axe: Axe, name: str) -> None:
    visit(laptop, dashboard, name)
    assert axe(laptop) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_title_one_main_heading_alt_texts_scopes_and_no_console_error(
    chromium_page: Any, dashboard: str, name: str
) -> None:
    page = chromium_page
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    # On a page's own address Streamlit first looks for its server below that address, where there is none.
    known = "404 (Not Found)"
    visit(page, dashboard, name)
    assert page.title().startswith(PAGES[name][2])
    assert page.locator("h1").count() == 1
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator(".lab th:not([scope])").count() == 0
    assert [text for text in errors if known not in text] == []


@pytest.mark.parametrize("name", PAGES)
def test_bad_values_in_the_address_fall_back(chromium_page: Any, dashboard: str, name: str) -> None:
    keys = (
        "study",
        "prompt",
        "seed",
        "kind",
        "axis",
        "metric",
        "price",
        "one",
        "two",
        "lane",
        "spectrum",
        "lanes",
        "gpu",
        "step",
    )
    query = "&".join(f"{key}=%3Cscript%3E-99" for key in keys)
    chromium_page.goto(f"{dashboard}{PAGES[name][0]}?{query}")
    chromium_page.locator(".lab-title").first.wait_for(timeout=PATIENCE)
    chromium_page.wait_for_timeout(SETTLE)
    assert chromium_page.locator("[data-testid=stException]").count() == 0
    assert "Traceback" not in chromium_page.inner_text("body")


def test_the_study_stays_chosen_from_page_to_page_and_each_address_opens_the_same_view(
    chromium: Any, chromium_page: Any, dashboard: str
) -> None:
    page = chromium_page
    visit(page, dashboard, "overview")
    for address, sign, title in list(PAGES.values())[1:]:
        page.get_by_role("link", name=title, exact=True).click()
        page.wait_for_url(f"**{address}?**study=quick**", timeout=PATIENCE)
        page.locator(sign).first.wait_for(timeout=PATIENCE)
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        copy = context.new_page()
        copy.goto(page.url)
        copy.locator(".lab-title", has_text="quick").wait_for(timeout=PATIENCE)
        copy.locator(sign).first.wait_for(timeout=PATIENCE)
        copy.wait_for_timeout(SETTLE)
        assert copy.url == page.url
        context.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_study_of_one_lane_and_one_prompt_is_shown(chromium_page: Any, dashboard: str, name: str) -> None:
    page = chromium_page
    page.goto(f"{dashboard}{PAGES[name][0]}?study=single")
    page.locator(".lab-title", has_text="single").wait_for(timeout=PATIENCE)
    page.wait_for_timeout(SETTLE)
    assert page.locator("h1").count() == 1
    assert page.locator("[data-testid=stException]").count() == 0
    assert "Traceback" not in page.inner_text("body")
