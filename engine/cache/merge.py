"""Taking over what another cache holds. `inventory` says what hangs on what; these are the rules:

- What is here stays. Only what is not here is taken, whole units at a time (`CacheTable.unit`).
- A cell comes with its frames, latents and step metrics, or not at all. A finished cell takes the place of a failed
  one; and one with more frames that of one with fewer, if both have the same picture.
- Scores and votes come where the picture is the same on both sides; metrics of whole sets where all pictures are. A
  value takes the place of a reason for having none.
- Times stand under their environment, so those of another machine stand beside those of this one.
- Of two studies of one name with the same cells there is one; if one holds all cells of the other, the larger stands.
  Otherwise both do: the other one as NAME-DEVICE.

Cells are taken in groups, each one transaction, so that a run may go on writing meanwhile. The studies come last: an
interrupted import shows nothing half done, and is finished by repeating it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pyarrow as pa

from engine.cache import merge_studies
from engine.cache.connection import Connection
from engine.cache.inventory import CacheTable, of_kind, scope
from engine.cache.limits import CELL_BYTES, GROUP_BYTES, fetch_arrow
from engine.cache.rows import clear, put, put_missing
from engine.errors import CacheRefused

CELLS_AT_ONCE = 64
# The picture of a cell: its final latents, or else the bytes of its final frames.
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
    """What came of taking over a cache.

    Attributes:
        rows: Rows added, by table.
        differing: Shared rows of another content than those here, which stay; by table.
        cells: Cells added.
        replaced: Cells that failed here, or had fewer frames, and were taken.
        equal: Cells that are on both sides with the same picture.
        others: Cells that are on both sides with other pictures; those here stay.
        studies: What became of each study, in words.
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
    """Takes over what another cache holds.

    Args:
        source: The other cache, open for reading.
        group: Opens the cache to write to, for one transaction.
        study: Take only this study, with all it needs; None: everything.

    Raises:
        CacheRefused: A study in the file is damaged, or far larger than any; nothing was taken.
    """
    studies = next(table for table in of_kind("study") if table.name == "studies")
    merge_studies.check(_read(source, studies, study))
    _refuse_large_cells(source, study)
    merged = Merged()
    with group() as db:
        for table in of_kind("shared"):
            incoming = _read(source, table, study)
            if table.name == "models":
                _learn_parameters(db, incoming)
            merged.added(table.name, put_missing(db, table, incoming))
            kept = _differing(db, table, incoming)
            if kept:
                merged.differing[table.name] = kept
    for ids in _groups(source, study):
        with group() as db:
            _take_cells(source, db, ids, merged)
    with group() as db:
        incoming = {table.name: _read(source, table, study) for table in of_kind("study")}
        merged.studies, added = merge_studies.take(source, db, incoming, merged.others)
        for name, count in added.items():
            merged.added(name, count)
    return merged


def read(source: Connection, table: CacheTable, study: str | None) -> pa.Table:
    """The rows of a table, of one study or all."""
    if study is None:
        return source.sql(f"SELECT * FROM {table.name} WHERE {table.only}").to_arrow_table()
    return source.sql(f"SELECT * FROM {table.name} WHERE {scope(table)}", params={"study": study}).to_arrow_table()


def _read(source: Connection, table: CacheTable, study: str | None) -> pa.Table:
    """The same, of what does not hang on cells, with bounds."""
    if study is None:
        return fetch_arrow(source, f"SELECT * FROM {table.name} WHERE {table.only}", {})
    return fetch_arrow(source, f"SELECT * FROM {table.name} WHERE {scope(table)}", {"study": study})


def cell_ids(source: Connection, study: str | None) -> list[str]:
    """The cells that have run, of one study (references and changed prompts with it) or all, in a fixed order."""
    cells = of_kind("cell")[0]
    where = "" if study is None else f"WHERE {scope(cells)}"
    query = f"SELECT trajectory_id FROM {cells.name} {where} ORDER BY created_at, trajectory_id"
    return [row[0] for row in source.execute(query, {} if study is None else {"study": study}).fetchall()]


def rows_of(source: Connection, table: CacheTable, ids: list[str]) -> pa.Table:
    """The rows of some cells."""
    return source.sql(
        f"SELECT * FROM {table.name} WHERE trajectory_id IN (SELECT unnest($ids)) AND {table.only}", params={"ids": ids}
    ).to_arrow_table()


def _groups(source: Connection, study: str | None) -> Iterator[list[str]]:
    """Some cells at a time, fewer where their rows and pictures are large."""
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
    """Bytes of cells in memory, roughly: a step has a sketch and two lists, a score its words."""
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
    """A cell is taken as a whole, so it has to fit into memory.

    Raises:
        CacheRefused: One does not.
    """
    where = "true" if study is None else scope(of_kind("cell")[0])
    query = f"SELECT trajectory_id, size FROM ({_sizes(where)}) WHERE size > {CELL_BYTES} LIMIT 1"
    found = source.execute(query, {} if study is None else {"study": study}).fetchall()
    if found:
        raise CacheRefused(
            f"The cache is refused: the cell {found[0][0][:80]} has {found[0][1] / 2**20:,.0f} MB of rows and "
            f"pictures, more than the {CELL_BYTES / 2**20:,.0f} MB that are taken from another cache."
        )


def _take_cells(source: Connection, db: Connection, ids: list[str], merged: Merged) -> None:
    theirs, ours = _pictures(source, ids), _pictures(db, ids)
    new = [key for key in theirs if key not in ours]
    same = [key for key in theirs if key in ours and _same_picture(theirs[key], ours[key])]
    mended = [key for key in theirs if key in ours and theirs[key][1] == "done" and ours[key][1] == "failed"]
    richer = [key for key in same if _has_more_frames(theirs[key], ours[key])]
    taken = [*new, *mended, *richer]
    for table in of_kind("cell"):
        clear(db, table.name, [*mended, *richer])
        merged.added(table.name, put(db, table.name, rows_of(source, table, taken)))
    for table in of_kind("score"):
        clear(db, table.name, mended)
        scores = rows_of(source, table, [*new, *mended, *same])
        _drop_reasons(db, table, scores)
        merged.added(table.name, put_missing(db, table, scores))
    merged.cells += len(new)
    merged.replaced += len(mended) + len(richer)
    merged.equal += len(same) - len(richer)
    merged.others |= set(theirs) - {*new, *mended, *same}


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
    """Deletes reasons for having no score where a value comes."""
    unit = ", ".join(table.unit)
    db.register("incoming", incoming)
    db.execute(
        f"DELETE FROM {table.name} WHERE value IS NULL AND {table.only} "
        f"AND ({unit}) IN (SELECT ({unit}) FROM incoming WHERE value IS NOT NULL)"
    )
    db.unregister("incoming")


def _differing(db: Connection, table: CacheTable, incoming: pa.Table) -> int:
    """How many rows are not here with just this content."""
    if not incoming.num_rows:
        return 0
    db.register("incoming", incoming)
    rows = db.execute(f"SELECT count(*) FROM (SELECT * FROM incoming EXCEPT SELECT * FROM {table.name})").fetchall()
    db.unregister("incoming")
    return int(rows[0][0])


def _learn_parameters(db: Connection, incoming: pa.Table) -> None:
    """A model that was never loaded here has no count of its parameters yet."""
    db.register("incoming", incoming)
    db.execute(
        "UPDATE models SET parameters = i.parameters FROM incoming i "
        "WHERE models.model_id = i.model_id AND models.parameters IS NULL"
    )
    db.unregister("incoming")
