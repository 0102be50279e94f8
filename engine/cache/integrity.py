"""Whether a cache is whole: rows that nothing holds, rows that are missing, pictures that are none; and mending it.

What can be mended goes: rows of nothing, and cells that lost a part of themselves, which the next run makes again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.cache.connection import Connection, reading, writing
from engine.cache.inventory import TABLES, of_kind
from engine.cache.rows import clear

CELLS_AT_ONCE = 16
_WITHOUT_CELL = "trajectory_id IS NOT NULL AND trajectory_id NOT IN (SELECT trajectory_id FROM trajectories)"
_WITHOUT_STUDY = "study_id IS NOT NULL AND study_id NOT IN (SELECT study_id FROM studies)"
# (words, which cells): each lost a part that every finished cell has.
_BROKEN = (
    (
        "finished cells without a final picture",
        "SELECT trajectory_id FROM trajectories WHERE status = 'done' AND trajectory_id NOT IN "
        "(SELECT trajectory_id FROM frames WHERE kind = 'final')",
    ),
    (
        "cells without their model or environment",
        "SELECT trajectory_id FROM trajectories WHERE model_id NOT IN (SELECT model_id FROM models) "
        "OR environment_id NOT IN (SELECT environment_id FROM environments)",
    ),
    (
        "cells with latents of another size than their shape",
        "SELECT trajectory_id FROM latents WHERE octet_length(data) IS DISTINCT FROM "
        "4 * list_product(list_transform(string_split(shape, 'x'), lambda n: TRY_CAST(n AS BIGINT)))",
    ),
)
_IMAGES = """
    SELECT trajectory_id, width, height, image FROM frames WHERE trajectory_id IN (SELECT unnest($ids))
    ORDER BY trajectory_id
"""

# Whether some bytes are a picture of this width and height.
IsPicture = Callable[[bytes, int, int], bool]


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a cache.

    Attributes:
        what: In words.
        count: How many rows or cells.
        cells: Cells to make again, if that mends it.
        rows: (table, condition) of rows to delete, if that mends it.
    """

    what: str
    count: int
    cells: tuple[str, ...] = ()
    rows: tuple[str, str] | None = None


def check(path: Path, is_picture: IsPicture) -> list[Fault]:
    """Looks at all rows and decodes every picture; reads only.

    Raises:
        CacheError: The file cannot be read at all: restore a copy.
    """
    with reading(path) as db:
        return [*_rows_of_nothing(db), *_broken_cells(db), *_broken_pictures(db, is_picture)]


def repair(path: Path, faults: list[Fault]) -> int:
    """Deletes rows of nothing, and broken cells with all that hangs on them; in one transaction.

    Returns:
        How many cells the next run makes again.

    Raises:
        CacheError: The file cannot be written; nothing was changed.
    """
    cells = sorted({cell for fault in faults for cell in fault.cells})
    with writing(path) as db:
        for fault in faults:
            if fault.rows is not None:
                db.execute(f"DELETE FROM {fault.rows[0]} WHERE {fault.rows[1]}")
        for table in (*of_kind("score"), *of_kind("cell")):
            clear(db, table.name, cells)
    return len(cells)


def _rows_of_nothing(db: Connection) -> Iterator[Fault]:
    for name in dict.fromkeys(table.name for table in TABLES if table.name not in ("studies", "trajectories")):
        kinds = {table.kind for table in TABLES if table.name == name}
        for wrong, missing, found in (
            (_WITHOUT_CELL, "cell", kinds & {"cell", "score"}),
            (_WITHOUT_STUDY, "study", kinds & {"study"}),
        ):
            count = _number(db, f"SELECT count(*) FROM {name} WHERE {wrong}") if found else 0
            if count:
                yield Fault(f"rows of '{name}' whose {missing} is not there", count, rows=(name, wrong))


def _broken_cells(db: Connection) -> Iterator[Fault]:
    for what, query in _BROKEN:
        cells = tuple(str(row[0]) for row in db.execute(query).fetchall())
        if cells:
            yield Fault(what, len(cells), cells)


def _broken_pictures(db: Connection, is_picture: IsPicture) -> Iterator[Fault]:
    ids = [row[0] for row in db.execute("SELECT trajectory_id FROM trajectories ORDER BY created_at").fetchall()]
    broken: list[str] = []
    for start in range(0, len(ids), CELLS_AT_ONCE):
        found = db.execute(_IMAGES, {"ids": ids[start : start + CELLS_AT_ONCE]})
        while rows := found.fetchmany(8):
            broken += [row[0] for row in rows if not is_picture(bytes(row[3]), row[1], row[2])]
    if broken:
        yield Fault("pictures that cannot be decoded in their size", len(broken), tuple(dict.fromkeys(broken)))


def _number(db: Connection, query: str) -> int:
    return int(db.execute(query).fetchall()[0][0])
