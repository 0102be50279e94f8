"""The results of a study: its tables, read from the cache once, and everything derived from them. Imports no torch.

Pages, report, exports, commands and the Python API all use this object, so that they cannot disagree.
"""

import copy
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from engine.analysis import timing_summary as timing
from engine.analysis.claims import Claim, ClaimVerdict, evaluate, lanes_of
from engine.analysis.comparison import Comparison, Floor, compare, floors_of
from engine.analysis.convergence import Convergence, convergence
from engine.analysis.decision import Decision
from engine.analysis.fixed_terms import FixedTerms, decision_by, read_terms
from engine.analysis.outcomes import (
    StudyCell,
    StudyLane,
    StudyProgress,
    cells_by_subject,
    listed,
    study_lanes,
    table_in,
    unique_names,
)
from engine.analysis.recommendation import Recommendation, deciding, recommend, words_of
from engine.analysis.standings import LANE_COLUMNS, standings
from engine.cache import decision_tables, lint_tables, queries, score_tables, step_tables, vote_table
from engine.cache.connection import Connection
from engine.errors import StudyError, did_you_mean


@dataclass(frozen=True)
class Results:
    """The results of a study. The queries in `engine.cache` document the columns of the tables.

    Attributes:
        id: Name of the study.
        spec: The study as stored; untrusted.
        cells: The cells that have run.
        samples: Raw timing samples of every environment (`queries.timings`).
        noise: How well the arithmetic repeats itself (`lint_tables.noise`).
        missing: How many cells have not run yet.
        sets: Metrics of whole sets, against the reference and the baseline (`score_tables.lane_scores`).
        frame_quality: Of the lanes that were asked for alone, as `step_metrics` (`read_details`).
        stored_decision: Terms and state of the search for a lane, as stored; None if there was none.
        evidence: What prompts say of lanes by its guards (`decision_tables.evidence`).
        votes: Blind votes on its pictures, if lanes were asked for (`read_details`).
        version: State of the cache that was read, for those who remember what follows from the results.
        place: Environment and batch size whose times are shown; None: batch 1 in the environment that counts.
    """

    id: str
    spec: Mapping[str, Any]
    cells: pd.DataFrame
    metrics: pd.DataFrame
    quality: pd.DataFrame
    unscored: pd.DataFrame
    frame_quality: pd.DataFrame
    step_metrics: pd.DataFrame
    samples: pd.DataFrame
    references: pd.DataFrame
    environments: pd.DataFrame
    models: pd.DataFrame
    noise: pd.DataFrame
    missing: int
    set_metrics: pd.DataFrame
    sets: pd.DataFrame
    stored_decision: tuple[Any, Any] | None = None
    evidence: pd.DataFrame = field(default_factory=pd.DataFrame)
    votes: pd.DataFrame = field(default_factory=pd.DataFrame)
    version: Hashable = None
    place: tuple[str, int] | None = None

    # The plan.

    @property
    def baseline(self) -> str:
        """The lane with which others are compared: the study's baseline, or else the first lane."""
        return _baseline(self.spec, self.cells)

    @property
    def description(self) -> str:
        """The author's description of the study."""
        return str(self.spec.get("description") or "")

    @property
    def prompts(self) -> list[str]:
        """The prompts in the study's order."""
        return listed(self.spec, "prompts", str) or list(dict.fromkeys(self.cells["prompt"]))

    @property
    def seeds(self) -> list[int]:
        """The seeds in the study's order."""
        return listed(self.spec, "seeds", int) or [int(seed) for seed in dict.fromkeys(self.cells["seed"])]

    @cached_property
    def lanes(self) -> list[StudyLane]:
        """The lanes in the study's order; labels are made unique by adding the key."""
        return study_lanes(self.spec, self.cells)

    @property
    def lane_table(self) -> pd.DataFrame:
        """The lanes as a table: columns `LANE_COLUMNS`."""
        rows = [(one.key, one.label, one.scheduler, one.steps, one.nfe, one.key == self.baseline) for one in self.lanes]
        return pd.DataFrame(rows, columns=LANE_COLUMNS).astype({"nfe": float})

    def lane(self, key: str) -> StudyLane | None:
        """The lane with this key, or None."""
        return next((lane for lane in self.lanes if lane.key == key), None)

    def lane_label(self, key: str) -> str:
        """Display name of a lane."""
        return self.lane_labels.get(key, key)

    @property
    def lane_labels(self) -> dict[str, str]:
        """Key -> display name of the lanes."""
        return {lane.key: lane.label for lane in self.lanes}

    # Cells and environments.

    @property
    def progress(self) -> StudyProgress:
        """Cells by outcome, and timing samples."""
        status = self.cells["status"]
        samples = int((self.samples["stage"] == "total").sum())
        return StudyProgress(int((status == "done").sum()), int((status == "failed").sum()), self.missing, samples)

    @property
    def total(self) -> int:
        """Cells planned."""
        return len(self.cells) + self.missing

    @property
    def awaited(self) -> int:
        """Cells still to run; a decision leaves out those that it has no need of."""
        return 0 if self.decision is not None else self.missing

    @property
    def unfinished(self) -> bool:
        """Whether cells or timing samples of the study are still missing."""
        wanted, progress = table_in(self.spec, "timing"), self.progress
        repeats = wanted.get("repeats")
        batches = len(listed(wanted, "batch_sizes", int))
        samples = repeats * batches * len(self.lanes) if isinstance(repeats, int) else 0
        return self.awaited > 0 or (progress.done > 0 and progress.samples < samples)

    def cell(self, lane: str, prompt: str, seed: int) -> StudyCell:
        """The cell of a lane, prompt and seed."""
        return self._outcomes.get((lane, prompt, seed), StudyCell("missing"))

    @cached_property
    def _outcomes(self) -> dict[tuple[str, str, int], StudyCell]:
        return cells_by_subject(self.cells)

    @property
    def counts(self) -> pd.DataFrame:
        """Number of cells by outcome: columns done, failed, missing, indexed by lane key."""
        table = pd.crosstab(self.cells["study_lane"], self.cells["status"])
        table = table.reindex(index=[lane.key for lane in self.lanes], columns=["done", "failed"], fill_value=0)
        planned = len(self.prompts) * len(self.seeds)
        return table.assign(missing=(planned - table.sum(axis=1)).clip(lower=0))

    @property
    def failures(self) -> pd.DataFrame:
        """Failed cells: study_lane, prompt, seed, error, created_at."""
        failed = self.cells[self.cells["status"] == "failed"]
        return failed[["study_lane", "prompt", "seed", "error", "created_at"]]

    @property
    def facts(self) -> list[str]:
        """What all cells have in common, as short texts: model, picture size, guidance, number format, step frames."""
        found = [f"model {self.spec['model']}"] if self.spec.get("model") else []
        if not self.cells.empty:
            first = self.cells.iloc[0]
            size, guidance = f"{first['width']} × {first['height']} px", f"guidance {first['guidance_scale']:g}"
            tiny = self.cells["frame_decoder"].dropna().str.startswith("tiny").any()
            found += [size, guidance, str(first["dtype"]), *["step frames by a small decoder"] * bool(tiny)]
        return found

    @property
    def environment_lines(self) -> list[str]:
        """The environments that computed the cells or timed the lanes, one line each."""
        lines = [
            f"{row.device}: {row.device_name}, torch {row.torch}, diffusers {row.diffusers}, {row.cells} cells"
            for row in self.environments.itertuples()
        ]
        timed = self.samples.groupby("environment_id")["device_name"].first() if len(self.samples) else {}
        known = set(self.environments["environment_id"])
        return lines + [f"{name}: timing only" for key, name in timed.items() if key not in known]

    # Times.

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Timing summaries of all environments and batch sizes (`timing_summary.summarise`).

        Additional columns: label, scheduler, steps, is_baseline.
        """
        table = timing.summarise(self.samples, self.baseline)
        shown = self.lane_table[["lane", "label", "scheduler", "steps", "is_baseline"]]
        return table.merge(shown, on="lane", how="inner")

    @property
    def timed_environments(self) -> dict[str, str]:
        """Environments with times, the default one first: id -> unique display name."""
        names = dict(zip(self.timings["environment_id"], self.timings["device_name"], strict=True))
        return unique_names({key: str(names[key]) for key in timing.environments_by_last_timing(self.timings)})

    def timed_at(self, environment_id: str, batch_size: int) -> "Results":
        """The same results with `times` of another environment or batch size."""
        seen = copy.copy(self)
        object.__setattr__(seen, "place", (environment_id, batch_size))
        return seen

    @property
    def times(self) -> pd.DataFrame:
        """The rows of `timings` for `place`, or by default for batch 1 in the environment timed last; fastest first."""
        if self.place is None:
            return timing.counted(self.timings).reset_index(drop=True)
        environment_id, batch_size = self.place
        table = self.timings
        here = (table["environment_id"] == environment_id) & (table["batch_size"] == batch_size)
        return table[here].reset_index(drop=True)

    # Quality.

    @cached_property
    def floors(self) -> dict[str, Floor]:
        """Smallest meaningful difference by metric."""
        return floors_of(self.references, self.noise)

    @property
    def reference_line(self) -> str:
        """Number of prompts and seeds with a ground truth, and its accuracy; empty without a reference."""
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

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Every lane compared with the baseline by every metric."""
        return compare(
            self.quality, self.metrics, self.baseline, self.floors, unscored=self.unscored, margins=self._margins
        )

    @property
    def _margins(self) -> dict[str, float]:
        """Margins fixed by the calibration of the decision, by metric."""
        guards = self.terms.terms.calibration.guards if self.terms else ()
        return {guard.key: -guard.bound for guard in guards if guard.kind == "difference"}

    @property
    def deciding(self) -> str:
        """Key of the deciding metric."""
        return deciding(set(self.quality["metric"]))

    def metric_label(self, metric: str) -> str:
        """Display name of a metric."""
        names = dict(zip(self.metrics["metric"], self.metrics["label"], strict=True))
        return str(names.get(metric, metric))

    def compared_by(self, metric: str) -> list[Comparison]:
        """The comparisons by one metric."""
        return [row for row in self.comparisons if row.metric == metric]

    def comparison(self, lane: str) -> Comparison | None:
        """Comparison of a lane by the deciding metric."""
        return next((row for row in self.compared_by(self.deciding) if row.lane == lane), None)

    @cached_property
    def convergence(self) -> Convergence:
        """Errors against the converged solution, and the observed order of each scheduler."""
        return convergence(self.quality, self.cells, floor=float(self.floors.get("latent_error", 0.0)))

    @property
    def standings(self) -> pd.DataFrame:
        """Every lane by every metric, with its `times`."""
        return standings(self.lane_table, self.times, self.comparisons, self.decided)

    @cached_property
    def terms(self) -> FixedTerms | None:
        """Terms fixed before any candidate was measured; None if there is no decision, or they are invalid."""
        try:
            found = read_terms(self.stored_decision[0]) if self.stored_decision else None
        except ValueError:
            return None  # an untrusted file; no decision is the safe answer
        return found if found and found.terms.baseline == self.baseline else None

    @cached_property
    def decision(self) -> Decision | None:
        """The decision which lane may replace the baseline; None if there is none, or the stored one is invalid."""
        if self.terms is None or self.stored_decision is None:
            return None
        try:
            return decision_by(self.terms, self.evidence, self.stored_decision[1])
        except (ValueError, TypeError, AttributeError):
            return None

    @property
    def decided(self) -> dict[str, str]:
        """State of each lane in the decision, in two or three words; "baseline" for the baseline."""
        return words_of([lane.key for lane in self.lanes], self.decision) | {self.baseline: "baseline"}

    @property
    def recommendation(self) -> Recommendation:
        """The recommended lane, or the baseline, or why neither is known; the same in every view."""
        scored = self.deciding in set(self.quality["metric"])
        return recommend(self.times, self.comparisons, self.baseline, self.deciding, self.decision, scored=scored)

    def claim_verdicts(self, known: Sequence[Claim]) -> tuple[ClaimVerdict, ...]:
        """Verdicts on claims; none if the study has none of the lanes they are about."""
        if not set(lanes_of(known)) & {lane.key for lane in self.lanes}:
            return ()
        return tuple(evaluate(known, self))

    def with_details(self, details: tuple[pd.DataFrame, ...]) -> "Results":
        """The same results with what claims need besides."""
        seen = copy.copy(self)
        for name, table in zip(("step_metrics", "frame_quality", "votes"), details, strict=True):
            object.__setattr__(seen, name, table)
        return seen

    def worked_out(self) -> "Results":
        """Computes everything that takes a bootstrap, so that pickled results include it; returns itself."""
        _ = self.timings, self.comparisons, self.convergence, self.decision
        return self


