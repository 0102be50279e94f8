"""What blind votes say: preference with interval, Bradley-Terry ranking, equivalence, votes still needed. Pure.

- Preference: the share of votes for a lane against another, "same" counted as half a vote for each.
- Interval: bootstrap over prompts, since votes on one prompt are correlated (`statistics.resampled_interval`).
- Ranking: Bradley and Terry (1952, doi:10.1093/biomet/39.3-4.324) by maximum likelihood, with the minorisation steps of
  Hunter (2004, doi:10.1214/aos/1079120141); strengths in Elo points (400 for odds of ten to one), mean 0.
- Votes needed: more than if votes were independent, by how strongly votes on one prompt are correlated.
- Equivalence: two one-sided tests of the preference against 50 % plus and minus a margin fixed beforehand; the interval
  has to lie within it too. It is at least as wide as what so few prompts can hide (`statistics.bounded_interval`).
- Who fails attention checks is left out whole: more than a quarter of the obvious ones wrong, of two or more, or always
  the same side, identical pictures included, in twelve pairs or more (by chance once in 2,048).
- Side: the share of left choices between identical pictures, by those who count. Sides are drawn at random for each
  pair, so leaning to one side favours no lane, it only adds noise.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from engine.analysis import statistics as st
from engine.cache.vote_table import SCORED

Floats = npt.NDArray[np.float64]

MARGIN = 0.10
# How far a prompt's votes can be from one half.
HALF = 0.5
POWER = 0.80
# Correlation of votes on one prompt if preferences differ between prompts with a standard deviation of 1 in log odds.
CLUSTERED = 0.17
ELO = 400 / np.log(10)
MOST_WRONG = 0.25
FEWEST_CHECKS = 2
FEWEST_ONE_SIDED = 12


@dataclass(frozen=True)
class Preference:
    """How often a lane was preferred to another.

    Attributes:
        value: Share of the votes, with its 95 % interval; NaN ends below `statistics.MIN_PROMPTS` prompts.
        votes, prompts, voters: What it rests on.
        verdict: equivalent, preferred, not preferred, undecided, or too few.
        needed: Votes in all, as many a prompt as now, that show equivalence with the power asked for if both lanes are
            equally good.
    """

    lane: str
    other: str
    value: float
    low: float
    high: float
    votes: int
    prompts: int
    voters: int
    verdict: str
    needed: int


@dataclass(frozen=True)
class Strength:
    """A lane's place in the ranking, in Elo points; `votes` it took part in."""

    lane: str
    elo: float
    low: float
    high: float
    votes: int


def inattentive(votes: pd.DataFrame, steps: Mapping[str, int]) -> set[str]:
    """Voters who fail the attention checks.

    Each obvious check is judged by the two lanes it was between, whatever is asked now: the lane of fewer steps should
    lose. A check on a lane that is not known any more says nothing.

    Args:
        votes: As returned by `engine.cache.vote_table.votes`.
        steps: Lane -> its steps.
    """
    checks = votes[votes["check_kind"] == "obvious"]
    left, right = checks["left_lane"].map(steps), checks["right_lane"].map(steps)
    checks, left, right = (part[left.notna() & right.notna() & (left != right)] for part in (checks, left, right))
    wrong = (checks["choice"] != np.where(left > right, "left", "right")).groupby(checks["voter"]).agg(["mean", "size"])
    failed = set(wrong[(wrong["mean"] > MOST_WRONG) & (wrong["size"] >= FEWEST_CHECKS)].index)
    return failed | {str(voter) for voter, rows in votes.groupby("voter") if _is_one_sided(rows)}


def _is_one_sided(rows: pd.DataFrame) -> bool:
    choices = set(rows["choice"])
    return (
        len(rows) >= FEWEST_ONE_SIDED
        and choices in ({"left"}, {"right"})
        and bool((rows["check_kind"] == "identical").any())
    )


def counted(votes: pd.DataFrame, left_out: Collection[str]) -> pd.DataFrame:
    """The votes that count: no checks, none of the voters who are left out."""
    return votes[(votes["check_kind"] == "none") & ~votes["voter"].isin(list(left_out))]


