"""From cells in the cache to what they say about lanes: the tables that calibrate a decision, and its evidence."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from engine.analysis.calibration import GuardMetric, exceeds, is_other, picture_scale
from engine.analysis.decision import LaneDecision, Terms
from engine.analysis.fixed_terms import FixedTerms, read_terms
from engine.analysis.guards import EXCESS, OTHER, Guard
from engine.analysis.pace import Pace, paired_paces, runs_of
from engine.cache import decision_tables, queries
from engine.cache.connection import reading
from engine.cache.decision_tables import EvidenceRow
from engine.cache.limits import CELL_BYTES
from engine.errors import StudyError
from engine.measuring import metrics
from engine.measuring.evidence import Subject, Unmeasurable
from engine.measuring.formulas import relative_distance
from engine.measuring.metric import Metric
from engine.measuring.stored_cells import StoredCells
from engine.passes.context import PassContext
from engine.passes.decision_roles import Roles
from engine.passes.scores import picture_row
from engine.study.cells import Cell
from engine.study.lanes import Lane

Latents = npt.NDArray[np.float32]


@dataclass(frozen=True)
class GuardEntries:
    """The metrics that may guard a study.

    Attributes:
        usable: By key, with the version whose values count.
        unavailable: Why a metric cannot be measured at all, by key.
    """

    usable: Mapping[str, tuple[Metric, str]]
    unavailable: Mapping[str, str]

    @property
    def metrics(self) -> list[GuardMetric]:
        """As the calibration takes them."""
        return [
            GuardMetric(
                metric.key, metric.label, metric.direction == "higher", metric.margin, metric.span, unit=metric.unit
            )
            for metric, _ in self.usable.values()
        ]

    def versions(self, terms: Terms) -> dict[str, str]:
        """Of the metrics among the guards of the terms, by key, as far as they can be measured here."""
        keys = {guard.key for guard in terms.calibration.guards}
        return {key: version for key, (_, version) in self.usable.items() if key in keys}

    def lacking(self, keys: Iterable[str]) -> list[str]:
        """Which of these metrics can't be measured here, and why, in sentences without a full stop."""
        return [f"{metrics.METRICS[key].label} is {self.unavailable[key]}" for key in keys if key in self.unavailable]

    def refuse_missing(self, terms: Terms) -> None:
        """Refuses to go on where a guard can't be measured: no prompt that is made would count.

        Raises:
            StudyError: Names it, with the reason.
        """
        if lacking := self.lacking(guard.key for guard in terms.calibration.guards):
            raise StudyError(f"This decision goes on only where all that guards it can be measured. {lacking[0]}.")

    def unfit(self, subject: Subject, prompts: Sequence[str]) -> dict[str, str]:
        """Why some have no value for one of the prompts, however its pictures come out; by key."""
        found = {key: metric.unfit(subject, prompts) for key, (metric, _) in self.usable.items()}
        return {key: why for key, why in found.items() if why}


def guard_entries(subject: Subject, asked: Sequence[str] | None) -> GuardEntries:
    """Metrics of pictures that may guard, those that a study asks for or all.

    Args:
        subject: What is common to all cells.
        asked: Their keys; None for all.
    """
    usable, unavailable = {}, {}
    for key, metric in metrics.of_scope("picture").items():
        if not metric.may_guard or metric.direction == "neither" or not (asked is None or key in asked):
            continue
        try:
            usable[key] = metric, metric.full_version(subject)
        except Unmeasurable as reason:
            unavailable[key] = str(reason)
    return GuardEntries(usable, unavailable)


