"""The report as PDF, printed by an installed Chromium."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from engine.errors import LabError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PLACES = (  # on macOS they are not on PATH
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
SECONDS = 120
NO_CHROMIUM = (
    f"PDF export needs Chromium or Chrome, and none was found (looked for {', '.join(NAMES)}). "
    "Install one, or print the HTML report from any browser."
)


def find_chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    return next((found for name in (*NAMES, *PLACES) if (found := shutil.which(name))), None)


def print_pdf(page: str, path: Path) -> None:
    """Prints an HTML page to a PDF file, without network.

    Raises:
        LabError: Chromium is missing or fails.
    """
    program = find_chromium()
    if program is None:
        raise LabError(NO_CHROMIUM)
    with tempfile.TemporaryDirectory(prefix="report-") as name:
        folder = Path(name)
        source, target = folder / "report.html", folder / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            program,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-pdf-header-footer",
            "--virtual-time-budget=10000",
            f"--user-data-dir={folder / 'profile'}",
            f"--print-to-pdf={target}",
            *(["--no-sandbox"] if _is_root() else []),
            source.as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise LabError(f"{program} could not print the report: {error}.") from error
        if not target.is_file():
            words = done.stderr.decode(errors="replace").strip().splitlines()
            raise LabError(f"{program} printed nothing: {words[-1] if words else f'exit code {done.returncode}'}.")
        shutil.copyfile(target, path)


def _is_root() -> bool:
    """Whether this process is root; as root, Chromium refuses to start with its sandbox."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
