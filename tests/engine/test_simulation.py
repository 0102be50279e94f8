"""Error and power of the rule: by simulation with a look after every prompt, and where it can be, exactly."""

import math

import numpy as np
import pandas as pd
import pytest

from engine.analysis import eprocess as ep
from engine.analysis.calibration import Calibration
from engine.analysis.decision import LaneCost, decide, fix_terms
from engine.analysis.simulate import KEEPS, Found, World, acceptances, apart, edges, gains, losses, simulate
from engine.study.decision_settings import DecisionSettings

STUDIES = 500
ALPHA = DecisionSettings().alpha
LIMIT = ALPHA + 2 * math.sqrt(ALPHA * (1 - ALPHA) / STUDIES)


def _decided(world: World, values: dict[str, np.ndarray], n: int) -> list[str]:
    """What decision.py says of one study after n prompts."""
    lanes = [LaneCost(f"lane {place}", "", 0.5 - 0.05 * place, 10) for place in range(len(world.lanes))]
    terms = fix_terms(DecisionSettings(), Calibration("same-picture", "", world.guards, ()), "baseline", lanes)
    tables = [
        pd.DataFrame({"lane": lane.lane, "position": np.arange(n)} | {key: y[place, :n] for key, y in values.items()})
        for place, lane in enumerate(lanes)
    ]
    return [row.status for row in decide(terms, pd.concat(tables, ignore_index=True)).lanes]


@pytest.mark.parametrize("world", [edges()[2], edges()[5], gains()[-2], gains()[3], losses()[2]], ids=lambda w: w.label)
def test_the_simulated_rule_is_the_rule(world: World) -> None:
    generator, seen = np.random.default_rng(3), set()
    for _ in range(3):
        values = {g.key: np.stack([lane[g.key](generator, (1, 240))[0] for lane in world.lanes]) for g in world.guards}
        yes, no = acceptances(world.guards, {key: y[None] for key, y in values.items()})
        for n in (1, 20, 110, 200, 240):
            simulated = [
                "dropped" if no[0, lane, n - 1] else "accepted" if yes[0, lane, n - 1] else "open"
                for lane in range(len(world.lanes))
            ]
            assert simulated == _decided(world, values, n)
            seen |= set(simulated)
    assert len(seen) > 1


@pytest.mark.parametrize("world", edges(), ids=lambda world: world.label)
def test_a_lane_on_the_edge_is_accepted_in_at_most_one_study_of_twenty_whenever_one_looks(world: World) -> None:
    found = simulate(world, STUDIES)
    assert found.wrong[14] == 0  # fifteen prompts name no lane
    assert found.wrong[-1] <= LIMIT


def _accepted_by(share: float, level: float, prompts: int) -> float:
    """Probability that guard K consents by then, exactly: from prompt to prompt over the number of events."""
    alive, done = np.zeros(prompts + 1), 0.0
    alive[0] = 1.0
    for n in range(1, prompts + 1):
        alive = alive * (1 - share) + np.concatenate([[0.0], alive[:-1] * share])
        consents = ep.log_e_few(np.arange(prompts + 1).clip(max=n), n, KEEPS.bound) >= ep.threshold(level)
        done += float(alive[consents].sum())
        alive[consents] = 0.0
    return done


def test_the_power_of_the_guard_that_keeps_pictures_is_the_one_that_is_documented() -> None:
    documented = {(0.0, 60): 0.0, (0.0, 120): 1.0, (0.01, 60): 0.0, (0.01, 120): 0.49, (0.01, 240): 0.87}
    for (share, prompts), power in documented.items():
        assert _accepted_by(share, ALPHA, prompts) == pytest.approx(power, abs=0.03)
    assert _accepted_by(0.05, ALPHA, 480) <= ALPHA
    found = simulate(gains()[2], STUDIES).accepted
    for prompts in (60, 120, 240):
        assert found[prompts - 1] == pytest.approx(_accepted_by(0.01, ALPHA, prompts), abs=0.05)


def test_good_lanes_are_accepted_in_the_end_and_bad_ones_dropped() -> None:
    worlds = {world.label: world for world in (*gains(), *losses())}

    def found(label: str) -> Found:
        return simulate(worlds[label], 100)

    assert found("other pictures 0%, the cheapest of six such").median == 109
    assert found("as good: equal, deviation 1").accepted[-1] > 0.95
    assert found("latent error alone: 10% of prompts too far").median <= 10
    assert found("recognised alone: 0% down, as many up").median == 65
    assert found("other pictures 30%").dropped[59] > 0.95
    assert found("as good: CLIP 3 margins down").dropped[-1] > 0.95


def test_the_positive_control_seldom_fails_where_nearly_all_pictures_are_kept() -> None:
    shares = [math.comb(30, k) * 0.05**k * 0.95 ** (30 - k) for k in range(4)]
    assert apart(0.05) == pytest.approx(1 - sum(shares))
    assert apart(0.01) < 0.001
    assert apart(0.2) > 0.85
