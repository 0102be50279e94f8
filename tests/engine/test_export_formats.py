"""A study as CSV, Parquet, contact sheets, GIF and MP4: the same figures and the same bytes, in other forms."""

import csv
import io
import json
import shutil
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.cache.connection import reading, writing
from engine.cache.inventory import TABLES
from engine.cli import main
from engine.errors import LabError
from engine.picture_files import decoded
from engine.results import read_results
from engine.sharing.animation import FRAME_MS, HOLD_MS, TITLE_STEP, Strip, draw_frames
from engine.sharing.pictures import CellPictures
from engine.study.study import load_study
from tests.dashboard import synthetic
from tests.engine.helpers import ask


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A study of four lanes, six prompts and two seeds; scored, timed, with references, and one lane failed."""
    path = tmp_path_factory.mktemp("export") / "c.duckdb"
    plan = synthetic.study(prompts=synthetic.SIX, reference={})
    synthetic.write(path, plan, failed=["pndm:35"])
    synthetic.write_scores(path, plan, {})
    synthetic.write_converged(path, plan)
    with writing(path) as db:
        db.execute(
            "INSERT INTO study_metrics (study_id, scope, metric, metric_version, position) "
            "VALUES ('quick', 'picture', 'clip_score', '1', 0), ('quick', 'picture', 'latent_error', '1', 1)"
        )
    return path


def run(cache, *arguments):
    return main(["export", "quick", "--cache", str(cache), *map(str, arguments)])


# --- Parquet --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(cache, tmp_path_factory):
    path = tmp_path_factory.mktemp("parquet") / "quick"
    assert run(cache, "--format", "parquet", "-o", path) == 0
    return path


def frames_in(cache):
    """(trajectory, kind, step) -> picture, of the study's finished cells and its references."""
    return {tuple(row[:3]): row[3] for row in ask(cache, "SELECT trajectory_id, kind, step_index, image FROM frames")}


def test_every_picture_is_in_the_files_byte_for_byte(cache, folder):
    table = ds.dataset(folder / "frames", partitioning="hive").to_table().to_pylist()
    found = {(row["trajectory_id"], row["kind"], row["step_index"]): row["image"]["bytes"] for row in table}
    assert found == frames_in(cache)
    assert len(table) == len(found)


def test_duckdb_and_pandas_read_the_frames(cache, folder):
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT trajectory_id, kind, step_index, image.bytes FROM read_parquet(?, hive_partitioning = true)",
            [str(folder / "frames" / "**" / "*.parquet")],
        ).fetchall()
    assert {tuple(row[:3]): row[3] for row in rows} == frames_in(cache)
    frame = pd.read_parquet(folder / "frames")
    assert len(frame) == len(rows)
    first = frame[frame["kind"] == "final"].iloc[0]
    assert decoded(first["image"]["bytes"]).size == (first["width"], first["height"])


def test_an_image_is_a_struct_of_bytes_and_path_with_the_features_of_the_hub(folder):
    files = sorted((folder / "frames").rglob("*.parquet"))
    assert {file.parent.name for file in files} == {"kind=final", "kind=x0", "kind=xt"}
    for file in files:
        schema = pq.read_schema(file)
        assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert list(features) == schema.names
        assert features["image"] == {"_type": "Image"}
        assert features["seed"] == {"dtype": "int64", "_type": "Value"}
    names = {path for file in files for path in pq.read_table(file)["image"].combine_chunks().field("path").to_pylist()}
    assert len(names) == sum(pq.read_metadata(file).num_rows for file in files)


def test_references_say_what_they_are(cache, folder):
    frame = pd.read_parquet(folder / "frames")
    lanes = frame.groupby("role")["lane"].unique().map(set).to_dict()
    assert lanes["reference"] == {"dpmpp_2m_karras:100"}
    assert lanes["check"] == {"heun:50"}
    assert lanes["lane"] == {"ddim:50", "dpmpp_2m:20", "euler:30"}


