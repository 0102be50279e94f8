"""What the comparing player is told: times, what can be compared with what, videos, long prompts."""

import io
import json
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard import cache_access, loaders
from dashboard.compare.data import PROMPT_CHARACTERS, LaneTime
from dashboard.compare.sections import SCRIPTS, script
from engine.cache import queries
from engine.cache.connection import reading, writing

OpenPage = Callable[..., AppTest]
Told = Callable[[Path], Any]


@pytest.fixture
def told(open_page: OpenPage) -> Told:
    """What the player of a cache is told on its first prompt and seed."""

    def run(cache: Path, **query: str) -> Any:
        page = open_page("compare", cache, query=query)
        assert not page.exception
        return next(json.loads(part.proto.json) for part in page.get("bidi_component") if "lanes" in part.proto.json)

    return run


def against(data: Any) -> dict[str, str]:
    return {one["key"]: one["why"] for one in data["against"]}


def small(synthetic: ModuleType, **more: Any) -> Any:
    return synthetic.study(prompts=("owl",), seeds=(0,), **more)


CONVERGED = {"lane": "dpmpp_2m_karras:50", "check": "heun:25"}


def test_frames_say_after_how_many_milliseconds_they_are_there(
    told: Told, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, small(synthetic))
    data = told(cache)
    assert data["noTime"] == ""
    assert "without decoding" in data["timeNote"]
    assert "Example CPU, 2 cores" in data["timeNote"]
    for lane in data["lanes"]:
        times = [frame["ms"] for frame in lane["frames"]]
        assert times == sorted(times)
        calls = lane["frames"][-1]["calls"]
        # 16 ms a call and 0.4 ms for its scheduler step, after 6 ms of text encoding, with 2 % noise
        assert times[-1] == pytest.approx(6 + calls * 16.4, rel=0.03)
        assert times[0] == pytest.approx(6 + lane["frames"][0]["step"] * 16.4, rel=0.05)


def test_time_until_a_share_of_the_calls() -> None:
    time = LaneTime(total=130.0, n=5, before=10.0, denoising=100.0)
    assert time.until(0.25) == 35.0
    assert str(time) == "130 ms (n 5)"
    assert LaneTime(130.0, 5, 0.0, float("nan")).until(0.5) is None


def test_pictures_that_the_study_started_from_are_shown_or_named(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, small(synthetic))
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "png")
    digest = sha256(data.getvalue()).hexdigest()
    named = {"image": {"file": "photo.png", "sha256": digest}, "mask_image": {"file": "m.png", "sha256": "0" * 64}}
    with writing(cache) as db:
        db.execute("INSERT INTO input_pictures VALUES (?, ?)", [digest, data.getvalue()])
        db.execute("UPDATE studies SET spec = json_merge_patch(spec, ?)", [json.dumps({"pipeline": named})])
    shown = "".join(part.proto.body for part in open_page("compare", cache).get("html"))
    assert f'src="data:image/png;base64,{b64encode(data.getvalue()).decode()}"' in shown
    assert "image: photo.png<" in shown
    assert "mask_image: m.png (not shown; SHA-256 000000000000)" in shown


def test_without_times_it_is_said_which_lanes_lack_them(told: Told, tmp_path: Path, synthetic: ModuleType) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, small(synthetic), timed=False)
    assert told(cache)["noTime"] == "Not timed: DDIM 50, DPM++ 2M 20, Euler 30, PNDM 35"


def test_without_a_picture_to_compare_with_it_is_said_why(told: Told, tmp_path: Path, synthetic: ModuleType) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, small(synthetic), failed=("ddim:50",))
    assert against(told(cache)) == {"baseline": "no picture", "final": "", "reference": "the study has none"}
    other = tmp_path / "other.duckdb"
    synthetic.write(other, small(synthetic), pictures=False)
    assert against(told(other))["final"] == "no picture"


