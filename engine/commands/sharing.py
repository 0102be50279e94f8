"""Commands that share results: export, import, report, share."""

import argparse
from importlib import import_module
from pathlib import Path

from engine.cache.connection import reading
from engine.cache.exchange import import_cache
from engine.cache.queries import studies as list_studies
from engine.commands.files import cached_name, migrate_existing
from engine.errors import LabError
from engine.sharing.export import View, export
from engine.sharing.file_formats import FORMATS, REPORT_FORMATS, SUFFIXES
from engine.sharing.import_summary import import_lines
from engine.sharing.report.contents import ReportOptions
from engine.sharing.report.report_files import write_report


def report(arguments: argparse.Namespace) -> int:
    """`report STUDY -o PATH`."""
    path: Path = arguments.output
    form = arguments.format or path.suffix.lower().lstrip(".")
    if form not in REPORT_FORMATS:
        raise LabError(f"-o {path}: unknown file extension; use .{', .'.join(REPORT_FORMATS)}.")
    if arguments.price and arguments.usd_per_hour:
        raise LabError("--price and --usd-per-hour both set a price; give one of them.")
    options = ReportOptions(
        arguments.claims, arguments.price, arguments.usd_per_hour, arguments.seconds, arguments.images, arguments.busy
    )
    study = cached_name(arguments.study, arguments.cache)
    for file in write_report(arguments.cache, study, path, form, options, pdf=arguments.pdf):
        print(f"{file}: {file.stat().st_size / 1e6:,.2f} MB")
    return 0


def export_study(arguments: argparse.Namespace) -> int:
    """`export STUDY -o PATH`."""
    path: Path = arguments.output
    suffix = path.suffix.lower()
    form = arguments.format or SUFFIXES.get(suffix)
    if form is None:
        raise LabError(f"-o {path}: unknown file extension; give --format, one of {', '.join(FORMATS)}.")
    if SUFFIXES.get(suffix, form) != form and not path.is_dir():
        raise LabError(f"-o {path} has the extension of {SUFFIXES[suffix]}, but --format is {form}; make them agree.")
    view = View(arguments.prompt, arguments.seed, arguments.kind)
    study = None if arguments.study is None else cached_name(arguments.study, arguments.cache)
    print("\n".join(export(arguments.cache, study, form, path, view)))
    return 0


def share(arguments: argparse.Namespace) -> int:
    """`share STUDY --to FOLDER`."""
    migrate_existing(arguments.cache)
    # By name, since the engine must not import the dashboard; `lab.dashboard` starts it by name too.
    write_site = import_module("dashboard.static_site").write_site
    files = write_site(arguments.cache, cached_name(arguments.study, arguments.cache), arguments.to, arguments.url)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(
        f"{arguments.to}: {len(files)} files, {size:,.1f} MB. Open {arguments.to / 'index.html'}, or copy the folder."
    )
    return 0


def import_file(arguments: argparse.Namespace) -> int:
    """`import FILE`."""
    _check_cache_file(arguments.file)
    merged = import_cache(arguments.file, arguments.cache)
    print("\n".join(import_lines(merged, arguments.file)))
    with reading(arguments.cache) as db:
        names = ", ".join(list_studies(db)["name"])
    print(f"Cache: {arguments.cache} (studies: {names or 'none'})")
    return 0


def _check_cache_file(file: Path) -> None:
    """Refuses a file that is not a DuckDB file.

    Raises:
        LabError: It is a folder or another kind of file.
    """
    remedy = "`import` takes a cache: a .duckdb file as written by `export STUDY -o FILE.duckdb`"
    if file.is_dir():
        raise LabError(f"{file} is a folder; {remedy}. Parquet exports are for other programs.")
    if not file.is_file():
        return  # the import itself reports a missing file or a pipe
    try:
        with file.open("rb") as stream:
            head = stream.read(12)
    except OSError as error:
        raise LabError(f"{file} cannot be read: {error.strerror}.") from error
    if head[8:12] != b"DUCK":
        raise LabError(f"{file} is not a DuckDB file; {remedy}.")
