"""Writes reports to files."""

from pathlib import Path

from engine.cache.connection import migrate, reading
from engine.errors import LabError
from engine.sharing.export import check_folder, write_whole
from engine.sharing.file_formats import REPORT_FORMATS
from engine.sharing.report.contents import ReportOptions, read_report
from engine.sharing.report.markdown import render_markdown
from engine.sharing.report.page import render
from engine.sharing.report.poster import render_png
from engine.sharing.report.printing import NO_CHROMIUM, find_chromium, print_pdf


def write_report(
    cache: Path, study: str, path: Path, form: str, options: ReportOptions, *, pdf: bool = False
) -> list[Path]:
    """Writes the report of a study in one of `REPORT_FORMATS`, with `pdf` also as PDF beside it; returns the files.

    Raises:
        LabError: There is no such format, study or price, Chromium is missing for a PDF, or a file cannot be written.
    """
    if form not in REPORT_FORMATS:
        raise LabError(f"{path}: the ending tells no format; use .{', .'.join(REPORT_FORMATS)}.")
    check_folder(path)
    if (pdf or form == "pdf") and find_chromium() is None:
        raise LabError(NO_CHROMIUM)
    if cache.exists():
        migrate(cache)
    with reading(cache) as db:
        report = read_report(db, study, options)
    printed = path.with_suffix(".pdf") if pdf and form != "pdf" else None
    page = render(report) if form in ("html", "pdf") or printed else ""
    if form == "html":
        write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))
    elif form == "pdf":
        write_whole(path, lambda file: print_pdf(page, file))
    elif form == "md":
        text = render_markdown(report)
        write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
    else:
        picture = render_png(report)
        write_whole(path, lambda file: file.write_bytes(picture))
    if printed:
        write_whole(printed, lambda file: print_pdf(page, file))
    return [path, *([printed] if printed else [])]
