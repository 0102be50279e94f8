"""The options of export, import, report and share, in a module that imports little."""

import argparse
from collections.abc import Callable
from pathlib import Path

from engine.paths import CLAIMS
from engine.sharing.file_formats import FORMATS, IMAGES_PER_MONTH, REPORT_FORMATS, UTILISATION

Add = Callable[..., argparse.ArgumentParser]


def add_commands(add: Add, cache_option: Callable[[argparse.ArgumentParser], None]) -> None:
    """Adds the commands to the parser."""
    out = add("export", help="write a cached study as another cache, Parquet, CSV, contact sheets, GIF or MP4")
    out.add_argument("study", nargs="?", help="a cached study, by name or file (--format duckdb without one: all)")
    out.add_argument("--format", choices=FORMATS, help="what to write (default: by the extension of PATH)")
    out.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH", help="file, or folder for parquet and png"
    )
    out.add_argument("--prompt", help="prompt of an animation or comparison (default: the first)")
    out.add_argument("--seed", type=int, help="its seed (default: the first)")
    out.add_argument("--kind", choices=("x0", "xt"), default="x0", help="x0: clean-image estimate; xt: noisy image")
    cache_option(out)
    out.set_defaults(command="sharing.export_study")

    into = add("import", help="merge another cache into yours, e.g. a colleague's from another machine")
    into.add_argument("file", type=Path, help="a .duckdb file, a cache or an export; it is only read")
    cache_option(into)
    into.set_defaults(command="sharing.import_file")

    page = add("report", help="write a cached study as one page that works offline: HTML, PDF, Markdown or a picture")
    page.add_argument("study", help="a cached study, by name or TOML file")
    page.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH", help="a .html, .pdf, .md or .png file"
    )
    page.add_argument("--format", choices=REPORT_FORMATS, help="default: by the extension of PATH")
    page.add_argument("--pdf", action="store_true", help="also print the page to PATH with the extension .pdf")
    page.add_argument("--claims", type=Path, default=CLAIMS, metavar="FILE", help="another file of claims")
    page.add_argument("--price", metavar="KEY", help="key in data/gpu_prices.toml (default: the measured GPU's)")
    page.add_argument("--usd-per-hour", type=_above_zero, metavar="X", help="hourly price of the measured machine")
    page.add_argument("--seconds", type=_above_zero, metavar="X", help="baseline's seconds per image on the priced GPU")
    page.add_argument("--images", type=_above_zero, default=IMAGES_PER_MONTH, metavar="N", help="images per month")
    page.add_argument("--busy", type=_percent, default=UTILISATION, metavar="PERCENT", help="share of paid time in use")
    cache_option(page)
    page.set_defaults(command="sharing.report")

    site = add("share", help="write a cached study as a static site: the report and the interactive Compare")
    site.add_argument("study", help="a cached study, by name or TOML file")
    site.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="created if it does not exist")
    site.add_argument("--url", default="", metavar="ADDRESS", help="the folder's web address, for link previews")
    cache_option(site)
    site.set_defaults(command="sharing.share")


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _percent(text: str) -> float:
    share = _above_zero(text) / 100
    if share > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 100 percent")
    return share
