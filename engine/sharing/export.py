"""Exports a cached study: CSV, Parquet, contact sheets, animations, or another cache."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engine.cache.connection import migrate, reading
from engine.cache.exchange import export_cache
from engine.cache.snapshot import snapshot
from engine.errors import LabError, StudyError, did_you_mean
from engine.paths import write_atomically
from engine.results import Results, read_results
from engine.sharing.animation import draw_frames, strips_of, write_gif, write_mp4
from engine.sharing.comparison_grid import comparison_grid
from engine.sharing.figures import figures_csv
from engine.sharing.parquet import export_parquet
from engine.sharing.pictures import StoredPictures, load_pictures
from engine.sharing.sheets import contact_sheets, sheet_count

# Largest side of a picture in sheets and animations (px).
MAX_SIDE = 256


@dataclass(frozen=True)
class View:
    """Which pictures of a study to show; None stands for the first prompt or seed."""

    prompt: str | None = None
    seed: int | None = None
    kind: str = "x0"


def export(cache: Path, study: str | None, form: str, path: Path, view: View) -> list[str]:
    """Writes a study in one of `FORMATS`; returns lines that describe the files written.

    Raises:
        LabError: There is no such study, prompt or seed; the file cannot be written; or a program is missing.
    """
    if study is None and form != "duckdb":
        raise StudyError(f"Name a study: only --format duckdb exports the whole cache, '{form}' exports one study.")
    check_folder(path)
    if cache.exists() and form != "duckdb":
        migrate(cache)
    if study is None or form == "duckdb":
        merged = export_cache(cache, path, study)
        return [f"{path}: {merged.cells:,} cells, {sum(merged.rows.values()):,} rows, {_megabytes(path)}"]
    if form == "parquet":
        with snapshot(cache, path) as db:
            read_results(db, study)
            files = export_parquet(db, study, path)
        return [f"{path}: {len(files)} files, {sum(file.stat().st_size for file in files) / 1e6:,.1f} MB"]
    writers: dict[str, Callable[[Path, str, Path, View], list[str]]] = {
        "csv": _csv,
        "png": _png,
        "gif": partial(_animation, write_gif),
        "mp4": partial(_animation, write_mp4),
    }
    return writers[form](cache, study, path, view)


def choose(results: Results, view: View) -> tuple[str, int]:
    """The prompt and seed of a view.

    Raises:
        StudyError: The study has no such prompt or seed.
    """
    prompts, seeds = results.prompts, results.seeds
    if not prompts or not seeds:
        raise StudyError(f"The study '{results.id}' has no prompt or no seed.")
    prompt = prompts[0] if view.prompt is None else view.prompt
    if prompt not in prompts:
        near = did_you_mean(prompt, prompts)
        raise StudyError(f"The study has no prompt {prompt[:80]!r}.{near} It has {len(prompts)}, e.g. {prompts[0]!r}.")
    seed = seeds[0] if view.seed is None else view.seed
    if seed not in seeds:
        raise StudyError(f"The study has no seed {seed}; it has {', '.join(map(str, seeds[:20]))}.")
    return prompt, seed


def check_folder(path: Path) -> None:
    """Checks that the folder of a file exists, before any work is done for it.

    Raises:
        LabError: It does not exist.
    """
    if not path.resolve().parent.is_dir():
        raise LabError(f"-o {path}: the folder {path.resolve().parent} does not exist.")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file atomically.

    Raises:
        LabError: It cannot be written.
    """
    try:
        write_atomically(path, write)
    except OSError as error:
        raise LabError(f"{path} could not be written: {error}.") from error


def _csv(cache: Path, study: str, path: Path, view: View) -> list[str]:
    with reading(cache) as db:
        results = read_results(db, study)
    text = figures_csv(results)
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))
    return [f"{path}: {text.count(chr(10)) - 1} rows"]


def _png(cache: Path, study: str, path: Path, view: View) -> list[str]:
    with reading(cache) as db:
        results = read_results(db, study)
    if view.prompt is None and view.seed is None:
        return _sheets(cache, results, path)
    prompt, seed = choose(results, view)
    image = comparison_grid(cache, study, prompt, seed, view.kind)
    write_whole(path, lambda file: image.save(file, "PNG"))
    return [f"{path}: {image.width} x {image.height} px"]


def _sheets(cache: Path, results: Results, path: Path) -> list[str]:
    sheets = sheet_count(results)
    if path.suffix.lower() == ".png" and sheets > 1:
        raise LabError(
            f"-o {path}: the study takes {sheets} contact sheets. Name a folder, or select one comparison with "
            "--prompt or --seed."
        )
    if path.suffix.lower() != ".png":
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise LabError(f"-o {path}: the folder cannot be created: {error}.") from error

    def finals(ids: Sequence[str]) -> StoredPictures:
        # Reopened for every sheet, since drawing one would block a running study for too long.
        with reading(cache) as db:
            return load_pictures(db, ids, "", MAX_SIDE)

    lines = []
    for name, image in contact_sheets(results, finals):
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{results.id}-{name}")
        target = path if path.suffix.lower() == ".png" else path / f"{plain}.png"
        write_whole(target, lambda file, image=image: image.save(file, "PNG"))  # type: ignore[misc]
        lines.append(f"{target}: {image.width} x {image.height} px")
    return lines


def _animation(write: Callable[..., None], cache: Path, study: str, path: Path, view: View) -> list[str]:
    with reading(cache) as db:
        results = read_results(db, study)
        prompt, seed = choose(results, view)
        cells = results.cells
        cells = cells[(cells["prompt"] == prompt) & (cells["seed"] == seed)]
        by_lane = dict(zip(cells["study_lane"], cells["trajectory_id"], strict=True))
        pictures = load_pictures(db, list(by_lane.values()), view.kind, MAX_SIDE)
    labels = dict(zip(results.lane_table["lane"], results.lane_table["label"], strict=True))
    what = "clean-image estimate" if view.kind == "x0" else "noisy image"
    if any(mine.clip for mine in pictures.values()):
        what = "final clips"
    title = f"{' '.join(prompt.split()) or '(empty prompt)'}: {what}, seed {seed}"
    frames = draw_frames(title, strips_of(labels, by_lane, pictures))
    write_whole(path, lambda file: write(frames, file))
    return [f"{path}: {len(frames)} frames of {frames[0].width} x {frames[0].height} px, {_megabytes(path)}"]


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:,.1f} MB"
