"""Data of the Learn page: latents as pictures, and pictures that differ in one setting."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from dashboard.cache_access import Answer, Problem, Question, ask_all
from dashboard.loaders import PagePicture, pictures_of
from engine.analysis.outcomes import StudyCell
from engine.cache import queries
from engine.cache.connection import Connection
from engine.display.html import inline_image
from engine.results import Results

ERROR = "latent_error"
MOST_CHANNELS = 4
SMALLEST_PIXELS = 128


@dataclass(frozen=True)
class Latents:
    """The final latents of a cell.

    Attributes:
        shape: (channels, height, width).
        channels: The first channels as grey pictures (data URLs).
    """

    shape: tuple[int, int, int]
    channels: tuple[str, ...]

    @property
    def numbers(self) -> int:
        """Total number of values."""
        channels, height, width = self.shape
        return channels * height * width


@dataclass(frozen=True)
class ExamplePictures:
    """What the page shows of one prompt and seed; empty where the cache has nothing.

    Attributes:
        latents: Final latents of the baseline's cell.
        own: Pictures of that cell: x_t, x0 and final.
        family: Cells that differ only in guidance scale (`queries.guidance_family`).
        guided: Final pictures of the family.
        finals: Final pictures of all lanes.
    """

    latents: Latents | None
    own: list[PagePicture]
    family: pd.DataFrame
    guided: list[PagePicture]
    finals: list[PagePicture]


def read(path: Path, cell: StudyCell, cells: Sequence[StudyCell]) -> ExamplePictures:
    """Reads everything about a cell and the cells of the other lanes, opening the cache once."""
    own = [cell.trajectory_id] if cell.trajectory_id else []
    latents, pictures, family, guided, finals = ask_all(
        path,
        Question(_latents, (cell.trajectory_id,)),
        pictures_of(own, ["xt", "x0", "final"]),
        Question(queries.guidance_family, (cell.trajectory_id,)),
        lambda found: pictures_of(list(found["trajectory_id"]), ["final"]),
        pictures_of([other.trajectory_id for other in cells if other.state == "done"], ["final"]),
    )
    empty = pd.DataFrame(columns=["trajectory_id", "guidance_scale", "nfe"])
    return ExamplePictures(
        _value(latents, None), _value(pictures, []), _value(family, empty), _value(guided, []), _value(finals, [])
    )


def errors(study: Results) -> pd.DataFrame:
    """The error of each lane against the converged solution.

    Columns: lane, n (cells), median, low and high (the 10 % and 90 % quantiles over cells).
    """
    rows = study.quality[study.quality["metric"] == ERROR]
    by_lane = rows.groupby("lane", sort=False)["value"]
    table = pd.DataFrame(
        {"n": by_lane.size(), "median": by_lane.median(), "low": by_lane.quantile(0.1), "high": by_lane.quantile(0.9)}
    )
    return table.rename_axis("lane").reset_index()


def _value(answer: Answer[Any] | Problem, otherwise: Any) -> Any:
    return answer.value if isinstance(answer, Answer) else otherwise


def _latents(db: Connection, trajectory_id: str) -> Latents | None:
    try:
        found = queries.latents(db, [trajectory_id]).get(trajectory_id)
    except ValueError:  # the stored shape does not fit the bytes
        return None
    if found is None or found.ndim not in (3, 4) or found.size == 0:
        return None
    plane = found[:, 0] if found.ndim == 4 else found  # a video: its first frame
    channels = tuple(_grey(channel) for channel in plane[:MOST_CHANNELS])
    return Latents((plane.shape[0], plane.shape[1], plane.shape[2]), channels)


def _grey(channel: npt.NDArray[np.float32]) -> str:
    """A channel as a grey picture, from black at its smallest to white at its largest value."""
    values = np.nan_to_num(channel.astype(np.float64))
    low, span = values.min(), np.ptp(values)
    grey = np.round(255 * (values - low) / span) if span > 0 else np.full_like(values, 128)
    image = Image.fromarray(grey.astype(np.uint8))
    times = max(1, SMALLEST_PIXELS // max(image.size))
    stream = io.BytesIO()
    image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(stream, "PNG")
    return inline_image("png", stream.getvalue())
