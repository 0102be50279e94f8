"""In a real browser: differences, zoom, the address and downloads of the Compare page."""

import base64
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

LANES = 4
PATIENCE = 20_000  # ms
QUIET = 1200  # ms: what the page sends while it is being drawn
CONVERGED = {"lane": "dpmpp_2m_karras:50", "check": "heun:25"}
StartDashboard = Callable[..., str]
Bytes = npt.NDArray[np.uint8]

TRANSFORMS = "images => images.filter(i => i.src).map(i => getComputedStyle(i).transform)"
READ_CANVAS = """canvas => {
  const { width, height } = canvas;
  return [width, height, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
}"""


@pytest.fixture(scope="module")
def cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four lanes with its converged reference."""
    path = tmp_path_factory.mktemp("pictures") / "cache.duckdb"
    plan = synthetic.study("quick", prompts=("owl", "rocket"), seeds=(0,), reference=CONVERGED)
    synthetic.write(path, plan)
    synthetic.write_converged(path, plan)
    return path


@pytest.fixture(scope="module")
def dashboard(start_dashboard: StartDashboard, cache: Path) -> str:
    """Address of a dashboard over that study."""
    return start_dashboard(cache, "--read-only")


@pytest.fixture
def quiet_page(chromium_page: Any) -> Iterator[Any]:
    """A page that must not write an error to the console."""
    errors: list[str] = []
    chromium_page.on("pageerror", lambda error: errors.append(str(error)))
    chromium_page.on("console", lambda message: errors.append(message.text) if is_error(message) else None)
    yield chromium_page
    assert errors == []


def is_error(message: Any) -> bool:
    """Whether a console message is an error; below a page's address Streamlit looks for its own files in vain."""
    return message.type == "error" and "_stcore" not in message.location["url"]


def opened(page: Any, url: str, lanes: int = LANES) -> Any:
    """The clean estimates of all lanes, unless the address asks for something else."""
    page.goto(url if "kind=" in url else f"{url}{'&' if '?' in url else '?'}kind=x0")
    page.locator(".player .tiles .lens:not(.noise)").nth(lanes - 1).wait_for(timeout=PATIENCE)
    page.wait_for_timeout(QUIET)
    return page


def choose(page: Any, name: str, value: str) -> None:
    page.locator(f".player select[aria-label='{name}']").select_option(value)


def sources(page: Any) -> list[str]:
    return page.locator(".player .tiles .lens:not(.noise) img[src]").evaluate_all(
        "images => images.map(image => image.src)"
    )


def picture(source: str) -> Bytes:
    data = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pixels(canvas: Any) -> Bytes:
    width, height, values = canvas.evaluate(READ_CANVAS)
    return np.asarray(values, dtype=np.uint8).reshape(height, width, 4)[..., :3]


def means(page: Any) -> list[float]:
    page.locator(".player .mean").filter(has_text="Mean difference").first.wait_for(timeout=PATIENCE)
    page.wait_for_timeout(300)
    texts = page.locator(".player .mean").filter(has_text="Mean difference").all_inner_texts()
    return [float(text.split()[2]) for text in texts]


def save(page: Any, name: str, folder: Path) -> Path:
    with page.expect_download(timeout=60_000) as waiting:
        page.get_by_role("button", name=name).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_the_heat_map_shows_the_mean_absolute_difference(
    quiet_page: Any, dashboard: str, sent: list[object], tmp_path: Path
) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&at=0.2&top=128")
    counted = len(sent)
    assert counted > 0, "the websocket is not watched"
    steps = [picture(source).astype(int) for source in sources(page)]
    finals = page.locator(".player td.final img").evaluate_all("images => images.map(image => image.src)")
    apart = [np.abs(step - picture(final)).mean(axis=2) for step, final in zip(steps, finals, strict=True)]

    choose(page, "Difference from", "final")
    assert means(page) == pytest.approx([one.mean() for one in apart], abs=0.6)
    assert min(one.mean() for one in apart) > 20
    bar = pixels(page.locator(".player .legend canvas"))[0].astype(int)
    lightness = bar @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= 0).all()
    assert lightness[-1] - lightness[0] > 150
    for lane in range(LANES):
        heat = pixels(page.locator(".player .tiles .lens:not(.noise) canvas").nth(lane)).astype(int)
        assert heat.shape == (64, 64, 3)
        for row, column in ((2, 2), (32, 28), (60, 60)):
            place = round(min(1.0, apart[lane][row, column] / 128) * (len(bar) - 1))
            assert np.abs(bar[max(0, place - 2) : place + 3] - heat[row, column]).max(axis=1).min() <= 6
    name = page.locator(".player .tiles .lens:not(.noise) canvas").first.get_attribute("aria-label")
    assert "DDIM 50" in name
    assert "difference from final image, mean" in name

    choose(page, "Lightest colour", "16")
    page.wait_for_timeout(300)
    assert (pixels(page.locator(".player .tiles .lens:not(.noise) canvas").first)[2, 2] == bar[-1]).all()
    assert "16 and more" in page.locator(".player .legend").inner_text()
    assert len(sent) == counted


