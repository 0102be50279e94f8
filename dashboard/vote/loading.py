"""What the Vote page asks of the cache."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboard.asking import Answer, Problem, ask, work_out
from dashboard.vote.pairs import pair_key
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
from engine.cache.connection import Connection
from engine.cache.vote_table import voted, votes


@dataclass(frozen=True)
class Question:
    """What is asked of the votes.

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
        preference: Between the two lanes of the question.
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


def answered(path: Path, study_id: str, voter: str) -> set[str]:
    """Keys of the pairs that a voter has answered before; none if the cache cannot say."""
    found: Answer[list[tuple[str, str]]] | Problem = ask(path, voted, study_id, voter)
    return {pair_key(*pair) for pair in found.value} if isinstance(found, Answer) else set()


def tally(path: Path, study_id: str, question: Question) -> Answer[Tally] | Problem:
    """The votes counted for a question."""
    return work_out(path, _material, _count, study_id, question)


def _material(db: Connection, study_id: str, question: Question) -> tuple[pd.DataFrame, Question]:
    return votes(db, study_id), question


def _count(material: tuple[pd.DataFrame, Question]) -> Tally:
    table, question = material
    left_out = inattentive(table, dict(question.steps))
    used = counted(table, left_out)
    ends = (table["created_at"].min(), table["created_at"].max()) if len(table) else (None, None)
    return Tally(
        preference(used, question.one, question.two, question.margin, question.power),
        ranking(used, [lane for lane, _ in question.steps]),
        len(table),
        int((table["check_kind"] != "none").sum()),
        len(left_out),
        left_share(table, left_out),
        *ends,
    )
