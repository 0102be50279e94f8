"""Merges another cache into this one. `inventory` lists what depends on what; these are the rules:

- Existing rows stay. Only missing rows are added, a whole unit at a time (`CacheTable.unit`).
- A cell is added with its frames, latents and step metrics, or not at all. A finished cell replaces a failed one, and
  a cell with more frames replaces one with fewer if both have the same picture.
- Scores and votes are added where both sides have the same picture, and scores of whole lanes where all pictures are
  the same. A value replaces a reason for having none.
- Timings belong to their environment, so those of different machines coexist.
- Two studies of one name become one if their cells are the same, or if one has all cells of the other. Otherwise both
  are kept, the other one as NAME-DEVICE.

Cells are merged in groups, one transaction each, so that a run can keep writing meanwhile. Studies come last, so that
an interrupted import shows nothing incomplete; repeating it completes it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pyarrow as pa

from engine.cache import merge_studies
from engine.cache.connection import Connection
from engine.cache.inventory import CacheTable, named, of_kind, scope
from engine.cache.limits import CELL_BYTES, GROUP_BYTES, fetch_arrow
from engine.cache.rows import clear, put, put_missing
from engine.errors import CacheRefused

CELLS_AT_ONCE = 64
# A cell's picture is identified by its final latents, or else by the bytes of its final frames.
_PICTURES = """
    SELECT t.trajectory_id, t.status, t.frame_count, t.frame_kinds, md5(l.data) AS latents, f.finals
    FROM trajectories t
    LEFT JOIN latents l USING (trajectory_id)
    LEFT JOIN (
        SELECT trajectory_id, string_agg(md5(image), ' ' ORDER BY step_index, video_frame) AS finals
        FROM frames WHERE kind = 'final' AND trajectory_id IN (SELECT unnest($ids)) GROUP BY trajectory_id
    ) f USING (trajectory_id)
    WHERE t.trajectory_id IN (SELECT unnest($ids))
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
    merge_studies.check(_read(source, named("studies"), study))
    _refuse_large_cells(source, study)
    merged = Merged()
    with group() as db:
        for table in of_kind("shared"):
            incoming = _read(source, table, study)
            if table.name == "models":
                _fill_parameters(db, incoming)
            merged.added(table.name, put_missing(db, table, incoming))
            kept = _differing(db, table, incoming)
            if kept:
                merged.differing[table.name] = kept
    for ids in _groups(source, study):
        with group() as db:
            _merge_cells(source, db, ids, merged)
    with group() as db:
        incoming = {table.name: _read(source, table, study) for table in of_kind("study")}
        merged.studies, added = merge_studies.merge(source, db, incoming, merged.others)
        for name, count in added.items():
            merged.added(name, count)
    return merged


def rows_query(table: CacheTable, study: str | None) -> tuple[str, dict[str, str]]:
    """Query and parameters for the rows of a table, of one study or all."""
    if study is None:
        return f"SELECT * FROM {table.name} WHERE {table.only}", {}
    return f"SELECT * FROM {table.name} WHERE {scope(table)}", {"study": study}


def _read(source: Connection, table: CacheTable, study: str | None) -> pa.Table:
    return fetch_arrow(source, *rows_query(table, study))


def cell_ids(source: Connection, study: str | None) -> list[str]:
    """Ids of all cells, or of those a study needs (references and swaps included), in a fixed order."""
    cells = named("trajectories")
    where = "" if study is None else f"WHERE {scope(cells)}"
    query = f"SELECT trajectory_id FROM {cells.name} {where} ORDER BY created_at, trajectory_id"
    return [row[0] for row in source.execute(query, {} if study is None else {"study": study}).fetchall()]


def rows_of(source: Connection, table: CacheTable, ids: list[str]) -> pa.Table:
    """The rows of a table that belong to these cells."""
    return source.sql(
        f"SELECT * FROM {table.name} WHERE trajectory_id IN (SELECT unnest($ids)) AND {table.only}", params={"ids": ids}
    ).to_arrow_table()


