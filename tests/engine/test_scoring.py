"""The scoring pass and the converged reference, on the model whose answer is known."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from engine.analysis.comparison import compare
from engine.cache.connection import reading
from engine.cli import main
from engine.errors import StudyError
from engine.measuring.metrics import METRICS, Metric
from engine.passes.plan import plan_study
from engine.passes.run import run_study
from engine.passes.scores import score
from engine.passes.scoring import scoring_lines
from engine.results import read_results
from engine.study.source import find_model
from engine.study.study import parse_study
from tests.engine.helpers import ROOT, ask, parsed, use_metrics, write_study

PROMPTS = ["disc", "ring", "cross", "checker", "disc ring"]
SOLVERS = ["ddim:40", "euler:40", "heun:20", "dpmpp_2m_karras:40", "dpmpp_2m:40", "euler_a:10"]
REFERENCE = {"lane": "dpmpp_2m_karras:40", "check": "heun:20", "tolerance": 0.05}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "c.duckdb"


def rescored(study, cache):
    return score(plan_study(study, find_model("gaussian"), cache, "cpu", "standard"), cache)


def results(cache, name="small"):
    with reading(cache) as db:
        return read_results(db, name, None)


def stored(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def solvers(tmp_path_factory):
    """A scored study of five solvers at about 40 calls, and a stochastic one, with a reference."""
    cache = tmp_path_factory.mktemp("solvers") / "c.duckdb"
    study = parse_study(
        {
            "name": "solvers",
            "model": "gaussian",
            "guidance_scale": 3.0,
            "seeds": [0, 1],
            "prompts": PROMPTS,
            "baseline": "ddim:40",
            "lanes": SOLVERS,
            "frames": {"count": 0},
            "timing": {"repeats": 0},
            "reference": {},
        }
    )
    return study, cache, run_study(study, cache, device="cpu")


def test_a_run_makes_the_reference_apart_from_the_studys_cells_and_scores_them(solvers):
    _, cache, summary = solvers
    assert (summary.done, summary.references, summary.failed) == (60, 20, 0)
    assert summary.scored == 60 * 2 + 50 * 3
    assert ask(cache, "SELECT count(*) FROM study_trajectories") == [(60,)]
    lanes = "SELECT count(*) FROM trajectories WHERE lane IN ('dpmpp_2m_karras:100', 'heun:50') AND frame_count = 0"
    assert ask(cache, lanes) == [(20,)]
    kinds = "SELECT DISTINCT kind FROM frames JOIN trajectories USING (trajectory_id) WHERE lane = 'heun:50'"
    assert ask(cache, kinds) == [("final",)]
    found = results(cache, "solvers")
    assert found.references["agrees"].all()
    assert found.floors == {"latent_error": pytest.approx(found.references["distance"].median())}
    assert "10 of 10 prompts and seeds have a ground truth; dpmpp_2m_karras:100 and heun:50" in found.reference_line


def test_solvers_rank_as_theory_says_at_equal_calls(solvers):
    """Second order (Heun, 2M on Karras sigmas) beats first order (DDIM, Euler), and a 2M that ends on a long jump."""
    found = results(solvers[1], "solvers")
    errors = found.quality[found.quality["metric"] == "latent_error"].groupby("lane")["value"].median()
    for good in ("heun:20", "dpmpp_2m_karras:40"):
        for poor in ("ddim:40", "euler:40", "dpmpp_2m:40"):
            assert errors[good] < 0.7 * errors[poor]
    # The metrics' own margins are for what matters in pictures; here any difference beyond noise counts.
    metrics = found.metrics.assign(margin=float("nan"))
    verdicts = {(row.lane, row.metric): row.verdict for row in compare(found.quality, metrics, "ddim:40")}
    for metric in ("latent_error", "psnr", "ssim"):
        assert verdicts["dpmpp_2m_karras:40", metric] == "better"
    assert verdicts["dpmpp_2m:40", "latent_error"] == "worse"


def test_the_scores_are_those_of_the_stored_pictures_and_latents(solvers):
    skimage_metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is in requirements-dev.txt")
    _, cache, _ = solvers
    rows = ask(
        cache,
        """
        SELECT t.prompt, t.seed, t.lane, f.image, l.data FROM trajectories t
        JOIN frames f ON f.trajectory_id = t.trajectory_id AND f.kind = 'final'
        JOIN latents l ON l.trajectory_id = t.trajectory_id WHERE t.prompt = 'cross' AND t.seed = 1
    """,
    )
    made = {lane: (stored(image), np.frombuffer(data, "<f4").astype(float)) for _, _, lane, image, data in rows}
    picture, latents = made["ddim:40"]
    reference, converged = made["dpmpp_2m_karras:100"]
    found = results(cache, "solvers").quality
    cell = found[(found["lane"] == "ddim:40") & (found["prompt"] == "cross") & (found["seed"] == 1)]
    values = dict(zip(cell["metric"], cell["value"], strict=True))
    error = np.sqrt(((latents - converged) ** 2).sum() / (converged**2).sum())
    assert values["latent_error"] == pytest.approx(error, rel=1e-9)
    assert values["psnr"] == pytest.approx(skimage_metrics.peak_signal_noise_ratio(reference, picture, data_range=255))
    ours = {
        "data_range": 255,
        "channel_axis": -1,
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
    }
    assert values["ssim"] == pytest.approx(skimage_metrics.structural_similarity(reference, picture, **ours))


def test_a_stochastic_lane_is_not_measured_against_the_reference_and_says_why(solvers):
    found = results(solvers[1], "solvers")
    assert set(found.quality[found.quality["lane"] == "euler_a:10"]["metric"]) == {"sharpness", "spectral_slope"}
    reasons = found.unscored[found.unscored["lane"] == "euler_a:10"]["reason"].unique()
    assert list(reasons) == ["its scheduler draws noise, so it does not converge to the reference"]


def test_what_cannot_be_measured_at_all_is_recorded_with_the_reason(solvers):
    table = results(solvers[1], "solvers").metrics.set_index("metric")
    assert "no CLIP model" in table.loc["clip_score", "unavailable"]
    for key in ("lpips", "pick_score", "aesthetic"):
        assert table.loc[key, "unavailable"].startswith("not available: ")
    assert not isinstance(table.loc["ssim", "unavailable"], str)


def test_a_second_call_has_nothing_to_do_and_imports_no_torch(solvers, tmp_path):
    _, cache, _ = solvers
    study = write_study(
        tmp_path / "s.toml",
        name="solvers",
        seeds=[0, 1],
        baseline="ddim:40",
        reference={"enabled": True},
        prompts=PROMPTS,
        lanes=SOLVERS,
        frames={"count": 0},
    )
    code = (
        "import sys; from engine.cli import main\n"
        "print([main([command, *sys.argv[1:]]) for command in ('score', 'run')], 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(study), "--cache", str(cache), "--progress", "none", "--device", "cpu"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "nothing to do, all 60 finished cells are scored" in child.stdout
    assert "nothing to do, all 60 cells are in the cache" in child.stdout
    assert child.stdout.splitlines()[-1] == "[0, 0] False"


def test_a_new_version_keeps_the_old_rows_apart_and_makes_no_picture(cache, monkeypatch):
    study = parsed()
    run_study(study, cache, device="cpu")
    before = ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL")
    newer = dataclasses.replace(METRICS["sharpness"], version="2", measure=lambda evidence: 7.0)
    use_metrics(monkeypatch, *(METRICS | {"sharpness": newer}).values())
    result = rescored(study, cache)
    assert (result.pictures.taken, result.cells) == (2, 2)
    assert ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL") == before
    versions = "SELECT metric_version, count(*) FROM scores WHERE metric = 'sharpness' GROUP BY ALL ORDER BY ALL"
    assert ask(cache, versions) == [("1", 2), ("2", 2)]
    shown = results(cache).quality
    assert shown[shown["metric"] == "sharpness"]["value"].tolist() == [7.0, 7.0]


def test_cells_without_a_ground_truth_are_left_out_and_reported(cache):
    strict = parsed(reference={**REFERENCE, "tolerance": 1e-6})
    run_study(strict, cache, device="cpu")
    result = rescored(strict, cache)
    assert (result.pairs, result.no_truth) == (1, 1)
    assert "Reference: 0 of 1 prompts and seeds have a ground truth." in scoring_lines("small", result)
    found = results(cache)
    assert not found.references["agrees"].any()
    assert found.floors == {}
    assert set(found.quality["metric"]) == {"sharpness", "spectral_slope"}
    assert found.unscored["reason"].str.startswith("no ground truth: reference and check are").all()
    # Another tolerance is another version: the cells are scored, and the old reasons stay with the old one.
    assert rescored(parsed(reference=REFERENCE), cache).pictures.taken == 2 * 3
    assert "latent_error" in set(results(cache).quality["metric"])


def test_scoring_waits_for_a_reference_that_is_not_there_yet(cache):
    run_study(parsed(), cache, device="cpu")
    study = parsed(reference=REFERENCE)
    result = rescored(study, cache)
    assert (result.pictures.taken, result.waiting, result.pairs) == (0, 2, 0)
    assert "2 cells wait for their reference; `run` makes it." in scoring_lines("small", result)
    summary = run_study(study, cache, device="cpu")
    assert (summary.done, summary.references, summary.scored) == (0, 2, 2 * 3)


def test_a_reference_that_is_a_lane_of_the_study_as_well_is_made_once_with_its_frames(cache):
    study = parsed(lanes=["ddim:4", "heun:20"], reference=REFERENCE)
    summary = run_study(study, cache, device="cpu")
    assert (summary.done, summary.references) == (2, 1)
    assert ask(cache, "SELECT frame_count FROM trajectories WHERE lane = 'heun:20'") == [(2,)]
    assert run_study(study, cache, device="cpu").scored == 0


def test_a_cell_made_again_is_scored_again(cache):
    run_study(parsed(frames={"count": 0}), cache, device="cpu")
    summary = run_study(parsed(frames={"count": 3}), cache, device="cpu")
    assert ask(cache, "SELECT count(*) FROM scores WHERE scope = 'picture'") == [(4,)]
    assert (summary.done, summary.scored) == (
        2,
        4 + ask(cache, "SELECT count(*) FROM scores WHERE scope = 'frame'")[0][0],
    )


def test_a_failed_cell_is_not_scored(cache):
    run_study(parsed(), cache, device="cpu")
    from engine.cache.connection import writing

    with writing(cache) as db:
        db.execute("UPDATE trajectories SET status = 'failed' WHERE lane = 'ddim:4'")
        db.execute("DELETE FROM scores")
    assert rescored(parsed(), cache).cells == 1


def test_a_metric_of_a_plugin_is_scored(cache, tmp_path):
    (tmp_path / "my_metric_plugin.py").write_text(
        "from engine.measuring.metrics import METRICS, Metric\n"
        "def brightness(evidence):\n    return float(evidence.pictures.mean() / 255)\n"
        "METRICS.register(Metric('brightness', 'Brightness', '', 'neither', '1', brightness, 'mean of all values'))\n"
    )
    try:
        study = parse_study(
            {
                "name": "small",
                "model": "gaussian",
                "prompts": ["disc"],
                "lanes": ["ddim:4"],
                "frames": {"count": 0},
                "timing": {"repeats": 0},
                "plugins": ["my_metric_plugin.py"],
            },
            folder=tmp_path,
        )
        run_study(study, cache, device="cpu")
        found = results(cache).quality
        assert 0 < found[found["metric"] == "brightness"]["value"].item() < 1
    finally:
        METRICS.pop("brightness", None)
        sys.modules.pop("my_metric_plugin", None)


def test_a_metric_of_step_frames_of_a_plugin_is_scored(cache, tmp_path):
    (tmp_path / "my_frame_plugin.py").write_text(
        "from engine.measuring.metrics import METRICS, Metric\n"
        "def apart(evidence):\n"
        "    return float(abs(evidence.pictures.astype(float) - evidence.final_pictures).mean())\n"
        "METRICS.register(Metric('apart', 'Apart', '', 'lower', '1', apart, 'mean distance', scope='frame'))\n"
    )
    try:
        study = parse_study(
            {
                "name": "small",
                "model": "gaussian",
                "prompts": ["disc"],
                "lanes": ["ddim:4"],
                "frames": {"count": 3},
                "timing": {"repeats": 0},
                "plugins": ["my_frame_plugin.py"],
            },
            folder=tmp_path,
        )
        run_study(study, cache, device="cpu")
        values = ask(cache, "SELECT value FROM scores WHERE scope = 'frame' AND metric = 'apart' ORDER BY step_index")
        assert len(values) == 3
        assert values[0] > values[-1] > (0,)
    finally:
        METRICS.pop("apart", None)
        sys.modules.pop("my_frame_plugin", None)


def test_a_metric_that_raises_is_a_row_with_its_error_and_is_tried_again(cache, monkeypatch, tmp_path, capsys):
    run_study(parsed(), cache, device="cpu")
    broken = Metric("mine", "Mine", "", "higher", "1", lambda evidence: 1 / 0, "raises")
    use_metrics(monkeypatch, broken)
    study = write_study(tmp_path / "s.toml")
    assert main(["score", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]) == 1
    assert "2 values FAILED" in capsys.readouterr().out
    assert results(cache).unscored["reason"].tolist() == ["failed: ZeroDivisionError: division by zero"] * 2
    use_metrics(monkeypatch, dataclasses.replace(broken, measure=lambda evidence: 1.0))
    assert rescored(parsed(), cache).scored == 2
    assert results(cache).unscored.empty


def test_a_value_that_is_not_finite_becomes_a_reason(cache, monkeypatch):
    run_study(parsed(), cache, device="cpu")
    bad = Metric("bad", "Bad", "", "higher", "1", lambda evidence: float("nan"), "always nan")
    use_metrics(monkeypatch, bad)
    assert rescored(parsed(), cache).pictures.refused == 2
    assert results(cache).unscored["reason"].tolist() == ["the value is nan"] * 2


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"lane": "euler_a:50"}, "draws noise"),
        ({"lane": "heun:50"}, "another scheduler"),
        ({"enabled": "yes"}, "must be true or false"),
        ({"tolerance": 0}, "must be from 1e-06 to 1"),
        ({"lanes": "heun:50"}, "unknown key 'lanes'. Did you mean 'lane'"),
        ({"check": "huen:50"}, "Did you mean 'heun'"),
    ],
)
def test_a_wrong_reference_table_is_refused(table, message):
    with pytest.raises(StudyError, match=message):
        parsed(reference=table)


def test_a_study_has_a_reference_only_if_it_asks_for_one():
    assert parsed().reference is None
    assert parsed(reference={"enabled": False}).reference is None
    assert parsed(reference={}).spec()["reference"] == {
        "lane": "dpmpp_2m_karras:100",
        "check": "heun:50",
        "tolerance": 0.05,
    }


def test_the_plan_counts_the_reference(cache, tmp_path, capsys):
    study = write_study(tmp_path / "s.toml", reference={"lane": "dpmpp_2m_karras:40", "check": "heun:20"})
    assert main(["plan", str(study), "--cache", str(cache), "--device", "cpu"]) == 0
    assert (
        "Reference    dpmpp_2m_karras:40 checked by heun:20: 2 cells to make (79 denoiser calls)"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("prompts", "line"),
    [
        (["disc"], "Statistics   1 prompts: no intervals and no verdicts; at least 5 prompts are needed"),
        (PROMPTS, "Statistics   5 prompts find a mean difference of 1.66 standard deviations"),
    ],
)
def test_the_plan_says_what_so_many_prompts_can_find(prompts, line, cache, tmp_path, capsys):
    study = write_study(tmp_path / "s.toml", prompts=prompts)
    assert main(["plan", str(study), "--cache", str(cache), "--device", "cpu"]) == 0
    assert line in capsys.readouterr().out


def test_scoring_with_other_settings_than_the_run_is_refused_and_changes_nothing(cache, tmp_path, capsys):
    run_study(parsed(reference=REFERENCE), cache, device="cpu")
    before = ask(cache, "SELECT * FROM study_metrics"), ask(cache, "SELECT * FROM study_references")
    study = write_study(tmp_path / "s.toml", guidance_scale=2.0)
    assert main(["score", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]) == 2
    assert "no finished cell of 'small' with these settings (model gaussian, guidance 2" in capsys.readouterr().err
    assert (ask(cache, "SELECT * FROM study_metrics"), ask(cache, "SELECT * FROM study_references")) == before


def test_scoring_without_a_cache_is_bad_input(cache, tmp_path, capsys):
    study = write_study(tmp_path / "s.toml")
    assert main(["score", str(study), "--cache", str(cache)]) == 2
    assert "There is no cache" in capsys.readouterr().err


def test_step_frames_are_scored_by_metrics_that_ask_for_it(cache, monkeypatch):
    study = parsed(lanes=["ddim:4"], frames={"count": 3})
    run_study(study, cache, device="cpu")
    mean = Metric("mine", "Mine", "", "neither", "1", lambda evidence: evidence.pictures.mean(), "mean", on_frames=True)
    use_metrics(monkeypatch, mean)
    assert rescored(study, cache).pictures.taken == 1
    found = results(cache).frame_quality
    frames = ask(cache, "SELECT step_index, progress, image FROM frames WHERE kind = 'x0' ORDER BY step_index")
    assert found[["step_index", "progress"]].values.tolist() == [[step, progress] for step, progress, _ in frames]
    assert found["value"].tolist() == pytest.approx([stored(image).mean() for *_, image in frames])
    assert len(found) == 3