def test_equal_final_images_differ_by_nothing_and_the_baseline_shows_itself(quiet_page: Any, dashboard: str) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&view=final&diff=baseline")
    assert means(page) == [0.0] * (LANES - 1)
    assert "Compared with this" in page.locator(".player figure").first.inner_text()
    heat = pixels(page.locator(".player .tiles .lens:not(.noise) canvas").nth(1))
    assert (heat == heat[0, 0]).all()

    choose(page, "Difference from", "reference")
    assert means(page) == [0.0] * LANES
    page.locator(".player .name", has_text="Converged reference").wait_for()
    assert "tolerance 0.05" in page.locator(".player .legend").inner_text()


@pytest.mark.parametrize("way", ["wheel", "keys", "buttons", "double click"])
def test_zoom_and_movement_reach_all_lanes_without_the_server(
    way: str, quiet_page: Any, dashboard: str, sent: list[object]
) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl")
    counted = len(sent)
    lens = page.locator(".player .tiles .lens:not(.noise)").first
    box = lens.bounding_box()
    before = set(page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS))
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    if way == "wheel":
        page.mouse.wheel(0, 100)
        assert set(page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)) == before, (
            "the plain wheel scrolls"
        )
        lens.scroll_into_view_if_needed()
        box = lens.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + 20)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -200)
        page.keyboard.up("Control")
    elif way == "keys":
        page.locator(".player .tiles").focus()
        page.keyboard.press("+")
    elif way == "buttons":
        page.get_by_role("button", name="Zoom in").click()
    else:
        page.mouse.dblclick(box["x"] + 20, box["y"] + 20)
    zoomed = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)
    assert len(set(zoomed)) == 1
    assert set(zoomed) != before

    box = lens.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 80, steps=4)
    page.mouse.up()
    dragged = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)
    assert len(set(dragged)) == 1
    shift = [numbers(dragged[0])[i] - numbers(zoomed[0])[i] for i in (4, 5)]
    assert shift == pytest.approx([-40, -20], abs=2)

    page.locator(".player .tiles").focus()
    page.keyboard.press("ArrowLeft")
    moved = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)
    assert len(set(moved)) == 1
    assert numbers(moved[0])[4] > numbers(dragged[0])[4]
    page.keyboard.press("0")
    assert set(page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)) == before
    assert len(sent) == counted


def numbers(matrix: str) -> list[float]:
    return [float(part) for part in matrix.partition("(")[2].rstrip(")").split(",")]


def test_two_fingers_zoom_all_lanes(chromium: Any, dashboard: str) -> None:
    context = chromium.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = opened(context.new_page(), f"{dashboard}/compare?prompt=owl")
    lens = page.locator(".player .tiles .lens:not(.noise)").first
    lens.scroll_into_view_if_needed()
    box = lens.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = context.new_cdp_session(page)

    def fingers(kind: str, *places: float) -> None:
        points = [{"x": x + place, "y": y, "id": i} for i, place in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", -10)
    fingers("touchStart", -10, 10)
    for apart in (15, 20, 25, 30):
        fingers("touchMove", -apart, apart)
    fingers("touchEnd")
    found = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)
    assert len(set(found)) == 1
    assert numbers(found[0])[0] == pytest.approx(3, abs=0.4)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_the_address_holds_the_view_and_opens_it_elsewhere(
    quiet_page: Any, chromium: Any, dashboard: str, sent: list[object]
) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl")
    counted = len(sent)
    page.get_by_role("button", name="Time", exact=True).click()
    page.locator(".player input[type=range]").first.focus()
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Heat map").click()
    choose(page, "Speed", "2")
    page.locator(".player .tiles").focus()
    page.keyboard.press("+")
    page.wait_for_url("**zoom=**", timeout=PATIENCE)
    assert len(sent) == counted
    for part in ("align=time", "at=0.", "diff=baseline", "speed=2", "prompt=owl", "study=quick"):
        assert part in page.url

    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    other = opened(context.new_page(), page.url)
    assert other.locator(".player output").inner_text() == page.locator(".player output").inner_text()
    assert sources(other) == sources(page)
    assert other.locator(".player select[aria-label='Speed']").input_value() == "2"
    assert means(other) == means(page)
    transform = page.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS)
    assert other.locator(".player .tiles .lens:not(.noise) img").evaluate_all(TRANSFORMS) == transform
    other.get_by_role("link", name="Overview").click()
    other.locator(".lab-pictures").first.wait_for(timeout=PATIENCE)
    assert "align=" not in other.url
    context.close()


