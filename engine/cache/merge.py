"""Merges another cache into this one. `inventory` lists what depends on what; these are the rules:

- Existing rows stay. Only missing rows are added, a whole unit at a time (`CacheTable.unit`).
- A cell is added with its frames, latents and step metrics, or not at all. A finished cell replaces a failed one, and
  a cell with more frames replaces one with fewer if both have the same picture; what was measured on its frames goes.
- Scores and votes are added where both sides have the same picture, and scores of whole lanes where all pictures are
  the same. A value replaces a reason for having none.
- Timings belong to their environment, so those of different machines coexist.
- Two studies of one name become one if their cells are the same, or if one has all cells of the other. Otherwise both
  are kept, the other one as NAME-DEVICE.

Cells are merged in groups, one transaction each, so that a run can keep writing meanwhile. Studies come last, so that
an interrupted import shows nothing incomplete; repeating it completes it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pyarrow as pa

from engine.cache import merge_studies
from engine.cache.connection import Connection
from engine.cache.inventory import CacheTable, named, of_kind, scope
from engine.cache.limits import CELL_BYTES, fetch_arrow, in_groups
from engine.cache.queries import KeptFrames
from engine.cache.rows import clear, put_missing, put_new
from engine.errors import CacheRefused

# A cell's picture is identified by its final latents, or else by the bytes of its final frames.
_PICTURES = """
    SELECT t.trajectory_id, t.status, md5(l.data) AS latents, f.finals, t.frame_count, t.frame_kinds, t.frame_decoder
    FROM trajectories t
    LEFT JOIN latents l USING (trajectory_id)
    LEFT JOIN (
        SELECT trajectory_id, string_agg(md5(image), ' ' ORDER BY step_index, video_frame) AS finals
        FROM frames WHERE kind = 'final' AND trajectory_id IN (SELECT id FROM wanted) GROUP BY trajectory_id
    ) f USING (trajectory_id)
    WHERE t.trajectory_id IN (SELECT id FROM wanted)
