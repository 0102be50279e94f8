"""Merging of studies: which are the same, which replace another, and which are renamed. `merge` states the rules."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc

from engine.cache.connection import Connection
from engine.cache.inventory import CacheTable, named, of_kind
from engine.cache.rows import clear, put_missing
from engine.cache.stored_study import read_stored_study
from engine.errors import CacheRefused

MAX_NAME = 80
# What goes with the smaller study that a larger one replaces: settings, links, and what was measured on it as a whole.
_OF_THE_WHOLE = ("studies", "study_trajectories", "study_references", "study_metrics", "study_swaps", "scores")


Read = Callable[[CacheTable, str], pa.Table]


@dataclass(frozen=True)
class _Study:
    """A study of the other cache.

    Attributes:
        spec: Its settings as JSON.
        cells: Number of its cells.
        own: Whether the pictures of all its cells are the same here.
    """

    name: str
    spec: str
    cells: int
    own: bool


def merge(
    source: Connection, db: Connection, incoming: pa.Table, read: Read, others: set[str]
) -> tuple[list[str], Counter[str]]:
    """Merges the studies of another cache, after their cells.

    Args:
        source: The other cache.
        db: The cache to write to, inside a transaction.
        incoming: The studies to merge: rows of the other cache's table `studies`.
        read: Reads the rows of a table that belong to a study of the other cache.
        others: Cells whose picture here differs.

    Returns:
        The outcome for each study in words, and the number of rows added by table.
    """
    outcomes: list[str] = []
    added: Counter[str] = Counter()
    for row in incoming.to_pylist():
        name, links = str(row["study_id"]), read(named("study_trajectories"), str(row["study_id"]))
        shared = pc.is_in(links["trajectory_id"], pa.array(sorted(others), pa.string()))
        study = _Study(name, str(row["spec"]), links.num_rows, not pc.any(shared).as_py())
        title, outcome = _match(db, study, links, _device(source, name))
        if outcome == "larger":
            # What was measured on the smaller study as a whole goes, too.
            for replaced in _OF_THE_WHOLE:
                clear(db, replaced, [title], "study_id")
        for table in of_kind("study"):
            if table.name in ("studies", "study_trajectories") and outcome in ("same", "smaller"):
                continue
            if table.name == "study_references" and outcome in ("same", "smaller") and _has(db, table.name, title):
                continue  # two references for one picture would be none
            rows = links if table.name == "study_trajectories" else read(table, name)
            rows = _on_equal_pictures(rows, table.name, study, others)
            rows = rows if title == name else _renamed(rows, title)
            if table.name == "scores":
                drop_reasons(db, table, rows)
            if table.name == "decisions" and outcome == "larger" and study.own and rows.num_rows:
                clear(db, table.name, [title], "study_id")
            added[table.name] += put_missing(db, table, rows)
        outcomes.append(_describe(db, study, title, outcome))
    return outcomes, added


def _has(db: Connection, table: str, study: str) -> bool:
    return bool(db.execute(f"SELECT 1 FROM {table} WHERE study_id = ? LIMIT 1", [study]).fetchall())


def check(incoming: pa.Table) -> None:
    """Validates the settings of another cache's studies before anything is merged.

    Raises:
        CacheRefused: One is invalid.
    """
    for row in incoming.to_pylist():
        read_stored_study(str(row["spec"]), str(row["study_id"]))


def drop_reasons(db: Connection, table: CacheTable, incoming: pa.Table) -> None:
    """Deletes reasons for a missing score where the other cache has a value."""
    unit = ", ".join(table.unit)
    db.register("incoming", incoming)
    db.execute(
        f"DELETE FROM {table.name} WHERE value IS NULL AND {table.only} "
        f"AND ({unit}) IN (SELECT ({unit}) FROM incoming WHERE value IS NOT NULL)"
    )
    db.unregister("incoming")


def _on_equal_pictures(rows: pa.Table, table: str, study: _Study, others: set[str]) -> pa.Table:
    """Drops scores and votes on pictures that differ here."""
    if table == "scores" and not study.own:
        return rows.slice(0, 0)
    if table == "votes" and others:
        seen = [pc.is_in(rows[side], pa.array(sorted(others), pa.string())) for side in ("left_id", "right_id")]
        return rows.filter(pc.invert(pc.or_(*seen)))
    return rows


def _match(db: Connection, study: _Study, links: pa.Table, device: str) -> tuple[str, str]:
    """The name a study gets here, and how it relates to the existing study of that name."""
    own = _shortened(study.name, f"-{device}")
    for name in (lambda: study.name, lambda: own, lambda: _shortened(own, f"-{_digest(links)}")):
        title = name()
        if _spec(db, title) is None:
            return title, "new"
        here, common = _compared(db, title, links)
        if common == here == study.cells:
            return title, "same"
        if common == study.cells:
            return title, "smaller"
        if common == here:
            return title, "larger"
    raise AssertionError(f"the cells of study {title} do not match the digest in its name")


def _compared(db: Connection, title: str, links: pa.Table) -> tuple[int, int]:
    """Number of cells of a study here, and of those that it has in common with the other cache's."""
    db.register("links", links)
    found = db.execute(
        "SELECT count(*), count(*) FILTER (trajectory_id IN (SELECT trajectory_id FROM links)) "
        "FROM study_trajectories WHERE study_id = ?",
        [title],
    ).fetchall()[0]
    db.unregister("links")
    return int(found[0]), int(found[1])


def _digest(links: pa.Table) -> str:
    return sha256("\n".join(sorted(links["trajectory_id"].to_pylist())).encode()).hexdigest()[:6]


def _spec(db: Connection, title: str) -> str | None:
    found = db.execute("SELECT spec FROM studies WHERE study_id = ?", [title]).fetchall()
    return str(found[0][0]) if found else None


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


def _describe(db: Connection, study: _Study, title: str, outcome: str) -> str:
    name, here = study.name, _spec(db, title)
    settings_differ = here is not None and _settings(here, title) != _settings(study.spec, name)
    count = f"{study.cells:,} cells"
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
