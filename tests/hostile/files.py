"""Makes the files a stranger might send: `python tests/hostile/files.py FOLDER` writes all of them to look at.

`REFUSED` are refused before anything in them is read; `HARMLESS` are caches whose contents are shown as what they are.
"""

import importlib.util
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
from PIL import Image

from engine.cache.connection import migrate

SECRET = "a secret of this machine"
TRACE = "written-by-a-hostile-file.txt"


def synthetic() -> ModuleType:
    """The module that writes made-up caches."""
    file = Path(__file__).resolve().parents[1] / "dashboard" / "synthetic.py"
    spec = importlib.util.spec_from_file_location("synthetic", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _cache(path: Path, *statements: str, parameters: list[Any] | None = None) -> None:
    """A small cache as the lab writes it, and then the stranger's statements."""
    made = synthetic()
    made.write(path, made.study("shared", lanes=("ddim:50", "euler:30"), prompts=("owl",), seeds=(0,), repeats=2))
    with duckdb.connect(str(path)) as db:
        for statement in statements:
            db.execute(statement, parameters or [])


def _statements(*statements: str) -> Callable[[Path], None]:
    return lambda path: _cache(path, *statements)


def _more(table: str, change: str, rows: int) -> str:
    """A statement that adds copies of a row, each with another key."""
    return (
        f"INSERT INTO {table} BY NAME SELECT one.* REPLACE ({change}) "
        f"FROM (FROM {table} LIMIT 1) one, range({rows}) t(i)"
    )


def _view_of_a_file(path: Path) -> None:
    secret = path.parent / "secret.csv"
    secret.write_text(f"trajectory_id,kind\n{SECRET},x0\n")
    _cache(path, "DROP TABLE frames", f"CREATE VIEW frames AS SELECT * FROM '{secret}'")


def _macro_of_a_file(path: Path, *, older: bool = False) -> None:
    """The version of the schema is what the secret says; in an error it is shown."""
    secret = path.parent / "secret.csv"
    secret.write_text(SECRET)
    oldest = "DELETE FROM schema_migrations WHERE version > (SELECT min(version) FROM schema_migrations)"
    release_010 = [oldest, "UPDATE schema_migrations SET version = 6"] if older else []
    _cache(path, *release_010, f"CREATE MACRO max(x) AS (SELECT content FROM read_text('{secret}'))")


def _log_with_a_view(path: Path) -> None:
    """The view stands in the log beside the file, as a killed writer leaves it."""
    _cache(path)
    code = (
        f"import duckdb, os; db = duckdb.connect({str(path)!r}); "
        "db.execute('PRAGMA disable_checkpoint_on_shutdown'); db.execute('CREATE VIEW later AS SELECT 42'); "
        "os.kill(os.getpid(), 9)"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False)
    assert path.with_name(path.name + ".wal").exists()


def _cut_off(path: Path) -> None:
    _cache(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _of_the_future(path: Path) -> None:
    _cache(path)
    data = bytearray(path.read_bytes())
    data[12:20] = struct.pack("<Q", 99_999)
    path.write_bytes(bytes(data))


def _sqlite(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00" + bytes(4080))


def _scores(cell: str, value: str, reason: str, count: int) -> str:
    return (
        "INSERT INTO scores (scope, trajectory_id, metric, metric_version, value, reason) "
        f"SELECT 'picture', {cell}, 'm', '1', {value}, {reason} FROM range({count}) t(i)"
    )


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


REFUSED: dict[str, Callable[[Path], None]] = {
    "view that reads a local file": _view_of_a_file,
    "view without end": _statements(
        "DROP TABLE scores",
        "CREATE VIEW scores AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    ),
    "view in the log": _log_with_a_view,
    "macro in place of a function": _statements("CREATE MACRO median(x) AS 0.001"),
    "table macro": _statements("CREATE MACRO studies_of(x) AS TABLE SELECT * FROM glob('/etc/*')"),
    "macros in place of the lists of what a file holds": _statements(
        "CREATE MACRO duckdb_functions() AS TABLE SELECT '' AS function_name, true AS internal",
        "CREATE MACRO duckdb_views() AS TABLE SELECT '' AS view_name, true AS internal",
        "CREATE MACRO median(x) AS 0.001",
    ),
    "macro in place of what names the file": _statements("CREATE MACRO current_database() AS 'elsewhere'"),
    "macro in place of an operator": _statements(
        """CREATE MACRO "~~*"(a, b) AS false""", """CREATE MACRO "+"(a, b) AS 7"""
    ),
    "macro in place of the version": _statements("CREATE MACRO max(x) AS 6", "CREATE MACRO coalesce(a, b) AS 6"),
    "view in place of the list of tables": _statements(
        "CREATE VIEW duckdb_tables AS SELECT 1", "CREATE TABLE duckdb_functions (function_name VARCHAR)"
    ),
    "tables that are named like lists": _statements(
        "CREATE TABLE duckdb_functions (function_name VARCHAR, internal BOOLEAN)"
    ),
    "macro that reads a local file": _macro_of_a_file,
    "macro that reads a local file, in an older cache": lambda path: _macro_of_a_file(path, older=True),
    "sequence": _statements("CREATE SEQUENCE numbers"),
    "column that computes": _statements(
        "CREATE TABLE made AS SELECT * FROM latents",
        "DROP TABLE latents",
        "CREATE TABLE latents (trajectory_id VARCHAR, shape VARCHAR, data BLOB, "
        "more VARCHAR GENERATED ALWAYS AS (repeat(shape, 1000000000)))",
        "DROP TABLE made",
    ),
    "type of its own": _statements("CREATE TYPE mood AS ENUM ('calm')"),
    "schema of its own": _statements("CREATE SCHEMA elsewhere", "CREATE TABLE elsewhere.frames (image BLOB)"),
    "unknown table": _statements("CREATE TABLE payload (data BLOB)"),
    "missing table": _statements("DROP TABLE timings"),
    "column of another type": _statements("ALTER TABLE frames ALTER image TYPE VARCHAR USING image::VARCHAR"),
    "renamed column": _statements("ALTER TABLE frames RENAME image TO picture"),
    "columns that may be empty": _statements(
        "CREATE TABLE made AS SELECT * FROM studies",
        "DROP TABLE studies",
        "ALTER TABLE made RENAME TO studies",
        "INSERT INTO studies SELECT * REPLACE (NULL AS study_id) FROM studies",
    ),
    "scores that are there twice": _statements(_scores("'t'", "0.5", "NULL", 2)),
    "endless list": _statements(
        "INSERT INTO steps (trajectory_id, step_index, progress, power) SELECT 't', 0, 0.5, range(1000)::DOUBLE[]"
    ),
    "noise level of no model": _statements("UPDATE frames SET log_snr = 1e308"),
    "number whose square is none": _statements(
        "UPDATE timings SET seconds = 1e200",
    ),
    "endless text": _statements("UPDATE studies SET spec = '\"' || repeat('x', 9_000_000) || '\"'"),
    "much text": _statements(_scores("i::VARCHAR", "NULL", "repeat('x', 900_000)", 700)),
    "huge picture": _statements(
        "UPDATE frames SET image = repeat('x', 70_000_000)::BLOB WHERE rowid = (SELECT min(rowid) FROM frames)"
    ),
    "cut off": _cut_off,
    "of a later DuckDB": _of_the_future,
    "SQLite": _sqlite,
    "random bytes": lambda path: path.write_bytes(bytes(range(256)) * 64) and None,
    "pipe": _pipe,
    "link to a device": _link_to_a_device,
}


def _bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(7501))) + chunk(b"IEND", b"")
    )


def _pictures(image: bytes) -> Callable[[Path], None]:
    return lambda path: _cache(path, "UPDATE frames SET image = ?", parameters=[image])


def _svg() -> bytes:
    return b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hurt=1'><script>window.hurt=1</script></svg>"


def _polyglot() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    return stream.getvalue() + b"<script>window.hurt=1</script>"


def _hostile_words(path: Path) -> None:
    made = synthetic()
    plan = made.study("shared", lanes=("ddim:50", "euler:30"), prompts=(made.HOSTILE, made.LONG), seeds=(0,), repeats=2)
    made.write(path, plan, failed=("euler:30",))
    with duckdb.connect(str(path)) as db:
        db.execute("UPDATE environments SET device_name = ?", [made.HOSTILE])
        db.execute("UPDATE models SET source = ?", [made.HOSTILE])
        db.execute("UPDATE trajectories SET scheduler_label = ?", [made.HOSTILE])


def _spec(spec: str) -> Callable[[Path], None]:
    return lambda path: _cache(path, "UPDATE studies SET spec = ?", parameters=[spec])


HARMLESS: dict[str, Callable[[Path], None]] = {
    "pages in place of pictures": _pictures(b"<html><script>window.hurt=1</script></html>"),
    "drawings that run scripts": _pictures(_svg()),
    "picture with a page behind it": _pictures(_polyglot()),
    "picture that unpacks to gigabytes": _pictures(_bomb()),
    "picture cut off": _pictures(_polyglot()[:40]),
    "HTML in every text": _hostile_words,
    "default that computes": _statements("ALTER TABLE latents ALTER shape SET DEFAULT repeat('x', 1000000000)"),
    "paths for names": _statements(
        "UPDATE studies SET study_id = '../../../../tmp/pwned', name = '../../../../tmp/pwned'",
        "UPDATE study_trajectories SET study_id = '../../../../tmp/pwned'",
    ),
    "plan without bottom": _spec("[" * 50_000 + "]" * 50_000),
    "plan of other kinds": _spec('{"lanes": 7, "prompts": {"a": []}, "seeds": "x", "baseline": [1], "frames": 3}'),
    "lanes that are a number": _spec('{"lanes": 7}'),
    "lanes that are named twice": _spec('{"lanes": [{"key": "ddim:50"}, {"key": "ddim:50"}]}'),
    "plan with nothing in it": _spec("{}"),
    "plan of large numbers": _spec('{"seeds": [' + "9" * 4000 + '], "lanes": [{"key": "ddim:50", "steps": 1e999}]}'),
    "plan that is nested": _spec('{"commitment": {"pairs": ' + "[" * 400 + "]" * 400 + "}}"),
    "figures that are none": _statements(
        "UPDATE timings SET seconds = 'NaN'::DOUBLE, nfe = -1",
        "UPDATE trajectories SET nfe = -5, steps = -1",
    ),
}


def main(folder: Path) -> None:
    """Writes every file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, make) in enumerate({**REFUSED, **HARMLESS}.items()):
        make(folder / f"{number:02} {name}.duckdb")


if __name__ == "__main__":
    migrate(Path(sys.argv[1]) / "plain.duckdb")
    main(Path(sys.argv[1]))
