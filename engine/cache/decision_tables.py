"""Decisions in the cache: the terms fixed in advance, and the evidence of each prompt by guard."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from engine.cache.connection import writing
from engine.cache.limits import fetch
from engine.cache.rows import now, put
from engine.study.study import canonical


@dataclass(frozen=True)
class EvidenceRow:
    """The value of one guard for a lane on one prompt; `position` is the prompt's place in the order of the terms."""

    lane: str
    guard: str
    position: int
    value: float


def write_terms(path: Path, study_id: str, terms: dict[str, Any], *, keep_evidence: bool) -> None:
    """Replaces the terms of a decision; evidence and state are dropped unless `keep_evidence` is set."""
    with writing(path) as db:
        kept = stored_decision(db, study_id) if keep_evidence else None
        have = evidence(db, study_id) if kept else None
        _put(db, study_id, canonical(terms), canonical(kept[1]) if kept else "{}", have)


def write_evidence(path: Path, study_id: str, rows: Sequence[EvidenceRow], state: dict[str, Any]) -> None:
    """Adds a batch of evidence to a decision and updates the state of the search, in one transaction.

    Raises:
        ValueError: The study has no terms yet.
    """
    with writing(path) as db:
        terms = db.execute("SELECT terms FROM decisions WHERE study_id = ?", [study_id]).fetchone()
        if terms is None:
            raise ValueError(f"Study '{study_id}' has no decision terms.")
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
    """Terms and state of a study's decision as plain, untrusted data; None if there is no decision."""
    found = db.execute("SELECT terms, state FROM decisions WHERE study_id = ?", [study_id]).fetchone()
    if found is None:
        return None
    return json.loads(found[0]), json.loads(found[1])


def made_digest(*settings: Any) -> str:
    """Digest of what a lane's pictures depend on: `config_id`, `model_id`, width, height, number format, guidance.

    After the guidance scale come the negative prompt and the digest of further arguments.
    """
    return sha256(canonical(list(settings)).encode()).hexdigest()[:16]


def shown_decision(db: duckdb.DuckDBPyConnection, study_id: str) -> tuple[Any, Any] | None:
    """A study's decision as `stored_decision`; None, too, if the study of this name shows other pictures by now."""
    found = stored_decision(db, study_id)
    about = found[0].get("about") if found and isinstance(found[0], dict) else None
    if not isinstance(about, dict):
        return found
    rows = db.execute(
        """
        SELECT DISTINCT l.lane, t.config_id, t.model_id, t.width, t.height, t.dtype, t.guidance_scale,
               t.negative_prompt, s.arguments
        FROM study_trajectories l JOIN studies s USING (study_id) LEFT JOIN trajectories t USING (trajectory_id)
        WHERE study_id = ? LIMIT 10000
        """,
        [study_id],
    ).fetchall()
    lanes = {row[0] for row in rows}
    made = {(row[0], made_digest(*row[1:])) for row in rows if row[1] is not None}
    begun = {lane for lane, _ in made}
    holds = all(lane in lanes and (lane not in begun or (lane, digest) in made) for lane, digest in about.items())
    return found if holds else None


def evidence(db: duckdb.DuckDBPyConnection, study_id: str) -> pd.DataFrame:
    """The evidence of a study. Columns: lane, guard, position (of the prompt in the order), value."""
    return fetch(
        db,
        """
        SELECT e.lane, e.guard, p.position, e."values"[p.position + 1] AS value
        FROM (SELECT unnest(evidence) AS e FROM decisions WHERE study_id = ?),
             unnest(range(len(e."values"))) AS p(position)
        WHERE value IS NOT NULL ORDER BY e.lane, e.guard, p.position
        """,
        [study_id],
    )


def picture_values(db: duckdb.DuckDBPyConnection, ids: Collection[str]) -> pd.DataFrame:
    """Scores of cells, in a study or not. Columns: trajectory_id, metric, metric_version, value."""
    return db.execute(
        "SELECT trajectory_id, metric, metric_version, value FROM scores "
        "WHERE scope = 'picture' AND value IS NOT NULL AND trajectory_id IN (SELECT unnest(?::VARCHAR[]))",
        [list(ids)],
    ).df()