@dataclass
class CellFacts:
    """What the cache knows about some cells.

    Attributes:
        finished: Ids of those that came out.
        latents: Of those, by id.
        values: By id and metric.
    """

    finished: set[str] = field(default_factory=set)
    latents: dict[str, Latents] = field(default_factory=dict)
    values: dict[tuple[str, str], float] = field(default_factory=dict)

    def value(self, cell: Cell, metric: str) -> float:
        """A score; NaN if there is none."""
        return self.values.get((cell.trajectory_id, metric), math.nan)

    def distance(self, cell: Cell, other: Cell) -> float:
        """Relative distance of final latents to another cell's; NaN if one of them is missing, or of another shape."""
        pair = [self.latents.get(one.trajectory_id) for one in (cell, other)]
        if pair[0] is None or pair[1] is None:
            return math.nan
        try:
            return relative_distance(pair[0], pair[1])
        except Unmeasurable:
            return math.nan


def cell_facts(context: PassContext, cells: Iterable[Cell], entries: GuardEntries) -> CellFacts:
    """Reads what the cache knows about cells.

    Raises:
        CacheError: The cache cannot be read.
    """
    ids = sorted({cell.trajectory_id for cell in cells})
    with reading(context.cache) as db:
        finished = set(queries.finished(db, ids))
        table = decision_tables.picture_values(db, ids)
        latents = queries.latents(db, sorted(finished))
    versions = {(key, version) for key, (_, version) in entries.usable.items()}
    values = {
        (row.trajectory_id, row.metric): float(row.value)
        for row in table.itertuples()
        if (row.metric, row.metric_version) in versions
    }
    return CellFacts(finished, latents, values)


@dataclass(frozen=True)
class Reference:
    """The converged solutions of a study: of each prompt and seed the solution and its check."""

    pairs: Mapping[tuple[str, int], tuple[Cell, Cell]]
    tolerance: float

    def excess(self, facts: CellFacts, cell: Cell, base: Cell, margin: float) -> float:
        """1 if the latent error is too far over the baseline's, or there is no ground truth; else 0."""
        solution, check = self.pairs[cell.prompt, cell.seed]
        if not facts.distance(check, solution) <= self.tolerance:
            return 1.0
        return float(exceeds(facts.distance(cell, solution), facts.distance(base, solution), margin))

    def lost(self, facts: CellFacts) -> list[str]:
        """Why nothing can be told, where half of the pictures or more have no ground truth."""
        told = sum(facts.distance(check, solution) <= self.tolerance for solution, check in self.pairs.values())
        if 2 * told > len(self.pairs):
            return []
        return [
            f"The reference and its check agree on {told} of {len(self.pairs)} pictures only; give [reference] more "
            "steps, or take it out."
        ]


def paces_here(context: PassContext, study: str, baseline: str) -> dict[str, Pace]:
    """Times of a study's lanes over the baseline's, of this environment, one image at a time.

    Raises:
        CacheError: The cache cannot be read.
    """
    with reading(context.cache) as db:
        samples = queries.timings(db, study)
    here = samples["environment_id"] == context.environment.environment_id
    samples = samples[here & (samples["batch_size"] == 1) & (samples["stage"] == "total")]
    samples = samples.assign(run=runs_of(samples["created_at"]))
    return paired_paces(samples[["lane", "run", "repeat", "seconds"]], baseline)


def by_place(cells: Iterable[Cell]) -> dict[tuple[str, str, int], Cell]:
    """Cells by lane, prompt and seed."""
    return {(cell.lane.key, cell.prompt, cell.seed): cell for cell in cells}


