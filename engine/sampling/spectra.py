"""Compact descriptions of the steps of a run: x0 compared with the final latents by octave, and a sketch of x0.

Octaves come from a cosine transform (DCT-II) of the latents over their two spatial axes, in which jumps between
opposite borders don't count as detail. Octave k holds the frequencies from k to 2 k cycles per shorter side (0: below
one cycle, including the mean); the last one extends to the highest frequency, so that the octaves cover the whole
spectrum.

A sketch is a vector of 128 numbers whose distances to other sketches equal those of the latents to about 6 %: each
latent value is added, with a random sign, to one of 128 buckets (CountSketch, Charikar et al. 2002,
doi:10.1007/3-540-45465-9_59). Signs and buckets depend only on the size of the latents, so that sketches of all runs of
a model can be compared.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.fft import dctn

Floats = npt.NDArray[np.floating]
SKETCH_SIZE = 128
SKETCH_SEED = 20_020_708


def octaves(x0: Floats, final: Floats) -> Iterator[tuple[str, int, float]]:
    """Yields (metric, index into the steps, value): coherence and power of every octave at each step.

    `coherence_k` is the correlation <X, Y> / (||X|| ||Y||) of the octave's coefficients in x0 and in the final latents
    (Fourier ring correlation, over an octave); `power_k` is ||X||^2 / ||Y||^2.

    Args:
        x0: (steps, C, ..., H, W).
        final: (C, ..., H, W). Packed latents, without two spatial axes, have no octaves.
    """
    if final.ndim < 3:
        return
    ours = dctn(x0.astype(np.float64), axes=(-2, -1), norm="ortho")
    theirs = dctn(final.astype(np.float64), axes=(-2, -1), norm="ortho")
    for octave, inside in octave_masks(*final.shape[-2:]).items():
        x, y = ours[..., inside].reshape(len(x0), -1), theirs[..., inside].ravel()
        power, reference = np.square(x).sum(axis=1), float(np.square(y).sum())
        if reference <= 0:
            continue
        products = x @ y
        for place in range(len(x0)):
            yield f"power_{octave}", place, float(power[place] / reference)
            if power[place] > 0:
                yield f"coherence_{octave}", place, float(products[place] / np.sqrt(power[place] * reference))


def octave_masks(height: int, width: int) -> dict[int, npt.NDArray[np.bool_]]:
    """Masks (height, width) of the DCT coefficients of each octave, by its lower end in cycles per shorter side."""
    side = min(height, width)
    # Coefficient k of n has k / 2 cycles over the n values.
    rows, columns = np.arange(height) / height, np.arange(width) / width
    cycles = np.hypot(rows[:, None], columns[None]) * side / 2
    lower = [0, *(edge for edge in map(int, 2.0 ** np.arange(16)) if edge < side / 2)]
    upper = [*lower[1:], np.inf]
    return {low: (cycles >= low) & (cycles < high) for low, high in zip(lower, upper, strict=True)}


def sketch(x0: Floats) -> npt.NDArray[np.float16]:
    """Sketches (N, 128) float16 of latents (N, ...); latents of at most 128 values are only padded."""
    rows = x0.reshape(len(x0), -1).astype(np.float64)
    buckets, signs = _hash(rows.shape[1])
    sums = np.stack([np.bincount(buckets, weights=signs * row, minlength=SKETCH_SIZE) for row in rows])
    most = np.finfo(np.float16).max  # the first x0 of a schedule without signal can be anything
    return sums.clip(-most, most).astype(np.float16)


@lru_cache(maxsize=4)
def _hash(values: int) -> tuple[npt.NDArray[np.int64], Floats]:
    # RandomState, whose stream numpy guarantees not to change, so that old and new sketches are comparable.
    random = np.random.RandomState(SKETCH_SEED)
    if values <= SKETCH_SIZE:
        return np.arange(values), np.ones(values)
    return random.randint(0, SKETCH_SIZE, values), random.choice([-1.0, 1.0], values)
