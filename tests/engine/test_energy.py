"""Energy: counters read from a made-up tree of RAPL zones and a made-up NVML, and what lanes take by them."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from engine.analysis.energy_use import NOT_COUNTED, energy_per_image, usd_per_1000_by_energy
from engine.measuring.energy import energy_counter

ZONES = {"intel-rapl:0": "package-0", "intel-rapl:0:0": "core", "intel-rapl:0:1": "dram", "intel-rapl:1": "package-1"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder, name in {**ZONES, "intel-rapl:2": "psys", "dtpm": "other"}.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "name").write_text(name + "\n")
        (tmp_path / folder / "max_energy_range_uj").write_text("262143328850\n")
        (tmp_path / folder / "energy_uj").write_text("1000000\n")
    energy_counter.cache_clear()
    return tmp_path


def add(root: Path, folder: str, microjoules: int) -> None:
    counter = root / folder / "energy_uj"
    counter.write_text(f"{(int(counter.read_text()) + microjoules) % 262143328850}\n")


def test_processors_and_their_memory_are_counted_once(root: Path) -> None:
    counter = energy_counter("cpu", root)
    assert counter.source == "RAPL: package-0, dram, package-1"
    spent = counter.start()
    for folder, microjoules in {"intel-rapl:0": 5_000_000, "intel-rapl:0:0": 4_000_000, "intel-rapl:2": 9}.items():
        add(root, folder, microjoules)
    add(root, "intel-rapl:0:1", 500_000)
    add(root, "intel-rapl:1", 2_000_000)
    assert spent.joules() == pytest.approx(7.5)


def test_a_counter_that_begins_anew_in_between_still_adds_up(root: Path) -> None:
    (root / "intel-rapl:0" / "energy_uj").write_text("262143328000\n")
    spent = energy_counter("cpu", root).start()
    add(root, "intel-rapl:0", 3_000_000)
    assert int((root / "intel-rapl:0" / "energy_uj").read_text()) < 3_000_000
    assert spent.joules() == pytest.approx(3.0)


def test_where_nothing_counts_the_reason_is_told(
    root: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = energy_counter("cpu", tmp_path_factory.mktemp("none"))
    assert empty.source.startswith("not measured here: this system lists no RAPL counters in")
    assert empty.start().joules() is None
    assert energy_counter("mps", root).source == "not measured here: no counter of this device is known"
    read_text = Path.read_text

    def refused(path: Path, *rest: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *rest)

    monkeypatch.setattr(Path, "read_text", refused)
    energy_counter.cache_clear()
    assert "only root may read" in energy_counter("cpu", root).source


def test_a_gpu_is_counted_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    millijoules = iter([1_000, 5_000, 12_500])
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(millijoules) if handle == "GPU-1-2" else 0,
    )
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="1-2"))
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    energy_counter.cache_clear()
    counter = energy_counter("cuda")
    assert (counter.source, counter.start().joules()) == ("NVML: GPU", 7.5)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    energy_counter.cache_clear()
    assert "scheduler-lab[energy]" in energy_counter("cuda").source
    energy_counter.cache_clear()


def samples(joules: list[float | None], batch: int = 1, energy: str | None = "RAPL: package-0") -> pd.DataFrame:
    rows = [
        {"lane": "a", "environment_id": "e", "batch_size": batch, "stage": stage, "joules": value, "energy": energy}
        for value in joules
        for stage in ("denoiser", "total")
    ]
    found = pd.DataFrame(rows)
    found.loc[found["stage"] != "total", ["joules", "energy"]] = None
    return found


def times(batch: int = 1) -> pd.DataFrame:
    return pd.DataFrame([{"lane": "a", "label": "A", "environment_id": "e", "batch_size": batch}])


def test_a_thousand_images_take_the_mean_of_the_samples() -> None:
    used = energy_per_image(samples([36.0, 72.0, 36.0, 72.0, 54.0, 54.0]), times())
    row = used.watt_hours.iloc[0]
    # 54 J an image are 15 Wh for a thousand.
    assert (row["wh_1k"], row["n"], used.source) == (pytest.approx(15.0), 6, "RAPL: package-0")
    assert 10.0 <= row["wh_1k_low"] < 15.0 < row["wh_1k_high"] <= 20.0
    batched = energy_per_image(samples([216.0] * 6, batch=4), times(4)).watt_hours.iloc[0]
    assert batched["wh_1k"] == pytest.approx(15.0)
    assert usd_per_1000_by_energy(15.0, 0.2) == pytest.approx(0.003)


def test_few_samples_have_no_interval_and_none_no_figure() -> None:
    few = energy_per_image(samples([36.0, 72.0]), times()).watt_hours.iloc[0]
    assert np.isnan([few["wh_1k_low"], few["wh_1k_high"]]).all()
    why = "not measured here: this system lists no RAPL counters"
    none = energy_per_image(samples([None, None], energy=why), times())
    assert none.watt_hours.empty
    assert none.source == why
    assert energy_per_image(samples([None], energy=None), times()).source == NOT_COUNTED