def test_all_other_tables_are_there_row_for_row(cache, folder):
    assert {file.stem for file in (folder / "tables").iterdir()} == {t.name for t in TABLES} - {"frames"}
    with duckdb.connect() as db, reading(cache) as source:
        for file in (folder / "tables").iterdir():
            mine = db.execute("FROM read_parquet(?)", [str(file)]).fetchall()
            theirs = source.execute(f"FROM {file.stem}").fetchall()
            assert sorted(map(repr, mine)) == sorted(map(repr, theirs)), file.stem


def test_the_study_file_and_the_card_come_along(cache, folder):
    assert load_study(folder / "study.toml").spec()["reference"]["lane"] == "dpmpp_2m_karras:100"
    card = (folder / "README.md").read_text()
    assert card.startswith('---\nconfigs:\n- config_name: "final"\n  data_files: "frames/kind=final/*.parquet"')


def test_a_folder_with_something_in_it_is_refused(cache, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert run(cache, "--format", "parquet", "-o", tmp_path) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


# --- CSV ------------------------------------------------------------------------------------------------------------


def test_the_csv_has_every_figure_with_n_and_interval(cache, tmp_path):
    assert run(cache, "-o", tmp_path / "s.csv") == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()))
    with reading(cache) as db:
        summary = read_results(db, "quick")
    assert len(rows) == 4 * summary.standings["metric"].nunique()
    for row, (_, expected) in zip(rows, summary.standings.iterrows(), strict=True):
        assert (row["study"], row["lane"], row["metric"]) == ("quick", expected["lane"], expected["metric"])
        for name in ("median_ms", "low_ms", "high_ms", "n", "difference", "low", "high", "prompts", "pairs"):
            assert float(row[name] or "nan") == pytest.approx(expected[name], nan_ok=True)


def test_a_text_that_a_spreadsheet_would_run_is_kept_from_it(cache, tmp_path):
    evil = tmp_path / "c.duckdb"
    shutil.copy(cache, evil)
    with writing(evil) as db:
        db.execute("UPDATE metrics SET label = '=HYPERLINK(\"http://x\")'")
    assert run(evil, "-o", tmp_path / "s.csv") == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["metric_label"] for row in rows} == {'\'=HYPERLINK("http://x")'}


# --- Sheets and animations ------------------------------------------------------------------------------------------


def test_there_is_a_sheet_for_every_seed(cache, tmp_path):
    assert run(cache, "--format", "png", "-o", tmp_path / "sheets") == 0
    files = sorted((tmp_path / "sheets").iterdir())
    assert [file.name for file in files] == ["quick-seed-0.png", "quick-seed-1.png"]
    with Image.open(files[0]) as one, Image.open(files[1]) as other:
        assert one.size == other.size
        assert one.width > 6 * 128
        assert not np.array_equal(np.asarray(one), np.asarray(other))  # seeds differ in their pictures


def test_several_sheets_do_not_fit_in_one_file(cache, tmp_path, capsys):
    assert run(cache, "-o", tmp_path / "s.png") == 2
    assert "2 contact sheets" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert run(cache, "-o", tmp_path / "s.png", "--seed", "1") == 0
    with Image.open(tmp_path / "s.png") as image:
        assert image.height > 4 * 128


def strips():
    """Two lanes: one that turns from black to white in four steps, one that does so in a single step."""

    def grey(share):
        return Image.new("RGB", (64, 64), (round(255 * share),) * 3)

    slow = CellPictures(tuple(((step + 1) / 4, grey((step + 1) / 4)) for step in range(4)), grey(1))
    return [Strip("slow", slow), Strip("fast", CellPictures(((1.0, grey(0.2)),), grey(1)))]


def test_an_animation_shows_each_lane_as_far_as_it_is():
    frames = draw_frames("title", strips(), 8)
    assert len(frames) == 9
    middle = [[frame.getpixel((16 + 64 + column * 138, 46 + 64))[0] for frame in frames] for column in range(2)]
    assert middle[0] == [64, 64, 64, 128, 128, 191, 191, 255, 255], "the first kept step from the first frame on"
    assert middle[1] == [51] * 8 + [255]


