"""All that a cache holds about one study, as tables: what comparisons, claims and recommendations are drawn from."""

from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from engine.cache import quality, queries
from engine.errors import StudyError, did_you_mean


@dataclass(frozen=True)
class Findings:
    """A study's results; the columns of each table stand at the query of that name.

    Attributes:
        study_id: Name of the study.
        baseline: Its baseline lane.
        missing: Cells that have not run yet.
    """

    study_id: str
    baseline: str
    cells: pd.DataFrame
    metrics: pd.DataFrame
    quality: pd.DataFrame
    unscored: pd.DataFrame
    frame_quality: pd.DataFrame
    step_metrics: pd.DataFrame
    timings: pd.DataFrame
    references: pd.DataFrame
    environments: pd.DataFrame
    models: pd.DataFrame
    missing: int

    def floors(self) -> dict[str, float]:
        """Differences of a metric below these say nothing about lanes, by metric.

        The latent error to the reference and that to its check differ by at most the distance between the two.
        """
        if not len(self.references) or not self.references["agrees"].any():
            return {}
        return {"latent_error": float(self.references[self.references["agrees"]]["distance"].median())}

    def reference_line(self) -> str:
        """How many prompts and seeds have a ground truth, and how well it is known; empty without a reference."""
        if not len(self.references):
            return ""
        agree = int(self.references["agrees"].sum())
        line = f"Reference: {agree} of {len(self.references)} prompts and seeds have a ground truth"
        apart = self.references["distance"].dropna()
        if len(apart):
            line += (f"; {self.references['reference'].iloc[0]} and {self.references['check'].iloc[0]} are "
                     f"{apart.median():.2g} apart (median; largest {apart.max():.2g})")  # fmt: skip
        return line + "."

    def environment_lines(self) -> list[str]:
        """Where the cells were computed and the lanes timed, one line each."""
        lines = [
            f"{row.device}: {row.device_name}, torch {row.torch}, diffusers {row.diffusers}, {row.cells} cells"
            for row in self.environments.itertuples()
        ]
        timed = self.timings.groupby("environment_id")["device_name"].first() if len(self.timings) else {}
        known = set(self.environments["environment_id"])
        return lines + [f"{name}: timing only" for key, name in timed.items() if key not in known]


def load_findings(db: duckdb.DuckDBPyConnection, study_id: str) -> Findings:
    """Reads a study.

    Raises:
        StudyError: The cache holds no such study.
    """
    spec: dict[str, Any] | None = queries.spec(db, study_id)
    if spec is None:
        names = queries.studies(db)["name"].tolist()
        listed = ", ".join(names) or "none yet"
        raise StudyError(f"The cache holds no study '{study_id}'.{did_you_mean(study_id, names)} Studies: {listed}.")
    return Findings(
        study_id=study_id,
        baseline=str(spec["baseline"]),
        cells=queries.cells(db, study_id),
        metrics=quality.metrics(db, study_id),
        quality=quality.quality(db, study_id),
        unscored=quality.unscored(db, study_id),
        frame_quality=quality.frame_quality(db, study_id),
        step_metrics=queries.step_metrics(db, study_id),
        timings=queries.timings(db, study_id),
        references=quality.references(db, study_id),
        environments=queries.environments(db, study_id),
        models=queries.models(db, study_id),
        missing=queries.missing_cells(db, study_id),
    )