def _groups(source: Connection, study: str | None) -> Iterator[list[str]]:
    """Yields cells in groups of limited number and size."""
    ids = cell_ids(source, study)
    for start in range(0, len(ids), CELLS_AT_ONCE):
        some = ids[start : start + CELLS_AT_ONCE]
        sizes = dict(source.execute(_sizes("trajectory_id IN (SELECT unnest($ids))"), {"ids": some}).fetchall())
        group: list[str] = []
        size = 0
        for cell in some:
            if group and size + sizes.get(cell, 0) > GROUP_BYTES:
                yield group
                group, size = [], 0
            group.append(cell)
            size += sizes.get(cell, 0)
        yield group


def _sizes(where: str) -> str:
    """Query for the approximate size of cells in memory (bytes)."""
    return f"""
        SELECT trajectory_id, sum(bytes)::BIGINT AS size FROM (
            SELECT trajectory_id, octet_length(image) + 200 AS bytes FROM frames WHERE {where}
            UNION ALL SELECT trajectory_id, octet_length(data) FROM latents WHERE {where}
            UNION ALL SELECT trajectory_id, 600 FROM steps WHERE {where}
            UNION ALL SELECT trajectory_id, 200 + 4 * length(coalesce(reason, '')) FROM scores
            WHERE scope <> 'lane' AND {where}
        ) GROUP BY trajectory_id
    """


def _refuse_large_cells(source: Connection, study: str | None) -> None:
    """Refuses cells that do not fit into memory, since a cell is merged as a whole.

    Raises:
        CacheRefused: There is one.
    """
    where = "true" if study is None else scope(named("trajectories"))
    query = f"SELECT trajectory_id, size FROM ({_sizes(where)}) WHERE size > {CELL_BYTES} LIMIT 1"
    found = source.execute(query, {} if study is None else {"study": study}).fetchall()
    if found:
        raise CacheRefused(
            f"The cache is refused: the cell {found[0][0][:80]} has {found[0][1] / 2**20:,.0f} MB of rows and "
            f"pictures; the limit for an import is {CELL_BYTES / 2**20:,.0f} MB."
        )


def _merge_cells(source: Connection, db: Connection, ids: list[str], merged: Merged) -> None:
    theirs, ours = _pictures(source, ids), _pictures(db, ids)
    new = [key for key in theirs if key not in ours]
    same = [key for key in theirs if key in ours and _same_picture(theirs[key], ours[key])]
    repaired = [key for key in theirs if key in ours and theirs[key][1] == "done" and ours[key][1] == "failed"]
    richer = [key for key in same if _has_more_frames(theirs[key], ours[key])]
    taken = [*new, *repaired, *richer]
    for table in of_kind("cell"):
        clear(db, table.name, [*repaired, *richer])
        merged.added(table.name, put(db, table.name, rows_of(source, table, taken)))
    for table in of_kind("score"):
        clear(db, table.name, repaired)
        scores = rows_of(source, table, [*new, *repaired, *same])
        _drop_reasons(db, table, scores)
        merged.added(table.name, put_missing(db, table, scores))
    merged.cells += len(new)
    merged.replaced += len(repaired) + len(richer)
    merged.equal += len(same) - len(richer)
    merged.others |= set(theirs) - {*new, *repaired, *same}


Picture = tuple[str, str, int, str, str | None, str | None]


def _pictures(db: Connection, ids: list[str]) -> dict[str, Picture]:
    rows = db.execute(_PICTURES, {"ids": ids}).fetchall()
    return {row[0]: row for row in rows}


def _same_picture(one: Picture, other: Picture) -> bool:
    if one[1] != other[1]:
        return False
    if one[1] == "failed":
        return True
    return one[4] == other[4] if one[4] and other[4] else one[5] == other[5]


def _has_more_frames(one: Picture, other: Picture) -> bool:
    more = one[2] > other[2] or set(one[3].split(",")) > set(other[3].split(","))
    return one[1] == "done" and more and one[2] >= other[2] and set(one[3].split(",")) >= set(other[3].split(","))


def _drop_reasons(db: Connection, table: CacheTable, incoming: pa.Table) -> None:
    """Deletes reasons for a missing score where the other cache has a value."""
    unit = ", ".join(table.unit)
    db.register("incoming", incoming)
    db.execute(
        f"DELETE FROM {table.name} WHERE value IS NULL AND {table.only} "
        f"AND ({unit}) IN (SELECT ({unit}) FROM incoming WHERE value IS NOT NULL)"
    )
    db.unregister("incoming")


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