def test_a_title_is_wrapped_rather_than_cut():
    titles = ("title", "a red apple: clean-image estimate, seed 0")
    short, long = (draw_frames(title, strips(), 1)[0] for title in titles)
    assert (long.width, long.height) == (short.width, short.height + TITLE_STEP)


def test_without_step_pictures_there_is_nothing_to_animate():
    with pytest.raises(LabError, match="no step pictures"):
        draw_frames("title", [Strip("a", CellPictures((), Image.new("RGB", (8, 8))))])


def test_a_gif_plays_all_frames_and_holds_the_last(cache, tmp_path):
    assert run(cache, "-o", tmp_path / "a.gif", "--prompt", "owl", "--kind", "xt") == 0
    with Image.open(tmp_path / "a.gif") as image:
        assert image.info["loop"] == 0
        frames, times = [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(np.asarray(image.convert("RGB"), dtype=np.int16))
            times.append(image.info["duration"])
    assert (times[0], times[-1]) == (FRAME_MS, HOLD_MS)
    assert np.abs(frames[3] - frames[-1]).mean() > 5  # noise clears up


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="there is no ffmpeg")
def test_an_mp4_plays_as_long_as_the_gif(cache, tmp_path):
    assert run(cache, "-o", tmp_path / "a.mp4") == 0
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"
    answer = subprocess.run(
        [
            "ffprobe",
            "-v",
            "error",
            "-show_entries",
            "stream=width,height,pix_fmt:format=duration",
            "-of",
            "json",
            str(tmp_path / "a.mp4"),
        ],
        capture_output=True,
        check=True,
    )
    found = json.loads(answer.stdout)
    assert found["streams"][0]["pix_fmt"] == "yuv420p"
    assert float(found["format"]["duration"]) == pytest.approx((24 * FRAME_MS + HOLD_MS) / 1000, abs=0.4)


def test_the_ffmpeg_of_a_package_will_do(cache, tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg", reason="the extra 'video' is not installed")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert run(cache, "-o", tmp_path / "a.mp4") == 0
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


def test_without_ffmpeg_an_mp4_is_refused_with_the_remedy(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert run(cache, "-o", tmp_path / "a.mp4") == 2
    assert "--format gif" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- The command line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "a.xyz"], "unknown file extension"),
        (["-o", "a.csv", "--format", "gif"], "make them agree"),
        (["-o", "nowhere/a.csv"], "does not exist"),
        (["-o", "a.gif", "--prompt", "ow"], "Did you mean 'owl'"),
        (["-o", "a.gif", "--seed", "7"], "no seed 7"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_remedy(cache, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(cache, *arguments) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_only_a_cache_takes_everything(cache, tmp_path, capsys):
    assert main(["export", "--cache", str(cache), "-o", str(tmp_path / "a.csv")]) == 2
    assert "Name a study" in capsys.readouterr().err
    assert main(["export", "--cache", str(cache), "-o", str(tmp_path / "a.duckdb")]) == 0
    assert main(["import", str(tmp_path / "a.duckdb"), "--cache", str(tmp_path / "b.duckdb")]) == 0
    out = capsys.readouterr().out
    assert "Study quick: new" in out
    assert ask(tmp_path / "b.duckdb", "SELECT count(*) FROM frames") == ask(cache, "SELECT count(*) FROM frames")


@pytest.mark.parametrize("data", [b"", b"text", b"\x89PNG\r\n\x1a\n garbage", b"GIF89a" + bytes(40), b"<svg/>"])
def test_bytes_that_are_no_picture_give_none(data):
    assert decoded(data) is None


def test_a_picture_of_too_many_pixels_gives_none():
    stream = io.BytesIO()
    Image.new("1", (5000, 4000)).save(stream, "PNG")
    assert decoded(stream.getvalue()) is None
