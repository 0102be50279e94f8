"""Files from strangers in the hands of the commands: none runs what the file brings along, none ends in a traceback."""

import contextlib
from pathlib import Path

import duckdb
import pytest

from engine.cache.connection import migrate, reading, writing
from engine.cache.exchange import import_cache
from engine.cli import main
from engine.errors import CacheRefused
from engine.plain_text import CONTROL
from tests.engine.helpers import write_study
from tests.hostile import files as FILES

MACROS = [name for name in FILES.REFUSED if "macro" in name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "inside").mkdir()
    return tmp_path / "inside" / "shared.duckdb"


def commands(cache: Path, folder: Path, study: str = "shared") -> dict[str, list[str]]:
    """Every command that takes a cache somebody else may have written."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    at = ["--cache", str(cache)]
    return {
        "migrate": ["migrate", *at],
        "claims": ["claims", study, *at],
        "phases": ["phases", study, *at],
        "convergence": ["convergence", study, *at],
        "grid": ["export", study, "--format", "png", "--prompt", "owl", "-o", str(out / "grid.png"), *at],
        "import": ["import", str(cache), "--cache", str(out / "mine.duckdb")],
        **{f"report {form}": ["report", study, "-o", str(out / f"r.{form}"), *at] for form in ("html", "md", "png")},
        **{
            f"export {form}": ["export", study, "--format", form, "-o", str(out / name), *at]
            for form, name in (
                ("csv", "e.csv"),
                ("parquet", "parquet"),
                ("png", "sheets"),
                ("gif", "e.gif"),
                ("duckdb", "e.duckdb"),
            )
        },
    }


@pytest.mark.parametrize("name", MACROS)
def test_no_command_runs_what_the_file_brings_along(
    name: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FILES.REFUSED[name](path)
    before = path.read_bytes()
    study = write_study(tmp_path / "a.toml")
    every = commands(path, tmp_path) | {
        kind: [kind, str(study), "--cache", str(path), "--device", "cpu"] for kind in ("plan", "run", "score")
    }
    for command, words in every.items():
        assert main(words) == 2, command
        said = capsys.readouterr()
        assert "not written by this lab: it contains the" in said.err, command
        assert FILES.SECRET not in said.out + said.err, command
    assert path.read_bytes() == before
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


def test_a_writing_connection_reaches_nothing_but_its_file(path: Path) -> None:
    migrate(path)
    secret, trace = path.with_name("secret.csv"), path.with_name(FILES.TRACE)
    secret.write_text(FILES.SECRET)
    for probe in (
        f"COPY (SELECT 1) TO '{trace}'",
        f"SELECT * FROM read_text('{secret}')",
        f"ATTACH '{path.with_name('other.duckdb')}'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
    ):
        with pytest.raises(Exception, match=r".") as refusal, writing(path) as db:
            db.execute(probe).fetchall()
        assert FILES.SECRET not in str(refusal.value)
    assert sorted(file.name for file in path.parent.iterdir()) == [secret.name, path.name]


def test_nothing_is_written_to_a_file_that_holds_what_no_cache_holds(path: Path) -> None:
    FILES.REFUSED["macro in place of a function"](path)
    with pytest.raises(CacheRefused, match="macro 'median'"), writing(path):
        pass


def test_a_cache_that_is_up_to_date_is_only_read_by_migrate(path: Path) -> None:
    migrate(path)
    with reading(path):
        assert migrate(path) == []


@pytest.mark.parametrize("name", FILES.HARMLESS)
def test_every_command_ends_in_words_or_takes_the_contents_for_what_they_are(
    name: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FILES.HARMLESS[name](path)
    with contextlib.closing(duckdb.connect(str(path), read_only=True)) as db:
        study = str(db.execute("SELECT study_id FROM studies").fetchall()[0][0])
    for command, words in commands(path, tmp_path, study).items():
        code = main(words)
        said = capsys.readouterr()
        assert code in (0, 1, 2), command
        assert code == 0 or said.err.startswith("error: "), command
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("inside", "out")] == []


@pytest.mark.parametrize("name", [name for name in FILES.REFUSED if name not in MACROS])
def test_what_pages_refuse_ends_in_words_with_commands_too(
    name: str, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FILES.REFUSED[name](path)
    every = commands(path, tmp_path)
    for command in ("migrate", "import", "report md", "export csv"):
        code = main(every[command])
        said = capsys.readouterr()
        assert code == 0 or said.err.startswith("error: "), command
        assert FILES.SECRET not in said.out + said.err
        assert code == 2 or command != "import"


def test_a_plan_that_cannot_be_read_keeps_everything_of_its_file_out(path: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.duckdb"
    for name in ("plan without bottom", "plan of other kinds", "lanes that are a number"):
        path.unlink(missing_ok=True)
        FILES.HARMLESS[name](path)
        with pytest.raises(CacheRefused, match="The stored study 'shared' cannot be read"):
            import_cache(path, mine)
        with reading(mine) as db:
            assert db.execute("SELECT count(*) FROM trajectories").fetchall() == [(0,)]


def test_no_control_character_of_a_cache_reaches_the_terminal(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    escapes = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\x7f"
    made = FILES.synthetic()
    made.write_scored(path, name="shared")
    with contextlib.closing(duckdb.connect(str(path))) as db:
        for table, column in (("models", "source"), ("environments", "device_name"), ("trajectories", "lane")):
            db.execute(f"UPDATE {table} SET {column} = {column} || ?", [escapes])
        for table in ("studies", "study_trajectories", "study_metrics"):
            db.execute(f"UPDATE {table} SET study_id = study_id || ?", [escapes])
    study = f"shared{escapes}"
    for words in (*commands(path, tmp_path, study).values(), ["claims", f"no{escapes}", "--cache", str(path)]):
        main(words)
        said = capsys.readouterr()
        assert not CONTROL.search(said.out + said.err), words
    assert "title" in said.err
