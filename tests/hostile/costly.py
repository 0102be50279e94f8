"""Makes files of ordinary size that unpack to far more: rows, texts, votes, pictures.

`python -m tests.hostile.costly FOLDER` writes them in full size; tests and the bench make their own.
"""

import io
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
from PIL import Image

from tests.hostile.files import synthetic

STUDY = "shared"


@dataclass(frozen=True)
class Costly:
    """A kind of file.

    Attributes:
        make: Writes it with so many rows or pixels.
        full: How many it takes to be costly.
    """

    make: Callable[[Path, int], None]
    full: int


def _cache(path: Path, *statements: str, parameters: list[object] | None = None) -> None:
    made = synthetic()
    made.write_scored(path, name=STUDY, lanes=("ddim:50", "euler:30"), prompts=("owl", "cat"), repeats=2)
    with duckdb.connect(str(path)) as db:
        for statement in statements:
            db.execute(statement, parameters or [])


def _copies(table: str, change: str, only: str = "true") -> Callable[[Path, int], None]:
    """Copies of the rows of a table, each with another key."""

    def make(path: Path, rows: int) -> None:
        made = f"SELECT one.* REPLACE ({change}) FROM (FROM {table} WHERE {only} LIMIT 1) one, range({rows}) t(i)"
        _cache(path, f"INSERT INTO {table} BY NAME {made}")

    return make


def _cells(path: Path, rows: int) -> None:
    """Scores of many cells, as a study would have them that is that large."""
    _cache(
        path,
        f"INSERT INTO trajectories BY NAME SELECT one.* REPLACE (trajectory_id || i AS trajectory_id, "
        f"1000 + i AS seed) FROM (FROM trajectories LIMIT 1) one, range({rows}) t(i)",
        f"INSERT INTO study_trajectories BY NAME SELECT one.* REPLACE (trajectory_id || i AS trajectory_id, "
        f"1000 + i AS position) FROM (FROM study_trajectories ORDER BY position LIMIT 1) one, range({rows}) t(i)",
        f"INSERT INTO scores BY NAME SELECT one.* REPLACE (trajectory_id || i AS trajectory_id) "
        f"FROM (FROM scores WHERE scope = 'picture' LIMIT 1) one, range({rows}) t(i)",
    )


def _votes(path: Path, rows: int) -> None:
    _cache(
        path,
        f"INSERT INTO votes SELECT i::VARCHAR, '{STUDY}', (i % 1000)::VARCHAR, 'none', l.trajectory_id, "
        f"r.trajectory_id, l.lane, r.lane, 'owl', 0, 'left', 1.0, now()::TIMESTAMP FROM range({rows}) t(i), "
        "(FROM study_trajectories ORDER BY position LIMIT 1) l, "
        "(FROM study_trajectories ORDER BY position DESC LIMIT 1) r",
    )


def _errors(path: Path, characters: int) -> None:
    _cache(path, f"UPDATE trajectories SET status = 'failed', error = repeat('x', {characters})")


def _frames(path: Path, size: int) -> None:
    """In a table that compresses its bytes, as those of new caches do not."""
    _cache(path)
    with duckdb.connect(str(path)) as db:
        [made] = db.execute("SELECT sql FROM duckdb_tables() WHERE table_name = 'frames'").fetchone() or []
        db.execute("CREATE TEMP TABLE rows_of_frames AS FROM frames")
        db.execute("DROP TABLE frames")
        db.execute(made.replace(" USING COMPRESSION Uncompressed", ""))
        db.execute("INSERT INTO frames BY NAME FROM rows_of_frames")
        db.execute(f"UPDATE frames SET image = repeat('x', {size})::BLOB WHERE kind = 'final'")


def png(side: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A white PNG with more chunks than it needs."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + b"\xff" * (3 * side)) * side, 9)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def _pictures(draw: Callable[[int], bytes]) -> Callable[[Path, int], None]:
    def make(path: Path, size: int) -> None:
        _cache(path, "UPDATE frames SET image = ?", parameters=[draw(size)])

    return make


def _webp(side: int) -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(stream, "WEBP", lossless=True, method=0)
    return stream.getvalue()


def _profile(size: int) -> bytes:
    return png(64, (b"iCCP", b"p\0\0" + zlib.compress(bytes(size))))


def _comments(count: int) -> bytes:
    return png(64, *[(b"zTXt", b"k%d\0\0" % number + zlib.compress(bytes(1_000_000))) for number in range(count)])


def _steps(path: Path, rows: int) -> None:
    _cache(
        path,
        "INSERT INTO steps (trajectory_id, step_index, progress, log_snr, x0_change, x0_distance) "
        f"SELECT trajectory_id, i, 0.5, 1.0, 0.1, 0.2 FROM (FROM trajectories LIMIT 1), range({rows}) t(i)",
    )


COSTLY: dict[str, Costly] = {
    "many steps": Costly(_steps, 4_000_000),
    "many times": Costly(_copies("timings", "1000 + i AS repeat"), 1_000_000),
    "many environments": Costly(_copies("timings", "1000 + i AS batch_size"), 1_000_000),
    "many cells and scores": Costly(_cells, 500_000),
    "many frame scores": Costly(
        _copies("scores", "'frame' AS scope, 'x0' AS kind, i AS step_index", "scope = 'picture'"), 4_000_000
    ),
    "many votes": Costly(_votes, 1_000_000),
    "long errors": Costly(_errors, 900_000),
    "huge frames": Costly(_frames, 60_000_000),
    "pictures of many pixels": Costly(_pictures(png), 4_000),
    "pictures that are slow": Costly(_pictures(_webp), 4_000),
    "pictures with a colour profile": Costly(_pictures(_profile), 60_000_000),
    "pictures with comments": Costly(_pictures(_comments), 60),
}


def main(folder: Path) -> None:
    """Writes every file in full size."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, costly in COSTLY.items():
        costly.make(folder / f"{name}.duckdb", costly.full)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