def test_bad_values_in_the_address_fall_back_quietly(quiet_page: Any, dashboard: str) -> None:
    bad = "at=9&align=moon&view=<b>&diff=reference2&zoom=2,x,1&speed=1e9&top=7&frame=3&film=5&along=frames"
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&{bad}")
    assert "of steps" in page.locator(".player output").inner_text()
    assert page.locator(".player select[aria-label='Difference from']").input_value() == "off"
    assert page.locator(".player select[aria-label='Speed']").input_value() == "1"
    assert page.get_by_text("100 %", exact=True).count() >= 1
    page.wait_for_url(f"{dashboard}/compare?prompt=owl&kind=x0&study=quick&seed=0", timeout=PATIENCE)


def test_another_prompt_keeps_the_view(quiet_page: Any, dashboard: str) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&at=0.1&diff=final&align=noise")
    place = page.locator(".player output").inner_text()
    page.get_by_role("combobox", name="Prompt").click()
    page.get_by_role("option", name="rocket").click()
    page.locator(".player .tiles .lens:not(.noise) canvas[aria-label*=\"'rocket'\"]").first.wait_for(timeout=PATIENCE)
    assert page.locator(".player output").inner_text() == place
    assert page.locator(".player select[aria-label='Difference from']").input_value() == "final"


def test_a_view_downloads_as_png(quiet_page: Any, dashboard: str, tmp_path: Path, sent: list[object]) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&view=final")
    counted = len(sent)
    path = save(page, "Download this view as PNG", tmp_path)
    assert path.name == "quick-owl-seed0-x0-final.png"
    with Image.open(path) as file:
        image = np.asarray(file.convert("RGB")).astype(int)
    assert image.shape[1] == LANES * (256 + 16) + 16
    assert image.shape[0] > 256 + 100
    disc = picture(sources(page)[0])[32, 28].astype(int)
    for lane in range(LANES):  # the disc of every lane is where its tile is
        near = image[:, 16 + lane * 272 : 16 + lane * 272 + 256]
        assert (np.abs(near - disc).max(axis=2) <= 2).sum() > 0.2 * 256 * 256
    assert len(sent) == counted


def test_the_animation_downloads_as_gif(quiet_page: Any, dashboard: str, tmp_path: Path, sent: list[object]) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&speed=2")
    counted = len(sent)
    path = save(page, "Download the animation as GIF", tmp_path)
    assert path.name == "quick-owl-seed0-x0-at55.gif"
    shown, times = [], []
    with Image.open(path) as image:
        assert image.width == LANES * (224 + 16) + 16
        assert 12 <= image.n_frames <= 40
        assert image.info["loop"] == 0
        for frame in range(image.n_frames):
            image.seek(frame)
            shown.append(np.asarray(image.convert("RGB")).astype(int))
            times.append(image.info["duration"])
    assert sum(times[:-1]) == pytest.approx(2500, rel=0.15)
    assert times[-1] == 1500
    assert all((one != other).any() for one, other in itertools.pairwise(shown))
    final = page.locator(".player td.final img").first.get_attribute("src")
    disc = picture(final)[32, 28].astype(int)
    tile = shown[-1][:, 16 : 16 + 224]
    assert (np.abs(tile - disc).max(axis=2) <= 8).sum() > 0.2 * 224 * 224
    assert (np.abs(shown[0][:, 16:240] - disc).max(axis=2) <= 8).sum() < 50
    assert len(sent) == counted


def test_keys_play_step_and_change_the_speed(quiet_page: Any, dashboard: str, sent: list[object]) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&at=0")
    counted = len(sent)
    page.locator(".player .tiles").focus()
    assert page.locator(".player .tiles").evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    begin = page.locator(".player figcaption").all_inner_texts()
    page.keyboard.press("ArrowRight")
    assert page.locator(".player figcaption").all_inner_texts() != begin
    page.keyboard.press(">")
    assert page.locator(".player select[aria-label='Speed']").input_value() == "2"
    before = page.locator(".player output").inner_text()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.locator(".player output", has_not_text=before).wait_for()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    assert len(sent) == counted


def test_with_less_motion_asked_for_playing_goes_in_slow_steps(chromium: Any, dashboard: str) -> None:
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = opened(context.new_page(), f"{dashboard}/compare?prompt=owl&at=0")
    page.get_by_role("button", name="Play", exact=True).click()
    seen = set()
    for _ in range(25):
        seen.add(page.locator(".player output").inner_text())
        page.wait_for_timeout(100)
    assert 2 <= len(seen) <= 4
    context.close()


def test_every_control_has_a_name_and_every_picture_a_text(quiet_page: Any, dashboard: str) -> None:
    page = opened(quiet_page, f"{dashboard}/compare?prompt=owl&diff=baseline")
    means(page)
    named = "nodes => nodes.every(n => (n.getAttribute('aria-label') || n.alt || n.textContent || '').trim())"
    for kind in ("button", "select", "input", "img[src]", "canvas:visible"):
        found = page.locator(f".player {kind}")
        assert found.count() > 0
        assert found.evaluate_all(named), kind