def left_share(votes: pd.DataFrame, left_out: Collection[str]) -> st.Estimate:
    """The share of left choices between identical pictures, "same" counted as half; the voter is the unit.

    Returns:
        An estimate whose `n` are voters and `pairs` votes; NaN ends below `statistics.MIN_PROMPTS` voters.
    """
    rows = votes[(votes["check_kind"] == "identical") & ~votes["voter"].isin(list(left_out))]
    return _estimate(_scores(rows), list(rows["voter"]))


def _estimate(scores: Floats, units: Sequence[object]) -> st.Estimate:
    """Mean and interval of scores from 0 to 1, at least as wide as votes other than "same" can hide in so few units."""
    found = st.ranged_estimate(scores, units, 0.0, 1.0)
    if found.n < st.MIN_PROMPTS:
        return found
    low, high = st.bounded_interval(st.prompt_means(scores - HALF, units), HALF)
    return replace(found, low=max(0.0, min(found.low, HALF + low)), high=min(1.0, max(found.high, HALF + high)))


def preference(votes: pd.DataFrame, lane: str, other: str, margin: float = MARGIN, power: float = POWER) -> Preference:
    """How often `lane` was preferred to `other` in votes that count.

    Args:
        votes: As `counted` returns them.
        lane, other: The two lanes.
        margin: How far from one half still is equivalent, fixed before the votes are seen.
        power: With which two equally good lanes shall be found equivalent.
    """
    ours = votes[(votes["left_lane"] == lane) & (votes["right_lane"] == other)]
    theirs = votes[(votes["left_lane"] == other) & (votes["right_lane"] == lane)]
    scores = np.concatenate([_scores(ours), 1 - _scores(theirs)])
    prompts = [*ours["prompt"], *theirs["prompt"]]
    per_prompt = len(prompts) / max(len(set(prompts)), 1)
    needed = votes_needed(margin, power, per_prompt=per_prompt, clustered=clustering(scores, prompts))
    voters = pd.concat([ours["voter"], theirs["voter"]]).nunique()
    if len(set(prompts)) < st.MIN_PROMPTS:
        value = float(scores.mean()) if len(scores) else float("nan")
        nan = float("nan")
        return Preference(lane, other, value, nan, nan, len(scores), len(set(prompts)), voters, "too few", needed)
    means = st.prompt_means(scores - HALF, prompts)
    found = _estimate(scores, prompts)
    verdict = "undecided"
    # Where all prompts are alike no test has a p, and the interval decides alone.
    if HALF - margin < found.low and found.high < HALF + margin and not st.equivalence_p(means, margin) >= st.ALPHA:
        verdict = "equivalent"
    elif not found.low <= HALF <= found.high and not st.difference_p(means) >= st.ALPHA:
        verdict = "preferred" if found.value > HALF else "not preferred"
    return Preference(lane, other, found.value, found.low, found.high, len(scores), found.n, voters, verdict, needed)


def votes_needed(
    margin: float = MARGIN,
    power: float = POWER,
    alpha: float = st.ALPHA,
    per_prompt: float = 1.0,
    clustered: float = CLUSTERED,
) -> int:
    """Votes that find two equally good lanes equivalent within the margin with that power.

    Votes on one prompt are correlated, so that m of them are worth m / (1 + (m - 1) `clustered`) independent ones (the
    design effect of Kish 1965). More voters on the same prompts help little; more prompts do.

    Normal approximation of the interval that has to lie within the margin, at a true share of one half: 263 for 10
    points, 1,051 for 5; and never fewer prompts than show it where all votes are "same".

    Args:
        margin: How far from one half still is equivalent.
        power: Probability that they are found equivalent.
        alpha: That the interval misses the truth.
        per_prompt: Votes on each prompt, at least 1.
        clustered: Their correlation within prompts, 0 to 1.
    """
    z = special.ndtri(1 - alpha / 2) + special.ndtri(1 - (1 - power) / 2)
    each = max(per_prompt, 1.0)
    needed = (HALF * z / margin) ** 2 * (1 + (each - 1) * clustered)
    return int(np.ceil(round(max(needed, each * st.unanimous_prompts(margin, HALF)), 6)))


