"""Where lanes differ: distances of their pictures to the baseline's, for each prompt and seed. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.analysis.calibration import is_other, picture_scale

Likeness = Literal["different", "typical", "alike"]
COLUMNS = ("lane", "prompt", "seed", "distance", "other", "framed")


@dataclass(frozen=True)
class Differences:
    """Distances of lanes to the baseline.

    Attributes:
        table: One row per lane, prompt and seed, without the baseline: `distance`, ||lane - baseline|| / ||baseline||
            of the final latents; `other`, whether it is another picture; `framed`, whether it has step frames.
        scale: Median distance between the baseline's pictures of two prompts; above half of it, a picture counts as
            another one. NaN with fewer than two prompts, when nothing counts as another picture.
        left_out: Number of prompts and seeds that were not looked at, since their latents are too large together.
    """

    table: pd.DataFrame
    scale: float
    left_out: int = 0

    @property
    def subjects(self) -> pd.DataFrame:
        """Prompts and seeds, by the number of lanes with another picture, then by the spread of the distances.

        Columns: prompt, seed, others (lanes with another picture), lanes, framed (lanes with step frames), spread
        (largest minus smallest distance), error (median distance).
        """
        if self.table.empty:
            return pd.DataFrame(columns=["prompt", "seed", "others", "lanes", "framed", "spread", "error"])
        groups = self.table.groupby(["prompt", "seed"], sort=False)
        found = groups.agg(
            others=("other", "sum"),
            lanes=("lane", "size"),
            framed=("framed", "sum"),
            spread=("distance", lambda values: values.max() - values.min()),
            error=("distance", "median"),
        ).reset_index()
        return found.sort_values(["others", "spread"], ascending=False, kind="stable").reset_index(drop=True)

    @property
    def prompts(self) -> pd.DataFrame:
        """Prompts by the number of other pictures, then by error: prompt, others, pairs (lanes x seeds), error."""
        if self.table.empty:
            return pd.DataFrame(columns=["prompt", "others", "pairs", "error"])
        groups = self.table.groupby("prompt", sort=False)
        found = groups.agg(others=("other", "sum"), pairs=("lane", "size"), error=("distance", "median")).reset_index()
        return found.sort_values(["others", "error"], ascending=False, kind="stable").reset_index(drop=True)

    @property
    def others(self) -> pd.DataFrame:
        """The rows of `table` that are another picture, largest distance first."""
        return self.table[self.table["other"]].sort_values("distance", ascending=False, kind="stable")

    def ranked(self, likeness: Likeness, *, framed: bool = False) -> list[tuple[str, int]]:
        """Prompts and seeds that most lanes have, the most different, typical or alike ones first.

        Args:
            likeness: What comes first.
            framed: Count only lanes with step frames.
        """
        found = self.subjects
        have = found["framed" if framed else "lanes"]
        found = found[have == have.max()].reset_index(drop=True)
        order = np.arange(len(found))
        if likeness == "alike":
            order = order[::-1]
        elif likeness == "typical":
            order = np.argsort(np.abs(order - (len(found) - 1) / 2), kind="stable")
        return [(str(found["prompt"][place]), int(found["seed"][place])) for place in order]


def differences(cells: pd.DataFrame, latents: Mapping[str, npt.NDArray[np.float32]], baseline: str) -> Differences:
    """Distances of all finished cells to the baseline's.

    Args:
        cells: Columns study_lane, prompt, seed, trajectory_id, frame_count (`Results.cells`).
        latents: Final latents by trajectory; cells without them or of another shape than the baseline are left out.
        baseline: The baseline lane.
    """
    known = cells[cells["trajectory_id"].isin(list(latents))]
    bases = {
        (row.prompt, row.seed): latents[row.trajectory_id]
        for row in known[known["study_lane"] == baseline].itertuples()
    }
    shapes = {picture.shape for picture in bases.values()}
    scale = picture_scale(list(bases.values()), [int(seed) for _, seed in bases]) if len(shapes) == 1 else math.nan
    rows: list[tuple[Any, ...]] = []
    for row in known[known["study_lane"] != baseline].itertuples():
        base, own = bases.get((row.prompt, row.seed)), latents[row.trajectory_id]
        if base is None or base.shape != own.shape or not np.any(base):
            continue
        distance = float(np.linalg.norm(own.astype(np.float64) - base) / np.linalg.norm(base.astype(np.float64)))
        other = bool(is_other(distance, scale)) and not math.isnan(scale)
        rows.append((row.study_lane, row.prompt, int(row.seed), distance, other, row.frame_count > 0))
    return Differences(pd.DataFrame(rows, columns=list(COLUMNS)).astype({"other": bool, "framed": bool}), scale)
