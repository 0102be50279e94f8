"""Pictures of a study's lanes at one prompt and seed, a few steps of each and the final one."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engine.cache import queries
from engine.cache.connection import reading
from engine.errors import StudyError, did_you_mean
from engine.picture_files import required
from engine.results import read_results
from engine.study.cells import evenly_spaced

Step = tuple[float | None, Image.Image]


@dataclass(frozen=True)
class LanePictures:
    """Of each lane its label and pictures: (share of the calls behind it, picture); None: the final one."""

    prompt: str
    seed: int
    rows: tuple[tuple[str, tuple[Step, ...]], ...]


def lane_pictures(
    cache: Path, study_id: str, prompt: str | None, seed: int | None, kind: str, steps: int
) -> LanePictures:
    """Reads them; lanes without a finished picture are left out.

    Raises:
        StudyError: The study has no such prompt or seed.
        CacheError: A picture cannot be decoded.
    """
    with reading(cache) as db:
        study = read_results(db, study_id)
        prompt = study.prompts[0] if prompt is None else prompt
        seed = study.seeds[0] if seed is None else seed
        if prompt not in study.prompts or seed not in study.seeds:
            known = did_you_mean(prompt, study.prompts)
            raise StudyError(f"Study '{study_id}' has no picture of '{prompt}' with seed {seed}.{known}")
        cells = {lane.label: study.cell(lane.key, prompt, seed) for lane in study.lanes}
        finished = {label: cell.trajectory_id for label, cell in cells.items() if cell.state == "done"}
        frames = queries.frames(db, list(finished.values()), [kind, "final"], stills=True)
    rows = []
    for label, trajectory in finished.items():
        own = frames[frames["trajectory_id"] == trajectory]
        forming, final = own[own["kind"] == kind], own[own["kind"] == "final"]
        places = evenly_spaced(len(forming), steps)
        shown = [(float(forming["progress"].iloc[at]), required(bytes(forming["image"].iloc[at]))) for at in places]
        rows.append((label, (*shown, *((None, required(bytes(image))) for image in final["image"]))))
    return LanePictures(prompt, seed, tuple(rows))
