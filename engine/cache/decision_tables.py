"""Decisions in the cache: what was fixed beforehand, and what each prompt says by each guard."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.rows import clear, now, put
from engine.study.study import canonical


@dataclass(frozen=True)
class EvidenceRow:
    """What a prompt says of a lane by a guard; see the table `evidence`."""

    lane: str
    prompt: str
    position: int
    guard: str
    value: float


def write_terms(path: Path, study_id: str, terms: dict[str, Any], *, keep_evidence: bool) -> None:
    """Writes the terms of a decision in place of those before; evidence by other terms goes."""
    with writing(path) as db:
        if not keep_evidence:
            clear(db, "evidence", [study_id], "study_id")
        row = {"study_id": study_id, "terms": canonical(terms), "state": "{}", "fixed_at": now()}
        put(db, "decisions", [row])


def write_evidence(path: Path, study_id: str, rows: Sequence[EvidenceRow], state: dict[str, Any]) -> None:
    """Writes a batch of evidence, and how far the search is, in one transaction."""
    with writing(path) as db:
        put(db, "evidence", [{"study_id": study_id, **asdict(row)} for row in rows])
        db.execute("UPDATE decisions SET state = ? WHERE study_id = ?", [canonical(state), study_id])


def stored_decision(db: duckdb.DuckDBPyConnection, study_id: str) -> tuple[Any, Any] | None:
    """Terms and state of a study's decision as plain data, which may be a stranger's; None: it has none."""
    found = db.execute("SELECT terms, state FROM decisions WHERE study_id = ?", [study_id]).fetchone()
    if found is None:
        return None
    return json.loads(found[0]), json.loads(found[1])


def evidence(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """What prompts say of lanes. Columns: lane, prompt, position, guard, value."""
    return db.execute(
        "SELECT lane, prompt, position, guard, value FROM evidence WHERE study_id = ? ORDER BY lane, position, guard",
        [study_id],
    ).df()


def picture_values(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> pd.DataFrame:
    """Scores of cells, whether or not a study shows them. Columns: trajectory_id, metric, metric_version, value."""
    return db.execute(
        "SELECT trajectory_id, metric, metric_version, value FROM scores "
        "WHERE scope = 'picture' AND value IS NOT NULL AND list_contains(?, trajectory_id)",
        [list(ids)],
    ).df()
