"""Small pictures of running cells for the live view: x_t and the current x0, at almost no cost.

Decoding every preview would be too expensive. Only the first few x0 estimates are decoded; from these and from every
picture that the run decodes anyway, a linear map from latents to pixels is fitted, which draws all further previews.
Cells are not affected: latents are only read.
"""

import functools
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from diffusers import DiffusionPipeline
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from torch.nn import functional

from engine.sampling import frames
from engine.study.cells import Cell

if TYPE_CHECKING:
    from engine.sampling.recording import Recorder

SECONDS_APART = 3.0
# While nobody is known to look.
UNWATCHED_SECONDS = 15.0
LOOK_SECONDS = 0.5  # between two looks whether anything is to be shown
# Largest share of a run's time for previews, and seconds that may be spent on top at the start.
SHARE, HEAD_START_SECONDS = 0.02, 0.4
SIDE = 128  # pixels: the longer side of a preview
# With more channels each latent is mapped without its neighbours, or the fit would take too long.
MOST_NEIGHBOURED_CHANNELS = 16
DAMPING = 1e-4  # of the mean square of the features

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Preview:
    """The current state of a cell.

    Attributes:
        call: Denoiser calls done, of `calls`.
        image: x0 as a JPEG.
        noisy: x_t as a JPEG; empty if it was not drawn.
    """

    cell: Cell
    call: int
    calls: int
    image: bytes
    noisy: bytes = b""


class LinearDecoder:
    """A least-squares linear map from 3 x 3 neighbouring latents to the pixels around the middle one.

    The patches of neighbouring latents overlap by half and are blended.
    """

    def __init__(self) -> None:
        self._pairs, self._fitted_on = 0, 0
        self._squares: Floats | None = None
        self._products: Floats | None = None
        self._map: npt.NDArray[np.float32] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it can draw."""
        return self._map is not None

    def learn(self, latents: npt.NDArray[np.float32], picture: npt.NDArray[np.uint8]) -> None:
        """Adds a pair of latents (C, h, w) and their decoded picture (H, W, 3)."""
        if latents.ndim != 3 or picture.shape[0] * latents.shape[2] != picture.shape[1] * latents.shape[1]:
            return  # packed latents, or clips
        height, width = latents.shape[1:]
        scale = max(1, min(picture.shape[0] // height, SIDE // max(height, width)))
        small = Image.fromarray(picture).resize((width * scale, height * scale), Image.Resampling.BOX)
        rows, targets = _neighbours(latents[None]), _patches(np.asarray(small, dtype=np.float64), scale)
        squares, products = rows.T @ rows, rows.T @ targets
        if self._squares is None or self._products is None or self._products.shape != products.shape:
            self._squares, self._products, self._pairs, self._map = squares, products, 0, None
        else:
            self._squares, self._products = self._squares + squares, self._products + products
        self._pairs += 1
        if self._pairs * height * width >= 6 * rows.shape[1] and self._pairs >= 1.5 * self._fitted_on:
            damped = self._squares + DAMPING * np.trace(self._squares) / len(self._squares) * np.eye(len(self._squares))
            fitted = np.linalg.solve(damped, self._products).astype(np.float32)
            self._map, self._fitted_on = fitted * _falling(_side(fitted.shape[1])), self._pairs

    def draw(self, latents: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8] | None:
        """Pictures (N, height, width, 3) of latents (N, C, h, w); None until enough pairs have been added."""
        if self._map is None or latents.ndim != 4 or len(self._map) != _features(latents.shape[1]):
            return None
        number, _, height, width = latents.shape
        weighted = (_neighbours(latents).astype(np.float32) @ self._map).reshape(number, height * width, -1)
        return _blended(weighted, height, width).clip(0, 255).astype(np.uint8)


def _overlap(scale: int) -> int:
    """How many pixels a patch extends beyond the square of its latent, on each side."""
    return scale // 2


def _patches(picture: Floats, scale: int) -> Floats:
    """The patch around each latent's pixels, one row per latent; edges are replicated."""
    over = _overlap(scale)
    padded = np.pad(picture, ((over, over), (over, over), (0, 0)), mode="edge")
    side = scale + 2 * over
    windows = sliding_window_view(padded, (side, side), axis=(0, 1))[::scale, ::scale]
    return windows.reshape(windows.shape[0] * windows.shape[1], -1)


def _falling(side: int) -> npt.NDArray[np.float32]:
    """Weights of the pixels of a patch, for each channel: from 1 in its middle down to its edges."""
    ramp = 1 - np.abs(np.arange(side) - (side - 1) / 2) / (side / 2 + 0.5)
    return np.tile((ramp[:, None] * ramp[None, :]).ravel(), 3).astype(np.float32)


def _blended(weighted: npt.NDArray[np.float32], height: int, width: int) -> npt.NDArray[np.float32]:
    """Pictures (N, height, width, 3) of overlapping, weighted patches (N, h * w, 3 * side * side)."""
    side = _side(weighted.shape[2])
    scale = (side + 1) // 2
    over = _overlap(scale)
    total = _laid(torch.from_numpy(weighted).transpose(1, 2), height, width, side)
    whole = (total / _weights(height, width, side)).permute(0, 2, 3, 1)
    return whole[:, over : over + height * scale, over : over + width * scale].numpy()


@functools.lru_cache(maxsize=4)
def _weights(height: int, width: int, side: int) -> torch.Tensor:
    """The sum of the weights of all patches at each pixel."""
    return _laid(torch.from_numpy(_falling(side))[None, :, None].expand(1, -1, height * width), height, width, side)


