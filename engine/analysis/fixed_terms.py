"""What a study fixed before any candidate was looked at, as plain data that the cache keeps. Pure.

The stored text may come from a stranger's file: whatever is read from it is checked here, once.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import pandas as pd

from engine.analysis.calibration import Calibration, ControlCheck
from engine.analysis.decision import Decision, LaneCost, Terms, decide
from engine.analysis.guards import Guard, Kind
from engine.errors import StudyError
from engine.study.decision_settings import Goal, read_decision
from engine.study.reading import Table

CHANGED = "The study, or what measures it, was changed after candidates had been looked at."


@dataclass(frozen=True)
class FixedTerms:
    """Terms, and what makes more evidence of the same kind.

    Attributes:
        terms: Guards, margins and order of the lanes.
        order: Prompts in the order they are used.
        scale: Half of it is how far latents may be from the baseline's and still show its picture.
        study: Digest of what the study asked when the terms were fixed.
        changed: Whether the study was changed after candidates had been looked at.
        versions: Of the metrics among the guards, by key; empty in terms of earlier programs.
        about: Digest of what the pictures of each lane depend on (`Roles.about`); empty in terms of earlier programs.
    """

    terms: Terms
    order: tuple[str, ...]
    scale: float
    study: str
    changed: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def measured_by(self, versions: Mapping[str, str]) -> bool:
        """Whether none of the guards' metrics has another of these versions now."""
        return all(self.versions.get(key, version) == version for key, version in versions.items())

    @property
    def lines(self) -> list[str]:
        """What was fixed, in sentences: goal, what each guard must show, the order of the lanes."""
        calibration, order = self.terms.calibration, self.terms.contenders
        found = [f'Goal "{calibration.goal}". {calibration.goal_reason}']
        if calibration.obstacles:
            return found
        found.append(f"To be shown of a lane: {'; '.join(map(_condition, calibration.guards))}.")
        found += calibration.left_out
        if calibration.goal == "as-good":
            found.append(f"A KID to {self.terms.baseline} surely above {calibration.set_distance:.2g} vetoes it.")
        if order:
            lanes = ", ".join(f"{lane.lane} ({lane.cost:.0%})" for lane in order)
            found.append(f"Lanes by their share of {self.terms.baseline}'s time, dearest first: {lanes}.")
        return found

    def spec(self) -> dict[str, Any]:
        """As plain data; numbers that are not known are null."""
        terms = self.terms
        return {
            "baseline": terms.baseline,
            "settings": terms.settings.spec(),
            "calibration": asdict(terms.calibration),
            "contenders": [_lane_spec(lane) for lane in terms.contenders],
            "excluded": [[_lane_spec(lane), why] for lane, why in terms.excluded],
            "order": list(self.order),
            "scale": _finite(self.scale),
            "study": self.study,
            "changed": self.changed,
            "versions": dict(self.versions),
            "about": dict(self.about),
        }


def decision_by(fixed: FixedTerms, evidence: pd.DataFrame, state: Mapping[str, Any]) -> Decision:
    """The decision that stored evidence allows: what the command, pages, report and Python show alike.

    Args:
        fixed: The terms.
        evidence: Columns lane, guard, position, value.
        state: How far the search is, as `decide` stores it: cells that `failed` by lane, `vetoes` by lane, `gaps` by
            lane, `obstacles`, prompts `left` in the pool, whether the budget was `spent`, and whether what may veto
            under "as-good" is `unheard`; it is unless that is denied.

    Raises:
        ValueError: The evidence or the state is none.
    """
    guards = [guard.key for guard in fixed.terms.calibration.guards]
    if evidence.duplicated(["lane", "position", "guard"]).any():
        raise ValueError("The evidence of a decision holds a prompt twice.")
    wide = evidence.pivot(index=["lane", "position"], columns="guard", values="value").reindex(columns=guards)
    changed = [CHANGED] if fixed.changed else []
    left = state.get("left")
    found = decide(
        fixed.terms,
        wide.reset_index(),
        failed={_text(lane): _whole(count) for lane, count in state.get("failed", {}).items()},
        vetoes={_text(lane): _text(why) for lane, why in state.get("vetoes", {}).items()},
        gaps={_text(lane): _text(why) for lane, why in state.get("gaps", {}).items()},
        unheard=fixed.terms.calibration.goal == "as-good" and state.get("unheard") is not False,
        obstacles=[_text(line) for line in state.get("obstacles", [])],
        pool_left=None if left is None else _whole(left),
        budget_spent=state.get("spent") is True,
    )
    return replace(found, sentence=" ".join([found.sentence, *changed]))


