"""What a study comes to, for everything that is handed on: lanes, times and verdicts in tables. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from engine.analysis import timing
from engine.analysis.comparison import Comparison, compare
from engine.analysis.recommendation import deciding
from engine.analysis.standings import LANE_COLUMNS, standings
from engine.cache.findings import Findings


@dataclass(frozen=True)
class Summary:
    """A study's results, worked out as they are asked for.

    Attributes:
        findings: All that the cache says, pictures aside.
        spec: The study as it is stored.
    """

    findings: Findings
    spec: Mapping[str, Any]

    @cached_property
    def lanes(self) -> pd.DataFrame:
        """The lanes in the study's order: columns `LANE_COLUMNS`. Labels are made unique by adding the key."""
        cells = self.findings.cells
        counted = cells.dropna(subset=["nfe"]).groupby("study_lane")["nfe"].first()
        first = cells.drop_duplicates("study_lane").set_index("study_lane")
        rows = [_lane(lane) for lane in self.spec.get("lanes") or [] if isinstance(lane, Mapping) and lane.get("key")]
        rows = rows or [
            (key, f"{row['scheduler_label']} {row['steps']}", row["scheduler"], row["steps"])
            for key, row in first.iterrows()
        ]
        table = pd.DataFrame(rows, columns=["lane", "label", "scheduler", "steps"])
        twice = table.duplicated("label", keep=False)
        table.loc[twice, "label"] = table["label"] + " (" + table["lane"] + ")"
        calls = table["lane"].map({lane: float(calls) for lane, calls in counted.items()}).astype(float)
        return table.assign(nfe=calls, is_baseline=table["lane"] == self.findings.baseline)[LANE_COLUMNS]

    @cached_property
    def every_time(self) -> pd.DataFrame:
        """Timing summaries of every environment and batch size (`timing.summarise`)."""
        return timing.summarise(self.findings.timings, self.findings.baseline)

    @cached_property
    def times(self) -> pd.DataFrame:
        """Those at batch 1 in the environment that was timed last, fastest first, with label and scheduler."""
        table = timing.counted(self.every_time)
        shown = self.lanes.set_index("lane")
        table = table[table["lane"].isin(shown.index)]
        return table.assign(
            **{
                name: [shown.at[lane, name] for lane in table["lane"]]
                for name in ("label", "scheduler", "steps", "is_baseline")
            }
        )

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every lane against the baseline by every metric."""
        return compare(self.findings.quality, self.findings.metrics, self.findings.baseline, self.findings.floors())

    @property
    def deciding(self) -> str:
        """The metric that decides."""
        return deciding(set(self.findings.quality["metric"]))

    @cached_property
    def standings(self) -> pd.DataFrame:
        """Every lane by every metric, with the times of `times`."""
        return standings(self.lanes, self.times, self.comparisons)

    def label(self, lane: str) -> str:
        """A lane's name for people."""
        names = dict(zip(self.lanes["lane"], self.lanes["label"], strict=True))
        return str(names.get(lane, lane))

    @property
    def prompts(self) -> list[str]:
        """The prompts in the study's order."""
        listed = [text for text in self.spec.get("prompts") or [] if isinstance(text, str)]
        return listed or list(dict.fromkeys(self.findings.cells["prompt"]))

    @property
    def seeds(self) -> list[int]:
        """The seeds in the study's order."""
        listed = [seed for seed in self.spec.get("seeds") or [] if isinstance(seed, int)]
        return listed or [int(seed) for seed in dict.fromkeys(self.findings.cells["seed"])]


def summary_csv(summary: Summary) -> str:
    """All figures as CSV: a row for each lane and metric, in each environment and at each batch size it was timed.

    `n` counts timing samples, `prompts` and `pairs` what quality rests on; `low` and `high` are ends of 95 % intervals.
    """
    tables = [standings(summary.lanes, times, summary.comparisons) for times in _each_place(summary.every_time)]
    table = pd.concat(tables, ignore_index=True) if tables else summary.standings
    texts = table.select_dtypes(include=["object", "string"]).columns
    table = table.assign(**{name: table[name].map(_as_text) for name in texts})
    table.insert(0, "study", _as_text(summary.findings.study_id))
    table.insert(1, "baseline", _as_text(summary.findings.baseline))
    return str(table.to_csv(index=False, lineterminator="\n"))


def _each_place(times: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for _, group in times.groupby(["environment_id", "batch_size"], sort=True):
        yield group


def _as_text(value: Any) -> Any:
    """Keeps spreadsheets from running a text of a stranger as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"} else value


def _lane(lane: Mapping[str, Any]) -> tuple[str, str, str, int]:
    key = str(lane["key"])
    steps = lane.get("steps")
    return (
        key,
        str(lane.get("label") or key),
        str(lane.get("scheduler") or key.partition(":")[0]),
        steps if isinstance(steps, int) else 0,
    )
