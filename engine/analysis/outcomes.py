"""Lanes and cells of a study as the cache has them. Nothing in a stranger's study is taken on trust."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from engine.study.tuned import PREFIX

CellState = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class StudyProgress:
    """Cells of a study by outcome, and its timing samples."""

    done: int
    failed: int
    missing: int
    samples: int


@dataclass(frozen=True)
class StudyLane:
    """A lane of a study; `nfe` (counted denoiser calls) is None until a cell is done.

    Attributes:
        conditions: What a tuned lane was tuned for; empty for others.
    """

    key: str
    label: str
    scheduler: str
    steps: int
    nfe: int | None
    conditions: str = ""


@dataclass(frozen=True)
class StudyCell:
    """The outcome of a cell."""

    state: CellState
    trajectory_id: str = ""
    error: str = ""

    @property
    def reason(self) -> str:
        """Why there is no picture."""
        if self.state == "failed":
            return f"Failed: {self.error or 'no error was recorded'}"
        return "Not run yet" if self.state == "missing" else "No picture is stored, or more than this page can carry"


def study_lanes(spec: Mapping[str, Any], cells: pd.DataFrame) -> list[StudyLane]:
    """The lanes of the stored study, or of the cells if it lists none; labels are made unique."""
    counted = cells.dropna(subset=["nfe"]).groupby("study_lane")["nfe"].first()
    entries = list({str(entry["key"]): entry for entry in listed(spec, "lanes", dict) if entry.get("key")}.values())
    entries = entries or [
        {
            "key": row.study_lane,
            "scheduler": row.scheduler,
            "steps": int(row.steps),
            "label": f"{row.scheduler_label} {row.steps}",
        }
        for row in cells.drop_duplicates("study_lane").itertuples()
    ]
    labels = unique_names({str(entry["key"]): str(entry.get("label") or entry["key"]) for entry in entries})
    return [
        StudyLane(
            key=str(entry["key"]),
            label=labels[str(entry["key"])],
            scheduler=str(entry.get("scheduler") or str(entry["key"]).partition(":")[0]),
            steps=entry["steps"] if isinstance(entry.get("steps"), int) else 0,
            nfe=int(counted[entry["key"]]) if entry["key"] in counted.index else None,
            conditions=str(entry.get("description") or "") if _is_tuned(entry) else "",
        )
        for entry in entries
    ]


def _is_tuned(entry: Mapping[str, Any]) -> bool:
    return str(entry.get("scheduler") or entry["key"]).startswith(PREFIX)


def cells_by_subject(cells: pd.DataFrame) -> dict[tuple[str, str, int], StudyCell]:
    """The cells that have run by lane, prompt and seed (columns of `engine.cache.queries.cells`)."""
    names = ("study_lane", "prompt", "seed", "status", "trajectory_id", "error")
    columns = (cells[name].to_numpy(dtype=object) for name in names)  # four times as fast as series
    return {
        (lane, prompt, int(seed)): StudyCell(status, key, error if isinstance(error, str) else "")
        for lane, prompt, seed, status, key, error in zip(*columns, strict=True)
    }


def unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """Adds the key to names that occur more than once."""
    often = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {key: f"{name} ({key})" if name in often else name for key, name in names.items()}


def table_in(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A table of the stored study; empty if it is not one."""
    value = spec.get(key)
    return value if isinstance(value, dict) else {}


def listed(spec: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    """The entries of a list of the stored study that have a type; empty if it is not a list."""
    value = spec.get(key)
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []
