"""The rules of the architecture, read from the source: who may import whom, where SQL lives, how long a file gets.

Each rule is a function from a folder to its breaches, so that the last tests can show it a tree that breaks it.
"""

import ast
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 400
MAX_TRACKED_BYTES = 15_000_000

FACE = "diffusion_scheduler_visualizer"
HEAVY = ("torch", "diffusers", "transformers", "accelerate")
BELOW_THE_PASSES = ("study", "sampling", "measuring", "cache", "analysis", "display", "sharing", "tune")
# (who, what it must not import); a name stands for itself and all below it.
FORBIDDEN = [
    ("engine", ("dashboard", FACE, "streamlit")),
    ("engine.sampling", ("engine.cache",)),
    ("engine.measuring", ("engine.cache",)),
    ("engine.tune", ("engine.cache",)),
    # Whoever runs studies needs no search: a tuned schedule is a file.
    *((f"engine.{part}", ("engine.tune",)) for part in ("study", "sampling", "measuring", "cache", "sharing")),
    ("engine.analysis", HEAVY),
    # Passes stand on top: they know all of the engine below the commands, and nothing below knows them.
    *((f"engine.{below}", ("engine.passes", "engine.commands")) for below in BELOW_THE_PASSES),
    ("engine.passes", ("engine.commands",)),
    ("dashboard", (*HEAVY, FACE)),
]
# What the dashboard may know of the engine.
DASHBOARD_KNOWS = (
    "engine.cache",
    "engine.analysis",
    "engine.display",
    "engine.results",
    "engine.sharing",
    "engine.study",
    "engine.environment",
    "engine.errors",
    "engine.paths",
    "engine.picture_files",
)
# Importing these must not load torch.
TORCH_FREE = ("dashboard", *DASHBOARD_KNOWS)

# As a whole statement's beginning, in capitals; prose that begins with "Select" or "Update" is no SQL.
SQL = re.compile(
    r"""\s*(?:--[^\n]*\n\s*)*(?:
        SELECT\s.*?\bFROM\b | SELECT\s+[\w*]+\s*\(
      | INSERT\s+(?:OR\s+\w+\s+)?INTO\b | UPDATE\s+\S+\s+SET\b | DELETE\s+FROM\b | TRUNCATE\s
      | (?:CREATE|DROP|ALTER)\s+(?:OR\s+REPLACE\s+)?(?:TEMP(?:ORARY)?\s+|UNIQUE\s+)?
        (?:TABLE|VIEW|INDEX|SEQUENCE|SCHEMA|TYPE|MACRO|FUNCTION)\b
      | WITH\s+(?:RECURSIVE\s+)?\w+[^)]*?\bAS\s+(?:NOT\s+)?(?:MATERIALIZED\s+)?\(
      | COPY\s.*?\b(?:TO|FROM)\b | ATTACH\s.*?['"?] | DETACH\s+\w | PRAGMA\s+\w | CHECKPOINT\b
      | (?:BEGIN|START)\s+TRANSACTION\b
    )""",
    re.DOTALL | re.VERBOSE,
)
RUNS_SQL = {"execute", "executemany"}


def python_files(root: Path, *tops: str) -> Iterator[Path]:
    for top in tops:
        yield from sorted((root / top).rglob("*.py"))


def module_name(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def imports(root: Path, file: Path) -> Iterator[tuple[int, str]]:
    """Yields line and full name of all that a file imports, inside functions too; `from a import b` gives `a.b`."""
    package = module_name(root, file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def forbidden_imports(root: Path) -> list[str]:
    breaches = []
    for file in python_files(root, "engine", "dashboard"):
        importer = module_name(root, file)
        for line, name in imports(root, file):
            for who, what in FORBIDDEN:
                if is_within(importer, who) and is_within(name, *what):
                    breaches.append(f"{file.relative_to(root)}:{line}: {who} must not import {name}")
            if is_within(importer, "dashboard") and is_within(name, "engine") and not is_within(name, *DASHBOARD_KNOWS):
                breaches.append(f"{file.relative_to(root)}:{line}: dashboard must not know {name}")
    return breaches


def sql_outside_the_cache(root: Path) -> list[str]:
    breaches = []
    files = [*python_files(root, "engine", "dashboard", "data"), *root.glob(f"{FACE}.py")]
    for file in files:
        if is_within(module_name(root, file), "engine.cache"):
            continue
        where = file.relative_to(root)
        breaches += [
            f"{where}:{line}: imports {name}" for line, name in imports(root, file) if is_within(name, "duckdb")
        ]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value):
                breaches.append(f"{where}:{node.lineno}: SQL outside engine/cache: {node.value.strip()[:60]!r}")
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in RUNS_SQL:
                breaches.append(f"{where}:{node.lineno}: .{node.func.attr}() is called outside engine/cache")
    return breaches


def long_files(root: Path) -> list[str]:
    lengths = {
        file.relative_to(root): len(file.read_text(encoding="utf-8").splitlines())
        for file in python_files(root, "engine", "dashboard", "data", "tests")
    }
    return [f"{file}: {length} lines, {MAX_LINES} at most" for file, length in lengths.items() if length > MAX_LINES]


def repeated_names(root: Path) -> list[str]:
    """Files of the engine with one name, and classes of the project with one name."""
    places: dict[str, list[str]] = defaultdict(list)
    for file in python_files(root, "engine"):
        if not file.name.startswith("__"):
            places[f"file {file.name}"].append(str(file.relative_to(root)))
    for file in python_files(root, "engine", "dashboard", "data"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[f"class {node.name}"].append(str(file.relative_to(root)))
    return [f"{name} stands in {', '.join(where)}" for name, where in places.items() if len(where) > 1]


ROOMS = {"__init__", "sections", "data", "controls"}
NO_PAGES = {"bench", "jobs", "views"}


def crowded_pages(root: Path) -> list[str]:
    """What the folder of a page holds besides its rooms (see `dashboard/__init__.py`)."""
    files = [file.relative_to(root) for file in (root / "dashboard").glob("*/*.py") if file.parent.name not in NO_PAGES]
    return [f"{file}: no room of a page" for file in sorted(files) if file.stem not in ROOMS]


# Run in a child process for [module, file, how] each. How "import": import the module. How "imports": run only
# the file's import statements, because the router and the views are scripts that draw when they are imported.
# Whatever tries to import a heavy package is noted with the project's files on the stack, even if it handles the error.
PROBE = """
import ast, importlib, json, sys, traceback

modules, heavy, root = json.loads(sys.argv[1])
breaches, current = [], None

class Watcher:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in heavy:
            stack = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack() if f.filename.startswith(root)]
            breaches.append(f"importing {current} imports {name} (by way of {' > '.join(stack)})")
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Watcher())
for current, file, how in modules:
    try:
        if how == "import":
            importlib.import_module(current)
        else:
            body = [n for n in ast.parse(open(file).read()).body if isinstance(n, (ast.Import, ast.ImportFrom))]
            package = current.rpartition(".")[0]
            exec(compile(ast.Module(body, []), file, "exec"), {"__name__": current, "__package__": package})
    except Exception as error:
        if not any(b.startswith(f"importing {current} ") for b in breaches):
            breaches.append(f"importing {current} fails: {error!r}")
print(json.dumps(breaches))
"""


def torch_imports(root: Path) -> list[str]:
    modules = [
        (name, str(file), "imports" if name == "dashboard.app" or is_within(name, "dashboard.views") else "import")
        for file in python_files(root, "dashboard", "engine")
        if is_within(name := module_name(root, file), *TORCH_FREE) and not name.endswith("__main__")
    ]
    child = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps([modules, HEAVY, str(root) + os.sep])],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    breaches: list[str] = json.loads(child.stdout.splitlines()[-1])
    return breaches


Rule = Callable[[Path], list[str]]
RULES: list[Rule] = [forbidden_imports, sql_outside_the_cache, long_files, repeated_names, crowded_pages, torch_imports]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_has_no(rule: Rule) -> None:
    if not any(python_files(ROOT, "engine", "dashboard")):
        pytest.skip("neither engine/ nor dashboard/ exists yet")
    assert rule(ROOT) == []


def test_no_tracked_file_is_larger_than_15_megabytes() -> None:
    command = ["git", "ls-files", "-z"]
    listing = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    sizes = {str(file.relative_to(ROOT)): file.stat().st_size for file in files if file.is_file()}
    assert {name: size for name, size in sizes.items() if size > MAX_TRACKED_BYTES} == {}


BROKEN = [
    (forbidden_imports, "engine/cli.py", "import dashboard.app"),
    (forbidden_imports, "engine/cli.py", f"def f():\n    import {FACE}"),
    (forbidden_imports, "engine/sampling/hub.py", "from engine.cache import writer"),
    (forbidden_imports, "engine/sampling/hub.py", "from engine import cache"),
    (forbidden_imports, "engine/measuring/lane_timing.py", "from ..cache import writer"),
    (forbidden_imports, "engine/measuring/__init__.py", "from .. import cache"),
    (forbidden_imports, "engine/analysis/verdict.py", "def f():\n    import torch.nn"),
    (forbidden_imports, "engine/cache/rows.py", "def f():\n    from engine.passes import plan"),
    (forbidden_imports, "engine/passes/plan.py", "from engine.commands import console"),
    (forbidden_imports, "dashboard/views/run.py", "from engine.sampling import hub"),
    (forbidden_imports, "dashboard/loaders.py", "import engine"),
    (forbidden_imports, "dashboard/loaders.py", "from engine.cache_of_mine import x"),
    (forbidden_imports, "engine/display/pareto_charts.py", "import streamlit as st"),
    (sql_outside_the_cache, "engine/analysis/verdict.py", "q = '''\n  SELECT a,\n b FROM t'''"),
    (sql_outside_the_cache, "dashboard/loaders.py", "def f(t):\n    return f'INSERT INTO {t} VALUES (1)'"),
    (sql_outside_the_cache, "engine/sharing/export.py", "q = 'CREATE OR REPLACE TABLE t(a INT)'"),
    (sql_outside_the_cache, "engine/sharing/export.py", "q = 'WITH a AS (SELECT 1) SELECT * FROM a'"),
    (sql_outside_the_cache, "engine/sharing/export.py", "def f(c):\n    return c.execute('select 1')"),
    (sql_outside_the_cache, "dashboard/loaders.py", "import duckdb"),
    (repeated_names, "engine/cache/cli.py", "import json"),
    (repeated_names, "dashboard/loaders.py", "class One: ...\nclass One: ..."),
    (long_files, "dashboard/loaders.py", "pass\n" * (MAX_LINES + 1)),
    (crowded_pages, "dashboard/overview/markup.py", ""),
    (torch_imports, "engine/study/plan.py", "import torch"),
    (torch_imports, "engine/study/plan.py", "try:\n    import diffusers\nexcept ImportError:\n    pass"),
    (torch_imports, "dashboard/views/run.py", "from engine import cli\n1 / 0"),
]


@pytest.mark.parametrize(("rule", "file", "source"), BROKEN)
def test_a_tree_that_breaks_the_rule_is_caught(rule: Rule, file: str, source: str, tmp_path: Path) -> None:
    for name in ("engine/__init__.py", "dashboard/__init__.py", file):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "engine/cli.py").write_text("import torch")
    (tmp_path / file).write_text(source)
    assert len(rule(tmp_path)) == 1


def test_prose_that_begins_like_sql_is_no_sql(tmp_path: Path) -> None:
    (tmp_path / "dashboard").mkdir()
    prose = [
        "Select a lane from the list",
        "select lanes from the study",
        "UPDATE: new",
        "WITH GUIDANCE",
        "CREATE A STUDY",
    ]
    (tmp_path / "dashboard/texts.py").write_text(f"TEXTS = {prose!r}")
    assert sql_outside_the_cache(tmp_path) == []
