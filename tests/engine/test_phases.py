"""Phases: curves, borders and paths from synthetic runs whose answer is known, and through a real run."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.analysis.borders import BORDERS, borders
from engine.analysis.curves import curves, octave_distances, shares, speeds
from engine.analysis.phases import Path as X0Path
from engine.analysis.phases import paths, settled_at
from engine.analysis.trajectories import project
from engine.cache import score_tables, step_tables
from engine.cache.connection import reading
from engine.cli import main
from engine.sampling.spectra import sketch
from tests.engine.helpers import ask, write_study

LEVELS = np.linspace(-5, 5, 21)


def steps(
    metric: str,
    value: Callable[[np.ndarray, int, int], np.ndarray],
    *,
    lane: str = "ddim:21",
    prompts: int = 6,
    seeds: int = 2,
    levels: np.ndarray = LEVELS,
) -> pd.DataFrame:
    """Step metrics of runs whose value is a function of log-SNR, prompt and seed."""
    runs = []
    for prompt in range(prompts):
        for seed in range(seeds):
            index = np.arange(len(levels))
            runs.append(
                pd.DataFrame(
                    {
                        "lane": lane,
                        "prompt": f"p{prompt}",
                        "seed": seed,
                        "trajectory_id": f"{lane} {prompt} {seed}",
                        "step_index": index,
                        "progress": (index + 1) / len(levels),
                        "log_snr": levels,
                        "metric": metric,
                        "value": value(levels, prompt, seed),
                    }
                )
            )
    return pd.concat(runs, ignore_index=True)


def test_a_curve_is_the_median_and_its_band_the_outer_tenths_of_the_runs() -> None:
    rows = steps("x0_distance", lambda at, prompt, seed: at + prompt, prompts=11, seeds=1)
    found = curves(rows)
    assert found["log_snr"].tolist() == pytest.approx(np.arange(-5, 5.01, 0.25).tolist())
    for row in found.itertuples():
        assert (row.median, row.low, row.high) == pytest.approx((row.log_snr + 5, row.log_snr + 1, row.log_snr + 9))
        assert (row.runs, row.prompts) == (11, 11)


def test_runs_on_other_noise_levels_are_read_between_their_calls_and_not_beyond() -> None:
    coarse = steps("m", lambda at, p, s: 2 * at, levels=np.array([-4.1, 0.3, 3.9]), prompts=1, seeds=1)
    found = curves(coarse)
    assert found["log_snr"].min() == -4.0
    assert found["log_snr"].max() == 3.75
    assert found["median"].tolist() == pytest.approx((2 * found["log_snr"]).tolist())


def test_of_two_calls_at_one_level_the_last_counts_and_their_changes_are_one() -> None:
    """Heun calls twice at each level."""
    levels = np.repeat([-2.0, 0.0, 2.0], 2)
    rows = steps("m", lambda at, p, s: np.arange(6.0), levels=levels, prompts=1, seeds=1)
    assert curves(rows).set_index("log_snr")["median"][[-2.0, 0.0, 2.0]].tolist() == [1, 3, 5]
    changes = rows.assign(metric="x0_change")
    [path] = paths(pd.concat([changes.iloc[1:], rows]), "ddim:21", "log_snr").values()
    assert path.share(-2, 0) == pytest.approx((1 + 2 + 3) / (1 + 2 + 3 + 4 + 5))
    assert path.share(0, 2) == pytest.approx((4 + 5) / (1 + 2 + 3 + 4 + 5))


def test_places_that_few_runs_reach_are_left_out() -> None:
    long = steps("m", lambda at, p, s: at, prompts=1)
    short = steps("m", lambda at, p, s: at, prompts=3, levels=LEVELS[:11]).replace({"p0": "q"})
    found = curves(pd.concat([long, short]))
    assert found["log_snr"].max() == 0.0


def test_a_share_is_that_of_the_runs_with_its_interval_over_prompts() -> None:
    rows = steps("recognised", lambda at, p, s: (at > p - 3).astype(float), prompts=8)
    found = shares(rows).set_index("log_snr")
    assert found.loc[0.0, "median"] == pytest.approx(3 / 8)
    assert 0 <= found.loc[0.0, "low"] < 3 / 8 < found.loc[0.0, "high"] < 1
    assert (found.loc[5.0, "median"], found.loc[-5.0, "median"]) == (1, 0)
    unseen = 1 - 0.05 ** (1 / 8)
    assert (found.loc[5.0, "low"], found.loc[-5.0, "high"]) == pytest.approx((1 - unseen, unseen))


def moving(at: np.ndarray, low: float, high: float) -> np.ndarray:
    """Changes of a path that moves between two levels only, evenly."""
    return np.diff(np.clip(at, low, high), prepend=low if at[0] <= low else at[0])


def known_path(low: float, high: float, **options: object) -> pd.DataFrame:
    changes = steps("x0_change", lambda at, p, s: moving(at, low, high), **options)  # type: ignore[arg-type]
    distances = steps("x0_distance", lambda at, p, s: np.clip((high - at) / (high - low), 0, 1), **options)  # type: ignore[arg-type]
    return pd.concat([changes[changes["step_index"] > 0], distances], ignore_index=True)


def test_speed_is_the_share_of_the_path_per_unit_of_log_snr() -> None:
    found = speeds(known_path(-2.0, 2.0)).set_index("log_snr")["median"]
    assert found[found.index.to_series().abs() < 1.8].to_numpy() == pytest.approx(0.25)
    assert found[found.index.to_series().abs() > 2.2].to_numpy() == pytest.approx(0.0)


def test_a_path_of_known_place_has_its_borders_there_in_both_axes() -> None:
    rows = known_path(-2.0, 2.0)
    recognised = steps("recognised", lambda at, p, s: (at > 0.9).astype(float))
    found = {m.border.key: m for m in borders(rows, recognised, ["ddim:21"])}
    assert set(found) == {b.key for b in BORDERS if b.source != "octaves"}
    at = {key: measured.figures["log_snr"].value for key, measured in found.items()}
    assert at["half_path"] == pytest.approx(0.0)
    assert at["critical_50_end"] - at["critical_50_start"] == pytest.approx(2.0)
    assert at["critical_80_end"] - at["critical_80_start"] == pytest.approx(3.2)
    assert at["recognisable"] == pytest.approx(0.75), "between the calls at 0.5 and 1"
    assert at["close"] == pytest.approx(0.75), "distance 0.3 is reached at 0.8"
    # Progress of level x is ((x + 5) / 0.5 + 1) / 21.
    assert found["half_path"].figures["progress"].value == pytest.approx(11 / 21)
    assert found["half_path"].figures["log_snr"].n == 6
    assert (found["close"].runs, found["close"].never) == (12, 0)
    alike, unseen = found["half_path"].figures, 1 - 0.05 ** (1 / 6)
    assert alike["progress"].low == pytest.approx(11 / 21 * (1 - unseen)), "six prompts alike are no proof for all"
    assert np.isnan(alike["log_snr"].low)


def test_the_same_path_falls_at_other_percentages_under_another_spacing_but_at_the_same_log_snr() -> None:
    even = known_path(-2.0, 2.0)
    late = known_path(-2.0, 2.0, lane="karras:41", levels=np.sort(5 - 10 * np.linspace(0, 1, 41) ** 3))
    found = borders(pd.concat([even, late]), pd.DataFrame(columns=even.columns), ["ddim:21", "karras:41"])
    half = {m.lane: m.figures for m in found if m.border.key == "half_path"}
    assert half["ddim:21"]["log_snr"].value == pytest.approx(half["karras:41"]["log_snr"].value, abs=0.1)
    assert abs(half["ddim:21"]["progress"].value - half["karras:41"]["progress"].value) > 0.1
    ends = {(m.lane, m.border.key): m.figures["progress"].value for m in found}
    for lane in ("ddim:21", "karras:41"):
        assert ends[lane, "critical_50_start"] < ends[lane, "critical_50_end"]


def test_prompts_that_differ_give_an_interval_and_those_that_never_arrive_are_counted() -> None:
    distance = steps("x0_distance", lambda at, p, s: np.where(at >= p - 2.1, 0.1, 0.9) if p < 5 else np.full(21, 0.9))
    [found] = borders(distance, pd.DataFrame(columns=distance.columns), ["ddim:21"])
    figure = found.figures["log_snr"]
    assert found.border.key == "close"
    assert (found.runs, found.never, figure.n) == (10, 2, 5)
    assert figure.low < figure.value < figure.high
    assert figure.value == pytest.approx(np.mean([-2.25, -1.25, -0.25, 0.75, 1.75]))


def test_runs_without_a_log_snr_have_borders_in_progress_only() -> None:
    rows = known_path(-2.0, 2.0).assign(log_snr=np.nan)
    found = borders(rows, pd.DataFrame(columns=rows.columns), ["ddim:21"])
    assert found
    assert all(set(measured.figures) == {"progress"} for measured in found)
    assert curves(rows).empty
    assert speeds(rows).empty


def test_octave_distances_are_those_of_the_vectors() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(21, 40)), random.normal(size=40)
    coherence = x @ y / np.linalg.norm(x, axis=1) / np.linalg.norm(y)
    power = np.square(np.linalg.norm(x, axis=1) / np.linalg.norm(y))
    rows = pd.concat([steps("coherence_4", lambda at, p, s: coherence), steps("power_4", lambda at, p, s: power)])
    found = octave_distances(rows)
    assert set(found["metric"]) == {"octave_4"}
    expected = np.linalg.norm(x - y, axis=1) / np.linalg.norm(y)
    assert found[(found["prompt"] == "p3") & (found["seed"] == 1)]["value"].to_numpy() == pytest.approx(expected)


def test_coarse_and_fine_borders_follow_the_lowest_and_the_highest_octave() -> None:
    parts = []
    for octave, from_level in ((0, -3.0), (1, 0.0), (16, 2.0)):
        parts.append(steps(f"coherence_{octave}", lambda at, p, s: np.ones(21)))
        parts.append(steps(f"power_{octave}", lambda at, p, s, f=from_level: np.where(at >= f, 1.0, 4.0)))
    rows = pd.concat(parts)
    found = {m.border.key: m.figures["log_snr"].value for m in borders(rows, rows.iloc[:0], ["ddim:21"])}
    assert found == pytest.approx({"coarse": -3.25, "detail": 1.75})


def test_a_path_begins_where_it_is_told() -> None:
    path = X0Path(np.array([0.0, 2.0]), np.array([3.0, 1.0]), start=-3.0)
    assert path.reach == (-3.0, 2.0)
    assert path.halfway() == pytest.approx(-1.0)
    assert path.critical_phase(0.75) == pytest.approx((-3.0, 0.0))


def test_settling_can_be_read_in_log_snr() -> None:
    rows = steps("m", lambda at, p, s: (at >= 1).astype(float), prompts=1, seeds=1)
    assert settled_at(rows, lambda values: values > 0.5, "log_snr") == {("p0", 0): 0.75}


def sketched(points: np.ndarray, lane: str) -> pd.DataFrame:
    index = np.arange(len(points))
    return pd.DataFrame(
        {
            "lane": lane,
            "step_index": index,
            "progress": (index + 1) / len(points),
            "log_snr": index - 3.0,
            "sketch": list(points),
        }
    )


def test_projected_paths_keep_their_distances_and_share_their_axes() -> None:
    """Two paths in a space of three dimensions, turned into 128: nothing is lost, and equal points coincide."""
    random = np.random.default_rng(1)
    turn = np.linalg.qr(random.normal(size=(128, 3)))[0]
    path = np.cumsum(random.normal(size=(30, 3)), axis=0)
    other = np.vstack([path[::3], path[-1:] + 1])
    both = pd.concat([sketched(path @ turn.T, "a"), sketched(other @ turn.T, "b")])
    found = project(both)
    assert found is not None
    assert sum(found.explained) == pytest.approx(1)
    points = found.points[["pca_1", "pca_2", "pca_3"]].to_numpy()
    original = np.vstack([path, other])
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert apart == pytest.approx(np.linalg.norm(original[:, None] - original[None], axis=2), abs=1e-9)
    of_a = found.points[found.points["lane"] == "a"]["pca_1"].to_numpy()
    assert found.points[found.points["lane"] == "b"]["pca_1"].to_numpy()[:10] == pytest.approx(of_a[::3])


def test_components_of_sketches_are_nearly_those_of_the_latents() -> None:
    random = np.random.default_rng(2)
    basis = np.linalg.qr(random.normal(size=(4096, 4)))[0] * [8.0, 3.0, 1.0, 0.2]
    latents = np.cumsum(random.normal(size=(50, 4)), axis=0) @ basis.T
    found = project(sketched(sketch(latents).astype(float), "a"))
    assert found is not None
    exact = np.square(np.linalg.svd(latents - latents.mean(axis=0), compute_uv=False))
    assert found.explained == pytest.approx((exact[:3] / exact.sum()).tolist(), abs=0.03)


def test_what_does_not_move_has_no_trajectory() -> None:
    assert project(sketched(np.ones((5, 128)), "a")) is None
    assert project(sketched(np.ones((0, 128)), "a")) is None
    two = project(sketched(np.array([[0.0] * 128, [1.0] * 128]), "a"))
    assert two is not None
    assert two.explained == pytest.approx((1, 0, 0))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of the gaussian model: two lanes, six prompts."""
    folder = tmp_path_factory.mktemp("phases")
    study = write_study(
        folder / "s.toml",
        prompts=["disc", "ring", "stripes", "checkerboard", "cross", "ramp"][:3],
        lanes=["ddim:8", "heun:5"],
        seeds=[0],
        frames={"count": 3, "kinds": ["x0"]},
    )
    assert main(["run", str(study), "--cache", str(folder / "c.duckdb"), "--device", "cpu", "--progress", "none"]) == 0
    return folder / "c.duckdb"


