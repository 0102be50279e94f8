"""In a real browser: clips on the Compare page, along their frames and their steps, and what can be saved of them."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

PATIENCE = 20_000  # ms
QUIET = 1200  # ms: what the page sends while it is being drawn
FRAMES, STEPS = 16, 12
LANES = ("ddim:50", "ddim:20", "euler:30", "dpmpp_2m:20", "dpmpp_2m_karras:20", "unipc:15", "pndm:35", "heun:20")
LARGEST_PAGE = 500e6  # bytes of memory
WIDTHS = {"wide": 1440, "narrow": 390}
StartDashboard = Callable[..., str]


@pytest.fixture(scope="module")
def dashboard(start_dashboard: StartDashboard, synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a dashboard over clips of eight lanes, sixteen frames and twelve kept steps."""
    path = tmp_path_factory.mktemp("clips") / "cache.duckdb"
    synthetic.write_video(path, FRAMES, LANES, STEPS)
    return start_dashboard(path, "--read-only")


@pytest.fixture(params=list(WIDTHS.values()), ids=list(WIDTHS))
def page(request: pytest.FixtureRequest, chromium_page: Any, dashboard: str) -> Iterator[Any]:
    """The Compare page, which must not write an error to the console."""
    errors: list[str] = []
    chromium_page.on("pageerror", lambda error: errors.append(str(error)))
    chromium_page.set_viewport_size({"width": request.param, "height": 900})
    chromium_page.goto(f"{dashboard}/compare?kind=x0")
    chromium_page.locator(".player .tiles .lens").nth(len(LANES) - 1).wait_for(timeout=PATIENCE)
    chromium_page.wait_for_timeout(QUIET)
    yield chromium_page
    assert errors == []


def choose(page: Any, name: str, value: str) -> None:
    page.locator(f".player select[aria-label='{name}']").select_option(value)


def set_slider(page: Any, name: str, value: int) -> None:
    page.locator(f".player input[aria-label='{name}']").fill(str(value))


def sources(page: Any, where: str = ".tiles") -> list[str]:
    return page.locator(f".player {where} img[src]").evaluate_all("images => images.map(image => image.src)")


def picture(source: str) -> npt.NDArray[np.uint8]:
    data = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def frame_now(page: Any) -> str:
    return page.locator(".player .frames output").inner_text()


def save(page: Any, name: str, folder: Path) -> Path:
    with page.expect_download(timeout=3 * PATIENCE) as download:
        page.get_by_role("button", name=name).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def memory_of_the_largest_page() -> int:
    children = psutil.Process().children(recursive=True)
    pages = [child for child in children if "--type=renderer" in child.cmdline()]
    assert pages
    return max(child.memory_info().rss for child in pages)


def test_all_lanes_move_along_frames_and_steps_without_asking_the_server(page: Any, sent: list[object]) -> None:
    counted = len(sent)
    first = sources(page)
    assert len(first) == len(LANES)
    set_slider(page, "Frame of the video", 1)
    second = sources(page)
    for one, other in zip(first, second, strict=True):
        assert (picture(other) == np.roll(picture(one), 4, axis=0)).all()
    assert frame_now(page) == f"Frame 2 of {FRAMES}"
    set_slider(page, "Position of all lanes", 0)
    assert all(one != other for one, other in zip(second, sources(page), strict=True))

    page.get_by_role("button", name="Frames", exact=True).click()
    page.get_by_role("button", name="Play", exact=True).click()
    page.locator(".player .frames output", has_not_text=f"Frame 2 of {FRAMES}").wait_for(timeout=PATIENCE)
    page.get_by_role("button", name="Pause").click()
    assert len(sent) == counted


def test_the_matrix_of_a_lane_has_frames_across_and_steps_down(page: Any, sent: list[object]) -> None:
    counted = len(sent)
    choose(page, "Filmstrip", "2")
    rows = page.locator(".player .matrix tbody tr")
    assert rows.count() == STEPS + 1
    assert rows.first.locator("td img").count() == FRAMES
    assert rows.last.locator("th").inner_text() == "Final"
    of_matrix = sources(page, ".matrix tbody tr:nth-child(3)")
    rows.nth(2).locator("td img").nth(5).click()
    assert frame_now(page) == f"Frame 6 of {FRAMES}"
    assert sources(page)[2] == of_matrix[5], "the tile shows the cell of the matrix that was chosen"
    assert page.locator(".player .matrix td.now").count() == 1
    rows.last.locator("td img").nth(0).click()
    assert sources(page)[2] == sources(page, ".matrix tbody tr:last-child")[0]
    page.wait_for_url(re.compile("film=2.*view=final|view=final.*film=2"), timeout=PATIENCE)
    assert len(sent) == counted


def test_a_line_divides_two_lanes_at_the_same_step_and_frame(page: Any, sent: list[object]) -> None:
    counted = len(sent)
    choose(page, "Before", "0")
    choose(page, "After", "3")
    set_slider(page, "Frame of the video", 4)
    tiles = sources(page)
    assert sources(page, ".wipe") == [tiles[3], tiles[0]], "the one above is cut, the one below shows beside it"
    cut = ".player .wipe .lens img:nth-child(2)"
    set_slider(page, "Divider between before and after", 30)
    assert page.locator(cut).evaluate("image => image.style.clipPath") == "inset(0px 70% 0px 0px)"
    stage = page.locator(".player .wipe .lens")
    width = stage.evaluate("node => node.clientWidth")
    stage.click(position={"x": 0.75 * width, "y": 20})
    assert page.locator(cut).evaluate("image => image.style.clipPath") == "inset(0px 25% 0px 0px)"
    page.wait_for_url(re.compile("before=0.*after=3|after=3.*before=0"), timeout=PATIENCE)
    assert len(sent) == counted


def test_a_page_of_eight_lanes_sixteen_frames_and_twelve_steps_stays_small(page: Any) -> None:
    for lane in range(len(LANES)):
        choose(page, "Filmstrip", str(lane))
        for frame in range(FRAMES):
            set_slider(page, "Frame of the video", frame)
    choose(page, "Difference from", "baseline")
    for place in range(0, 1001, 100):
        set_slider(page, "Position of all lanes", place)
    page.wait_for_timeout(QUIET)
    assert memory_of_the_largest_page() < LARGEST_PAGE


def test_clips_are_saved_as_gif_video_and_contact_sheet(page: Any, tmp_path: Path) -> None:
    page.get_by_role("button", name="Frames", exact=True).click()
    choose(page, "Speed", "4")
    with Image.open(save(page, "Download the animation as GIF", tmp_path)) as image:
        assert image.n_frames == FRAMES
    video = save(page, "Download the animation as video", tmp_path)
    data = video.read_bytes()
    assert data[4:8] == b"ftyp" if video.suffix == ".mp4" else data[:4] == bytes.fromhex("1a45dfa3")
    assert len(data) > 5000
    choose(page, "Filmstrip", "1")
    with Image.open(save(page, "Download the contact sheet", tmp_path)) as image:
        cells = [image.crop((150 + 100 * column, 76, 246 + 100 * column, 172)) for column in range(FRAMES)]
        assert image.height > (STEPS + 1) * 100
    assert len({cell.tobytes() for cell in cells}) == FRAMES
