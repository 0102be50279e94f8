"""The comparison grid: what its headings, gaps and names say is what its pictures are."""

from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from PIL import Image, ImageDraw, ImageFont

import engine.sharing.comparison_grid as comparison
from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine.cache import queries
from engine.cache.connection import reading
from engine.sharing.grid import LABEL_WIDTH, MARGIN, draw_grid
from engine.sharing.lettering import fitted, wrapped

PROMPT = "disc and ring"
LONG, SHORT = "Euler", "DDIM"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grid") / "cache.duckdb"


def drawn(cache: Path, monkeypatch: pytest.MonkeyPatch, columns: int, *steps: int, repeats: int = 0) -> dict[str, Any]:
    """What is handed to the drawing of a grid of Euler and DDIM with so many steps."""
    told: dict[str, Any] = {}

    def draw(**values: Any) -> Image.Image:
        told.update(values)
        return draw_grid(**values)

    monkeypatch.setattr(comparison, "draw_grid", draw)
    visualizer = DiffusionSchedulerVisualizer("gaussian", cache=cache, device="cpu", progress="none")
    classes = (EulerDiscreteScheduler, DDIMScheduler)
    visualizer.scheduler_configs = {
        name: {"scheduler_class": kind, "num_inference_steps": count}
        for name, kind, count in zip((LONG, SHORT), classes, steps, strict=False)
    }
    visualizer.create_comparison_grid(PROMPT, columns=columns, repeats=repeats)
    return told


def kept(cache: Path, lane: str) -> dict[float, bytes]:
    """Pictures of the kept steps by progress, as the cache has them."""
    with reading(cache) as db:
        rows = db.execute("SELECT trajectory_id FROM trajectories WHERE lane = ?", [lane]).fetchall()
        frames = queries.frames(db, [row[0] for row in rows], ["x0"])
    return {round(row.progress, 6): bytes(row.image) for row in frames.itertuples()}


def test_one_column_shows_the_last_step_and_says_a_hundred_percent(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = drawn(cache, monkeypatch, 1, 15, 5)
    assert told["columns"] == ["100 %", "final"]
    assert told["rows"][0].pictures[0] == kept(cache, "euler:15")[1.0]


def test_a_heading_says_how_many_of_the_calls_were_made(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = drawn(cache, monkeypatch, 3, 20, 5)
    assert told["columns"] == ["5 to 20 %", "55 to 60 %", "100 %", "final"], "call 1 of 20 and call 1 of 5"
    assert "percent: share of the denoiser calls made" in told["subtitle"]


def test_a_lane_of_few_calls_shows_its_latest_step_or_says_that_there_is_none_yet(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = drawn(cache, monkeypatch, 4, 20, 2)
    assert told["columns"] == ["5 %", "35 %", "70 %", "100 %", "final"]
    row, steps = told["rows"][1], kept(cache, "ddim:2")
    assert row.pictures[:4] == (None, None, steps[0.5], steps[1.0])
    assert row.gap == "no step yet"


def test_a_time_of_too_few_samples_is_given_without_an_interval(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = drawn(cache, monkeypatch, 2, 3, 2, repeats=2)
    assert all(row.details[1].endswith(" ms, n = 2") for row in told["rows"])


def test_a_missing_picture_is_explained_in_its_place() -> None:
    rows = [comparison.GridRow("DDIM 2", (), (None, None), gap="no step yet")]
    bare = [comparison.GridRow("DDIM 2", (), (None, None))]
    told, plain = (draw_grid("t", "", ["5 %", "final"], each, "") for each in (rows, bare))
    box = (MARGIN + LABEL_WIDTH, MARGIN + 100, told.width, told.height - 60)
    assert told.crop(box).tobytes() != plain.crop(box).tobytes()


def test_long_names_are_wrapped_between_words_and_cut_with_dots_only_at_the_last_line() -> None:
    draw, font = ImageDraw.Draw(Image.new("RGB", (10, 10))), ImageFont.load_default(17)
    name = "DPM-Solver++ multistep with Karras sigmas (20 steps)"
    assert " ".join(lines := wrapped(draw, name, font, 238, 3)) == name
    assert len(lines) > 1
    assert wrapped(draw, "word " * 100, font, 238, 3)[-1].endswith("...")
    assert "".join(wrapped(draw, "x" * 30, font, 238, 3)) == "x" * 30, "a word longer than a line is broken"
    assert wrapped(draw, "", font, 238, 3) == []
    assert all(draw.textlength(line, font) <= 238 for line in wrapped(draw, "ab " * 50 + "y" * 90, font, 238, 4))
    assert fitted(draw, "short", font, 238) == "short"