"""
Group = Callable[[], AbstractContextManager[Connection]]


@dataclass
class Merged:
    """The outcome of a merge.

    Attributes:
        rows: Rows added, by table.
        differing: Shared rows whose contents differ, by table; the existing ones were kept.
        cells: Cells added.
        replaced: Cells that had failed here, or had fewer frames, and were replaced.
        equal: Cells on both sides with the same picture.
        others: Cells on both sides with different pictures; the existing ones were kept.
        studies: The outcome for each study, in words.
    """

    rows: dict[str, int] = field(default_factory=dict)
    differing: dict[str, int] = field(default_factory=dict)
    cells: int = 0
    replaced: int = 0
    equal: int = 0
    others: set[str] = field(default_factory=set)
    studies: list[str] = field(default_factory=list)

    def added(self, table: str, rows: int) -> None:
        """Counts rows that were added."""
        self.rows[table] = self.rows.get(table, 0) + rows


def merge(source: Connection, group: Group, study: str | None = None) -> Merged:
    """Merges another cache into one.

    Args:
        source: The other cache, open for reading.
        group: Opens the cache to write to, for one transaction.
        study: Merge only this study and everything it depends on; None: everything.

    Raises:
        CacheRefused: A study in the file is damaged or too large; nothing was merged.
    """
    studies = _read(source, named("studies"), study)
    merge_studies.check(studies)
    cells = _sized_cells(source, study)
    merged = Merged()
    with group() as db:
        for table in of_kind("shared"):
            incoming = _read(source, table, study)
            if table.name == "models":
                _fill_parameters(db, incoming)
            added = put_missing(db, table, incoming)
            merged.added(table.name, added)
            kept = _differing(db, table, incoming) if added < incoming.num_rows else 0
            if kept:
                merged.differing[table.name] = kept
    for ids in in_groups(cells):
        with group() as db:
            _merge_cells(source, db, ids, merged)
    with group() as db:
        merged.studies, added_rows = merge_studies.merge(source, db, studies, partial(_read, source), merged.others)
        for name, count in added_rows.items():
            merged.added(name, count)
    return merged


def rows_query(table: CacheTable, study: str | None) -> tuple[str, dict[str, str]]:
    """Query and parameters for the rows of a table, of one study or all."""
    if study is None:
        return f"SELECT * FROM {table.name} WHERE {table.only}", {}
    return f"SELECT * FROM {table.name} WHERE {scope(table)}", {"study": study}


def _read(source: Connection, table: CacheTable, study: str | None) -> pa.Table:
    """The rows of a table, of one study or all."""
    return fetch_arrow(source, *rows_query(table, study))


def rows_of(source: Connection, table: CacheTable, ids: pa.Array) -> pa.Table:
    """The rows of a table that belong to these cells."""
    with _wanted(source, ids):
        return source.sql(
            f"SELECT * FROM {table.name} WHERE trajectory_id IN (SELECT id FROM wanted) AND {table.only}"
        ).to_arrow_table()


@contextmanager
def _wanted(db: Connection, ids: pa.Array) -> Iterator[None]:
    """Makes ids a table `wanted` with the column `id`; a list of thousands is slow as a parameter."""
    db.register("wanted", pa.table({"id": ids}))
    try:
        yield
    finally:
        db.unregister("wanted")


def _array(ids: Iterable[str]) -> pa.Array:
    return pa.array(list(ids), pa.string())


def _sized_cells(source: Connection, study: str | None) -> list[tuple[str, int]]:
    """Ids of all cells, or of those a study needs (references and swaps included), in a fixed order, with their
    approximate size in memory (bytes).

    Raises:
        CacheRefused: A cell does not fit into memory; cells are merged as a whole.
    """
    where, values = ("true", {}) if study is None else (scope(named("trajectories")), {"study": study})
    names = ("prompt", "negative_prompt", "scheduler_config", "error")
    texts = " + ".join(f"coalesce(strlen({name}), 0)" for name in names)
    query = f"""
        SELECT trajectory_id, (600 + {texts} + coalesce(bytes, 0))::BIGINT
        FROM trajectories LEFT JOIN (
            SELECT trajectory_id, sum(bytes) AS bytes FROM (
                SELECT trajectory_id, octet_length(image) + 200 AS bytes FROM frames WHERE {where}
                UNION ALL SELECT trajectory_id, octet_length(data) FROM latents WHERE {where}
                UNION ALL SELECT trajectory_id, 600 FROM steps WHERE {where}
                UNION ALL SELECT trajectory_id, 200 + coalesce(strlen(reason), 0) FROM scores
                WHERE scope <> 'lane' AND {where}
            ) GROUP BY trajectory_id
        ) USING (trajectory_id)
        WHERE {where} ORDER BY created_at, trajectory_id
    """
    cells = source.execute(query, values).fetchall()
    largest, size = max(cells, key=lambda cell: cell[1], default=("", 0))
    if size > CELL_BYTES:
        raise CacheRefused(
            f"The cache is refused: the cell {largest[:80]} has {size / 2**20:,.0f} MB of rows and pictures; the limit "
            f"for an import is {CELL_BYTES / 2**20:,.0f} MB."
        )
    return cells


def _merge_cells(source: Connection, db: Connection, ids: list[str], merged: Merged) -> None:
    ours = _pictures(db, _array(ids))
    theirs = _pictures(source, _array(ours)) if ours else {}
    new = [key for key in ids if key not in ours]
    same = [key for key in theirs if theirs[key].same_as(ours[key])]
    repaired = [key for key in theirs if theirs[key].status == "done" and ours[key].status == "failed"]
    richer = [key for key in same if theirs[key].richer_than(ours[key])]
    fresh, taken = _array([*new, *repaired]), _array([*new, *repaired, *richer])
    for table in of_kind("cell"):
        clear(db, table.name, [*repaired, *richer])
        merged.added(table.name, put_new(db, table, rows_of(source, table, taken)))
    for table in of_kind("score"):
        clear(db, table.name, repaired)
        if richer:
            _drop_of_frames(db, table, richer)
        merged.added(table.name, put_new(db, table, rows_of(source, table, fresh)))
        if same:
            scores = rows_of(source, table, _array(same))
            merge_studies.drop_reasons(db, table, scores)
            merged.added(table.name, put_missing(db, table, scores))
    merged.cells += len(new)
    merged.replaced += len(repaired) + len(richer)
    merged.equal += len(same) - len(richer)
    done = {key for key, picture in theirs.items() if picture.status == "done"}  # of what failed there, ours is kept
    merged.others |= done - {*repaired, *same}


class _Picture(NamedTuple):
    """A cell's picture: digests of its final latents and of its final frames, and its step frames."""

    status: str
    latents: str | None
    finals: str | None
    frames: KeptFrames

    def same_as(self, other: "_Picture") -> bool:
        if self.status != other.status:
            return False
        if self.status == "failed":
            return True
        both = self.latents and other.latents
        return self.latents == other.latents if both else self.finals == other.finals

    def richer_than(self, other: "_Picture") -> bool:
        more = self.frames.include(other.frames) and not other.frames.include(self.frames)
        return self.status == "done" and more


def _pictures(db: Connection, ids: pa.Array) -> dict[str, _Picture]:
    """The pictures of those of the cells that a cache has."""
    with _wanted(db, ids):
        rows = db.execute(_PICTURES).fetchall()
    return {
        key: _Picture(status, latents, finals, KeptFrames.stored(*frames))
        for key, status, latents, finals, *frames in rows
    }


def _drop_of_frames(db: Connection, table: CacheTable, replaced: list[str]) -> None:
    """Deletes what was measured on step frames that other frames replace, with the same metric of the picture."""
    of_cells = f"{table.only} AND trajectory_id IN (SELECT unnest($cells))"
    unit = "(trajectory_id, metric, metric_version)"
    db.execute(
        f"DELETE FROM {table.name} WHERE {of_cells} "
        f"AND {unit} IN (SELECT {unit} FROM {table.name} WHERE scope = 'frame' AND {of_cells})",
        {"cells": replaced},
    )


def _differing(db: Connection, table: CacheTable, incoming: pa.Table) -> int:
    """Number of incoming rows that have no identical row here."""
    if not incoming.num_rows:
        return 0
    db.register("incoming", incoming)
    rows = db.execute(f"SELECT count(*) FROM (SELECT * FROM incoming EXCEPT SELECT * FROM {table.name})").fetchall()
    db.unregister("incoming")
    return int(rows[0][0])


def _fill_parameters(db: Connection, incoming: pa.Table) -> None:
    """Sets the parameter count of models that have never been loaded here."""
    db.register("incoming", incoming)
    db.execute(
        "UPDATE models SET parameters = i.parameters FROM incoming i "
        "WHERE models.model_id = i.model_id AND models.parameters IS NULL"
    )
    db.unregister("incoming")