def read_terms(spec: Mapping[str, Any]) -> FixedTerms:
    """Terms from plain data.

    Raises:
        ValueError: They are none.
    """
    try:
        contenders = tuple(_lane(lane) for lane in spec["contenders"])
        excluded = tuple((_lane(lane), _text(why)) for lane, why in spec["excluded"])
        baseline = _text(spec["baseline"])
        keys = [lane.lane for lane in (*contenders, *(lane for lane, _ in excluded))]
        settings = dict(spec["settings"])
        shown = settings.pop("shown_only", ())
        # Lanes that are only shown are no contenders, and so not among the terms.
        read = read_decision(Table({**settings, "shown_only": shown}, "terms"), [*keys, *shown], baseline)
        terms = Terms(read, _calibration(spec["calibration"]), baseline, contenders, excluded)
        order = tuple(_text(prompt) for prompt in spec["order"])
        if len(set(order)) < len(order) or len(set(keys)) < len(keys):
            raise ValueError("a prompt or a lane is there twice")
        versions = {_text(key): _text(version) for key, version in spec.get("versions", {}).items()}
        about = {_text(key): _text(value) for key, value in spec.get("about", {}).items()}
        study, changed = _text(spec["study"]), bool(spec["changed"])
        return FixedTerms(terms, order, _number(spec["scale"]), study, changed, versions, about)
    except (KeyError, TypeError, AttributeError, ValueError, StudyError) as error:
        raise ValueError(f"The terms of a decision cannot be read: {error}.") from error


def _calibration(spec: Mapping[str, Any]) -> Calibration:
    goal = spec["goal"]
    if goal not in get_args(Goal):
        raise ValueError(f"'{goal}' is no goal")
    return Calibration(
        goal,
        _text(spec["goal_reason"]),
        tuple(_guard(guard) for guard in spec["guards"]),
        tuple(_check(check) for check in spec["checks"]),
        tuple(_text(line) for line in spec["obstacles"]),
        _number(spec.get("set_distance") or 0.0),
        tuple(_text(line) for line in spec.get("left_out", ())),
    )


def _guard(spec: Mapping[str, Any]) -> Guard:
    kind: Kind = spec["kind"]
    if kind not in get_args(Kind):
        raise ValueError(f"'{kind}' is no kind of guard")
    numbers = _number(spec["bound"]), _number(spec["reach"])
    return Guard(_text(spec["key"]), _text(spec["label"]), kind, *numbers, _whole(spec["fewest"]), _text(spec["unit"]))


def _check(spec: Mapping[str, Any]) -> ControlCheck:
    numbers = _whole(spec["n"]), _number(spec["log_e"]), _number(spec["p"])
    return ControlCheck(_text(spec["guard"]), _text(spec["label"]), *numbers, spec["passed"] is True)


def _condition(guard: Guard) -> str:
    """What a guard has to be convinced of, e.g. "CLIP score falls by less than 0.4 (100 cos)"."""
    if guard.kind == "difference":
        unit = f" ({guard.unit})" if guard.unit else ""
        return f"{guard.label} falls by less than {-guard.bound:.2g}{unit}"
    return f"{guard.label} in fewer than {100 * guard.bound:g} % of prompts"


def _lane_spec(lane: LaneCost) -> dict[str, Any]:
    return asdict(lane) | {"cost": _finite(lane.cost)}


def _lane(spec: Mapping[str, Any]) -> LaneCost:
    numbers = _number(spec["cost"]), _number(spec["calls"])
    return LaneCost(_text(spec["lane"]), _text(spec["label"]), *numbers, spec["stochastic"] is True)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value
