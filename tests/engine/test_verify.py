"""Cells made again: as stored, or told apart."""

import numpy as np
import pytest

from engine.cache.connection import writing
from engine.cli import main
from engine.study.cells import evenly_spaced
from tests.engine.helpers import ask, write_study


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path / "s.toml", lanes=["ddim:4", "euler_a:3", "heun:3"], seeds=[0, 1])


@pytest.fixture
def cache(tmp_path, study, capsys):
    path = tmp_path / "c.duckdb"
    assert main(["run", str(study), "--cache", str(path), "--device", "cpu", "--progress", "none"]) == 0
    capsys.readouterr()
    return path


def test_cells_come_out_as_they_are_stored_and_nothing_is_written(study, cache, capsys):
    before = ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL")
    assert main(["verify", str(study), "--cache", str(cache), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "6 of 6 cells match the stored ones" in shown
    assert "euler_a:3" in shown
    assert "torch" in shown
    assert ask(cache, "SELECT trajectory_id, created_at FROM trajectories ORDER BY ALL") == before


def test_a_cell_that_was_tampered_with_is_named(study, cache, capsys):
    [(key, data)] = ask(
        cache,
        "SELECT trajectory_id, data FROM latents JOIN trajectories USING (trajectory_id) "
        "WHERE lane = 'heun:3' AND seed = 1",
    )
    other = np.frombuffer(bytes(data), "<f4") * 1.01
    with writing(cache) as db:
        db.execute("UPDATE latents SET data = ? WHERE trajectory_id = ?", [other.tobytes(), key])
    assert main(["verify", str(study), "--cache", str(cache), "--device", "cpu"]) == 1
    shown = capsys.readouterr().out
    assert "5 of 6 cells" in shown
    [line] = [line for line in shown.splitlines() if "DIFFERS" in line]
    assert line.startswith("heun:3")
    assert "0.0099" in line


def test_other_settings_find_nothing_to_compare_with(study, cache, capsys):
    assert main(["verify", str(study), "--cache", str(cache), "--device", "cpu", "--set", "guidance_scale=1"]) == 2
    assert "has no finished cell of 'small' with these settings" in capsys.readouterr().err


def test_a_lane_that_has_levels_of_its_own_in_a_family_is_made_again(tmp_path, sdxl_folder, capsys):
    study = write_study(tmp_path / "xl.toml", model=str(sdxl_folder), lanes=["ddim:4", "dpmpp_2m_ays:10"])
    command = [str(study), "--cache", str(tmp_path / "xl.duckdb"), "--device", "cpu"]
    assert main(["run", *command, "--progress", "none"]) == 0
    assert main(["verify", *command]) == 0
    assert "2 of 2 cells match" in capsys.readouterr().out


def test_few_cells_are_spread_over_all():
    assert evenly_spaced(100, 4) == [0, 33, 66, 99]
    assert evenly_spaced(2, 5) == [0, 1]
    assert evenly_spaced(5, 1) == [4]
    assert evenly_spaced(0, 5) == evenly_spaced(5, 0) == []