def test_a_run_records_every_step_in_latent_space(cache: Path) -> None:
    with reading(cache) as db:
        rows = step_tables.step_curves(db, "small", "heun:5")
        paths_of = step_tables.sketches(db, "small", "disc", 0, ["ddim:8", "heun:5"])
    assert set(rows["lane"]) == {"heun:5"}
    counted = rows.groupby("metric").size().to_dict()
    octaves = {f"{name}_{octave}": 27 for name in ("coherence", "power") for octave in (0, 1, 2, 4)}
    assert counted == {"x0_change": 24, "x0_distance": 27, "guidance_energy": 27, **octaves}
    assert paths_of.groupby("lane").size().to_dict() == {"ddim:8": 8, "heun:5": 9}
    assert project(paths_of) is not None


def test_frames_are_compared_with_the_final_picture_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reading(cache) as db:
        rows = pd.concat([score_tables.frame_curves(db, "small", lane) for lane in ("ddim:8", "heun:5")])
        described = score_tables.metrics(db, "small", "frame").set_index("metric")
    assert set(rows["metric"]) == {"ssim_to_final", "sharpness_of_final"}, "no CLIP knows these pictures"
    assert "no CLIP" in described["unavailable"]["similarity_to_final"]
    assert len(rows) == 2 * 3 * 3 * 2
    last = rows[(rows["metric"] == "ssim_to_final") & (rows["progress"] == 1)]["value"]
    first = rows[(rows["metric"] == "ssim_to_final") & (rows["step_index"] == 0)]["value"]
    assert last.min() > 0.8
    assert last.min() > first.max() + 0.1
    before = ask(cache, "SELECT count(*) FROM scores")
    study = cache.parent / "s.toml"
    assert main(["run", str(study), "--cache", str(cache), "--device", "cpu", "--progress", "none"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert ask(cache, "SELECT count(*) FROM scores") == before


def test_the_command_prints_every_border_that_was_measured_with_its_definition(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.json"
    assert main(["phases", "small", "--cache", str(cache), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    plain = json.loads(file.read_text())
    with reading(cache) as db:
        own = {lane: step_tables.step_curves(db, "small", lane) for lane in ("ddim:8", "heun:5")}
    measured = {
        (row.lane, row.border.key): row for lane, rows in own.items() for row in borders(rows, rows.iloc[:0], [lane])
    }
    assert {(row["lane"], row["border"]) for row in plain["borders"]} == set(measured)
    for row in plain["borders"]:
        assert row["value"] == pytest.approx(measured[row["lane"], row["border"]].figures[row["axis"]].value)
    assert all(row.border.label in shown and row.border.definition in shown for row in measured.values())
    assert "recognisable" not in {row["border"] for row in plain["borders"]}, "no CLIP knows these pictures"
    assert "3 prompts, 3 runs" in shown
    assert "Computed on cpu" in shown


def test_a_study_that_is_not_there_has_no_phases(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phases", "smal", "--cache", str(cache)]) == 2
    assert "Did you mean 'small'" in capsys.readouterr().err


def test_a_cell_made_again_keeps_no_sketch_of_before(cache: Path) -> None:
    study = cache.parent / "s.toml"
    more = ["--set", "frames.count=5", "--progress", "none"]
    assert main(["run", str(study), "--cache", str(cache), "--device", "cpu", *more]) == 0
    sketches = ask(
        cache, "SELECT count(*), count(DISTINCT (trajectory_id, step_index)) FROM steps WHERE sketch IS NOT NULL"
    )
    assert sketches == [(3 * (8 + 9), 3 * (8 + 9))]
