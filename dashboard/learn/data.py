"""What the Learn page shows from the cache: latents as pictures, one thing varied at a time."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from dashboard.asking import Answer, Problem, ask
from engine.cache import learning, queries
from engine.cache.connection import Connection
from engine.display.html import inline_image

ERROR = "latent_error"
MOST_CHANNELS = 4
SMALLEST_PIXELS = 128


@dataclass(frozen=True)
class Latents:
    """The final latents of a cell: their shape (channels, height, width), and each channel as a picture."""

    shape: tuple[int, int, int]
    channels: tuple[str, ...]

    @property
    def numbers(self) -> int:
        """How many numbers they are."""
        channels, height, width = self.shape
        return channels * height * width


def latents(path: Path, trajectory_id: str) -> Latents | None:
    """The final latents of a cell; None if the cache has none."""
    found: Latents | None = _value(ask(path, _latents, trajectory_id))
    return found


def guidance_family(path: Path, trajectory_id: str) -> pd.DataFrame:
    """Cells that differ in the guidance scale alone (`learning.guidance_family`)."""
    found = _value(ask(path, learning.guidance_family, trajectory_id))
    return pd.DataFrame(columns=["trajectory_id", "guidance_scale", "nfe"]) if found is None else found


def errors(path: Path, study_id: str) -> pd.DataFrame:
    """The error of each lane against the converged solution (`learning.lane_scores`)."""
    found = _value(ask(path, learning.lane_scores, study_id, ERROR))
    return pd.DataFrame(columns=["lane", "n", "median", "low", "high"]) if found is None else found


def _value(answer: Answer[Any] | Problem) -> Any:
    return answer.value if isinstance(answer, Answer) else None


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
    """A channel as a grey picture: black at its smallest value, white at its largest."""
    values = np.nan_to_num(channel.astype(np.float64))
    low, span = values.min(), np.ptp(values)
    grey = np.round(255 * (values - low) / span) if span > 0 else np.full_like(values, 128)
    image = Image.fromarray(grey.astype(np.uint8))
    times = max(1, SMALLEST_PIXELS // max(image.size))
    stream = io.BytesIO()
    image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(stream, "PNG")
    return inline_image("png", stream.getvalue())
