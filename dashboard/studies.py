"""A study as the pages see it: the plan from its file, and what the cache holds of it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from engine.analysis import timing

CellState = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class StudyData:
    """Everything the cache says about a study, pictures aside; frames as returned by `engine.cache.queries`.

    `summary` is what `timing.summarise` makes of `timings`.
    """

    spec: dict[str, Any]
    cells: pd.DataFrame
    missing: int
    timings: pd.DataFrame
    environments: pd.DataFrame
    models: pd.DataFrame
    summary: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        """Adds the timing summaries, so that they are remembered with the rest."""
        object.__setattr__(self, "summary", timing.summarise(self.timings, self.baseline))

    @property
    def baseline(self) -> str:
        """The lane that others are compared with: the study's, or else the first."""
        return str(self.spec.get("baseline") or next(iter(self.cells["study_lane"]), ""))


@dataclass(frozen=True)
class Progress:
    """How far a study is: what a page compares to see whether there is something new."""

    done: int
    failed: int
    missing: int
    samples: int


@dataclass(frozen=True)
class LaneView:
    """A lane as shown. `nfe` is None until a cell is done."""

    key: str
    label: str
    scheduler: str
    steps: int
    nfe: int | None
    description: str = ""


@dataclass(frozen=True)
class CellView:
    """A cell as shown, missing ones included."""

    state: CellState
    trajectory_id: str = ""
    error: str = ""

    @property
    def reason(self) -> str:
        """Why there is no picture."""
        if self.state == "failed":
            return f"Failed: {self.error or 'no error was recorded'}"
        return "Not run yet" if self.state == "missing" else "No picture is stored"