@pytest.mark.parametrize(("distance", "words"), [(0.012, "differ by 0.012"), (0.2, "no ground truth")])
def test_the_converged_reference_comes_with_how_sure_it_is(
    distance: float, words: str, told: Told, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    plan = small(synthetic, reference=CONVERGED, lanes=("ddim:50", "euler_a:30"))
    synthetic.write(cache, plan)
    synthetic.write_converged(cache, plan, distance)
    data = told(cache)
    assert against(data)["reference"] == ""
    assert data["converged"]["src"].startswith("data:image/png;base64,")
    assert "dpmpp_2m_karras:50 and heun:25" in data["converged"]["note"]
    assert words in data["converged"]["note"]
    assert [lane["drawsNoise"] for lane in data["lanes"]] == [False, True]


def test_a_reference_whose_check_is_missing_says_so(told: Told, tmp_path: Path, synthetic: ModuleType) -> None:
    cache = tmp_path / "cache.duckdb"
    plan = small(synthetic, reference=CONVERGED)
    synthetic.write(cache, plan)
    synthetic.write_converged(cache, plan, None)
    assert "its check is missing" in told(cache)["converged"]["note"]


def test_only_pictures_of_the_kind_shown_are_sent(told: Told, usual_cache: Path) -> None:
    for kind in ("x0", "xt"):
        data = told(usual_cache, kind=kind)
        assert [len(lane["frames"]) for lane in data["lanes"]] == [12] * 4
        assert all(frame["src"].startswith("data:image/webp") for lane in data["lanes"] for frame in lane["frames"])


def test_all_frames_of_a_video_are_sent(told: Told, tmp_path: Path, synthetic: ModuleType) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write_video(cache, 4)
    data = told(cache)
    assert data["videoFrames"] == [0, 1, 2, 3]
    for lane in data["lanes"]:
        assert len(lane["frames"]) == 5
        for picture in (*lane["frames"][1:], lane["final"]):  # the first is all grey
            assert len({picture["src"], *picture["more"]}) == 4


def test_of_a_long_video_every_second_frame_is_sent(
    told: Told, tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write_video(cache, 5)
    whole = cache_access.ask(cache, loaders.pictures_of(_ids(told(cache), cache), ["x0", "final"], whole_videos=True))
    assert isinstance(whole, loaders.Answer)
    assert {picture.video_frame for picture in whole.value} == {0, 1, 2, 3, 4}
    size = sum(len(picture.source) for picture in whole.value) * 3 // 4
    monkeypatch.setattr(loaders, "VIDEO_BYTES", int(size / 1.5))
    other = tmp_path / "other.duckdb"
    synthetic.write_video(other, 5)
    assert told(other, kind="x0")["videoFrames"] == [0, 2, 4]


def test_where_a_page_cannot_carry_all_pictures_every_lane_loses_steps_alike_and_keeps_its_final_one(
    told: Told, tmp_path: Path, synthetic: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache)
    every = told(cache, kind="x0")
    counts = [len(lane["frames"]) for lane in every["lanes"]]
    size = sum(len(frame["src"]) for lane in every["lanes"] for frame in [*lane["frames"], lane["final"]]) * 3 // 4
    monkeypatch.setattr(loaders, "PAGE_BYTES", int(size * 0.7))
    other = tmp_path / "other.duckdb"
    synthetic.write(other)
    fewer = told(other, kind="x0")
    assert [len(lane["frames"]) for lane in fewer["lanes"]] == [-(-count // 2) for count in counts]
    assert all(lane["final"] and lane["frames"][-1]["src"] for lane in fewer["lanes"])
    monkeypatch.setattr(loaders, "PAGE_BYTES", 0)
    none = tmp_path / "none.duckdb"
    synthetic.write(none)
    assert all("more than this page can carry" in lane["why"] for lane in told(none, kind="x0")["lanes"])


def _ids(data: Any, cache: Path) -> list[str]:
    with reading(cache) as db:
        return list(queries.cells(db, data["study"])["trajectory_id"])


def test_a_long_prompt_is_cut_for_the_player_and_stands_in_full_above(
    open_page: OpenPage, tmp_path: Path, synthetic: ModuleType
) -> None:
    cache = tmp_path / "cache.duckdb"
    synthetic.write(cache, synthetic.study(prompts=(synthetic.LONG,), seeds=(0,)))
    page = open_page("compare", cache)
    told = next(json.loads(part.proto.json) for part in page.get("bidi_component") if "lanes" in part.proto.json)
    assert len(told["prompt"]) <= PROMPT_CHARACTERS
    assert len(told["file"]) < 100
    details = next(part.proto.body for part in page.get("html") if "<details" in part.proto.body)
    assert "10,000 characters" in details or f"{len(synthetic.LONG):,} characters" in details
    assert synthetic.LONG in details


def test_the_script_is_one_module_in_which_no_name_is_given_twice() -> None:
    names = [line.split("(")[0].split()[-1] for line in script().splitlines() if line.startswith(("function", "async"))]
    assert len(names) == len(set(names)) > 50
    folder = Path(loaders.__file__).parent / "compare" / "browser"
    assert {file.stem for file in folder.glob("*.js")} == {*SCRIPTS, "player"}
    assert "innerHTML" not in script()
