"""What objects of the Python face show of themselves: in notebooks, in the browser, as files and as figures."""

import os
import subprocess
import sys
import tempfile
import webbrowser
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.cache.connection import reading
from engine.errors import LabError, StudyError
from engine.sharing.report.contents import ReportOptions, read_report
from engine.sharing.report.page import render
from engine.sharing.report.report_files import write_report

HEIGHT_PIXELS = 720
NO_MATPLOTLIB = 'figure() needs Matplotlib: pip install "scheduler-lab[plot]".'


class NotebookFace:
    """Shows the study that was run last.

    Attributes:
        cache: The file that holds it.
    """

    cache: Path
    _shown: str = ""

    def _repr_html_(self) -> str:
        """Headline, pictures with their scrubber and verdicts, for Jupyter and marimo; isolated in a frame."""
        if not self._shown:
            return "<p>Nothing has been run yet; <code>create_comparison_grid(prompt)</code> does.</p>"
        page = escape(self._page(charts=False), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="{escape(self._shown, quote=True)}" '
            f'style="width: 100%; height: {HEIGHT_PIXELS}px; border: 0"></iframe>'
        )

    def show(self) -> None:
        """Shows the last study: below the cell of a notebook, else in the browser.

        Raises:
            StudyError: Nothing has been run yet.
        """
        page = self._page(charts=not _in_notebook())
        if _in_notebook():
            import_module("IPython.display").display(self)
            return
        with tempfile.NamedTemporaryFile("w", suffix=".html", delete=False, encoding="utf-8") as file:
            file.write(page)
        webbrowser.open(Path(file.name).as_uri())

    def report(self, path: str | Path) -> Path:
        """Writes the report of the last study; the ending chooses the format: .html, .pdf, .md or .png.

        Raises:
            StudyError: Nothing has been run yet.
            LabError: The file cannot be written, or its ending tells no format.
        """
        file = Path(path)
        return write_report(self.cache, self._last_study(), file, file.suffix.lower().lstrip("."), ReportOptions())[0]

    def open_dashboard(self, port: int | None = None) -> "subprocess.Popen[bytes]":
        """Serves the pages over the cache in a process of their own, which `terminate()` of the answer ends.

        Args:
            port: 8501 or the next free one unless given.
        """
        number = ["--port", str(port)] if port else []
        command = [sys.executable, "-m", "engine", "dashboard", "--cache", str(self.cache), *number]
        root = str(Path(__file__).resolve().parents[1])
        search = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": search})

    def figure(self, prompt: str | None = None, seed: int | None = None, kind: str = "x0", columns: int = 6) -> Any:
        """The lanes of the last study, step by step, as a Matplotlib figure to go on with.

        Args:
            prompt: The first one unless given.
            seed: The first one unless given.
            kind: "x0" or "xt".
            columns: Steps of each lane, besides the final picture.

        Raises:
            LabError: Matplotlib is not installed.
            StudyError: Nothing has been run yet, or nothing of it is finished.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise LabError(NO_MATPLOTLIB) from None
        from engine.sharing.lane_pictures import lane_pictures

        found = lane_pictures(self.cache, self._last_study(), prompt, seed, kind, columns)
        if not found.rows:
            raise StudyError("No lane of the last study has a finished picture.")
        figure = Figure(figsize=(1.4 * (columns + 1), 1.6 * len(found.rows)), layout="constrained")
        axes = figure.subplots(len(found.rows), columns + 1, squeeze=False)
        for line, (label, pictures) in zip(axes, found.rows, strict=True):
            for axis in line:
                axis.set_axis_off()
            for axis, (progress, picture) in zip(line, pictures, strict=False):
                axis.imshow(picture)
                axis.set_title("final" if progress is None else f"{progress:.0%}", fontsize=8)
            line[0].text(0.0, 1.22, label, transform=line[0].transAxes, fontsize=9, fontweight="bold", parse_math=False)
        figure.suptitle(f"{found.prompt}, seed {found.seed}", fontsize=10, parse_math=False)
        return figure

    def _last_study(self) -> str:
        if not self._shown:
            raise StudyError("Nothing has been run yet; call create_comparison_grid(prompt), for example.")
        return self._shown

    def _page(self, *, charts: bool) -> str:
        study = self._last_study()
        with reading(self.cache) as db:
            report = read_report(db, study)
        return render(report, with_charts=charts)


def _in_notebook() -> bool:
    """Whether this runs in a kernel that can show HTML."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell is not None else None
    return kernel is not None and type(kernel).__name__ != "TerminalInteractiveShell"