def read_results(db: Connection, study_id: str, lanes: Sequence[str] | None = ()) -> Results:
    """Reads the results of a study, without pictures.

    Args:
        db: An open connection.
        study_id: Name of the study.
        lanes: Lanes whose details are read too (by far the most rows); None: all lanes.

    Raises:
        StudyError: The cache holds no such study.
    """
    spec: dict[str, Any] | None = queries.spec(db, study_id)
    if not isinstance(spec, dict):
        known = ", ".join(names := queries.studies(db)["name"].tolist()) or "none yet"
        raise StudyError(f"The cache holds no study '{study_id}'.{did_you_mean(study_id, names)} Studies: {known}.")
    cells, converged = queries.cells(db, study_id), str(table_in(spec, "reference").get("lane") or "")
    again = queries.repeated_prompts(db, study_id)
    step_metrics, frame_quality, votes = read_details(db, study_id, lanes)
    return Results(
        id=study_id,
        spec=spec,
        cells=cells,
        metrics=score_tables.metrics(db, study_id),
        quality=_counted(score_tables.picture_scores(db, study_id), again),
        unscored=_counted(score_tables.picture_reasons(db, study_id), again),
        frame_quality=frame_quality,
        step_metrics=step_metrics,
        samples=queries.timings(db, study_id),
        references=score_tables.references(db, study_id),
        environments=queries.environments(db, study_id),
        models=queries.models(db, study_id),
        noise=lint_tables.noise(db, study_id),
        missing=queries.missing_cells(db, study_id),
        set_metrics=score_tables.metrics(db, study_id, "lane"),
        sets=score_tables.lane_scores(db, study_id, list(filter(None, (converged, _baseline(spec, cells))))),
        stored_decision=decision_tables.shown_decision(db, study_id),
        evidence=decision_tables.evidence(db, study_id),
        votes=votes,
    )


def read_details(db: Connection, study_id: str, lanes: Sequence[str] | None) -> tuple[pd.DataFrame, ...]:
    """What claims on some lanes (None: all) need besides: step metrics, frame scores, and the votes."""
    again = queries.repeated_prompts(db, study_id)
    tables = step_tables.step_metrics(db, study_id, lanes), score_tables.frame_scores(db, study_id, lanes)
    votes = pd.DataFrame() if lanes is not None and not lanes else vote_table.votes(db, study_id)
    return _counted(tables[0], again), _counted(tables[1], again), votes


def _counted(table: pd.DataFrame, again: Collection[str]) -> pd.DataFrame:
    """Rows of prompts that count: a prompt that is one to the model with an earlier one adds no evidence."""
    return table[~table["prompt"].isin(again)].reset_index(drop=True) if again else table


def _baseline(spec: Mapping[str, Any], cells: pd.DataFrame) -> str:
    return str(spec.get("baseline") or next(iter(cells["study_lane"]), ""))
