"""What may veto a lane that every guard accepts: people's votes, and the distance of whole sets of pictures.

Neither has evidence that may be looked at again and again, so that neither ever recommends a lane. They are asked where
other pictures are allowed (goal "as-good"), whose guards look at one picture at a time.
"""

from collections.abc import Iterable

import pandas as pd

from engine.analysis import votes
from engine.cache import score_tables, vote_table
from engine.cache.connection import Connection
from engine.measuring import metrics
from engine.measuring.evidence import Subject, Unmeasurable
from engine.passes.decision_evidence import by_place
from engine.passes.decision_roles import Roles
from engine.passes.lane_scores import Pairing, Vectors, set_row
from engine.study.cells import Cell

SETS = "kid"


def allowed_distance(who: Roles, cells: Iterable[Cell], finished: set[str]) -> float:
    """The KID to the baseline that is not held against a lane: that of a share of the negative control's distance.

    With enough pictures any two lanes differ for sure, however little; so "apart" alone is no objection. KID is a
    squared distance, so the share counts twice. Where the control's KID can't be told, or it has no cells of its own,
    nothing is allowed and every sure distance vetoes.

    Args:
        who: Who takes part.
        cells: Of baseline and negative control.
        finished: Ids of those that came out.
    """
    metric = metrics.of_scope("lane").get(SETS)
    if who.negative is None or metric is None:
        return 0.0
    places, seed, pairs = by_place(cells), who.seeds[0], []
    for prompt in dict.fromkeys(cell.prompt for cell in places.values()):
        both = [places[lane.key, prompt, seed].trajectory_id for lane in (who.negative, who.baseline)]
        if finished.issuperset(both):
            pairs.append((*both, prompt))
    subject = Subject(who.context.source, who.study.reference)
    try:
        version = metric.full_version(subject)
    except Unmeasurable:
        return 0.0
    if not pairs:
        return 0.0
    pairing = Pairing(who.negative.key, who.baseline.key, *zip(*pairs, strict=True))
    vectors = Vectors(metric.features, subject, who.context.cache)
    row = set_row(who.study.name, pairing, metric, version, vectors)
    return who.study.decide.control_share**2 * max(row.low or 0.0, 0.0)


def prompts_for_sets(who: Roles) -> int:
    """Prompts from which on sets can be compared; 0 if they never can, for want of what turns them into vectors."""
    metric = metrics.of_scope("lane").get(SETS)
    try:
        if metric is None or not metric.full_version(Subject(who.context.source, who.study.reference)):
            return 0
    except Unmeasurable:
        return 0
    return -(-metric.smallest_n // len(who.seeds))


def vetoes(db: Connection, study: str, baseline: str, steps: dict[str, int], allowed: float = 0.0) -> dict[str, str]:
    """Lane -> why it is not as good, by votes against it or by a set distance to the baseline that is too large.

    Args:
        db: An open connection.
        study: Its name.
        baseline: The lane that the others would replace.
        steps: Lane -> its steps, of all lanes of the study.
        allowed: KID that a lane may have; it is vetoed where the whole 95 % interval lies above.
    """
    against = _voted_down(vote_table.votes(db, study), baseline, steps)
    return _other_sets(score_tables.lane_scores(db, study, [baseline]), baseline, allowed) | against


def _voted_down(table: pd.DataFrame, baseline: str, steps: dict[str, int]) -> dict[str, str]:
    used = votes.counted(table, votes.inattentive(table, steps)) if len(table) else table
    found = {}
    for lane in steps if len(used) else ():
        said = votes.preference(used, lane, baseline)
        if lane != baseline and said.verdict == "not preferred":
            interval = f"{100 * said.value:.0f} % [{100 * said.low:.0f}, {100 * said.high:.0f}]"
            found[lane] = f"People prefer {baseline}: it won only {interval} of {said.votes} votes."
    return found


def _other_sets(sets: pd.DataFrame, baseline: str, allowed: float) -> dict[str, str]:
    rows = sets[(sets["metric"] == SETS) & (sets["against"] == baseline) & (sets["low"] > allowed)]
    return {
        str(row.lane): f"Its pictures as a set are too far from those of {baseline}: {row.label} {row.value:.3g} "
        f"[{row.low:.3g}, {row.high:.3g}] of {int(row.n)} pictures, {allowed:.3g} is allowed."
        for row in rows.itertuples()
    }
