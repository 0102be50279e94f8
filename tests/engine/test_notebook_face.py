"""What the Python face shows of itself: in notebooks, in the browser, as files and as figures."""

import builtins
import io
import json
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffusion_scheduler_visualizer import DiffusionSchedulerVisualizer
from engine import notebook_face
from engine.errors import LabError, StudyError

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "disc"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> DiffusionSchedulerVisualizer:
    """A visualizer that has run two lanes."""
    cache = tmp_path_factory.mktemp("face") / "cache.duckdb"
    found = DiffusionSchedulerVisualizer("gaussian", cache=cache, device="cpu", progress="none")
    found.scheduler_configs = {
        name: {**config, "num_inference_steps": 4} for name, config in found.scheduler_configs.items()
    }
    found.create_comparison_grid(PROMPT, repeats=1)
    return found


@pytest.fixture
def fresh(tmp_path: Path) -> DiffusionSchedulerVisualizer:
    return DiffusionSchedulerVisualizer("gaussian", cache=tmp_path / "c.duckdb", device="cpu", progress="none")


def test_a_notebook_gets_pictures_with_a_scrubber_in_a_frame_of_their_own(shown: DiffusionSchedulerVisualizer) -> None:
    text = shown._repr_html_()
    assert text.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts"' in text
    assert "id=&quot;scrubber&quot;" in text
    assert "data:image/webp" in text
    assert len(text) < 2_000_000, "charts and their scripts stay out of a cell"


def test_before_anything_has_been_run_it_says_what_to_do(fresh: DiffusionSchedulerVisualizer) -> None:
    assert "create_comparison_grid" in fresh._repr_html_()
    for act in (fresh.show, fresh.figure, lambda: fresh.report("x.html")):
        with pytest.raises(StudyError, match="Nothing has been run yet"):
            act()


def test_a_report_is_written_in_the_format_of_its_ending(shown: DiffusionSchedulerVisualizer, tmp_path: Path) -> None:
    assert shown.report(tmp_path / "study.md").read_text().startswith("#")
    assert "<!DOCTYPE html>" in shown.report(tmp_path / "study.html").read_text()
    with pytest.raises(LabError, match=r"study.htm: the ending tells no format; use .html, .pdf"):
        shown.report(tmp_path / "study.htm")


def test_a_call_that_is_refused_leaves_the_last_study_shown(
    shown: DiffusionSchedulerVisualizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = {"scheduler_class": "flow_euler", "num_inference_steps": 4}
    monkeypatch.setattr(shown, "scheduler_configs", {"Flow": flow, "Flow 2": flow | {"num_inference_steps": 5}})
    with pytest.raises(LabError, match="flow_euler"):
        shown.create_comparison_grid("disc on stripes", repeats=0)
    assert shown.report(tmp_path / "study.md").read_text().startswith("#")


def test_a_prompt_with_dollars_is_no_formula(fresh: DiffusionSchedulerVisualizer) -> None:
    pytest.importorskip("matplotlib")
    fresh.scheduler_configs = {
        "DDIM": {"scheduler_class": "ddim", "num_inference_steps": 3},
        "Euler": {"scheduler_class": "euler", "num_inference_steps": 3},
    }
    fresh.create_comparison_grid("disc: $5, ring: $7 \\frac", repeats=0)
    figure = fresh.figure()
    figure.savefig(io.BytesIO())
    assert "$5, ring: $7" in figure.get_suptitle()


def test_outside_a_notebook_it_opens_in_the_browser(
    shown: DiffusionSchedulerVisualizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    shown.show()
    (address,) = opened
    page = Path(address.removeprefix("file://"))
    assert 'id="charts"' in page.read_text()
    page.unlink()


def test_a_figure_has_a_row_for_each_lane_and_a_column_for_each_step(shown: DiffusionSchedulerVisualizer) -> None:
    pytest.importorskip("matplotlib")
    figure = shown.figure(columns=3)
    assert len(figure.axes) == 3 * 4
    assert [axis.get_title() for axis in figure.axes[:4]][-1] == "final"
    assert all(axis.get_images() for axis in figure.axes)
    with pytest.raises(StudyError, match="Did you mean 'disc'"):
        shown.figure(prompt="dics")


def test_without_matplotlib_it_says_how_to_get_it(
    shown: DiffusionSchedulerVisualizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = builtins.__import__

    def lacking(name: str, *arguments: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return usual(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(LabError, match=r"scheduler-lab\[plot\]"):
        shown.figure()


def test_the_dashboard_is_started_over_the_same_cache(
    shown: DiffusionSchedulerVisualizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(notebook_face.subprocess, "Popen", lambda command, **_: started.append(command))
    shown.open_dashboard(port=8600)
    assert started[0][2:] == ["engine", "dashboard", "--cache", str(shown.cache), "--port", "8600"]


def test_efficiency_is_one_row_a_scheduler_with_what_matters_first(shown: DiffusionSchedulerVisualizer) -> None:
    table = shown.analyze_scheduler_efficiency(PROMPT, repeats=1)
    assert list(table)[:4] == ["scheduler", "steps", "nfe", "median_ms"]
    assert len(table) == len(shown.scheduler_configs)


def cells_of(notebook: Path) -> Iterator[str]:
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield "".join(cell["source"])


@pytest.mark.long
def test_the_notebook_of_the_docs_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for source in cells_of(ROOT / "docs" / "first_steps.ipynb"):
        exec(source, names)
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert len(names["table"]) == 3