def calibration_tables(
    roles: Roles, cells: Iterable[Cell], facts: CellFacts, entries: GuardEntries, reference: Reference | None
) -> tuple[pd.DataFrame, pd.DataFrame, float]:
    """What the controls show: values by metric, whether pictures are others, and the scale that tells them apart.

    Without a lane for the negative control, that is the baseline's picture of the next prompt.

    Args:
        roles: Who takes part.
        cells: Baseline with two seeds and the controls, all prompts.
        facts: Of these cells and of the reference's.
        entries: Metrics that may guard.
        reference: Converged solutions of the first prompts, if the study has any.
    """
    places = by_place(cells)
    first, second = roles.seeds[0], roles.other_seed
    base, positive = roles.baseline.key, roles.positive.key
    prompts = [
        prompt
        for prompt in dict.fromkeys(cell.prompt for cell in places.values())
        if places[base, prompt, first].trajectory_id in facts.finished
    ]
    bases = [places[base, prompt, first] for prompt in prompts]
    known = [(facts.latents[cell.trajectory_id], cell.seed) for cell in bases if cell.trajectory_id in facts.latents]
    scale = picture_scale([latents for latents, _ in known], [seed for _, seed in known]) if known else math.nan
    if roles.negative is None:
        lows = [*bases[1:], *bases[:1]]
        low_values = values_under_other_prompts(roles, bases, lows, entries)
    else:
        lows = [places[roles.negative.key, prompt, first] for prompt in prompts]
        low_values = [{key: facts.value(low, key) for key in entries.usable} for low in lows]
    values, controls = [], []
    for position, (prompt, cell, low) in enumerate(zip(prompts, bases, lows, strict=True)):
        high = places[positive, prompt, first]
        controls.append(
            {
                "positive": _told(facts.distance(high, cell), scale),
                "negative": _told(facts.distance(low, cell), scale),
                "excess": _known_excess(reference, facts, low, cell, roles.study.decide.excess_error),
            }
        )
        for key in entries.usable:
            again = places[base, prompt, second]
            measured = {"baseline": facts.value(cell, key), "again": facts.value(again, key)}
            negative = low_values[position].get(key, math.nan)
            values.append({"metric": key, "position": position, **measured, "negative": negative})
    columns = ["metric", "position", "baseline", "again", "negative"]
    return (
        pd.DataFrame(values, columns=columns),
        pd.DataFrame(controls, columns=["positive", "negative", "excess"]),
        scale,
    )


def values_under_other_prompts(
    roles: Roles, cells: Sequence[Cell], shown: Sequence[Cell], entries: GuardEntries
) -> list[dict[str, float]]:
    """What metrics say of pictures that are judged by the prompt of another cell; nothing is stored.

    Args:
        roles: Who takes part.
        cells: Whose prompts count.
        shown: Cell by cell, whose picture is looked at instead; all of them finished.
        entries: Metrics that may guard.

    Returns:
        Cell by cell the values by metric; those that cannot be measured are left out.
    """
    subject, found = Subject(roles.context.source, roles.study.reference), []
    for cell, other in zip(cells, shown, strict=True):
        with reading(roles.context.cache) as db:  # one by one: a clip in full size takes 50 MB
            ids = [other.trajectory_id]
            stored = StoredCells(queries.latents(db, ids), queries.frames(db, ids, ["final"], CELL_BYTES))
        evidence = replace(stored.evidence(other, subject, None), prompt=cell.prompt, seed=cell.seed)
        rows = [picture_row(metric, version, cell, evidence, None) for metric, version in entries.usable.values()]
        found.append({row.metric: row.value for row in rows if row.value is not None})
    return found


def _told(distance: float, scale: float) -> float:
    """Whether it is another picture; NaN if a control's picture is missing, which speaks for no guard."""
    return math.nan if math.isnan(distance) else float(is_other(distance, scale))


def _known_excess(reference: Reference | None, facts: CellFacts, cell: Cell, base: Cell, margin: float) -> float:
    """As `Reference.excess`, but NaN without a ground truth: that must not make the control look worse."""
    pair = reference.pairs.get((base.prompt, base.seed)) if reference else None
    if reference is None or pair is None or not facts.distance(pair[1], pair[0]) <= reference.tolerance:
        return math.nan
    gaps = facts.distance(cell, pair[0]), facts.distance(base, pair[0])
    return math.nan if math.isnan(gaps[0] + gaps[1]) else float(exceeds(*gaps, margin))


