"""Phases of clips of known shape: settled where they should be, run by run, and counted in steps."""

import math

import numpy as np
import pandas as pd
import pytest

from engine.analysis.clip_phases import ClipPhases, clip_phases, clip_rows

CALLS = 21
LEVELS = np.linspace(-10, 10, CALLS)


def rows(metric: str, values: object, *, prompts: int = 6, seeds: int = 2, keep: slice = slice(None)) -> pd.DataFrame:
    """A metric of lane "a"; `values` is a function of the prompt's number, or an array."""
    parts = []
    for prompt in range(prompts):
        for seed in range(seeds):
            series = np.asarray(values(prompt) if callable(values) else values, dtype=float)
            table = {"step_index": np.arange(CALLS), "log_snr": LEVELS, "value": series}
            table |= {"progress": (np.arange(CALLS) + 1) / CALLS}
            parts.append(pd.DataFrame(table).iloc[keep].assign(lane="a", prompt=f"p{prompt}", seed=seed, metric=metric))
    return pd.concat(parts, ignore_index=True)


def motion_until(step: int) -> np.ndarray:
    """Energy 2 before a step, and within 10 % of its end, which is 1, from there."""
    return np.where(np.arange(CALLS) < step, 2.0, np.linspace(1.05, 1.0, CALLS))


def alike_from(step: int) -> np.ndarray:
    """Cosine 0.5 before a step, and 0.97 from there: that 94 % of the gain is made."""
    found = np.where(np.arange(CALLS) < step, 0.5, 0.97)
    found[-1] = 1.0
    return found


def only(steps: pd.DataFrame, frames: pd.DataFrame) -> ClipPhases:
    [found] = clip_phases(steps, frames, ["a", "another"])
    return found


def test_motion_and_appearance_settle_where_they_were_put_and_the_lead_is_counted_in_steps() -> None:
    found = only(rows("motion_energy", motion_until(5)), rows("similarity_to_final", alike_from(12)))
    assert (found.motion["step"].value, found.appearance["step"].value) == (4.5, 11.5)
    assert found.motion["log_snr"].value == pytest.approx(LEVELS[[4, 5]].mean())
    assert found.appearance["progress"].value == pytest.approx(12.5 / CALLS)
    assert found.lead is not None
    assert (found.lead.value, found.lead.n, found.lead.pairs) == (7, 6, 12)
    assert math.isnan(found.lead.low), "steps have no ends, and all prompts are alike"
    assert found.motion["progress"].low < found.motion["progress"].value < found.motion["progress"].high


def test_the_lead_is_taken_run_by_run_so_that_what_prompts_share_does_not_widen_its_interval() -> None:
    steps = rows("motion_energy", lambda prompt: motion_until(3 + prompt))
    found = only(steps, rows("similarity_to_final", lambda prompt: alike_from(1 + prompt + (prompt == 0))))
    assert found.lead is not None
    motion = found.motion["step"]
    assert found.lead.value == pytest.approx(-11 / 6)
    assert found.lead.high - found.lead.low < (motion.high - motion.low) / 2


def test_a_run_that_leaves_its_end_again_is_not_settled_before_it_comes_back() -> None:
    energies = motion_until(5)
    energies[15] = 0.8
    found = only(rows("motion_energy", energies), rows("similarity_to_final", alike_from(5)))
    assert found.motion["step"].value == 15.5


def test_both_are_read_at_the_kept_steps_and_without_scores_motion_is_read_at_all() -> None:
    steps = rows("motion_energy", motion_until(5))
    found = only(steps, rows("similarity_to_final", alike_from(12), keep=slice(0, None, 4)))
    assert found.kept == 6
    assert (found.motion["step"].value, found.appearance["step"].value) == (6, 10)
    alone = only(steps, rows("ssim_to_final", alike_from(12)))
    assert (alone.kept, alone.motion["step"].value, alone.lead, alone.appearance) == (CALLS, 4.5, None, {})


def test_pictures_and_runs_with_hardly_any_step_have_no_phases() -> None:
    frames = rows("similarity_to_final", alike_from(12))
    assert clip_phases(rows("x0_change", motion_until(5)), frames, ["a"]) == []
    assert clip_phases(rows("motion_energy", motion_until(5), keep=slice(0, 2)), frames, ["a"]) == []


def test_without_noise_levels_places_are_known_in_steps_only_and_few_prompts_have_no_interval() -> None:
    steps = rows("motion_energy", motion_until(5), prompts=2).assign(log_snr=math.nan)
    found = only(steps, rows("similarity_to_final", alike_from(12), prompts=2).assign(log_snr=math.nan))
    assert found.motion.keys() == {"progress", "step"}
    assert math.isnan(found.motion["step"].low)
    assert clip_rows([found])[1] == ("a", "-", "-", "-", "2 prompts, 4 runs, 21 steps each")
