"""What the Vote page asks of the cache."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboard.asking import Answer, Problem, ask
from dashboard.vote.pairs import pair_key
from engine.analysis.votes import Preference, Strength, attentive, preference, ranking
from engine.cache.connection import Connection
from engine.cache.votes import voted, votes


@dataclass(frozen=True)
class Tally:
    """The votes of a study, counted.

    Attributes:
        preference: Between the two lanes of the question.
        ranking: Of all lanes that votes link, the strongest first.
        cast: Votes in all, checks included.
        checks: Attention checks among them.
        left_out: Voters who failed the checks.
        first, last: When the first and the last vote came (UTC), or None.
    """

    preference: Preference
    ranking: list[Strength]
    cast: int
    checks: int
    left_out: int
    first: pd.Timestamp | None
    last: pd.Timestamp | None


def answered(path: Path, study_id: str, voter: str) -> set[str]:
    """Keys of the pairs that a voter has answered before; none if the cache cannot say."""
    found: Answer[list[tuple[str, str]]] | Problem = ask(path, voted, study_id, voter)
    return {pair_key(*pair) for pair in found.value} if isinstance(found, Answer) else set()


def tally(
    path: Path, study_id: str, lanes: tuple[str, ...], lane: str, other: str, obvious: str | None
) -> Answer[Tally] | Problem:
    """The votes counted for a question."""
    return ask(path, _tally, study_id, lanes, lane, other, obvious)


def _tally(db: Connection, study_id: str, lanes: tuple[str, ...], lane: str, other: str, obvious: str | None) -> Tally:
    table = votes(db, study_id)
    counted, left_out = attentive(table, obvious)
    ends = (table["created_at"].min(), table["created_at"].max()) if len(table) else (None, None)
    checks = int((table["check_kind"] != "none").sum())
    return Tally(preference(counted, lane, other), ranking(counted, lanes), len(table), checks, left_out, *ends)