@dataclass(frozen=True)
class Yardsticks:
    """What a prompt is judged by.

    Attributes:
        guards: That have to consent.
        entries: Metrics that may guard.
        scale: Half of it is how far latents may be from the baseline's and still show its picture.
        reference: Converged solutions, for as many of the prompts as they were made.
        margin: How much latent error over the baseline's is too much.
    """

    guards: Sequence[Guard]
    entries: GuardEntries
    scale: float
    reference: Reference | None
    margin: float

    def value(self, guard: Guard, pairs: Sequence[tuple[Cell, Cell]], facts: CellFacts) -> float:
        """What the seeds of a prompt say together; NaN if they say nothing.

        Args:
            guard: One of `guards`.
            pairs: The lane's cell and the baseline's, seed by seed.
            facts: Of these cells and of the reference's.
        """
        if guard.key == OTHER:
            return float(np.mean([is_other(facts.distance(*pair), self.scale) for pair in pairs]))
        if guard.key == EXCESS:
            if self.reference is None or not all((lane.prompt, lane.seed) in self.reference.pairs for lane, _ in pairs):
                return math.nan
            return float(np.mean([self.reference.excess(facts, *pair, self.margin) for pair in pairs]))
        if guard.key not in self.entries.usable:
            return math.nan
        sign = 1.0 if self.entries.usable[guard.key][0].direction == "higher" else -1.0
        gaps = [facts.value(lane, guard.key) - facts.value(base, guard.key) for lane, base in pairs]
        return sign * float(np.mean(gaps))


def evidence_rows(
    yardsticks: Yardsticks, roles: Roles, lanes: Iterable[Lane], start: int, cells: Iterable[Cell], facts: CellFacts
) -> list[EvidenceRow]:
    """What a batch of prompts says about lanes, by each guard.

    Args:
        yardsticks: What they are judged by.
        roles: Who takes part.
        lanes: Candidates that were made for all prompts of the batch.
        start: Position of the batch's first prompt in the order.
        cells: Of baseline and lanes, prompt by prompt in that order.
        facts: Of these cells and of the reference's.
    """
    places, rows = by_place(cells), []
    for position, prompt in enumerate(dict.fromkeys(cell.prompt for cell in places.values()), start):
        for lane in lanes:
            pairs = [(places[lane.key, prompt, seed], places[roles.baseline.key, prompt, seed]) for seed in roles.seeds]
            for guard in yardsticks.guards:
                value = yardsticks.value(guard, pairs, facts)
                if not math.isnan(value):
                    rows.append(EvidenceRow(lane.key, guard.key, position, value))
    return rows


class Gaps:
    """Prompts without a value of a guard, beyond which evidence doesn't count: a score that failed, a lane passed over.

    Each is tried once more; where it stays, no further prompt helps that lane.

    Attributes:
        reasons: Why, by lane.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self._tried: dict[str, int] = {}

    def start(self, waiting: Sequence[LaneDecision], used: int) -> int | None:
        """The prompt from which to go on; None if lanes were found that stand at a gap."""
        start = min([used, *(row.reached(used) for row in waiting)])
        there = [row for row in waiting if row.reached(used) == start < used]
        stand = [row for row in there if self._tried.get(row.lane) == start]
        self.reasons |= {row.lane: row.gap(start) for row in stand}
        if stand:
            return None
        self._tried |= {row.lane: start for row in there}
        return start


def needs_reference(rows: Iterable[LaneDecision]) -> bool:
    """Whether one of these lanes has not shown its latent error yet, so that converged solutions are needed."""
    return any(guard.guard.key == EXCESS and not guard.shown for row in rows for guard in row.guards)


def stored_terms(context: PassContext, study: str) -> tuple[FixedTerms | None, int, bool]:
    """Return a study's terms in the cache (None without any), prompts used, and whether cells failed."""
    nothing = None, 0, False
    if not context.cache.exists():
        return nothing
    with reading(context.cache) as db:
        found = decision_tables.stored_decision(db, study)
    if found is None:
        return nothing
    try:
        return read_terms(found[0]), int(found[1].get("used", 0)), bool(found[1].get("failed"))
    except (ValueError, TypeError, AttributeError) as error:
        context.progress.note(f"{error} A new search begins.")
        return nothing
