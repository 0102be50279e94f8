"""What the statistics say of a study: worked out once for each state of the cache, after it has been closed again."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboard.asking import Answer, Problem, work_out
from engine.analysis.claims import ClaimVerdict, evaluate, lanes_of, read_claims
from engine.analysis.comparison import Comparison, compare
from engine.analysis.convergence import Convergence, convergence
from engine.analysis.recommendation import deciding
from engine.cache.connection import Connection
from engine.cache.findings import Findings, load_findings
from engine.errors import StudyError
from engine.paths import DATA

CLAIMS = DATA / "claims.toml"


@dataclass(frozen=True)
class Verdicts:
    """How the lanes of a study compare with its baseline.

    Attributes:
        metrics: Metrics of the study (`engine.cache.score_tables.metrics`).
        deciding: Key of the metric that decides on recommendations.
        found: Comparisons with the baseline by every metric.
        reference: How well the converged solution is known, in a sentence; empty without one.
        set_metrics: Metrics of whole sets of pictures (`engine.cache.score_tables.metrics`).
        sets: What they say (`engine.cache.score_tables.lane_scores`).
    """

    metrics: pd.DataFrame
    deciding: str
    found: tuple[Comparison, ...]
    reference: str
    set_metrics: pd.DataFrame
    sets: pd.DataFrame

    @property
    def metric_label(self) -> str:
        """The deciding metric's name for people."""
        return self.label(self.deciding)

    def label(self, metric: str) -> str:
        """A metric's name for people."""
        names = dict(zip(self.metrics["metric"], self.metrics["label"], strict=True))
        return str(names.get(metric, metric))

    def by(self, metric: str) -> tuple[Comparison, ...]:
        """The comparisons by one metric."""
        return tuple(row for row in self.found if row.metric == metric)

    def lane(self, lane: str) -> Comparison | None:
        """How a lane compares by the deciding metric."""
        return next((row for row in self.by(self.deciding) if row.lane == lane), None)


def verdicts(path: Path, study_id: str) -> Answer[Verdicts] | Problem:
    """How the lanes compare by every metric of the study."""
    return work_out(path, _scores, _compared, study_id)


def converging(path: Path, study_id: str) -> Answer[Convergence] | Problem:
    """Errors against the converged solution, and observed orders."""
    return work_out(path, _scores, _converging, study_id)


def claims(path: Path, study_id: str) -> Answer[tuple[ClaimVerdict, ...]] | Problem:
    """The claims put to the test; none if the study has none of the lanes they speak of."""
    try:
        lanes = lanes_of(read_claims(CLAIMS))
    except StudyError as error:
        return Problem("unreadable", "The claims cannot be read", str(error))
    return work_out(path, load_findings, _tested, study_id, lanes)


def _scores(db: Connection, study_id: str) -> Findings:
    """A study without its step metrics and frame scores."""
    return load_findings(db, study_id, ())


def _compared(findings: Findings) -> Verdicts:
    found = compare(findings.quality, findings.metrics, findings.baseline, findings.floors())
    metric = deciding(set(findings.quality["metric"]))
    return Verdicts(
        findings.metrics, metric, tuple(found), findings.reference_line(), findings.set_metrics, findings.sets
    )


def _converging(findings: Findings) -> Convergence:
    return convergence(findings.quality, findings.cells, floor=float(findings.floors().get("latent_error", 0.0)))


def _tested(findings: Findings) -> tuple[ClaimVerdict, ...]:
    known = read_claims(CLAIMS)
    if not set(lanes_of(known)) & set(findings.cells["study_lane"]):
        return ()
    return tuple(evaluate(known, findings))
