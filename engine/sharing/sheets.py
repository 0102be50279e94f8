"""Contact sheets of a study: final pictures, lanes by prompts."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence

from PIL import Image

from engine.display.formats import count
from engine.results import Results
from engine.sharing.grid import GridRow, draw_grid
from engine.sharing.pictures import CellPictures

PROMPTS_PER_SHEET = 8

# Loads the final pictures of cells.
Finals = Callable[[Sequence[str]], Mapping[str, CellPictures]]


def contact_sheets(results: Results, finals: Finals) -> Iterator[tuple[str, Image.Image]]:
    """Yields (name, sheet) for each seed, with at most `PROMPTS_PER_SHEET` prompts per sheet."""
    prompts = results.prompts
    starts = range(0, len(prompts), PROMPTS_PER_SHEET)
    for seed in results.seeds:
        for number, start in enumerate(starts, 1):
            name = f"seed-{seed}" + (f"-{number}" if len(starts) > 1 else "")
            yield name, _sheet(finals, results, seed, prompts[start : start + PROMPTS_PER_SHEET])


def sheet_count(results: Results) -> int:
    """Number of contact sheets of a study."""
    return len(results.seeds) * -(-len(results.prompts) // PROMPTS_PER_SHEET)


def _sheet(load: Finals, results: Results, seed: int, prompts: list[str]) -> Image.Image:
    cells = results.cells
    cells = cells[(cells["seed"] == seed) & cells["prompt"].isin(prompts)]
    pictures = load(list(cells["trajectory_id"]))
    places = {(row.study_lane, row.prompt): row for row in cells.itertuples()}
    rows = []
    for lane in results.lane_table.itertuples():
        mine = [places.get((lane.lane, prompt)) for prompt in prompts]
        finals = [pictures[cell.trajectory_id].final if cell is not None else None for cell in mine]
        errors = [str(cell.error) for cell in mine if cell is not None and cell.status == "failed"]
        note = "" if any(finals) else f"failed: {errors[0]}" if errors else "not run"
        details = [count(int(lane.nfe), "denoiser call")] if lane.nfe == lane.nfe else []
        rows.append(GridRow(str(lane.label), tuple(details), tuple(_png(image) for image in finals), note))
    settings = ""
    if len(cells):
        first = cells.iloc[0]
        settings = f", guidance {first['guidance_scale']:g}, {first['width']} x {first['height']} px"
    return draw_grid(
        title=results.id,
        subtitle=f"Final pictures, seed {seed}{settings}; the same noise in each column",
        columns=[" ".join(prompt.split()) or "(empty prompt)" for prompt in prompts],
        rows=rows,
        footer=f"Model {results.spec.get('model', 'unknown')}. " + "; ".join(results.environment_lines),
    )


def _png(image: Image.Image | None) -> bytes | None:
    if image is None:
        return None
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()
