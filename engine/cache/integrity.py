"""Integrity checks of a cache: orphaned rows, incomplete cells, changed or undecodable pictures; and their repair.

Repair deletes orphaned rows and incomplete cells; the next run computes the cells again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.cache.connection import Connection, reading, writing
from engine.cache.inventory import TABLES, of_kind
from engine.cache.limits import in_groups
from engine.cache.rows import clear

_WITHOUT_CELL = "trajectory_id IS NOT NULL AND trajectory_id NOT IN (SELECT trajectory_id FROM trajectories)"
_WITHOUT_STUDY = "study_id IS NOT NULL AND study_id NOT IN (SELECT study_id FROM studies)"
# (description, query for the ids): cells that lack a part every finished cell has, or whose parts were changed.
_INCOMPLETE = (
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
        "cells with pictures that are not as they were written",
        "SELECT DISTINCT trajectory_id FROM frames WHERE digest <> left(md5(image), 16)",
    ),
    (
        "cells whose latents do not match their shape",
        "SELECT trajectory_id FROM latents WHERE octet_length(data) IS DISTINCT FROM "
        "4 * list_product(list_transform(string_split(shape, 'x'), lambda n: TRY_CAST(n AS BIGINT)))",
    ),
)
_SIZES = """
    SELECT trajectory_id, sum(octet_length(image))::BIGINT FROM frames JOIN trajectories USING (trajectory_id)
    GROUP BY trajectory_id, created_at ORDER BY created_at
"""
_IMAGES = """
    SELECT trajectory_id, width, height, image FROM frames WHERE trajectory_id IN (SELECT unnest($ids))
    ORDER BY trajectory_id
"""

# (data, width, height) -> whether the data decodes to a picture of this size.
IsPicture = Callable[[bytes, int, int], bool]


@dataclass(frozen=True)
class Fault:
    """A fault of a cache.

    Attributes:
        what: Description.
        count: Number of rows or cells.
        cells: Cells to delete and compute again, if that repairs it.
        rows: (table, SQL condition) of rows to delete, if that repairs it.
    """

    what: str
    count: int
    cells: tuple[str, ...] = ()
    rows: tuple[str, str] | None = None


def check(path: Path, is_picture: IsPicture) -> list[Fault]:
    """Checks all rows and decodes every picture; read-only.

    Raises:
        CacheError: The file cannot be read at all; restore a copy.
    """
    with reading(path) as db:
        found = [*_orphaned_rows(db), *_incomplete_cells(db), *_changed_inputs(db)]
        cells = db.execute(_SIZES).fetchall()
    return [*found, *_undecodable_pictures(path, cells, is_picture)]


def repair(path: Path, faults: list[Fault]) -> int:
    """Deletes orphaned rows, and faulty cells with everything that depends on them, in one transaction.

    Returns:
        Number of cells that the next run computes again.

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


def _orphaned_rows(db: Connection) -> Iterator[Fault]:
    for name in dict.fromkeys(table.name for table in TABLES if table.name not in ("studies", "trajectories")):
        kinds = {table.kind for table in TABLES if table.name == name}
        for wrong, missing, found in (
            (_WITHOUT_CELL, "cell", kinds & {"cell", "score"}),
            (_WITHOUT_STUDY, "study", kinds & {"study"}),
        ):
            count = _number(db, f"SELECT count(*) FROM {name} WHERE {wrong}") if found else 0
            if count:
                yield Fault(f"rows of '{name}' without their {missing}", count, rows=(name, wrong))


def _incomplete_cells(db: Connection) -> Iterator[Fault]:
    for what, query in _INCOMPLETE:
        cells = tuple(str(row[0]) for row in db.execute(query).fetchall())
        if cells:
            yield Fault(what, len(cells), cells)


def _undecodable_pictures(path: Path, cells: Iterable[tuple[str, int]], is_picture: IsPicture) -> Iterator[Fault]:
    """Decodes the pictures of cells, given with their sizes; the file is closed meanwhile, so that a run can write."""
    broken: list[str] = []
    for ids in in_groups(cells):
        with reading(path) as db:
            rows = db.execute(_IMAGES, {"ids": ids}).fetchall()
        broken += [row[0] for row in rows if not is_picture(bytes(row[3]), row[1], row[2])]
    if broken:
        yield Fault("pictures that do not decode to their size", len(broken), tuple(dict.fromkeys(broken)))


def _changed_inputs(db: Connection) -> Iterator[Fault]:
    wrong = "sha256(image) <> sha256"
    count = _number(db, f"SELECT count(*) FROM input_pictures WHERE {wrong}")
    if count:
        yield Fault("input pictures that are not what their digest names", count, rows=("input_pictures", wrong))


def _number(db: Connection, query: str) -> int:
    return int(db.execute(query).fetchall()[0][0])