class StudyView:
    """Answers what a page asks about a study."""

    def __init__(self, study_id: str, data: StudyData) -> None:
        """Takes the plan from the stored study, and from the cells where that says nothing."""
        spec, cells = data.spec, data.cells
        self.id = study_id
        self.data = data
        self.description = str(spec.get("description") or "")
        self.lanes = _lanes(spec, cells)
        self.prompts = _listed(spec, "prompts", str) or list(dict.fromkeys(cells["prompt"]))
        self.seeds = _listed(spec, "seeds", int) or [int(seed) for seed in dict.fromkeys(cells["seed"])]
        self.baseline = data.baseline
        self.frame_kinds = _listed(_table(spec, "frames"), "kinds", str)

    @cached_property
    def progress(self) -> Progress:
        """Cells by outcome, and timing samples."""
        status = self.data.cells["status"]
        samples = int((self.data.timings["stage"] == "total").sum())
        return Progress(int((status == "done").sum()), int((status == "failed").sum()), self.data.missing, samples)

    @property
    def total(self) -> int:
        """Cells planned."""
        return self.progress.done + self.progress.failed + self.progress.missing

    @property
    def unfinished(self) -> bool:
        """Whether cells or timing samples that the study asks for are not there yet."""
        wanted = _table(self.data.spec, "timing")
        batches = _listed(wanted, "batch_sizes", int)
        repeats = _whole(wanted.get("repeats")) * len(batches) * len(self.lanes)
        return self.progress.missing > 0 or (self.progress.done > 0 and self.progress.samples < repeats)

    def lane(self, key: str) -> LaneView | None:
        """The lane of a key."""
        return next((lane for lane in self.lanes if lane.key == key), None)

    def cell(self, lane: str, prompt: str, seed: int) -> CellView:
        """The cell of a lane, prompt and seed."""
        return self._cells.get((lane, prompt, seed), CellView("missing"))

    @cached_property
    def _cells(self) -> dict[tuple[str, str, int], CellView]:
        frame = self.data.cells
        names = ("study_lane", "prompt", "seed", "status", "trajectory_id", "error")
        rows = zip(*(frame[name].to_numpy(dtype=object) for name in names), strict=True)  # four times as fast as series
        return {
            (lane, prompt, int(seed)): CellView(status, key, error if isinstance(error, str) else "")
            for lane, prompt, seed, status, key, error in rows
        }

    @property
    def counts(self) -> pd.DataFrame:
        """Cells of each lane by outcome: columns done, failed, missing by lane key."""
        table = pd.crosstab(self.data.cells["study_lane"], self.data.cells["status"])
        table = table.reindex(index=[lane.key for lane in self.lanes], columns=["done", "failed"], fill_value=0)
        planned = len(self.prompts) * len(self.seeds)
        return table.assign(missing=(planned - table.sum(axis=1)).clip(lower=0))

    @property
    def failures(self) -> pd.DataFrame:
        """Failed cells: study_lane, prompt, seed, error, created_at."""
        failed = self.data.cells[self.data.cells["status"] == "failed"]
        return failed[["study_lane", "prompt", "seed", "error", "created_at"]]

    @property
    def facts(self) -> list[str]:
        """Model, picture size, guidance: what all cells share, in a few words each."""
        spec, cells = self.data.spec, self.data.cells
        found = [f"model {spec['model']}"] if spec.get("model") else []
        if not cells.empty:
            first = cells.iloc[0]
            size, guidance = f"{first['width']} × {first['height']} px", f"guidance {first['guidance_scale']:g}"
            found += [size, guidance, str(first["dtype"])]
        return found

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Timing summaries of all environments and batch sizes (`timing.summarise`), with what pages show of a lane.

        Further columns: label, scheduler, steps, is_baseline.
        """
        table = self.data.summary
        lanes = {lane.key: lane for lane in self.lanes}
        table = table[table["lane"].isin(list(lanes))]
        return table.assign(
            label=[lanes[key].label for key in table["lane"]],
            scheduler=[lanes[key].scheduler for key in table["lane"]],
            steps=[lanes[key].steps for key in table["lane"]],
            is_baseline=table["lane"] == self.baseline,
        )

    def environments_timed(self) -> dict[str, str]:
        """Environments with timing samples, the one that counts first: id -> name, made unique."""
        names = dict(zip(self.timings["environment_id"], self.timings["device_name"], strict=True))
        return _unique({key: str(names[key]) for key in timing.environments_by_last_timing(self.timings)})


def _lanes(spec: Mapping[str, Any], cells: pd.DataFrame) -> list[LaneView]:
    """The lanes in the study's order; labels are made unique by adding the key."""
    counted = cells.dropna(subset=["nfe"]).groupby("study_lane")["nfe"].first()
    entries = [entry for entry in _listed(spec, "lanes", dict) if entry.get("key")]
    if not entries:
        first = cells.drop_duplicates("study_lane")
        entries = [
            {
                "key": row["study_lane"],
                "scheduler": row["scheduler"],
                "steps": row["steps"],
                "label": f"{row['scheduler_label']} {row['steps']}",
            }
            for _, row in first.iterrows()
        ]
    labels = _unique({str(entry["key"]): str(entry.get("label") or entry["key"]) for entry in entries})
    return [
        LaneView(
            key=str(entry["key"]),
            label=labels[str(entry["key"])],
            scheduler=str(entry.get("scheduler") or str(entry["key"]).partition(":")[0]),
            steps=_whole(entry.get("steps")),
            nfe=int(counted[entry["key"]]) if entry["key"] in counted.index else None,
            description=str(entry.get("description") or ""),
        )
        for entry in entries
    ]


def _unique(names: Mapping[str, str]) -> dict[str, str]:
    """Adds the key to names that occur more than once."""
    often = {name for name in names.values() if list(names.values()).count(name) > 1}
    return {key: f"{name} ({key})" if name in often else name for key, name in names.items()}


def _table(spec: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = spec.get(key)
    return value if isinstance(value, dict) else {}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _listed(spec: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    value = spec.get(key)
    return [item for item in value if isinstance(item, kind)] if isinstance(value, list) else []
