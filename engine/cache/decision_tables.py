"""Decisions in the cache: what was fixed beforehand, and what each prompt says by each guard."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.rows import now, put
from engine.study.study import canonical


@dataclass(frozen=True)
class EvidenceRow:
    """What the prompt at a place of the order says of a lane by a guard."""

    lane: str
    guard: str
    position: int
    value: float


def write_terms(path: Path, study_id: str, terms: dict[str, Any], *, keep_evidence: bool) -> None:
    """Writes the terms of a decision in place of those before; evidence by other terms goes."""
    with writing(path) as db:
        have = evidence(db, study_id) if keep_evidence else None
        _put(db, study_id, canonical(terms), "{}", have)


def write_evidence(path: Path, study_id: str, rows: Sequence[EvidenceRow], state: dict[str, Any]) -> None:
    """Adds a batch of evidence to a decision that has its terms, and says how far the search is, in one transaction."""
    with writing(path) as db:
        terms = db.execute("SELECT terms FROM decisions WHERE study_id = ?", [study_id]).fetchone()
        if terms is None:
            raise ValueError(f"Study '{study_id}' has no terms to decide by.")
        fresh = pd.DataFrame([vars(row) for row in rows], columns=["lane", "guard", "position", "value"])
        have = pd.concat([evidence(db, study_id), fresh.astype({"position": int, "value": float})])
        have = have.drop_duplicates(["lane", "guard", "position"], keep="last")
        _put(db, study_id, str(terms[0]), canonical(state), have)


def _put(db: duckdb.DuckDBPyConnection, study_id: str, terms: str, state: str, have: pd.DataFrame | None) -> None:
    lists: list[dict[str, Any]] = []
    if have is not None:
        for (lane, guard), rows in have.groupby(["lane", "guard"], sort=True):
            values = rows.set_index("position")["value"].reindex(range(int(rows["position"].max()) + 1))
            plain = [None if value != value else float(value) for value in values]
            lists.append({"lane": lane, "guard": guard, "values": plain})
    row = {"study_id": study_id, "terms": terms, "state": state, "evidence": lists, "fixed_at": now()}
    put(db, "decisions", [row])


def stored_decision(db: duckdb.DuckDBPyConnection, study_id: str) -> tuple[Any, Any] | None:
    """Terms and state of a study's decision as plain data, which may be a stranger's; None: it has none."""
    found = db.execute("SELECT terms, state FROM decisions WHERE study_id = ?", [study_id]).fetchone()
    if found is None:
        return None
    return json.loads(found[0]), json.loads(found[1])


def evidence(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """What prompts say of lanes. Columns: lane, guard, position (of the prompt in the order), value."""
    return db.execute(
        """
        SELECT e.lane, e.guard, p.position, e."values"[p.position + 1] AS value
        FROM (SELECT unnest(evidence) AS e FROM decisions WHERE study_id = ?),
             unnest(range(len(e."values"))) AS p(position)
        WHERE value IS NOT NULL ORDER BY e.lane, e.guard, p.position
        """,
        [study_id],
    ).df()


def picture_values(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> pd.DataFrame:
    """Scores of cells, whether or not a study shows them. Columns: trajectory_id, metric, metric_version, value."""
    return db.execute(
        "SELECT trajectory_id, metric, metric_version, value FROM scores "
        "WHERE scope = 'picture' AND value IS NOT NULL AND list_contains(?, trajectory_id)",
        [list(ids)],
    ).df()
