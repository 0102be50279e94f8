"""A decision that is killed, wherever that is, goes on to the same cells, order and answer as an unbroken one."""

from pathlib import Path
from typing import Any

import pytest

from engine.cache.connection import reading
from engine.cache.decision_tables import evidence, stored_decision
from engine.results import read_results
from tests.engine.helpers import Child, ask, start_engine, wait_until
from tests.engine.pattern_metrics import write_decision

PLUGIN = """
from engine.measuring.metrics import METRICS
from tests.engine.pattern_metrics import LIKENESS, tell_times
METRICS.register(LIKENESS)
tell_times()
"""


def _evidence(cache: Path) -> list[dict[str, Any]]:
    with reading(cache) as db:
        return evidence(db, "patterns").to_dict("records")


def _found(cache: Path) -> dict[str, Any]:
    """What must not depend on kills: terms but for measured times, evidence, standing of the lanes, cells."""
    with reading(cache) as db:
        stored, decision = stored_decision(db, "patterns"), read_results(db, "patterns").decision
    assert stored is not None
    assert decision is not None
    terms = stored[0]
    return {
        "order": terms["order"],
        "calibration": terms["calibration"],
        "lanes": [lane["lane"] for lane in terms["contenders"]],
        "evidence": _evidence(cache),
        "decision": (decision.lane, decision.known, decision.stop),
        "standing": [(row.lane, row.status, row.level, row.p, row.n) for row in decision.lanes],
        "cells": sorted(ask(cache, "SELECT trajectory_id FROM trajectories WHERE status = 'done'")),
        "shown": sorted(ask(cache, "SELECT lane, trajectory_id FROM study_trajectories")),
    }


@pytest.mark.long
def test_killed_while_it_calibrates_takes_times_and_adds_prompts_it_comes_to_the_same(tmp_path: Path) -> None:
    (tmp_path / "guard_of_patterns.py").write_text(PLUGIN)
    study = write_decision(tmp_path, plugins=["guard_of_patterns.py"])

    def begin(cache: Path) -> Child:
        return start_engine(
            tmp_path, "decide", study, "--cache", cache, "--budget", "200p", "--progress", "json", "--device", "cpu"
        )

    unbroken, killed = tmp_path / "unbroken.duckdb", tmp_path / "killed.duckdb"
    child = begin(unbroken)
    assert child.wait() == 0, child.err.read_text()

    def calibrating(child: Child) -> bool:
        return child.made() >= 20

    def timing(child: Child) -> bool:
        return '"what": "timing", "done": 4' in child.out.read_text()

    def adding(child: Child) -> bool:
        return child.out.read_text().partition('"Goal ')[2].count('"what": "images", "done"') >= 5

    for moment in (calibrating, timing, adding):
        child = begin(killed)
        wait_until(lambda: moment(child) or not child.process.is_alive(), moment.__name__)  # noqa: B023
        child.process.kill()
        assert child.wait() == -9, child.err.read_text()
    child = begin(killed)
    assert child.wait() == 0, child.err.read_text()
    assert _found(killed) == _found(unbroken)
