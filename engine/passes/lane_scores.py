"""Metrics of whole lanes, against the converged reference and against the baseline, from cached pictures.

Both sides show the same prompts and seeds; of the reference only those count whose check agrees with it. A set of the
same cells is never measured again.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.cache import queries, score_tables
from engine.cache.connection import reading
from engine.cache.limits import CELL_BYTES, in_groups
from engine.cache.score_tables import FAILED, ScoreRow
from engine.measuring import metrics
from engine.measuring.evidence import Subject, Unmeasurable
from engine.measuring.metric import Features, Metric, as_sets
from engine.measuring.stored_cells import StoredCells
from engine.passes.plan import StudyPlan
from engine.progress import Progress

GROUP_CELLS = 16


@dataclass(frozen=True)
class Pairing:
    """A lane and what it is compared with.

    Attributes:
        ids: The lane's finished cells.
        other_ids: Cell by cell, those of the same prompt and seed on the other side.
        prompts: Cell by cell.
    """

    lane: str
    against: str
    ids: tuple[str, ...]
    other_ids: tuple[str, ...]
    prompts: tuple[str, ...]

    @property
    def set_id(self) -> str:
        """Digest of the cells on both sides."""
        return score_tables.set_id(self.ids, self.other_ids)


Job = tuple[Pairing, Metric, str]


def score_lanes(
    plan: StudyPlan,
    subject: Subject,
    versions: Mapping[str, str],
    done: Collection[str],
    agreeing: Collection[str],
    cache: Path,
    progress: Progress,
    tell: Callable[[Sequence[ScoreRow]], None],
) -> None:
    """Measures the sets of a study that have changed, or never were measured; older metric versions are kept apart.

    Args:
        plan: The study.
        subject: What is common to all its cells.
        versions: Full versions of the metrics that can be measured, by key.
        done: Ids of finished cells, of the study and of its reference.
        agreeing: Ids of references whose check agrees.
        cache: The file.
        progress: Receives reports.
        tell: Called with every group of rows that was written.

    Raises:
        CacheError: The cache cannot be used.
    """
    with reading(cache) as db:
        have = score_tables.scored_sets(db, plan.study.name)
        again = queries.repeated_prompts(db, plan.study.name)
    done = set(done) - {cell.trajectory_id for cell in plan.cells if cell.prompt in again}
    usable = {key: metric for key, metric in metrics.of_scope("lane").items() if key in versions}
    jobs = [
        (pairing, metric, versions[key])
        for pairing in pairings(plan, done, agreeing)
        for key, metric in usable.items()
        if have.get((pairing.lane, pairing.against, key, versions[key])) != pairing.set_id
    ]
    if jobs:
        progress.start("set metrics", len(jobs), "values")
    for features in dict.fromkeys(metric.features for _, metric, _ in jobs):
        own = [job for job in jobs if job[1].features == features]
        vectors = Vectors(features, subject, cache)
        shared = {trajectory_id for pairing, _, _ in own for trajectory_id in pairing.other_ids}
        for pairing in dict.fromkeys(pairing for pairing, _, _ in own):
            vectors.forget_all_but(shared.union(pairing.ids))
            rows = []
            for _, metric, version in (job for job in own if job[0] == pairing):
                rows.append(set_row(plan.study.name, pairing, metric, version, vectors))
                progress.advance(1, f"{pairing.lane} against {pairing.against}")
            score_tables.write_scores(cache, rows)
            tell(rows)
            for row in rows:
                if row.failed:
                    progress.note(f"Set metric '{row.metric}' of {row.lane} {row.reason}")


def pairings(plan: StudyPlan, done: Collection[str], agreeing: Collection[str]) -> Iterator[Pairing]:
    """Lane by lane, with the reference and with the baseline, as far as both have finished cells."""
    sides = []
    if plan.study.reference is not None:
        converged = {(ref.prompt, ref.seed): ref for ref, _ in plan.references if ref.trajectory_id in agreeing}
        sides.append((plan.study.reference.lane.key, converged))
    base = {(cell.prompt, cell.seed): cell for cell in plan.cells if cell.lane.key == plan.study.baseline}
    if plan.study.baseline not in {name for name, _ in sides}:
        sides.append((plan.study.baseline, base))
    for lane in plan.study.lanes:
        own = [cell for cell in plan.cells if cell.lane.key == lane.key and cell.trajectory_id in done]
        for against, others in sides:
            if lane.key == against:
                continue
            both = [
                (cell.trajectory_id, other.trajectory_id, cell.prompt)
                for cell in own
                if (other := others.get((cell.prompt, cell.seed))) and other.trajectory_id in done
            ]
            if both:
                yield Pairing(lane.key, against, *zip(*both, strict=True))


class Vectors:
    """Vectors of cells' pictures, computed once for all that ask, until they are forgotten; a video's are averaged."""

    def __init__(self, features: Features, subject: Subject, cache: Path) -> None:
        self.name = features.name(subject)
        self._features, self._subject, self._cache = features, subject, cache
        self._known: dict[str, np.ndarray] = {}

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """(n, D), in the order of the cells."""
        lacking = [trajectory_id for trajectory_id in ids if trajectory_id not in self._known]
        for start in range(0, len(lacking), GROUP_CELLS):
            with reading(self._cache) as db:
                groups = list(in_groups(queries.frame_bytes(db, lacking[start : start + GROUP_CELLS], ["final"])))
            for group in groups:
                with reading(self._cache) as db:
                    stored = StoredCells({}, queries.frames(db, group, ["final"], CELL_BYTES))
                pictures = [stored.final(trajectory_id) for trajectory_id in group]
                found = self._features.vectors(self._subject, np.concatenate(pictures))
                ends = np.cumsum([len(frames) for frames in pictures])[:-1]
                means = [part.mean(axis=0) for part in np.split(np.asarray(found, dtype=np.float32), ends)]
                self._known |= dict(zip(group, means, strict=True))
        return np.stack([self._known[trajectory_id] for trajectory_id in ids])

    def forget_all_but(self, ids: Collection[str]) -> None:
        """Frees memory of lanes that are done."""
        self._known = {key: vector for key, vector in self._known.items() if key in ids}


def set_row(study: str, pairing: Pairing, metric: Metric, version: str, vectors: Vectors) -> ScoreRow:
    """The value of a metric for a lane, or the reason why there is none."""
    n, prompts = len(pairing.ids), len(set(pairing.prompts))
    found, warning = None, ""
    if not (reason := metric.refusal(n, prompts)):
        try:
            both = as_sets(vectors.of(pairing.ids), vectors.of(pairing.other_ids), pairing.prompts)
            found, warning = metric.estimate(both), metric.warning(both)
        except Unmeasurable as why:
            reason = str(why)
        except Exception as error:  # of a metric from outside, or of weights that cannot be read; the others go on
            found, reason = None, f"{FAILED} {type(error).__name__}: {error}"
    return ScoreRow(
        "lane",
        metric.key,
        version,
        value=found.value if found else None,
        reason=reason or None,
        study_id=study,
        lane=pairing.lane,
        against=pairing.against,
        warning=warning or None,
        n=n,
        prompts=prompts,
        low=found.low if found else None,
        high=found.high if found else None,
        standard_error=found.standard_error if found else None,
        features=vectors.name,
        set_id=pairing.set_id,
    )
