"""Set metrics of studies: which sets are measured, when again, how they are stored and shown."""

import dataclasses
import io
import subprocess
import sys
from shutil import copytree

import numpy as np
import pytest
from PIL import Image

from engine.cache.connection import reading, writing
from engine.cache.score_tables import ScoreRow, set_id, write_scores
from engine.cli import main
from engine.measuring.metric import Features, as_sets
from engine.measuring.metrics import METRICS
from engine.passes.lane_scores import Vectors
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.passes.scores import score
from engine.passes.scoring import scoring_lines
from engine.results import read_results
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine.helpers import ROOT, ask, use_metrics, write_study
from tests.engine.test_metrics import write_clip

PROMPTS = ["disc", "ring", "cross", "checker", "disc ring", "disc cross"]
LANES = ["ddim:4", "euler_a:4", "dpmpp_2m:4"]
REFERENCE = {"lane": "dpmpp_2m_karras:40", "check": "heun:20", "tolerance": 0.05}
REFUSED = "too few: 12 pictures of 6 prompts; 200 pictures of 5 prompts or more are needed"
NAMES = "SELECT lane, against, metric, metric_version FROM scores WHERE scope = 'lane' ORDER BY ALL"


def means(subject, pictures):
    return pictures.reshape(len(pictures), -1, 3).mean(axis=1)


OF_LANES = {key: entry for key, entry in METRICS.items() if entry.scope == "lane"}
COLOURS = Features("colours", lambda subject: "mean colours", means)
SMALL = {
    key: dataclasses.replace(METRICS[key], features=COLOURS, smallest_n=10) for key in ("kid", "fid", "diversity")
} | {"recall": dataclasses.replace(METRICS["recall"], features=COLOURS)}


def settings(**changes):
    return {
        "name": "sets",
        "model": "gaussian",
        "prompts": PROMPTS,
        "seeds": [0, 1],
        "lanes": LANES,
        "guidance_scale": 3.0,
        "frames": {"count": 0},
        "timing": {"repeats": 0},
        "reference": REFERENCE,
        **changes,
    }


def rescored(cache, **changes):
    plan = plan_study(parse_study(settings(**changes)), find_model("gaussian"), cache, "cpu", "standard")
    return score(plan, cache)