def _laid(columns: torch.Tensor, height: int, width: int, side: int) -> torch.Tensor:
    """The sum of patches, each at its place."""
    scale = (side + 1) // 2
    size = height * scale + 2 * _overlap(scale), width * scale + 2 * _overlap(scale)
    return functional.fold(columns, size, side, stride=scale)


def _side(features: int) -> int:
    return round((features / 3) ** 0.5)


def _features(channels: int) -> int:
    return channels * (9 if channels <= MOST_NEIGHBOURED_CHANNELS else 1) + 1


def _neighbours(latents: npt.NDArray[np.float32]) -> Floats:
    """One row per latent of (N, C, h, w): its neighbourhood and a constant 1."""
    number, channels, height, width = latents.shape
    rows = latents.astype(np.float64)
    if channels <= MOST_NEIGHBOURED_CHANNELS:
        padded = np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        rows = sliding_window_view(padded, (3, 3), axis=(2, 3)).transpose(0, 2, 3, 1, 4, 5)
    else:
        rows = rows.transpose(0, 2, 3, 1)
    rows = rows.reshape(number * height * width, -1)
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)


@dataclass(frozen=True)
class _Running:
    cell: Cell
    recorder: "Recorder"
    origin: frames.Origin


class Previews:
    """Shows the cells of the first unfinished prompt and seed, at most every 3 s, and seldom while nobody looks.

    Args:
        show: Receives the previews.
        watched: Whether somebody looks now.
        clock: Seconds.
    """

    def __init__(
        self,
        show: Callable[[Sequence[Preview]], None],
        watched: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._show, self._watched, self._clock = show, watched, clock
        self._decoder = LinearDecoder()
        self._running: dict[str, _Running] = {}
        self._began, self._next, self._spent, self._turn = clock(), 0.0, 0.0, 0
        self._shown = -math.inf

    def enter(self, cell: Cell, recorder: "Recorder", origin: frames.Origin) -> None:
        """Called when a cell starts."""
        self._running[cell.trajectory_id] = _Running(cell, recorder, origin)

    def leave(self, cell: Cell) -> None:
        """Called when a cell has finished or failed."""
        self._running.pop(cell.trajectory_id, None)

    def learn(self, latents: torch.Tensor, picture: npt.NDArray[np.uint8]) -> None:
        """Adds decoded latents (1, C, h, w) in the scheduler's layout, and their picture, if there is time."""
        now = self._clock()
        if self._has_time(now) and not (self._decoder.is_ready and self._is_idle(now)):
            self._decoder.learn(latents[0].float().cpu().numpy(), picture)
            self._spent += self._clock() - now

    def look(self, pipe: DiffusionPipeline) -> None:
        """Shows previews if it is time; called after every forward."""
        now = self._clock()
        if now < self._next or not self._has_time(now):
            return
        self._next = now + LOOK_SECONDS
        if self._is_idle(now):
            return
        try:
            front = self._front()
            if not front:
                return
            self._show(self._pictures(pipe, front))
        except Exception:  # an error in a preview must not stop the run
            self._next = math.inf
            return
        self._spent += self._clock() - now
        self._next, self._shown = now + SECONDS_APART, now

    def _is_idle(self, now: float) -> bool:
        return now - self._shown < UNWATCHED_SECONDS and not self._watched()

    def _has_time(self, now: float, spending: float = 0.0) -> bool:
        return self._spent + spending <= HEAD_START_SECONDS + SHARE * (now - self._began)

    def _front(self) -> list[_Running]:
        """The running cells of the first prompt and seed that have made a step."""
        ready = [running for running in self._running.values() if running.recorder.latest is not None]
        return [one for one in ready if (one.cell.prompt, one.cell.seed) == (ready[0].cell.prompt, ready[0].cell.seed)]

    def _pictures(self, pipe: DiffusionPipeline, front: Sequence[_Running]) -> list[Preview]:
        pairs = [pair for running in front if (pair := running.recorder.latest) is not None]
        if all(x_t.ndim == 4 and len(x_t) == 1 for x_t, _ in pairs):
            stacked = torch.cat([rows for pair in pairs for rows in pair]).float().cpu().numpy()
            drawn = self._decoder.draw(stacked)
            if drawn is not None:
                return [
                    _preview(running, x0, x_t) for running, x_t, x0 in zip(front, drawn[::2], drawn[1::2], strict=True)
                ]
        return self._decoded(pipe, front)

    def _decoded(self, pipe: DiffusionPipeline, front: Sequence[_Running]) -> list[Preview]:
        """Decodes x0 of as many cells as the time limit allows, taking turns."""
        found, start = [], self._clock()
        for _ in front:
            running = front[self._turn % len(front)]
            self._turn += 1
            pair = running.recorder.latest
            assert pair is not None  # guaranteed by `_front`
            x0 = pair[1].to(pipe.dtype)
            picture = next(frames.decode(pipe, x0, [running.origin]))[0]
            self._decoder.learn(x0[0].float().cpu().numpy(), picture)
            found.append(_preview(running, picture))
            if not self._has_time(start, self._clock() - start):
                break
        return found


def _preview(running: _Running, x0: npt.NDArray[np.uint8], x_t: npt.NDArray[np.uint8] | None = None) -> Preview:
    recorder = running.recorder
    noisy = b"" if x_t is None else _encoded(Image.fromarray(x_t))
    calls = len(recorder.scheduler.timesteps)
    return Preview(running.cell, recorder.calls, calls, _encoded(Image.fromarray(x0)), noisy)


def small(image: bytes) -> bytes:
    """An encoded picture, reduced to a preview."""
    with Image.open(io.BytesIO(image)) as picture:
        return _encoded(picture.convert("RGB"))


def _encoded(image: Image.Image) -> bytes:
    """A JPEG of at most `SIDE` pixels per side."""
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()
