"""What the Vote page asks of the cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboard.cache_access import Answer, Problem, Question, ask, ask_all
from dashboard.loaders import Picture, pictures_of
from dashboard.vote.pairs import Pair, pair_key
from engine.analysis.statistics import Estimate
from engine.analysis.votes import (
    MARGIN,
    POWER,
    Preference,
    Strength,
    counted,
    inattentive,
    left_share,
    preference,
    ranking,
)
from engine.cache.votes import voted, votes


@dataclass(frozen=True)
class Contest:
    """What the votes are to decide.

    Attributes:
        one, two: The lanes that are compared.
        steps: All lanes of the study with their steps.
        margin: How far from one half the preference may be to count as equivalent, as a share.
        power: With which two equally good lanes shall be found equivalent, as a share.
    """

    one: str
    two: str
    steps: tuple[tuple[str, int], ...]
    margin: float = MARGIN
    power: float = POWER


@dataclass(frozen=True)
class Tally:
    """The votes of a study, counted.

    Attributes:
        preference: Between the two lanes of the contest.
        ranking: Of all lanes that votes link, the strongest first.
        cast: Votes in all, checks included.
        checks: Attention checks among them.
        left_out: Voters who failed the checks.
        side: Share of left choices between identical pictures.
        first, last: When the first and the last vote came (UTC), or None.
    """

    preference: Preference
    ranking: list[Strength]
    cast: int
    checks: int
    left_out: int
    side: Estimate
    first: pd.Timestamp | None
    last: pd.Timestamp | None


def answered_and_next(
    path: Path, study_id: str, voter: str, every: Sequence[Pair]
) -> tuple[set[str], Answer[list[Picture]] | Problem]:
    """Keys of the pairs that a voter has answered before, and the pictures of the next pair.

    Where the cache cannot say, none has been answered.
    """

    def pictures_of_next(before: list[tuple[str, str]]) -> Question[list[Picture]]:
        done = {pair_key(*pair) for pair in before}
        return pair_pictures([pair for pair in every if pair.key not in done])

    before, pictures = ask_all(path, Question(voted, (study_id, voter)), pictures_of_next)
    return {pair_key(*pair) for pair in before.value} if isinstance(before, Answer) else set(), pictures


def pair_pictures(left: Sequence[Pair]) -> Question[list[Picture]]:
    """The final pictures of the first of the pairs that are left."""
    ids = [key for pair in left[:1] for key in (pair.left_id, pair.right_id)]
    return pictures_of(list(dict.fromkeys(ids)), ["final"])


def tally(path: Path, study_id: str, contest: Contest) -> Answer[Tally] | Problem:
    """The votes counted for a contest."""
    return ask(path, Question(votes, (study_id,), _count, (contest,), contest))


def _count(table: pd.DataFrame, contest: Contest) -> Tally:
    left_out = inattentive(table, dict(contest.steps))
    used = counted(table, left_out)
    ends = (table["created_at"].min(), table["created_at"].max()) if len(table) else (None, None)
    return Tally(
        preference(used, contest.one, contest.two, contest.margin, contest.power),
        ranking(used, [lane for lane, _ in contest.steps]),
        len(table),
        int((table["check_kind"] != "none").sum()),
        len(left_out),
        left_share(table, left_out),
        *ends,
    )