def table(metrics, monkeypatch):
    use_metrics(monkeypatch, *metrics.values(), scope="lane")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A cache of pictures without set metrics."""
    cache = tmp_path_factory.mktemp("sets") / "c.duckdb"
    run_study(parse_study(settings()), cache, device="cpu")
    return cache


@pytest.fixture
def cache(pictures, tmp_path, monkeypatch):
    """A copy of it, and metrics on mean colours in the table."""
    table(SMALL, monkeypatch)
    copy = tmp_path / "c.duckdb"
    copy.write_bytes(pictures.read_bytes())
    return copy


def results(cache):
    with reading(cache) as db:
        return read_results(db, "sets", None)


def colours(cache, lane):
    """(prompt, seed) -> mean colour of the stored picture."""
    rows = ask(
        cache,
        "SELECT prompt, seed, image FROM trajectories JOIN frames USING (trajectory_id) "
        "WHERE kind = 'final' AND lane = ?",
        lane,
    )
    return {(p, s): np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).mean((0, 1)) for p, s, data in rows}


def test_lanes_are_measured_against_the_reference_and_the_baseline_from_stored_pictures(cache):
    before = ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL")
    result = rescored(cache)
    assert (result.pictures.taken, result.lanes.taken, result.lanes.refused) == (0, 15, 5)
    assert ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL") == before
    found = results(cache).sets
    kinds = found[["lane", "against"]].drop_duplicates().values.tolist()
    assert kinds == [[lane, "dpmpp_2m_karras:40"] for lane in LANES] + [[lane, "ddim:4"] for lane in LANES[1:]]
    keys = [(prompt, seed) for prompt in PROMPTS for seed in (0, 1)]
    for row in found.itertuples():
        lane, against = colours(cache, row.lane), colours(cache, row.against)
        sets = as_sets([lane[key] for key in keys], [against[key] for key in keys], [prompt for prompt, _ in keys])
        assert (row.n, row.prompts, row.features) == (12, 6, "mean colours")
        if row.metric == "recall":
            assert np.isnan(row.value)
            assert row.warning == REFUSED
            continue
        assert row.value == pytest.approx(METRICS[row.metric].measure(sets), rel=1e-9, abs=1e-9)
        assert row.low <= row.value <= row.high
        assert row.standard_error > 0
        assert "(12 pictures, trusted from " in row.warning
    assert (found[found["metric"] == "fid"]["warning"].str.contains("biased upwards")).all()


def test_each_picture_is_turned_into_a_vector_once_and_lanes_that_are_done_are_forgotten(cache, monkeypatch):
    seen, known = [], []
    monkeypatch.setattr("engine.passes.lane_scores.Vectors", spied(known))
    counted = Features("colours", COLOURS.edition, lambda subject, p: seen.append(len(p)) or means(subject, p))
    table({key: dataclasses.replace(entry, features=counted) for key, entry in SMALL.items()}, monkeypatch)
    assert rescored(cache).lanes.taken == 15
    assert sum(seen) == 4 * 12
    assert max(known) <= 3 * 12  # baseline, reference and the lane at hand


def spied(known):
    class Spied(Vectors):
        def of(self, ids):
            found = super().of(ids)
            known.append(len(self._known))
            return found

    return Spied


def test_what_is_measured_is_not_measured_again_and_another_set_is(cache):
    rescored(cache)
    first = dict(ask(cache, "SELECT (lane, against, metric), created_at FROM scores WHERE scope = 'lane'"))
    result = rescored(cache)
    assert (result.lanes.taken, result.lanes.refused) == (0, 0)
    assert "nothing to do" in scoring_lines("sets", result)[0]
    with writing(cache) as db:
        db.execute(
            "UPDATE trajectories SET status = 'failed' WHERE lane = 'euler_a:4' AND prompt = 'ring' AND seed = 1"
        )
    result = rescored(cache)
    assert (result.lanes.taken, result.lanes.refused) == (6, 2)
    second = dict(ask(cache, "SELECT (lane, against, metric), created_at FROM scores WHERE scope = 'lane'"))
    assert {str(key) for key in first if second[key] != first[key]} == {str(key) for key in first if "euler_a:4" in key}
    assert set(ask(cache, "SELECT n FROM scores WHERE scope = 'lane' AND lane = 'euler_a:4'")) == {(11,)}


def test_a_new_version_and_other_features_are_kept_beside_the_old(cache, monkeypatch):
    rescored(cache)
    newer = {"kid": dataclasses.replace(SMALL["kid"], version="3", measure=lambda sets: float(sets.lane[0, 0]))}
    table(newer, monkeypatch)
    assert rescored(cache).lanes.taken == 5
    versions = (
        "SELECT metric_version, count(*) FROM scores WHERE scope = 'lane' AND metric = 'kid' GROUP BY ALL ORDER BY ALL"
    )
    assert ask(cache, versions) == [("2@mean colours", 5), ("3@mean colours", 5)]
    assert set(results(cache).sets["metric_version"]) == {"3@mean colours"}
    other = Features("other", lambda subject: "sums", lambda subject, pictures: 3 * means(subject, pictures))
    table({"kid": dataclasses.replace(newer["kid"], features=other)}, monkeypatch)
    assert rescored(cache).lanes.taken == 5
    assert ask(cache, versions) == [("2@mean colours", 5), ("3@mean colours", 5), ("3@sums", 5)]
    table(SMALL, monkeypatch)
    result = rescored(cache)
    assert (result.lanes.taken, result.lanes.refused) == (0, 0)
    assert set(results(cache).sets["metric"]) == set(SMALL)


def test_pictures_without_a_ground_truth_are_left_out_of_the_reference(cache):
    rescored(cache, reference={**REFERENCE, "tolerance": 1e-6})
    assert {against for _, against, *_ in ask(cache, NAMES)} == {"ddim:4"}
    distance = ask(cache, "SELECT median(distance) FROM study_references")[0][0]
    result = rescored(cache, reference={**REFERENCE, "tolerance": float(f"{distance:.6f}")})
    agree = result.pairs - result.no_truth
    assert 0 < agree < 12
    assert set(ask(cache, "SELECT n FROM scores WHERE scope = 'lane' AND against = 'dpmpp_2m_karras:40'")) == {(agree,)}


def test_a_reference_that_is_the_baseline_too_is_one_comparison(cache):
    lanes = [*LANES, "dpmpp_2m_karras:40"]
    run_study(parse_study(settings(lanes=lanes, baseline=lanes[-1])), cache, device="cpu")
    assert {(lane, against) for lane, against, *_ in ask(cache, NAMES)} == {(lane, lanes[-1]) for lane in LANES}


def test_a_lane_that_left_the_study_is_shown_no_more(cache):
    rescored(cache)
    run_study(parse_study(settings(lanes=LANES[:2])), cache, device="cpu")
    assert set(results(cache).sets["lane"]) == set(LANES[:2])
    assert "dpmpp_2m:4" in {lane for lane, *_ in ask(cache, NAMES)}


def test_a_metric_that_raises_is_a_row_with_its_error_and_is_tried_again(cache, monkeypatch, tmp_path, capsys):
    table({"kid": dataclasses.replace(SMALL["kid"], measure=lambda sets: 1 / 0)}, monkeypatch)
    values = settings()
    study = write_study(tmp_path / "s.toml", **values)
    assert main(["score", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]) == 1
    assert "5 values FAILED" in capsys.readouterr().out
    assert set(results(cache).sets["warning"]) == {"failed: ZeroDivisionError: division by zero"}
    table({"kid": SMALL["kid"]}, monkeypatch)
    assert rescored(cache).lanes.taken == 5
    assert not results(cache).sets["value"].isna().any()


def test_score_prints_each_value_with_interval_n_and_warning(cache, tmp_path, capsys):
    study = write_study(tmp_path / "s.toml", **settings())
    assert main(["score", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]) == 0
    out = capsys.readouterr().out
    assert "15 values of whole sets; 5 refused, each a row with its reason." in out
    lines = out[out.index("Whole sets") :].splitlines()
    assert lines[1].split() == ["metric", "lane", "against", "value", "95", "%", "interval", "n", "warning"]
    assert len(lines) == 2 + 15 + 2
    for line in lines[2:-2]:
        assert "6 prompts, 12 pictures" in line
        assert " to " in line
        assert "trusted from" in line
        if line.startswith("FID"):
            assert "biased upwards" in line
    assert lines[-2:] == [f"No value for Recall (5 sets): {REFUSED}.", "Features: mean colours."]


def test_set_metrics_that_are_not_available_are_named_and_recorded_with_the_reason(cache, monkeypatch):
    table(OF_LANES, monkeypatch)
    result = rescored(cache)
    assert result.unavailable.keys() >= OF_LANES.keys()
    assert any(
        line.startswith("kid, ") and "(of sets): not available: " in line for line in scoring_lines("sets", result)
    )
    found = results(cache)
    assert found.sets.empty
    assert found.set_metrics["unavailable"].str.startswith("not available: ").all()
    assert found.set_metrics["metric"].tolist() == list(OF_LANES)


def test_a_set_metric_of_a_plugin_is_measured(cache, tmp_path, monkeypatch):
    (tmp_path / "my_set_plugin.py").write_text(
        "from engine.measuring.metric import Features\n"
        "from engine.measuring.metrics import METRICS, Metric\n"
        "def mean(subject, pictures):\n    return pictures.mean(axis=(1, 2))\n"
        "def shift(sets):\n    return float(abs(sets.lane - sets.against).mean())\n"
        "METRICS.register(Metric('shift', 'Shift', '', 'lower', '1', shift, 'mean distance',\n"
        "                        scope='lane', features=Features('means', lambda s: 'means', mean), smallest_n=10))\n"
    )
    try:
        study = parse_study(settings(plugins=["my_set_plugin.py"]), folder=tmp_path)
        run_study(study, cache, device="cpu")
        found = results(cache).sets
        assert (found[found["metric"] == "shift"]["value"] > 0).all()
        assert len(found[found["metric"] == "shift"]) == 5
    finally:
        sys.modules.pop("my_set_plugin", None)


def test_a_rerun_of_a_study_measured_with_clip_imports_no_torch(tmp_path, sd_folder):
    """The real way: pictures of a pipeline, vectors of the CLIP in its folder; a second call finds all done."""
    folder = copytree(sd_folder, tmp_path / "model")
    write_clip(folder / "clip")
    cache = tmp_path / "c.duckdb"
    study = write_study(
        tmp_path / "s.toml",
        name="sets",
        model=str(folder),
        guidance_scale=2.0,
        lanes=["ddim:2", "euler:2"],
        prompts=["red apple", "owl", "green pear", "small house", "owl house"],
        seeds=list(range(6)),
        frames={"count": 0},
        timing={"repeats": 0},
    )
    arguments = [str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]
    assert main(["run", *arguments]) == 0
    found = results(cache).sets.set_index("metric")
    assert set(found.index) == {key for key, entry in OF_LANES.items() if entry.features.key == "clip"}
    assert found.loc["cmmd", "features"].startswith("own clip ")
    assert found.loc["cmmd", "value"] > found.loc["cmmd", "low"]
    assert np.isnan(found.loc["fid", "value"])
    code = (
        "import sys; from engine.cli import main\n"
        "print([main([command, *sys.argv[1:]]) for command in ('score', 'run')], 'torch' in sys.modules)"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "nothing to do, all 60 finished cells are scored" in child.stdout
    assert "CMMD (x 1000)" in child.stdout
    assert child.stdout.splitlines()[-1] == "[0, 0] False"


def test_a_set_is_known_by_its_cells_whatever_their_order():
    assert set_id(["a", "b"], ["c"]) == set_id(["b", "a"], ["c"])
    assert len({set_id(["a", "b"], ["c"]), set_id(["a"], ["b", "c"]), set_id(["c"], ["a", "b"])}) == 3


def test_a_value_that_is_not_finite_is_not_written(tmp_path):
    row = ScoreRow("lane", "kid", "1", float("nan"), study_id="s", lane="a:1", against="b:1")
    with pytest.raises(ValueError, match="not finite"):
        write_scores(tmp_path / "c.duckdb", [row])
