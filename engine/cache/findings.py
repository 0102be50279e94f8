"""All that a cache holds about one study, as tables: what comparisons, claims and recommendations are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pandas as pd

from engine.cache import lint_tables, queries, score_tables, step_tables
from engine.errors import StudyError, did_you_mean


class Floor(float):
    """A difference below which nothing is told apart, and where it comes from."""

    def __new__(cls, value: float, source: str) -> "Floor":
        """A floor of that value."""
        floor = super().__new__(cls, value)
        floor.source = source
        return floor

    source: str


@dataclass(frozen=True)
class Findings:
    """A study's results; the columns of each table stand at the query of that name.

    Attributes:
        study_id: Name of the study.
        baseline: Its baseline lane.
        missing: Cells that have not run yet.
        set_metrics: Metrics of whole sets (`score_tables.metrics`).
        sets: What they say, against the reference and the baseline (`score_tables.lane_scores`).
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
    noise: pd.DataFrame
    missing: int
    set_metrics: pd.DataFrame
    sets: pd.DataFrame

    def floors(self) -> dict[str, Floor]:
        """Differences of a metric below these say nothing about lanes, by metric: the largest of what is known.

        The latent error to the reference and that to its check differ by at most the distance between the two. And
        what the same cell differs by under other batch sizes, or in the study's number format from float32, is
        arithmetic (`noise_floors`, of the study's environment and model).
        """
        known = []
        if len(self.references) and self.references["agrees"].any():
            distance = float(self.references[self.references["agrees"]]["distance"].median())
            known.append(Floor(distance, "distance of the reference to its check"))
        rows = self.noise[(self.noise["metric"] == "latent_error") & self.noise["median"].notna()]
        # A study is never compiled, and all of its cells are of one number format.
        rows = rows[rows["variation"].str.startswith(("again", "batch")) | (rows["variation"] == "float32")]
        if len(rows):
            worst = rows.sort_values("median").iloc[-1]
            known.append(
                Floor(
                    float(worst["median"]),
                    f"noise of the arithmetic ({worst['variation']}, "
                    f"{worst['lane']}, n = {int(worst['n'])}, on {worst['device_name']})",
                )
            )
        return {"latent_error": max(known)} if known else {}

    def reference_line(self) -> str:
        """How many prompts and seeds have a ground truth, and how well it is known; empty without a reference."""
        if not len(self.references):
            return ""
        agree = int(self.references["agrees"].sum())
        line = f"Reference: {agree} of {len(self.references)} prompts and seeds have a ground truth"
        apart = self.references["distance"].dropna()
        if len(apart):
            line += (
                f"; {self.references['reference'].iloc[0]} and {self.references['check'].iloc[0]} are "
                f"{apart.median():.2g} apart (median; largest {apart.max():.2g})"
            )
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


def load_findings(db: duckdb.DuckDBPyConnection, study_id: str, lanes: Sequence[str] | None = None) -> Findings:
    """Reads a study.

    Args:
        db: An open connection.
        study_id: Name of the study.
        lanes: Only of these are step metrics and frame scores read, by far the most rows; of all unless given.

    Raises:
        StudyError: The cache holds no such study.
    """
    spec: dict[str, Any] | None = queries.spec(db, study_id)
    if not isinstance(spec, dict):
        names = queries.studies(db)["name"].tolist()
        listed = ", ".join(names) or "none yet"
        raise StudyError(f"The cache holds no study '{study_id}'.{did_you_mean(study_id, names)} Studies: {listed}.")
    cells = queries.cells(db, study_id)
    baseline = str(spec.get("baseline") or next(iter(cells["study_lane"]), ""))
    return Findings(
        study_id=study_id,
        baseline=baseline,
        cells=cells,
        metrics=score_tables.metrics(db, study_id),
        quality=score_tables.picture_scores(db, study_id),
        unscored=score_tables.picture_reasons(db, study_id),
        frame_quality=score_tables.frame_scores(db, study_id, lanes),
        step_metrics=step_tables.step_metrics(db, study_id, lanes),
        timings=queries.timings(db, study_id),
        references=score_tables.references(db, study_id),
        environments=queries.environments(db, study_id),
        models=queries.models(db, study_id),
        noise=lint_tables.noise(db, study_id),
        missing=queries.missing_cells(db, study_id),
        set_metrics=score_tables.metrics(db, study_id, "lane"),
        sets=score_tables.lane_scores(db, study_id, _compared_with(spec, baseline)),
    )


def _compared_with(spec: dict[str, Any], baseline: str) -> list[str]:
    """Lanes that sets are compared with: the reference's, if there is one, and the baseline."""
    reference = spec.get("reference")
    converged = [str(reference.get("lane"))] if isinstance(reference, dict) else []
    return list(dict.fromkeys([*converged, baseline]))