def clustering(scores: Floats, prompts: Sequence[object]) -> float:
    """Correlation of votes on the same prompt, by analysis of variance; `CLUSTERED` where it can't be told.

    Args:
        scores: 0, one half or 1 a vote.
        prompts: The prompt of each.
    """
    groups = pd.Series(scores).groupby(list(prompts), sort=False)
    sizes, means = groups.size().to_numpy(dtype=np.float64), groups.mean().to_numpy(dtype=np.float64)
    votes, count = sizes.sum(), len(sizes)
    if count < st.MIN_PROMPTS or votes < 2 * count:
        return CLUSTERED
    between = float(sizes @ (means - scores.mean()) ** 2) / (count - 1)
    within = float(((scores - groups.transform("mean")) ** 2).sum()) / (votes - count)
    size = (votes - float(sizes @ sizes) / votes) / (count - 1)
    total = between + (size - 1) * within
    return float(np.clip((between - within) / total, 0.0, 1.0)) if total > 0 else 0.0


def ranking(votes: pd.DataFrame, lanes: Sequence[str]) -> list[Strength]:
    """Bradley-Terry strengths of the lanes that have votes and are linked with each other, the strongest first."""
    names = _linked(votes, lanes)
    if len(names) < 2:
        return []
    place = {lane: index for index, lane in enumerate(names)}
    rows = votes[votes["left_lane"].isin(names) & votes["right_lane"].isin(names)]
    prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(rows["prompt"]))}
    wins = np.zeros((len(prompts), len(names), len(names)))
    for prompt, left, right, score in zip(
        rows["prompt"], rows["left_lane"], rows["right_lane"], _scores(rows), strict=True
    ):
        wins[prompts[prompt], place[left], place[right]] += score
        wins[prompts[prompt], place[right], place[left]] += 1 - score
    total = wins.sum(axis=0)
    elo = _elo(total)
    low, high = np.full(len(names), np.nan), np.full(len(names), np.nan)
    if len(prompts) >= st.MIN_PROMPTS:
        generator = np.random.default_rng(st.SEED)
        draws = [_elo(wins[generator.integers(0, len(prompts), len(prompts))].sum(axis=0)) for _ in range(500)]
        low, high = np.quantile(draws, st.expanded_tails(len(prompts)), axis=0)
    counts = total.sum(axis=1) + total.sum(axis=0)
    found = [
        Strength(lane, float(elo[i]), float(low[i]), float(high[i]), round(counts[i])) for lane, i in place.items()
    ]
    return sorted(found, key=lambda row: -row.elo)


def _scores(rows: pd.DataFrame) -> Floats:
    return rows["choice"].map(SCORED).to_numpy(dtype=np.float64)


def _elo(wins: Floats, steps: int = 200) -> Floats:
    """Strengths from wins[i, j], the (half) wins of i over j. A tenth of a tie a pair keeps unbeaten lanes finite."""
    met = (wins + wins.T) > 0
    wins = wins + 0.05 * met
    games = wins + wins.T
    strength = np.ones(len(wins))
    for _ in range(steps):
        pairs = games / (strength[:, None] + strength[None, :])
        strength = wins.sum(axis=1) / np.maximum(pairs.sum(axis=1), 1e-12)
        strength = np.maximum(strength / np.exp(np.log(np.maximum(strength, 1e-12)).mean()), 1e-12)
    return np.asarray(ELO * np.log(strength), dtype=np.float64)


def _linked(votes: pd.DataFrame, lanes: Sequence[str]) -> list[str]:
    """The largest group of lanes that votes link, directly or through others, in the order of `lanes`."""
    group = {lane: {lane} for lane in lanes}
    for left, right in set(zip(votes["left_lane"], votes["right_lane"], strict=True)):
        if left in group and right in group and group[left] is not group[right]:
            group[left] |= group[right]
            for lane in group[right]:
                group[lane] = group[left]
    largest = max(group.values(), key=len, default=set())
    return [lane for lane in lanes if lane in largest] if len(largest) > 1 else []
