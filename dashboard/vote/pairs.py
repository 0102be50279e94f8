"""Which pairs a voter sees, in which order and on which sides. Pure, and the same each time for the same voter.

Pairs come in an order drawn for each voter, sides too. Among them stand attention checks: the same picture twice, where
"no difference" or an even split is expected, and a picture of very few steps, which should lose.
"""

from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256

from engine.cache.votes import Check, Choice, Vote
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
        """Digest of the pair, whichever side each picture is on."""
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
    """Digest of two trajectories in whichever order."""
    return _digest(*sorted((one, other)))


def obvious_lane(study: Results, lanes: Collection[str]) -> str | None:
    """The lane of very few steps that should lose against each of `lanes`; None if the study has none."""
    others = [lane for lane in study.lanes if lane.key not in lanes and 0 < lane.steps <= OBVIOUS_STEPS]
    compared = [found.steps for key in lanes if (found := study.lane(key)) is not None]
    worst = min(others, key=lambda lane: lane.steps, default=None)
    if worst is None or not compared or worst.steps * OBVIOUS_SHARE > min(compared):
        return None
    return worst.key


def pairs(study: Results, lane: str, other: str, voter: str) -> list[Pair]:
    """All pairs of two lanes for a voter, with checks after every few; empty if no prompt and seed has both."""
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
