"""Set metrics of a study: whole lanes against the converged reference and against the baseline, from cached pictures.

Both sides show the same prompts and seeds; of the reference only those count whose check agrees with it. A set of the
same cells is never measured again. Torch is imported only if a metric that needs it has something to do.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from engine.cache import queries, sets
from engine.cache.connection import reading
from engine.cache.quality import FAILED, ReferenceRow, StudyMetricRow
from engine.cache.sets import SetMetricRow, SetRow, SetsWriter
from engine.measuring.evidence import Subject, Unmeasurable
from engine.measuring.material import Material
from engine.measuring.set_metrics import SET_METRICS, Features, SetMetric, as_sets
from engine.passes.plan import StudyPlan
from engine.progress import Progress

GROUP_CELLS = 16


@dataclass
class SetScoring:
    """What a pass over sets did.

    Attributes:
        taken: Values taken.
        refused: Sets, metric by metric, of which nothing can be said; each a row with its reason.
        failed: Values whose metric raised an error; each a row with it, tried again the next time.
        unavailable: Why a metric cannot be measured at all, by its key.
    """

    taken: int = 0
    refused: int = 0
    failed: int = 0
    unavailable: dict[str, str] = field(default_factory=dict)


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
        return sets.set_id(self.ids, self.other_ids)


Job = tuple[Pairing, SetMetric, str]


def score_sets(
    plan: StudyPlan,
    subject: Subject,
    done: Collection[str],
    pairs: Iterable[ReferenceRow],
    cache: Path,
    progress: Progress,
) -> SetScoring:
    """Measures the sets of a study that have changed, or never were measured; older metric versions are kept apart.

    Args:
        plan: The study.
        subject: What is common to all its cells.
        done: Ids of finished cells, of the study and of its reference.
        pairs: References, and how far their checks are.
        cache: The file.
        progress: Is told.

    Raises:
        CacheError: The cache cannot be used.
    """
    result = SetScoring()
    names: dict[str, str] = {}
    for key, metric in SET_METRICS.items():
        try:
            names[key] = metric.features.name(subject)
        except Unmeasurable as reason:
            result.unavailable[key] = str(reason)
    versions = {key: f"{SET_METRICS[key].version}@{name}" for key, name in names.items()}
    used = [
        StudyMetricRow(key, versions.get(key, metric.version), result.unavailable.get(key))
        for key, metric in SET_METRICS.items()
    ]
    with reading(cache) as db:
        have = sets.measured(db, plan.study.name)
        before = sets.recorded(db, plan.study.name)
    if before != used:
        described = [_described(SET_METRICS[row.metric], row.metric_version) for row in used]
        SetsWriter(cache).study(plan.study.name, described, used)
    agreeing = {row.reference_id for row in pairs if row.distance is not None and row.distance <= row.tolerance}
    jobs = [
        (pairing, SET_METRICS[key], names[key])
        for pairing in pairings(plan, done, agreeing)
        for key, version in versions.items()
        if have.get((pairing.lane, pairing.against, key, version)) != pairing.set_id
    ]
    if jobs:
        _work(jobs, subject, plan.study.name, cache, progress, result)
    return result


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


def _work(
    jobs: Sequence[Job], subject: Subject, study: str, cache: Path, progress: Progress, result: SetScoring
) -> None:
    writer = SetsWriter(cache)
    progress.start("set metrics", len(jobs), "values")
    for features in dict.fromkeys(metric.features for _, metric, _ in jobs):
        own = [job for job in jobs if job[1].features == features]
        vectors = Vectors(features, subject, cache)
        shared = {trajectory_id for pairing, _, _ in own for trajectory_id in pairing.other_ids}
        for pairing in dict.fromkeys(pairing for pairing, _, _ in own):
            vectors.forget_all_but(shared.union(pairing.ids))
            rows = []
            for pair, metric, name in own:
                if pair == pairing:
                    rows.append(_measured(pair, metric, name, vectors))
                    progress.advance(1, f"{pair.lane} against {pair.against}")
            writer.values(study, rows)
            result.taken += sum(row.value is not None for row in rows)
            failures = [row for row in rows if (row.warning or "").startswith(FAILED)]
            result.refused += sum(row.value is None for row in rows) - len(failures)
            result.failed += len(failures)
            for row in failures:
                progress.note(f"Set metric '{row.metric}' of {row.lane} {row.warning}")


class Vectors:
    """Vectors of cells' pictures, computed once for all that ask, until they are forgotten; a video's are averaged."""

    def __init__(self, features: Features, subject: Subject, cache: Path) -> None:
        self._features, self._subject, self._cache = features, subject, cache
        self._known: dict[str, np.ndarray] = {}

    def of(self, ids: Sequence[str]) -> np.ndarray:
        """(n, D), in the order of the cells."""
        lacking = [trajectory_id for trajectory_id in ids if trajectory_id not in self._known]
        for start in range(0, len(lacking), GROUP_CELLS):
            group = lacking[start : start + GROUP_CELLS]
            with reading(self._cache) as db:
                material = Material({}, queries.frames(db, group, ["final"]))
            pictures = [material.final(trajectory_id) for trajectory_id in group]
            found = self._features.vectors(self._subject, np.concatenate(pictures))
            ends = np.cumsum([len(frames) for frames in pictures])[:-1]
            means = [part.mean(axis=0) for part in np.split(np.asarray(found, dtype=np.float32), ends)]
            self._known |= dict(zip(group, means, strict=True))
        return np.stack([self._known[trajectory_id] for trajectory_id in ids])

    def forget_all_but(self, ids: Collection[str]) -> None:
        """Frees memory of lanes that are done."""
        self._known = {key: vector for key, vector in self._known.items() if key in ids}


def _measured(pairing: Pairing, metric: SetMetric, name: str, vectors: Vectors) -> SetRow:
    n, prompts, version = len(pairing.ids), len(set(pairing.prompts)), f"{metric.version}@{name}"

    def row(value: float | None, low: float | None, high: float | None, error: float | None, warning: str) -> SetRow:
        return SetRow(
            pairing.lane,
            pairing.against,
            metric.key,
            version,
            name,
            n,
            prompts,
            value,
            low,
            high,
            error,
            warning or None,
            pairing.set_id,
        )

    if refusal := metric.refusal(n, prompts):
        return row(None, None, None, None, refusal)
    try:
        both = as_sets(vectors.of(pairing.ids), vectors.of(pairing.other_ids), pairing.prompts)
        found = metric.estimate(both)
        return row(found.value, found.low, found.high, found.standard_error, metric.warning(both))
    except Unmeasurable as reason:
        return row(None, None, None, None, str(reason))
    except Exception as error:  # of a metric from outside, or of weights that cannot be read; the others go on
        return row(None, None, None, None, f"{FAILED} {type(error).__name__}: {error}")


def _described(metric: SetMetric, version: str) -> SetMetricRow:
    return SetMetricRow(
        metric.key,
        version,
        metric.label,
        metric.unit,
        metric.direction,
        metric.smallest_n,
        metric.trusted_n,
        metric.description,
    )
