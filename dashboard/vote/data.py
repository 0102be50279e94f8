"""Data of the Vote page: which pairs a voter sees, in which order and on which sides, and the votes.

Order and sides are random per voter, but always the same for one voter. Attention checks are mixed in: the same picture
twice, where "no difference" or an even split is expected, and a picture of very few steps, which should lose.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd

from dashboard.cache_access import Answer, Problem, Question, ask, ask_all
from dashboard.loaders import PagePicture, pictures_of
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
from engine.cache.vote_table import Check, Choice, Vote, voted, votes
from engine.results import Results

CHECK_EVERY = 6
OBVIOUS_STEPS = 5
OBVIOUS_SHARE = 4


@dataclass(frozen=True)
class Pair:
    """Two finished cells of one prompt and seed."""

    check_kind: Check
    left_lane: str
    right_lane: str
    left_id: str
    right_id: str
    prompt: str
    seed: int

    @property
    def key(self) -> str:
        """Digest of the pair, independent of the sides."""
        return pair_key(self.left_id, self.right_id)

    def vote(self, study_id: str, voter: str, choice: Choice, seconds: float) -> Vote:
        """The vote of a voter on this pair."""
        return Vote(
            study_id,
            voter,
            self.check_kind,
            self.left_id,
            self.right_id,
            self.left_lane,
            self.right_lane,
            self.prompt,
            self.seed,
            choice,
            seconds,
        )


def pair_key(one: str, other: str) -> str:
    """Digest of two trajectories, independent of their order."""
    return _digest(*sorted((one, other)))


def obvious_lane(study: Results, lanes: Collection[str]) -> str | None:
    """A lane of very few steps that should lose against each of `lanes`; None if the study has none."""
    others = [lane for lane in study.lanes if lane.key not in lanes and 0 < lane.steps <= OBVIOUS_STEPS]
    compared = [found.steps for key in lanes if (found := study.lane(key)) is not None]
    worst = min(others, key=lambda lane: lane.steps, default=None)
    if worst is None or not compared or worst.steps * OBVIOUS_SHARE > min(compared):
        return None
    return worst.key


def pairs(study: Results, lane: str, other: str, voter: str) -> list[Pair]:
    """All pairs of two lanes for a voter, with attention checks; empty if no prompt and seed has both."""
    subjects = [(prompt, seed) for prompt in study.prompts for seed in study.seeds]
    subjects.sort(key=lambda subject: _digest(voter, lane, other, *map(str, subject)))
    real = [pair for subject in subjects if (pair := _pair(study, lane, other, *subject, voter, "none"))]
    easy = obvious_lane(study, (lane, other))
    shown: list[Pair] = []
    for number, pair in enumerate(real):
        shown.append(pair)
        if (number + 1) % CHECK_EVERY:
            continue
        if easy is not None and (number + 1) // CHECK_EVERY % 2:
            check = _pair(study, lane, easy, pair.prompt, pair.seed, voter, "obvious")
        else:
            check = _pair(study, lane, lane, pair.prompt, pair.seed, voter, "identical")
        if check is not None:
            shown.append(check)
    return shown


def _pair(study: Results, lane: str, other: str, prompt: str, seed: int, voter: str, kind: Check) -> Pair | None:
    one, two = study.cell(lane, prompt, seed), study.cell(other, prompt, seed)
    if one.state != "done" or two.state != "done" or (kind == "none" and one.trajectory_id == two.trajectory_id):
        return None
    if int(_digest(voter, "side", *sorted((one.trajectory_id, two.trajectory_id))), 16) % 2:
        lane, other, one, two = other, lane, two, one
    return Pair(kind, lane, other, one.trajectory_id, two.trajectory_id, prompt, seed)


def _digest(*parts: str) -> str:
    return sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Contest:
    """The question that the votes answer.

    Attributes:
        one, two: The lanes to compare.
        steps: All lanes of the study with their steps.
        margin: Largest deviation of the preference from one half that counts as equivalent, as a share.
        power: Probability with which two equally good lanes are found equivalent.
    """

    one: str
    two: str
    steps: tuple[tuple[str, int], ...]
    margin: float = MARGIN
    power: float = POWER


@dataclass(frozen=True)
class VoteTally:
    """Results of the votes of a study.

    Attributes:
        preference: Preference between the two lanes of the contest.
        ranking: All lanes connected by votes, strongest first.
        cast: Total number of votes, checks included.
        checks: Number of attention checks among them.
        left_out: Number of voters excluded for failing the checks.
        side: Share of left choices between identical pictures.
        first, last: Time of the first and the last vote (UTC), or None.
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
) -> tuple[set[str], Answer[list[PagePicture]] | Problem]:
    """Keys of the pairs that a voter has answered, and the pictures of the next pair.

    If the cache cannot be read, no pair counts as answered.
    """

    def pictures_of_next(before: list[tuple[str, str]]) -> Question[list[PagePicture]]:
        done = {pair_key(*pair) for pair in before}
        return pair_pictures([pair for pair in every if pair.key not in done])

    before, pictures = ask_all(path, Question(voted, (study_id, voter)), pictures_of_next)
    return {pair_key(*pair) for pair in before.value} if isinstance(before, Answer) else set(), pictures


def pair_pictures(left: Sequence[Pair]) -> Question[list[PagePicture]]:
    """The final pictures of the first of the remaining pairs; of clips every frame."""
    ids = [key for pair in left[:1] for key in (pair.left_id, pair.right_id)]
    return pictures_of(list(dict.fromkeys(ids)), ["final"], whole_videos=True)


def tally(path: Path, study_id: str, contest: Contest) -> Answer[VoteTally] | Problem:
    """Evaluates the votes for a contest."""
    return ask(path, Question(votes, (study_id,), _count, (contest,), contest))


def _count(table: pd.DataFrame, contest: Contest) -> VoteTally:
    left_out = inattentive(table, dict(contest.steps))
    used = counted(table, left_out)
    ends = (table["created_at"].min(), table["created_at"].max()) if len(table) else (None, None)
    return VoteTally(
        preference(used, contest.one, contest.two, contest.margin, contest.power),
        ranking(used, [lane for lane, _ in contest.steps]),
        len(table),
        int((table["check_kind"] != "none").sum()),
        len(left_out),
        left_share(table, left_out),
        *ends,
    )
