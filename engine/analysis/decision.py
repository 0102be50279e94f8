"""Which lane may replace the baseline, and how sure that is: the rule, from guards to one sentence. Pure.

- A lane is as good as the baseline only if every guard has shown it at the lane's level (intersection-union test). What
  is missing, failed or too little is no consent: the baseline stays, and how many prompts are missing is said.
- Several lanes: the fallback procedure (Wiens 2003, doi:10.1002/pst.64) in the order of cost, dearest first. Each of m
  lanes has the level alpha / m, plus the level of the next dearer lane if that one was accepted. The probability of
  accepting any lane that is not as good is at most alpha, whenever one looks.
- A lane is dropped once the mirrored evidence of a guard rejects at alpha. That ends work on it, and names nothing.
- The cheapest accepted lane is named. It is known to be the answer once every lane that is cheaper by more than
  `saving` of its time is dropped or ruled out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from engine.analysis.calibration import Calibration
from engine.analysis.guards import OTHER, GuardEvidence, leading, weigh
from engine.study.decision_settings import DecisionSettings, Goal

# Prompts that a search adds at once.
BATCH = 10

UNHEARD = "Every guard accepts it; sets of pictures and votes, which may veto it, are still to be asked."

Status = Literal["accepted", "dropped", "open", "refused"]
Stop = Literal["", "known", "little left to save", "cannot tell", "pool spent", "budget spent"]


@dataclass(frozen=True)
class LaneCost:
    """What a lane takes, before anything is known of its pictures.

    Attributes:
        cost: Its time over the baseline's, from interleaved samples; NaN if it has not been timed.
        calls: Denoiser calls.
        stochastic: Whether it draws noise on the way, so that it can't give the baseline's picture.
    """

    lane: str
    label: str
    cost: float
    calls: float
    stochastic: bool = False


@dataclass(frozen=True)
class Terms:
    """What is fixed before any candidate is looked at.

    Attributes:
        baseline: The lane that the others would replace.
        contenders: Lanes that may be named, dearest first; each has its level.
        excluded: Lanes that can't be named whatever they show, and why.
    """

    settings: DecisionSettings
    calibration: Calibration
    baseline: str
    contenders: tuple[LaneCost, ...]
    excluded: tuple[tuple[LaneCost, str], ...] = ()


@dataclass(frozen=True)
class LaneDecision:
    """Where a lane stands.

    Attributes:
        closed: Whether further prompts can't make it the answer.
        level: At which its guards have to reject; 0 for lanes that can't be named.
        p: Largest p of its guards.
        n: Fewest prompts that one of its guards rests on.
        needed: Further prompts that would accept it: at best, and at the present rate; None: no number would.
        reason: Why it stands there, in a sentence.
    """

    lane: str
    label: str
    status: Status
    closed: bool
    cost: float
    level: float
    p: float
    n: int
    guards: tuple[GuardEvidence, ...]
    needed: tuple[int | None, int | None]
    reason: str

    @property
    def others(self) -> GuardEvidence | None:
        """The guard on other pictures, where it has values."""
        return next((row for row in self.guards if row.guard.key == OTHER and row.n), None)

    @property
    def missing(self) -> str:
        """What keeps it from being accepted, in a few words; empty if it is."""
        if self.status == "open" and not all(guard.shown for guard in self.guards):
            return f"{_more_prompts(self.needed)} would tell"
        if self.status == "dropped":
            refuted = (guard.guard.label for guard in self.guards if guard.state == "refuted")
            return f"not as good: {', '.join(refuted)}"
        return "" if self.status == "accepted" else self.reason

    @property
    def kept(self) -> str:
        """What it does to the pictures, e.g. "keeps the picture in 99.1 % [97, 99.8] of 130 prompts"; or empty."""
        share = self.others
        if share is None:
            return f"is as good by every guard, in {self.n:,} prompts" if self.status == "accepted" else ""
        kept, low, high = (f"{round(100 * (1 - part), 2):.3g}" for part in (share.value, share.high, share.low))
        return f"keeps the picture in {kept} % [{low}, {high}] of {share.n:,} prompt{'s' * (share.n != 1)}"

    def reached(self, used: int) -> int:
        """The first of the prompts used so far that has no value of a guard which has not consented yet."""
        return min((guard.n for guard in self.guards if not guard.shown), default=used)

    def gap(self, position: int) -> str:
        """Why no prompt after this one counts, in a sentence."""
        lacking = ", ".join(guard.guard.label for guard in self.guards if not guard.shown and guard.n == position)
        return f"Prompt {position + 1:,} has no value of {lacking}, so that none after it counts; `score` tells why."


@dataclass(frozen=True)
class Decision:
    """What may be said now.

    Attributes:
        lane: The lane that is named; None: the baseline stays.
        known: Whether that is the answer, and not only what is known so far.
        stop: Why no more prompts are needed, or to be had; empty if more would help.
        lanes: All lanes but the baseline, dearest first, those that can't be named last.
        sentence: The headline, in words.
        obstacles: Why the study cannot tell, whatever lanes show.
        needed: Further prompts that may settle one of the lanes that are still asked about, as `LaneDecision.needed`,
            at most those that the pool has; None if none would.
    """

    baseline: str
    goal: Goal
    lane: str | None
    known: bool
    stop: Stop
    lanes: tuple[LaneDecision, ...]
    sentence: str
    obstacles: tuple[str, ...] = ()
    needed: int | None = None

    @property
    def exit_code(self) -> int:
        """0: a lane is named, or it is known that none can be; 3: nothing is known yet."""
        return 0 if self.lane is not None or self.known else 3

    @property
    def waiting(self) -> list[LaneDecision]:
        """Lanes that more prompts may still prove to be the cheapest."""
        names = [row.lane for row in self.lanes]
        cheaper = self.lanes[names.index(self.lane) + 1 :] if self.lane else self.lanes
        return [row for row in cheaper if row.status == "open" and row.level > 0]

    def row(self, lane: str) -> LaneDecision | None:
        """Where a lane stands; None of the baseline and of lanes that take no part."""
        return next((row for row in self.lanes if row.lane == lane), None)


def fix_terms(settings: DecisionSettings, calibration: Calibration, baseline: str, lanes: Sequence[LaneCost]) -> Terms:
    """Contenders and their order.

    Args:
        settings: As the study asks.
        calibration: What its controls gave.
        baseline: The lane that the others would replace.
        lanes: All others, dearest first (`pace.by_cost`).
    """
    contenders, excluded = [], []
    for lane in lanes:
        why = _why_not(lane, settings, calibration.goal, baseline)
        if why:
            excluded.append((lane, why))
        else:
            contenders.append(lane)
    return Terms(settings, calibration, baseline, tuple(contenders), tuple(excluded))


def _why_not(lane: LaneCost, settings: DecisionSettings, goal: Goal, baseline: str) -> str:
    if math.isnan(lane.cost):
        return "It has not been timed beside the baseline."
    if lane.cost > 1 - settings.saving:
        return f"It would save less than {settings.saving:.0%} of {baseline}'s time."
    if lane.stochastic and goal == "same-picture":
        return 'It draws noise on the way, so that it can\'t keep pictures; goal = "as-good" asks about such lanes.'
    return ""


def decide(
    terms: Terms,
    outcomes: pd.DataFrame,
    *,
    failed: Mapping[str, int] | None = None,
    vetoes: Mapping[str, str] | None = None,
    gaps: Mapping[str, str] | None = None,
    unheard: bool = False,
    obstacles: Sequence[str] = (),
    pool_left: int | None = None,
    budget_spent: bool = False,
) -> Decision:
    """The decision that so many prompts allow.

    Args:
        terms: What was fixed beforehand.
        outcomes: One row a lane and prompt: `lane`, `position` (of the prompt in the order, from 0) and a column for
            each guard; NaN where there is no value yet. Lanes that are not contenders don't matter.
        failed: Cells of a lane that failed.
        vetoes: Lane -> why it is not as good, from what has no evidence of this kind (set distances, votes).
        gaps: Lane -> which prompt has no value of which guard, so that none after it counts.
        unheard: Whether what may veto has not been asked about these prompts yet; no lane is accepted before.
        obstacles: Why the study cannot tell at all, in sentences: a reference that failed, no CLIP on disk.
        pool_left: Prompts not used yet; None if that does not matter.
        budget_spent: Whether no more may be made now.
    """
    stuck = (*terms.calibration.obstacles, *obstacles)
    share, carried = terms.settings.alpha / max(len(terms.contenders), 1), 0.0
    found: list[LaneDecision] = []
    for contender in terms.contenders:
        level = share + carried
        row = _lane(terms, contender, outcomes[outcomes["lane"] == contender.lane], level)
        veto, gap = ((each or {}).get(row.lane, "") for each in (vetoes, gaps))
        row = _overruled(row, (failed or {}).get(row.lane, 0), veto, gap, stuck)
        if unheard and row.status == "accepted":
            row = replace(row, status="open", needed=(None, None), reason=UNHEARD)
        carried = level if row.status == "accepted" else 0.0
        found.append(row)
    named = next((row for row in reversed(found) if row.status == "accepted"), None)
    excluded = [_excluded(lane, why) for lane, why in terms.excluded]
    waiting = _waiting([*found, *excluded], named, 0.0)
    worth_it = _waiting([*found, *excluded], named, terms.settings.saving)
    stop = _stop(waiting, worth_it, stuck, pool_left, budget_spent)
    known = stop in {"known", "little left to save"}
    sentence = _sentence(terms, named, worth_it, stuck, known, pool_left)
    name = named.lane if named else None
    lanes = (*found, *excluded)
    needed = None if stop not in {"", "budget spent"} else _needed(worth_it, pool_left)
    return Decision(terms.baseline, terms.calibration.goal, name, known, stop, lanes, sentence, stuck, needed)


def _lane(terms: Terms, contender: LaneCost, rows: pd.DataFrame, level: float) -> LaneDecision:
    evidence = []
    for guard in terms.calibration.guards:
        values = rows[guard.key] if guard.key in rows else np.full(len(rows), np.nan)
        evidence.append(weigh(guard, leading(rows["position"], values), level, terms.settings.alpha))
    refuted = [row for row in evidence if row.state == "refuted"]
    accepted = bool(evidence) and all(row.shown for row in evidence)
    status: Status = "dropped" if refuted else "accepted" if accepted else "open"
    needed = (0, 0) if accepted else (None, None) if refuted else (_most(evidence, 0), _most(evidence, 1))
    return LaneDecision(
        contender.lane,
        contender.label,
        status,
        status == "dropped",
        contender.cost,
        level,
        max((row.p for row in evidence), default=1.0),
        min((row.n for row in evidence), default=0),
        tuple(evidence),
        needed,
        _reason(status, evidence, refuted, needed),
    )


def _most(evidence: Sequence[GuardEvidence], end: int) -> int | None:
    """Further prompts until the last guard consents."""
    needed = [row.needed[end] for row in evidence if not row.shown and row.state != "missing"]
    needed += [row.needed[end] for row in evidence if row.state == "missing" and row.guard.kind != "difference"]
    told = [more for more in needed if more is not None]
    return max(told) if told and len(told) == len(needed) else None


def _reason(
    status: Status,
    evidence: Sequence[GuardEvidence],
    refuted: Sequence[GuardEvidence],
    needed: tuple[int | None, int | None],
) -> str:
    if status == "dropped":
        return f"Not as good: {'; '.join(map(str, refuted))}."
    if status == "accepted":
        return f"As good by every guard: {'; '.join(map(str, evidence))}."
    if not evidence:
        return "Nothing guards, so that nothing can be shown."
    unshown = "; ".join(str(row) for row in evidence if not row.shown)
    return f"Not shown yet: {unshown}. {_more_prompts(needed)} would tell."


def _more_prompts(needed: tuple[int | None, int | None]) -> str:
    """How many more prompts, e.g. "60 to 110 more prompts"."""
    low, high = needed
    if low is None:
        return "More prompts than can be foretold"
    if high is None:
        return f"At least {low:,} more prompts"
    if high > low:
        return f"{low:,} to {high:,} more prompts"
    return f"About {low:,} more prompt{'s' * (low != 1)}"


def _overruled(row: LaneDecision, failed: int, veto: str, gap: str, stuck: Sequence[str]) -> LaneDecision:
    """The lane after what no number of prompts can change; a lane that was dropped stays dropped."""
    if stuck:
        return _refused(row, f"The study cannot tell. {stuck[0]}", closed=False)
    if row.status == "dropped":
        return row
    if failed:
        why = f"{failed:,} of its pictures failed; run the study again, or take the lane out."
        return _refused(row, why, closed=False)
    if veto:
        return _refused(row, veto, closed=True)
    return _refused(row, gap, closed=False) if gap and row.status == "open" else row


def _refused(row: LaneDecision, why: str, *, closed: bool) -> LaneDecision:
    return LaneDecision(
        row.lane, row.label, "refused", closed, row.cost, row.level, row.p, row.n, row.guards, (None, None), why
    )


def _excluded(lane: LaneCost, why: str) -> LaneDecision:
    """A lane that is no contender; one without times might be one yet."""
    closed, nothing = not math.isnan(lane.cost), (None, None)
    return LaneDecision(lane.lane, lane.label, "refused", closed, lane.cost, 0.0, 1.0, 0, (), nothing, why)


def _waiting(rows: Sequence[LaneDecision], named: LaneDecision | None, saving: float) -> list[LaneDecision]:
    """Lanes that may still prove cheaper than what is named by more than a share of its time, dearest first."""
    later = rows[rows.index(named) + 1 :] if named else rows
    most = (named.cost if named else 1.0) * (1 - saving)
    return [row for row in later if not row.closed and not (saving and row.cost > most)]


def _stop(
    waiting: Sequence[LaneDecision],
    worth_it: Sequence[LaneDecision],
    stuck: Sequence[str],
    pool_left: int | None,
    budget_spent: bool,
) -> Stop:
    if stuck:
        return "cannot tell"
    if not waiting:
        return "known"
    if not worth_it:
        return "little left to save"
    if pool_left == 0:
        return "pool spent"
    if not any(row.status == "open" for row in worth_it):
        return "cannot tell"
    return "budget spent" if budget_spent else ""


def _sentence(
    terms: Terms,
    named: LaneDecision | None,
    worth_it: Sequence[LaneDecision],
    stuck: Sequence[str],
    known: bool,
    pool_left: int | None,
) -> str:
    baseline = terms.baseline
    if named is None and stuck:
        return f"Keep {baseline}: the study cannot tell whether another lane is as good. {' '.join(stuck)}"
    if named is None and known:
        if not terms.contenders:
            return f"Keep {baseline}: no other lane can take its place."
        return f"Keep {baseline}: no cheaper lane is as good."
    if named is None:
        return f"Keep {baseline} for now. {_outlook(worth_it, pool_left)}"
    saved = f"takes {named.cost:.0%} of {baseline}'s time"
    kind = "keeps the picture" if terms.calibration.goal == "same-picture" else "is as good"
    sentence = f"Use {named.lane}: it {kind} and {saved}. {named.reason}"
    return sentence if known else f"{sentence} Cheaper lanes are not settled. {_outlook(worth_it, pool_left)}"


def _needed(waiting: Sequence[LaneDecision], pool_left: int | None) -> int | None:
    """Further prompts that may settle one of these lanes, at most those that are left."""
    needed = [row.needed[1] or row.needed[0] for row in waiting if row.status == "open" and row.needed[0]]
    return min([each for each in [*needed, pool_left] if each]) if needed else None


def _outlook(waiting: Sequence[LaneDecision], pool_left: int | None) -> str:
    """What would tell: of the lane that needs the fewest prompts."""
    open_lanes = [row for row in waiting if row.status == "open" and row.needed[0] is not None]
    if not open_lanes:
        return " ".join(f"{row.lane}: {row.reason}" for row in waiting)
    first = min(open_lanes, key=lambda row: (row.needed[0] or 0, row.needed[1] or math.inf))
    short = pool_left is not None and (first.needed[0] or 0) > pool_left
    left = f"; the pool has {f'only {pool_left:,}' if pool_left else 'none'} left" if short else ""
    return f"{_more_prompts(first.needed)} would tell of {first.lane}{left}."
