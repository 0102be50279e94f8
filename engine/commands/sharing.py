"""Commands that hand results on: export, import, report."""

import argparse
from collections.abc import Callable
from pathlib import Path

from engine.cache.connection import reading
from engine.cache.exchange import import_cache
from engine.cache.queries import studies as list_studies
from engine.errors import LabError
from engine.sharing.export import FORMATS, SUFFIXES, View, export
from engine.sharing.report.material import CLAIMS, IMAGES_PER_MONTH, UTILISATION, Wish
from engine.sharing.report.writing import REPORT_FORMATS, write_report
from engine.sharing.words import import_lines

Add = Callable[..., argparse.ArgumentParser]


def add_commands(add: Add, cache_option: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the commands to the command line."""
    out = add("export", help="write a cached study as another cache, Parquet, CSV, contact sheets, GIF or MP4")
    out.add_argument("study", nargs="?", help="a cached study; left out with --format duckdb: the whole cache")
    out.add_argument("--format", choices=FORMATS, help="what to write; unless given, told by the ending of PATH")
    out.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH", help="file, or folder for parquet and png"
    )
    out.add_argument("--prompt", help="prompt of an animation or comparison (default: the first)")
    out.add_argument("--seed", type=int, help="its seed (default: the first)")
    out.add_argument("--kind", choices=("x0", "xt"), default="x0", help="x0: clean-image estimate; xt: noisy image")
    cache_option(out)
    out.set_defaults(command=export_study)

    into = add("import", help="take over what another cache holds, e.g. a colleague's from another machine")
    into.add_argument("file", type=Path, help="a cache, or what `export` wrote; it is only read")
    cache_option(into)
    into.set_defaults(command=import_file)

    page = add("report", help="write a cached study as one page that opens offline: HTML, PDF, Markdown or a picture")
    page.add_argument("study", help="a cached study")
    page.add_argument("-o", "--output", type=Path, required=True, metavar="PATH",
                      help="file ending in .html, .pdf, .md or .png")  # fmt: skip
    page.add_argument("--format", choices=REPORT_FORMATS, help="unless given, told by the ending of PATH")
    page.add_argument("--pdf", action="store_true", help="print the page to PATH with the ending .pdf as well")
    page.add_argument("--claims", type=Path, default=CLAIMS, metavar="FILE", help="another file of claims")
    page.add_argument("--price", metavar="KEY", help="of data/gpu_prices.toml (default: that of the measured GPU)")
    page.add_argument("--usd-per-hour", type=_above_zero, metavar="X", help="price of an hour of the measured machine")
    page.add_argument("--seconds", type=_above_zero, metavar="X", help="baseline's seconds per image on the priced GPU")
    page.add_argument("--images", type=_above_zero, default=IMAGES_PER_MONTH, metavar="N", help="images a month")
    page.add_argument("--busy", type=_percent, default=UTILISATION, metavar="PERCENT", help="share of paid time in use")
    cache_option(page)
    page.set_defaults(command=report)


def report(arguments: argparse.Namespace) -> int:
    """`report STUDY -o PATH`."""
    path: Path = arguments.output
    form = arguments.format or path.suffix.lower().lstrip(".")
    if form not in REPORT_FORMATS:
        raise LabError(f"-o {path}: its ending tells no format; end it in .{', .'.join(REPORT_FORMATS)}.")
    if arguments.price and arguments.usd_per_hour:
        raise LabError("--price and --usd-per-hour both name a price; give one of them.")
    wish = Wish(arguments.claims, arguments.price, arguments.usd_per_hour, arguments.seconds, arguments.images,
                arguments.busy)  # fmt: skip
    for file in write_report(arguments.cache, arguments.study, path, form, wish, pdf=arguments.pdf):
        print(f"{file}: {file.stat().st_size / 1e6:,.2f} MB")
    return 0


def export_study(arguments: argparse.Namespace) -> int:
    """`export STUDY -o PATH`."""
    path: Path = arguments.output
    suffix = path.suffix.lower()
    form = arguments.format or SUFFIXES.get(suffix)
    if form is None:
        raise LabError(f"-o {path}: its ending tells no format; give --format, one of {', '.join(FORMATS)}.")
    if SUFFIXES.get(suffix, form) != form and not path.is_dir():
        raise LabError(f"-o {path} ends like {SUFFIXES[suffix]}, but --format says {form}; make them agree.")
    view = View(arguments.prompt, arguments.seed, arguments.kind)
    print("\n".join(export(arguments.cache, arguments.study, form, path, view)))
    return 0


def import_file(arguments: argparse.Namespace) -> int:
    """`import FILE`."""
    merged = import_cache(arguments.file, arguments.cache)
    print("\n".join(import_lines(merged, arguments.file)))
    with reading(arguments.cache) as db:
        names = ", ".join(list_studies(db)["name"])
    print(f"Cache: {arguments.cache} (studies: {names or 'none'})")
    return 0


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _percent(text: str) -> float:
    share = _above_zero(text) / 100
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 100 percent")
    return share
