"""The comparison grid of a cached study as an image."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from engine.cache import queries
from engine.cache.connection import reading
from engine.errors import LabError, StudyError
from engine.results import read_results
from engine.sharing.grid import GridRow, draw_grid
from engine.study.cells import frame_steps
from engine.study.frame_settings import FrameSettings


def comparison_grid(
    cache: Path, study: str, prompt: str, seed: int, kind: str, names: Mapping[str, str] | None = None
) -> Image.Image:
    """Draws all lanes of a study on one prompt and seed.

    Args:
        cache: The cache file.
        study: Name of the study.
        prompt: One of its prompts.
        seed: One of its seeds.
        kind: "x0" or "xt".
        names: Display names by lane.

    Raises:
        StudyError: The study has no such cell.
    """
    with reading(cache) as db:
        results = read_results(db, study)
        cells = results.cells[(results.cells["prompt"] == prompt) & (results.cells["seed"] == seed)]
        if cells.empty:
            raise StudyError(f"Study '{study}' has no cell with seed {seed} and prompt {prompt[:80]!r} in {cache}.")
        frames = queries.frames(db, list(cells["trajectory_id"]), [kind, "final"], stills=True)
    times = results.times.set_index("lane")
    paths = {key: _path(group) for key, group in frames[frames["kind"] == kind].groupby("trajectory_id")}
    # Another study may have stored more frames of the same cells.
    most = max(map(len, paths.values()), default=0)
    asked = (results.spec.get("frames") or {}).get("count")
    columns = most if asked is None else max(min(most, asked), 0)
    reached = _reached(list(paths.values()), columns)
    rows = [_row(cell, frames, times, paths, reached, names or {}) for _, cell in cells.iterrows()]
    where = times["device_name"].iloc[0] if len(times) else "not timed"
    first = cells.iloc[0]
    return draw_grid(
        title=prompt or "(empty prompt)",
        subtitle=f"{'Clean-image estimate' if kind == 'x0' else 'Noisy image'} at each step; seed {seed}, guidance "
        f"{first['guidance_scale']:g}, {first['width']} x {first['height']} px, {first['dtype']}; "
        "percent: share of the denoiser calls made",
        columns=[*map(_heading, reached), "final"],
        rows=rows,
        footer=f"Times: median of whole calls at batch 1 [95 % interval], {where}. "
        f"Model {results.spec.get('model', 'unknown')}.",
    )


def check_picture_file(path: Path) -> None:
    """Checks that an image can be written to a file, before any work is done for it.

    Raises:
        StudyError: The folder does not exist, or Pillow cannot write the format.
    """
    form = Image.registered_extensions().get(path.suffix.lower())
    if form is None:
        raise StudyError(f"save_path '{path}' does not end in a known image format; use e.g. '.png'.")
    try:
        # Some formats are read-only, lack RGB or need a program; trying is the only way to know.
        Image.new("RGB", (8, 8)).save(io.BytesIO(), form)
    except (OSError, KeyError, ValueError) as error:
        raise StudyError(f"save_path '{path}': images cannot be written as {form} here; use e.g. '.png'.") from error
    if path.is_dir() or not path.resolve().parent.is_dir():
        problem = "is a folder" if path.is_dir() else f"is in a folder that does not exist ({path.resolve().parent})"
        raise StudyError(f"save_path '{path}' {problem}; name a file in an existing folder.")


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes an image in the format given by the file's suffix.

    Raises:
        LabError: The file cannot be written.
    """
    try:
        picture.save(path)
    except OSError as error:
        raise LabError(f"{path} could not be written: {error}.") from error


# (progress, encoded picture) of the stored steps of a cell.
Kept = tuple[tuple[float, bytes], ...]


def _path(frames: pd.DataFrame) -> Kept:
    ordered = frames.sort_values("step_index")
    pairs = zip(ordered["progress"], ordered["image"], strict=True)
    return tuple((float(progress), bytes(data)) for progress, data in pairs)


def _reached(paths: Sequence[Kept], columns: int) -> list[tuple[float, float]]:
    """Progress of the lanes in each column: lowest and highest of those that fill all columns.

    The first stored step is call 1, which is 2 % of 50 calls but 5 % of 20, so a column is a range.
    """
    full = [
        [path[place][0] for place in frame_steps(FrameSettings(columns), len(path))]
        for path in paths
        if len(path) >= columns
    ]
    return [(min(column), max(column)) for column in zip(*full, strict=True)]


def _heading(reached: tuple[float, float]) -> str:
    low, high = (round(100 * progress) for progress in reached)
    return f"{low} %" if low == high else f"{low} to {high} %"


def _row(
    cell: pd.Series,
    frames: pd.DataFrame,
    times: pd.DataFrame,
    paths: Mapping[str, Kept],
    reached: Sequence[tuple[float, float]],
    names: Mapping[str, str],
) -> GridRow:
    mine = frames[(frames["trajectory_id"] == cell["trajectory_id"]) & (frames["kind"] == "final")]
    final = [bytes(data) for data in mine["image"]]
    lane = cell["study_lane"]
    details = [f"{cell['steps']} steps, {cell['nfe']} denoiser calls"]
    if lane in times.index:
        details.append(_time(times.loc[lane]))
    return GridRow(
        label=names.get(lane, f"{cell['scheduler_label']} {cell['steps']}"),
        details=tuple(details),
        pictures=(*_spread(paths.get(cell["trajectory_id"], ()), reached), final[0] if final else None),
        note="" if cell["status"] == "done" else f"failed: {cell['error']}",
        gap="no step yet",
    )


def _time(time: pd.Series) -> str:
    interval = "" if pd.isna(time["low_ms"]) else f" [{time['low_ms']:,.0f}, {time['high_ms']:,.0f}]"
    return f"{time['median_ms']:,.0f} ms{interval}, n = {time['n']}"


def _spread(path: Kept, reached: Sequence[tuple[float, float]]) -> list[bytes | None]:
    """A lane's picture for each column: an evenly spaced subset, or else the last step reached by then."""
    if len(path) >= len(reached):
        return [path[place][1] for place in frame_steps(FrameSettings(len(reached)), len(path))]
    made = [[data for progress, data in path if progress <= most + 1e-9] for _, most in reached]
    return [steps[-1] if steps else None for steps in made]
