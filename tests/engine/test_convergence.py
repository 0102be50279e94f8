"""Errors and observed orders: on made-up errors of known order, and on the model whose solution is known."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from engine.analysis.convergence import ABOVE_FLOOR, convergence, convergence_rows, observed_order, order_rows
from engine.analysis.matched import LEVELS, matched_errors, metric_at
from engine.cache import lint_tables, step_tables
from engine.cache.connection import reading
from engine.cli import main
from engine.passes.run import run_study
from engine.results import read_results
from tests.engine.helpers import parsed

CALLS = (10, 20, 40)


def made_up(order: float, prompts: int = 12, seeds: int = 2, spread: float = 0.1, calls=CALLS, floor: float = 0.0):
    """(quality, cells) of one scheduler whose errors are c_prompt * calls**-order + floor, c of that log spread."""
    rng = np.random.default_rng(0)
    sizes = {key: np.exp(rng.normal(0, spread)) for key in product(range(prompts), range(seeds))}
    rows, cells = [], []
    for nfe, (prompt, seed) in product(calls, sizes):
        lane = f"s:{nfe}"
        wobble = np.exp(rng.normal(0, spread / 5))
        value = sizes[prompt, seed] * wobble * nfe**-order + floor
        rows.append({"lane": lane, "prompt": f"p{prompt}", "seed": seed, "metric": "latent_error", "value": value})
        cells.append(
            {
                "study_lane": lane,
                "lane": "other:1",
                "scheduler": "s",
                "scheduler_label": "S",
                "steps": nfe,
                "nfe": nfe,
                "status": "done",
            }
        )
    return pd.DataFrame(rows), pd.DataFrame(cells)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0])
def test_the_order_of_exact_power_laws_is_found(order):
    quality, cells = made_up(order, spread=0.0)
    [row] = convergence(quality, cells).orders.to_dict("records")
    assert row["order"] == pytest.approx(order)
    assert (row["low"], row["high"]) == (pytest.approx(order), pytest.approx(order))
    assert (row["n"], row["points"], row["nfe_first"], row["nfe_last"]) == (12, 3, 10, 40)


def test_intervals_of_scattered_orders_hold_the_truth_and_narrow_with_more_prompts():
    widths = []
    for prompts in (8, 60):
        [row] = convergence(*made_up(2.0, prompts, spread=0.4)).orders.to_dict("records")
        assert row["low"] < 2.0 < row["high"]
        widths.append(row["high"] - row["low"])
    assert widths[1] < 0.7 * widths[0]


def test_the_error_is_the_median_over_prompts_and_flipped_pictures_are_told_apart():
    quality, cells = made_up(1.0, prompts=9, seeds=1, spread=0.0, calls=(10,))
    quality.loc[0, "value"] = 5.0
    [row] = convergence(quality, cells).errors.to_dict("records")
    assert row["error"] == pytest.approx(0.1)
    assert row["flipped"] == pytest.approx(1 / 9)
    assert (row["n"], row["pairs"]) == (9, 9)


def test_the_order_rests_on_counted_calls_not_on_steps():
    quality, cells = made_up(2.0, spread=0.0)
    cells["nfe"] = 2 * cells["steps"] - 1
    [row] = convergence(quality, cells).orders.to_dict("records")
    errors = np.array([steps**-2.0 for steps in CALLS])
    assert row["order"] == pytest.approx(float(observed_order([2 * steps - 1 for steps in CALLS], errors)))
    assert row["order"] < 2.0


def test_lanes_at_the_floor_are_left_out_of_the_fit_and_say_so():
    floor = 40**-2.0
    quality, cells = made_up(2.0, spread=0.0)
    found = convergence(quality, cells, floor=floor)
    assert found.errors["above_floor"].tolist() == [True, ABOVE_FLOOR * floor < 20**-2.0, False]
    [row] = found.orders.to_dict("records")
    assert (row["points"], row["order"]) == (2, pytest.approx(2.0))
    high = convergence(quality, cells, floor=0.02)
    assert "0 of 3 step counts" in high.orders["reason"].iloc[0]
    assert np.isnan(high.orders["order"].iloc[0])
    assert convergence_rows({"end": high})[-1][3].startswith("~")
    assert "0 of 3" in order_rows({"end": high})[-1][1]


def test_too_few_prompts_give_an_order_without_an_interval():
    [row] = convergence(*made_up(1.0, prompts=4)).orders.to_dict("records")
    assert np.isfinite(row["order"])
    assert np.isnan(row["low"])
    assert np.isnan(row["high"])


def test_only_prompts_that_all_step_counts_share_are_fitted():
    quality, cells = made_up(1.0, spread=0.3)
    quality = quality[~((quality["lane"] == "s:20") & (quality["prompt"] == "p0"))]
    found = convergence(quality, cells)
    assert found.orders["n"].tolist() == [11]
    assert found.errors["n"].tolist() == [12, 11, 12]


def test_nothing_scored_gives_empty_tables_with_all_columns():
    quality, cells = made_up(1.0)
    found = convergence(quality[quality["metric"] == "ssim"], cells)
    assert found.errors.empty
    assert found.orders.empty
    assert "error" in found.errors.columns
    assert "order" in found.orders.columns


def spacing_on(prompts) -> dict:
    """Second-order solvers on the exact model, with defaults and with Karras levels."""
    lane = {"timestep_spacing": "linspace"}
    lanes = [
        {"key": f"{key}:{steps}", "scheduler": base, "steps": steps, **overrides}
        for key, base, overrides in (
            ("euler_linspace", "euler", lane),
            ("dpmpp_default", "dpmpp_2m", lane),
            ("unipc_default", "unipc", lane),
            ("dpmpp_karras", "dpmpp_2m_karras", {}),
            ("heun_linspace", "heun", lane),
        )
        for steps in (10, 20, 40)
    ]
    return {
        "name": "orders",
        "lanes": [],
        "lane": lanes,
        "baseline": "euler_linspace:20",
        "prompts": prompts,
        "guidance_scale": 2.0,
        "frames": {"count": 0},
        "reference": {"lane": "dpmpp_2m_karras:100", "check": "heun:100"},
    }


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    cache = tmp_path_factory.mktemp("orders") / "orders.duckdb"
    run_study(parsed(**spacing_on(["disc", "ring", "checker", "a ring, a disc", "bar, disc"])), cache, device="cpu")
    return cache


def test_on_the_exact_model_defaults_of_second_order_solvers_are_as_slow_as_euler_and_karras_repairs_them(orders):
    with reading(orders) as db:
        results = read_results(db, "orders", None)
    found = convergence(results.quality, results.cells, floor=results.floors["latent_error"])
    order = found.orders.set_index("scheduler")
    for default in ("dpmpp_default", "unipc_default"):
        assert order.loc[default, "order"] < 1.4
    assert order.loc["dpmpp_karras", "low"] > 1.5
    errors = found.errors.set_index("lane")["error"]
    assert errors["dpmpp_default:20"] == pytest.approx(errors["unipc_default:20"], rel=0.15), "the last jump rules both"
    assert errors["dpmpp_karras:20"] < errors["dpmpp_default:20"] / 5
    assert errors["heun_linspace:20"] < errors["dpmpp_default:40"]


def test_most_of_the_error_of_those_defaults_comes_from_the_last_jump(orders):
    with reading(orders) as db:
        results, paths = read_results(db, "orders", None), step_tables.paths(db, "orders")
    matched, floors = matched_errors(paths)
    assert set(floors) == {metric_at(sigma) for sigma in LEVELS}
    end = convergence(results.quality, results.cells).errors.set_index("lane")["error"]
    before = convergence(matched, results.cells, metric_at(0.4)).errors.set_index("lane")["error"]
    for lane in ("dpmpp_default:20", "unipc_default:20"):
        assert before[lane] < end[lane] / 4
    assert before["euler_linspace:20"] > 3 * before["dpmpp_default:20"], "which had hidden a better solver"


def straight(lane: str, role: str, shift: float, calls: int, prompt: str = "p") -> pd.DataFrame:
    """A path x0*(log sigma) = (10 + log sigma, 0, ...) and, at right angles, an error of shift * sigma."""
    where = np.linspace(2, -3, calls)
    sketches = [np.array([10 + x, shift * np.exp(x), *[0] * 6]) for x in where]
    return pd.DataFrame(
        {
            "role": role,
            "lane": lane,
            "prompt": prompt,
            "seed": 0,
            "step_index": range(calls),
            "log_snr": -2 * where,
            "sketch": sketches,
        }
    )


def test_errors_at_a_level_are_those_beside_the_interpolated_reference():
    paths = pd.concat(
        [
            straight("reference", "reference", 0.0, 200),
            straight("check", "check", 0.001, 100),
            straight("coarse:9", "lane", 0.5, 9),
            straight("fine:80", "lane", 0.25, 80),
            straight("alone:9", "lane", 0.5, 9, prompt="without a reference"),
        ]
    )
    found, floors = matched_errors(paths, (1.0, 0.4, 0.01))
    values = found.set_index(["lane", "metric"])["value"]
    norm = 10 - 3
    assert values["coarse:9", "x0_error_at_1"] == pytest.approx(0.5 / norm, rel=1e-6)
    assert values["coarse:9", "x0_error_at_0.4"] == pytest.approx(0.4 * 0.5 / norm, rel=1e-6)
    assert values["fine:80", "x0_error_at_0.4"] == pytest.approx(0.4 * 0.25 / norm, rel=1e-6)
    assert floors["x0_error_at_1"] == pytest.approx(0.001 / norm, rel=1e-6)
    assert set(found["lane"]) == {"coarse:9", "fine:80"}, "no reference, no error"
    assert "x0_error_at_0.01" not in set(found["metric"]), "no lane gets that far"


def test_paths_carry_the_measured_level_of_each_call_where_the_lane_has_been_looked_at(orders):
    with reading(orders) as db:
        paths, levels = step_tables.paths(db, "orders"), lint_tables.schedules(db, "orders")
    own = paths[(paths["lane"] == "dpmpp_karras:10") & (paths["prompt"] == "disc")]["log_snr"].to_numpy()
    np.testing.assert_array_equal(own, levels[levels["lane"] == "dpmpp_karras:10"]["log_snr"])
    assert {"lane", "reference", "check"} == set(paths["role"])


def test_the_command_prints_orders_with_intervals_n_floor_and_environment(orders, tmp_path, capsys):
    file = tmp_path / "o.json"
    assert main(["convergence", "orders", "--cache", str(orders), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "5 prompts" in shown
    assert "Floors" in shown
    assert "at sigma 0.4" in shown
    assert "Computed on cpu" in shown
    plain = json.loads(file.read_text())
    assert len(plain["latent_error"]["errors"]) == len(plain["x0_error_at_1"]["errors"]) == 15
    keys = {"euler_linspace", "dpmpp_default", "unipc_default", "dpmpp_karras", "heun_linspace"}
    assert {row["scheduler"] for row in plain["latent_error"]["orders"]} == keys


def test_a_study_without_a_reference_is_refused_with_the_remedy(tmp_path, capsys):
    cache = tmp_path / "c.duckdb"
    run_study(parsed(), cache, device="cpu")
    assert main(["convergence", "small", "--cache", str(cache)]) == 2
    assert "[reference]" in capsys.readouterr().err
    assert main(["convergence", "smal", "--cache", str(cache)]) == 2
    assert "Did you mean 'small'" in capsys.readouterr().err
