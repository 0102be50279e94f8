"""What came of a scoring pass, counted and in words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.cache.score_tables import ScoreRow
from engine.measuring import metrics


@dataclass
class Tally:
    """What came of the metrics of one scope.

    Attributes:
        taken: Values.
        refused: Cells or lanes, metric by metric, of which nothing can be said; each a row with its reason.
        failed: Values whose metric raised an error; each a row with it, tried again the next time.
    """

    taken: int = 0
    refused: int = 0
    failed: int = 0

    def count(self, rows: Sequence[ScoreRow]) -> None:
        """Adds rows."""
        self.taken += sum(row.value is not None for row in rows)
        self.failed += sum(row.failed for row in rows)
        self.refused += sum(row.value is None and not row.failed for row in rows)


@dataclass
class Scoring:
    """What a scoring pass did.

    Attributes:
        cells: Finished cells of the study.
        waiting: Cells whose reference is not made yet.
        no_truth: Prompts and seeds whose reference and check do not agree.
        pairs: Prompts and seeds with both.
        unavailable: Why a metric cannot be measured at all, by its key.
        attributes_by_chance: What "attributes" is for one who guesses, 0 to 1; None without that metric.
    """

    cells: int = 0
    waiting: int = 0
    no_truth: int = 0
    pairs: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)
    attributes_by_chance: float | None = None
    pictures: Tally = field(default_factory=Tally)
    frames: Tally = field(default_factory=Tally)
    lanes: Tally = field(default_factory=Tally)

    @property
    def scored(self) -> int:
        """Values taken, of whatever scope."""
        return self.pictures.taken + self.frames.taken + self.lanes.taken

    @property
    def failed(self) -> int:
        """Values whose metric raised an error, of whatever scope."""
        return self.pictures.failed + self.frames.failed + self.lanes.failed

    def facts(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {**asdict(self), "scored": self.scored, "failed": self.failed}


def scoring_lines(study: str, result: Scoring) -> list[str]:
    """What a scoring pass did, for people."""
    cells, lanes = result.pictures, result.lanes
    taken = cells.taken + result.frames.taken
    if not (taken or cells.refused or result.failed or lanes.taken or lanes.refused):
        lines = [f"{study}: nothing to do, all {result.cells} finished cells are scored."]
    else:
        lines = [f"{study}: {taken} values of {result.cells} finished cells."]
        if cells.refused:
            lines.append(f"{cells.refused} values cannot be told; each is a row with its reason.")
    if lanes.taken or lanes.refused:
        lines.append(f"{lanes.taken} values of whole sets; {lanes.refused} refused, each a row with its reason.")
    if result.failed:
        lines.append(f"{result.failed} values FAILED; each is a row with its error, and is tried again the next time.")
    if result.pairs:
        agree = result.pairs - result.no_truth
        lines.append(f"Reference: {agree} of {result.pairs} prompts and seeds have a ground truth.")
    if result.attributes_by_chance is not None:
        lines.append(f"attributes: one who guesses would find {result.attributes_by_chance:.1%}.")
    if result.waiting:
        lines.append(f"{result.waiting} cells wait for their reference; `run` makes it.")
    for scope, note in (("picture", ""), ("lane", " (of sets)")):
        of, keys = metrics.of_scope(scope), dict[str, list[str]]()
        for key, reason in result.unavailable.items():
            if key in of:
                keys.setdefault(reason, []).append(key)
        lines += [f"{', '.join(alike)}{note}: {reason}." for reason, alike in keys.items()]
    return lines
