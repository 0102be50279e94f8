"""Merging of studies: which are the same, which replace another, and which are renamed. `merge` states the rules."""

import re
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc

from engine.cache.connection import Connection
from engine.cache.inventory import of_kind
from engine.cache.rows import clear, put_missing
from engine.cache.stored_study import read_stored_study
from engine.errors import CacheRefused

MAX_NAME = 80


@dataclass(frozen=True)
class _Study:
    """A study on one side.

    Attributes:
        spec: Its settings as JSON.
        cells: Ids of its cells.
    """

    spec: str
    cells: frozenset[str]


def merge(
    source: Connection, db: Connection, incoming: dict[str, pa.Table], others: set[str]
) -> tuple[list[str], Counter[str]]:
    """Merges the studies of another cache, after their cells.

    Args:
        source: The other cache.
        db: The cache to write to, inside a transaction.
        incoming: The other cache's tables of kind "study", by name.
        others: Cells whose picture here differs.

    Returns:
        The outcome for each study in words, and the number of rows added by table.
    """
    theirs = _studies(incoming["studies"], incoming["study_trajectories"])
    outcomes: list[str] = []
    added: Counter[str] = Counter()
    for name, study in theirs.items():
        title, outcome = _match(db, name, study, _device(source, name))
        if outcome == "larger":
            for replaced in ("studies", "study_trajectories"):
                clear(db, replaced, [title], "study_id")
        for table in of_kind("study"):
            if table.name in ("studies", "study_trajectories") and outcome in ("same", "smaller"):
                continue
            rows = incoming[table.name]
            rows = _on_equal_pictures(rows.filter(pc.equal(rows["study_id"], name)), table.name, study, others)
            added[table.name] += put_missing(db, table, rows if title == name else _renamed(rows, title))
        outcomes.append(_describe(db, name, title, outcome, study))
    return outcomes, added


def check(incoming: pa.Table) -> None:
    """Validates the settings of another cache's studies before anything is merged.

    Raises:
        CacheRefused: One is invalid.
    """
    for row in incoming.to_pylist():
        read_stored_study(str(row["spec"]), str(row["study_id"]))


def _on_equal_pictures(rows: pa.Table, table: str, study: _Study, others: set[str]) -> pa.Table:
    """Drops scores and votes on pictures that differ here."""
    if table == "scores" and study.cells & others:
        return rows.slice(0, 0)
    if table == "votes" and others:
        seen = [pc.is_in(rows[side], pa.array(sorted(others), pa.string())) for side in ("left_id", "right_id")]
        return rows.filter(pc.invert(pc.or_(*seen)))
    return rows


def _match(db: Connection, name: str, study: _Study, device: str) -> tuple[str, str]:
    """The name a study gets here, and how it relates to the existing study of that name."""
    digest = sha256("\n".join(sorted(study.cells)).encode()).hexdigest()[:6]
    own = _shortened(name, f"-{device}")
    for title in (name, own, _shortened(own, f"-{digest}")):
        here = _here(db, title)
        if here is None:
            return title, "new"
        if here.cells == study.cells:
            return title, "same"
        if here.cells > study.cells:
            return title, "smaller"
        if here.cells < study.cells:
            return title, "larger"
    raise AssertionError(f"the cells of study {title} do not match the digest in its name")


def _here(db: Connection, title: str) -> _Study | None:
    spec = db.execute("SELECT spec FROM studies WHERE study_id = ?", [title]).fetchall()
    if not spec:
        return None
    cells = db.execute("SELECT trajectory_id FROM study_trajectories WHERE study_id = ?", [title]).fetchall()
    return _Study(str(spec[0][0]), frozenset(str(row[0]) for row in cells))


def _studies(studies: pa.Table, links: pa.Table) -> dict[str, _Study]:
    cells: dict[str, set[str]] = {}
    for study_id, trajectory_id in zip(
        *(links[name].to_pylist() for name in ("study_id", "trajectory_id")), strict=True
    ):
        cells.setdefault(study_id, set()).add(trajectory_id)
    return {
        row["study_id"]: _Study(str(row["spec"]), frozenset(cells.get(row["study_id"], ())))
        for row in studies.to_pylist()
    }


def _device(source: Connection, study: str) -> str:
    """The device that computed most cells of a study, as a suffix for its name."""
    rows = source.execute(
        "SELECT e.device_name FROM study_trajectories l JOIN trajectories t USING (trajectory_id) "
        "JOIN environments e USING (environment_id) WHERE l.study_id = ? "
        "GROUP BY ALL ORDER BY count(*) DESC, 1 LIMIT 1",
        [study],
    ).fetchall()
    words = re.sub(r"[^A-Za-z0-9]+", "-", str(rows[0][0]) if rows else "").strip("-").lower()
    return words[:40].strip("-") or "imported"


def _shortened(name: str, ending: str) -> str:
    return name[: MAX_NAME - len(ending)] + ending


def _renamed(rows: pa.Table, title: str) -> pa.Table:
    """The rows with another study id and study name."""
    for column in ("study_id", "name"):
        if column in rows.column_names:
            place = rows.column_names.index(column)
            rows = rows.set_column(place, column, pa.array([title] * rows.num_rows, pa.string()))
    return rows


def _describe(db: Connection, name: str, title: str, outcome: str, study: _Study) -> str:
    here = _here(db, title)
    settings_differ = here is not None and _settings(here.spec, title) != _settings(study.spec, name)
    count = f"{len(study.cells):,} cells"
    text = {
        "new": f"{name}: new, {count}",
        "larger": f"{name}: replaces the existing study, which has fewer cells; now {count}",
        "smaller": f"{name}: kept the existing study, which has all of its cells",
        "same": f"{name}: the same as the existing study, {count}",
    }[outcome]
    if title != name:
        text = f"{name}: its cells differ from those of the existing study, so it is stored as '{title}' ({count})"
        text += "" if outcome in ("new", "larger") else "; it was there already"
    if outcome in ("same", "smaller") and settings_differ:
        text += "; its settings differ, and the existing ones were kept"
    return text


def _settings(spec: str, study: str) -> object:
    """The settings independent of key order, or the raw text if it is invalid (older imports accepted that)."""
    try:
        return read_stored_study(spec, study)
    except CacheRefused:
        return spec
