"""Torch's threads sleep while they wait: settled before torch is loaded, and told where that came too late."""

import os
import subprocess
import sys

import pytest

from engine import waiting
from engine.environment import describe

FRESH = {name: value for name, value in os.environ.items() if name not in waiting.CHOSEN_BY}


def told_by(program: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env=FRESH | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("first", ["engine.cli", "engine.environment", "dashboard.jobs.runner", "engine.study.source"])
def test_whatever_is_imported_first_bounds_the_spinning_before_torch_is_there(first: str) -> None:
    program = f"import sys, {first}; from engine import waiting; print('torch' in sys.modules, waiting.described())"
    assert told_by(program) == f"False GOMP_SPINCOUNT={waiting.SPINS}, KMP_BLOCKTIME=1"


def test_what_a_user_has_chosen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from engine import waiting; print(waiting.described())"
    assert told_by(program, OMP_WAIT_POLICY="ACTIVE") == "OMP_WAIT_POLICY=ACTIVE"


def test_a_program_that_loaded_torch_first_is_told_so() -> None:
    # A stand-in: that a module of this name is there is all that counts, and torch itself takes seconds.
    program = "import sys; sys.modules['torch'] = sys; from engine import waiting; print(waiting.too_late())"
    assert "Import the lab first" in told_by(program)
    assert told_by("from engine import waiting; print(waiting.too_late())") == ""


def test_the_way_of_waiting_is_part_of_the_environment() -> None:
    assert describe("cpu").details["waiting"] == waiting.described()
