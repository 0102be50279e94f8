"""Errors at equal noise levels during a run: the distance of a lane to the converged path.

The converged path is that of the reference: its clean-image estimates x0 at all of its calls, between which it is
interpolated over log sigma. A lane's error at one of its calls is ||x0 - x0*(sigma)|| / ||x0*||, x0* without sigma
being the reference's last. At a given sigma, log error is interpolated over log sigma between the lane's calls on
either side. All of it is done on sketches of x0 (128 numbers, engine/sampling/spectra.py), whose distances are those of
the latents to about 6 %. The error of the reference's check, measured the same way, is the floor.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.interpolate import PchipInterpolator

Floats = npt.NDArray[np.float64]

# Levels that all schedulers pass with 10 steps: about where content settles, and shortly before long last steps.
LEVELS = (1.0, 0.4)


def metric_at(sigma: float) -> str:
    """The name of the error at a level, the `metric` in these tables."""
    return f"x0_error_at_{sigma:g}"


def matched_errors(paths: pd.DataFrame, levels: tuple[float, ...] = LEVELS) -> tuple[pd.DataFrame, dict[str, float]]:
    """Errors of all lanes at noise levels.

    Args:
        paths: Columns role ("lane", "reference" or "check"), lane, prompt, seed, step_index, log_snr, sketch
            (`engine.cache.step_tables.paths`).
        levels: Values of sigma.

    Returns:
        Columns lane, prompt, seed, metric, value, as `convergence` takes them, without cells that do not pass a level;
        and the floor of each metric, the median error of the check, if there is one.
    """
    rows, floors = [], dict[str, list[float]]()
    references = {key: _Path(run) for key, run in paths[paths["role"] == "reference"].groupby(["prompt", "seed"])}
    others = paths[paths["role"] != "reference"]
    for (role, lane, prompt, seed), run in others.groupby(["role", "lane", "prompt", "seed"], sort=False):
        reference = references.get((prompt, seed))
        if reference is None:
            continue
        for sigma in levels:
            value = reference.error_at(sigma, run)
            if value is None:
                continue
            if role == "check":
                floors.setdefault(metric_at(sigma), []).append(value)
            else:
                rows.append((lane, prompt, seed, metric_at(sigma), value))
    table = pd.DataFrame(rows, columns=["lane", "prompt", "seed", "metric", "value"])
    return table, {metric: float(np.median(values)) for metric, values in floors.items()}


class _Path:
    """The converged path of one prompt and seed, over log sigma."""

    def __init__(self, run: pd.DataFrame) -> None:
        where, sketches = _calls(run)
        self._low, self._high = float(where[0]), float(where[-1])
        self._path = PchipInterpolator(where, sketches, axis=0)
        self._norm = float(np.linalg.norm(sketches[0]))

    def error_at(self, sigma: float, run: pd.DataFrame) -> float | None:
        """The error of a run at a level; None if the run or the reference does not pass it."""
        where, sketches = _calls(run)
        inside = (where >= self._low) & (where <= self._high)
        where, sketches = where[inside], sketches[inside]
        level = np.log(sigma)
        if not len(where) or not where[0] <= level <= where[-1] or self._norm == 0:
            return None
        errors = np.linalg.norm(sketches - self._path(where), axis=1) / self._norm
        return float(np.exp(np.interp(level, where, np.log(np.maximum(errors, 1e-12)))))


def _calls(run: pd.DataFrame) -> tuple[Floats, Floats]:
    """Log sigma, ascending, and the sketches; of several calls at one level, the first."""
    ordered = run.sort_values("step_index")
    where = np.round(-0.5 * ordered["log_snr"].to_numpy(dtype=np.float64), 6)
    levels, first = np.unique(where, return_index=True)
    return levels, np.stack(ordered["sketch"].tolist())[first]
