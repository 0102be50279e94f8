"""Stored pictures and latents of cells, decoded when a metric needs them."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from engine.measuring.evidence import Evidence, Latents, Pictures, Subject
from engine.picture_files import required
from engine.study.cells import Cell


class StoredCells:
    """Pictures and latents of a group of cells, still encoded.

    Args:
        latents: Final ones, by cell.
        frames: Their pictures.
        motions: Motion energy of the last x0 by cell, where that x0 is the final latents.
    """

    def __init__(
        self, latents: dict[str, Latents], frames: pd.DataFrame, motions: Mapping[str, float] | None = None
    ) -> None:
        self.latents, self._motions = latents, motions or {}
        self._frames = dict(iter(frames.groupby(["trajectory_id", "kind"])))

    def evidence(self, cell: Cell, subject: Subject, reference: str | None) -> Evidence:
        """The input of metrics for a cell, with its reference if there is one."""
        key = cell.trajectory_id
        return Evidence(
            subject,
            cell.prompt,
            cell.seed,
            _decoded(self._frames[key, "final"]),
            self.latents[key],
            _decoded(self._frames[reference, "final"]) if (reference, "final") in self._frames else None,
            self.latents.get(reference) if reference else None,
            final_motion=self._motions.get(key),
        )

    def final(self, trajectory_id: str) -> Pictures:
        """The final picture of a cell, (frames, height, width, 3)."""
        return _decoded(self._frames[trajectory_id, "final"])

    def steps(self, cell: Cell, subject: Subject) -> Iterator[tuple[int, Evidence]]:
        """Yields step index and input of metrics for each stored step."""
        rows = self._frames.get((cell.trajectory_id, "x0"))
        if rows is not None:
            final, latents = self.final(cell.trajectory_id), self.latents[cell.trajectory_id]
            for step_index, frames in rows.groupby("step_index"):
                evidence = Evidence(subject, cell.prompt, cell.seed, _decoded(frames), latents, final_pictures=final)
                yield int(step_index), evidence


def _decoded(rows: pd.DataFrame) -> Pictures:
    """(frames, height, width, 3) bytes."""
    ordered = rows.sort_values("video_frame")["image"]
    return np.stack([np.asarray(required(bytes(data))) for data in ordered])
