"""The comparison grid of a cached study as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from engine.analysis.timing import summarise
from engine.cache import queries
from engine.cache.connection import reading
from engine.errors import StudyError
from engine.sharing.grid import GridRow, draw_grid
from engine.study.plan import frame_steps
from engine.study.study import FrameSettings


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
        names: Names to show, by lane.

    Raises:
        StudyError: The study has no such cell.
    """
    with reading(cache) as db:
        spec = queries.spec(db, study)
        cells = queries.cells(db, study)
        cells = cells[(cells["prompt"] == prompt) & (cells["seed"] == seed)]
        if spec is None or cells.empty:
            raise StudyError(f"Study '{study}' has no cell with seed {seed} and prompt {prompt[:80]!r} in {cache}.")
        frames = queries.frames(db, list(cells["trajectory_id"]), [kind, "final"])
        frames = frames[frames["video_frame"] == 0]
        timings = summarise(queries.timings(db, study), spec["baseline"])
    timings = timings[timings["batch_size"] == 1].drop_duplicates("lane").set_index("lane")
    kept = max((len(group) for _, group in frames[frames["kind"] == kind].groupby("trajectory_id")), default=0)
    # Other studies may have asked for more frames of the same cells.
    columns = min(kept, spec["frames"]["count"])
    rows = [_row(cell, frames, timings, kind, columns, names or {}) for _, cell in cells.iterrows()]
    headings = [f"{round(100 * (i / max(columns - 1, 1)))} % of steps" for i in range(columns)]
    where = timings["device_name"].iloc[0] if len(timings) else "not timed"
    first = cells.iloc[0]
    return draw_grid(
        title=prompt or "(empty prompt)",
        subtitle=f"{'Clean-image estimate' if kind == 'x0' else 'Noisy image'} at each step; seed {seed}, guidance "
        f"{first['guidance_scale']:g}, {first['width']} x {first['height']} px, {first['dtype']}",
        columns=[*headings, "final"],
        rows=rows,
        footer=f"Times: median of whole calls at batch 1 [95 % interval], {where}. Model {spec['model']}.",
    )


def _row(
    cell: pd.Series, frames: pd.DataFrame, timings: pd.DataFrame, kind: str, columns: int, names: Mapping[str, str]
) -> GridRow:
    mine = frames[frames["trajectory_id"] == cell["trajectory_id"]]
    steps = [bytes(data) for data in mine[mine["kind"] == kind]["image"]]
    final = [bytes(data) for data in mine[mine["kind"] == "final"]["image"]]
    lane = cell["study_lane"]
    details = [f"{cell['steps']} steps, {cell['nfe']} model calls"]
    if lane in timings.index:
        time = timings.loc[lane]
        details.append(f"{time['median_ms']:,.0f} ms [{time['low_ms']:,.0f}, {time['high_ms']:,.0f}], n = {time['n']}")
    return GridRow(
        label=names.get(lane, f"{cell['scheduler_label']} {cell['steps']}"),
        details=tuple(details),
        pictures=(*_spread(steps, columns), final[0] if final else None),
        note="" if cell["status"] == "done" else f"failed: {cell['error']}",
    )


def _spread(steps: Sequence[bytes], columns: int) -> list[bytes | None]:
    """The pictures of a lane under the columns that say how far it was: thinned out, or with gaps between them."""
    if len(steps) >= columns:
        return [steps[place] for place in frame_steps(FrameSettings(columns), len(steps))]
    places = dict(zip(frame_steps(FrameSettings(len(steps)), columns), steps, strict=True))
    return [places.get(place) for place in range(columns)]
