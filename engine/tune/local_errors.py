"""A first schedule from recordings: local errors of steps between recorded levels, weighted by their effect at the end.

With recorded states x and x0 estimates D on a grid of levels, a solver step from one level to another needs no denoiser
call, and its distance to the recorded state is the local error. Later steps shrink an early error: the gain G of a
level is the share that remains at the end, measured by runs. The schedule with the smallest sum of local error times
gain is then a shortest path (dynamic programming).

All states are in variance-exploding scale, x / signal. Squared norms of all combinations come from one Gram matrix.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recordings:
    """Converged trajectories on a grid of levels.

    Attributes:
        levels: log(noise / signal) of each recorded step, falling; (N,).
        gram: Gram matrix of [states, estimates, end] divided by the end's squared norm, mean over pictures;
            (2N + 1, 2N + 1).
        gain: Share of an error made at each level that remains at the end; (N,).
    """

    levels: Floats
    gram: Floats
    gain: Floats


def gram_of(states: Floats, estimates: Floats, end: Floats) -> Floats:
    """The Gram matrix of one picture's recordings, (N, D), (N, D) and (D,), divided by the end's squared norm."""
    rows = np.concatenate([states, estimates, end[None]])
    return (rows @ rows.T) / float(end @ end)


def step_errors(recordings: Recordings, order: int) -> tuple[Floats, Floats, Floats]:
    """Local errors of first steps, later steps and the last step to zero, as root mean squares over pictures.

    Args:
        recordings: Recorded trajectories.
        order: Order of the solver. From 2 on, steps use the previous one as DPM++ 2M does (Lu et al. 2022,
            arXiv:2211.01095), which approximates other solvers well enough for a start.

    Returns:
        (N, N) for first steps (from, to), (N, N, N) for later ones (before, from, to), and (N,) from a level to zero.
    """
    levels, gram = recordings.levels, recordings.gram
    count = len(levels)
    x, d, end = np.arange(count), count + np.arange(count), 2 * count
    sigmas = np.exp(levels)
    share = sigmas[None, :] / sigmas[:, None]  # (from, to)
    squares = np.diag(gram)

    def norm2(weights: list[tuple[Floats | float, npt.NDArray[np.int64]]]) -> Floats:
        """Norm of a combination of recorded vectors, broadcast over steps."""
        total: Floats = np.zeros(1)
        for place, (weight, vector) in enumerate(weights):
            total = total + weight**2 * squares[vector]
            for other, index in weights[place + 1 :]:
                total = total + 2 * weight * other * gram[vector, index]
        return np.sqrt(np.maximum(total, 0.0))

    source, target = np.ix_(x, x)
    first = norm2([(share, source), (1 - share, d[source]), (-1.0, target)])
    last = norm2([(1.0, d), (-1.0, np.full(count, end))])
    before, source, target = np.ix_(x, x, x)
    with np.errstate(divide="ignore", invalid="ignore"):
        ahead = (levels[:, None] - levels[None, :])[None]
        behind = (levels[:, None] - levels[None, :])[:, :, None]
        lean = np.where(behind > 0, 0.5 * ahead / behind, 0.0) if order > 1 else np.zeros((1, 1, 1))
    rest = (1 - share)[None]
    later = norm2(
        [(share[None], source), (rest * (1 + lean), d[source]), (-rest * lean, d[before]), (-1.0, target)],
    )
    return first, later, last


def shortest(recordings: Recordings, steps: int, order: int, gap: float = 0.05) -> Floats:
    """The levels, starting at the first recorded one, with the smallest sum of local errors times gains.

    Args:
        recordings: Recorded trajectories with at least twice as many levels as steps.
        steps: Number of levels.
        order: Order of the solver.
        gap: Least distance between two levels.
    """
    first, later, last = step_errors(recordings, order)
    levels, gain = recordings.levels, recordings.gain
    allowed = (levels[:, None] - levels[None, :]) >= gap
    first = np.where(allowed, first * gain[None, :], np.inf)
    later = np.where(allowed[None] & allowed[:, :, None], later * gain[None, None, :], np.inf)
    best = np.full((len(levels), len(levels)), np.inf)
    best[0] = first[0]
    chosen: list[npt.NDArray[np.int64]] = []
    for _ in range(steps - 2):
        every = best[:, :, None] + later
        chosen.append(every.argmin(axis=0))
        best = every.min(axis=0)
    before, current = np.unravel_index(int((best + last[None, :]).argmin()), best.shape)
    places = [int(current), int(before)]
    for origin in reversed(chosen):
        places.append(int(origin[places[-1], places[-2]]))
    return levels[places[::-1]]
