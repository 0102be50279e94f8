"""Claims, stated as hypotheses in a file and put to the test with what a cache holds. Pure, no torch.

A claim has one or more tests. A test names a quantity and bounds; with the figure's 95 % interval it is

- confirmed, if the whole interval lies within the bounds;
- refuted, if none of it does;
- undecided otherwise;
- not testable, if the cache holds no answer, with the reason.

A test of quantity "equivalence" is about the study's decision (decision.py), or about one of its guards (`guard`):
confirmed if it is shown at the lane's level, refuted if it is refuted, and undecided otherwise. A claim is refuted if
one of its tests is, confirmed if all are, not testable if none can be tested, and undecided otherwise.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from engine.analysis.decision import LaneDecision
from engine.analysis.quantities import QUANTITIES, StudyTables, Untestable, equivalence
from engine.errors import StudyError, did_you_mean

Word = Literal["confirmed", "refuted", "undecided", "not testable"]
TEST_KEYS = {
    "quantity",
    "lane",
    "baseline",
    "metric",
    "guard",
    "at_least",
    "at_most",
    "batch_size",
    "start",
    "end",
    "share",
    "distance",
    "note",
}
NEEDED = {
    "speedup": {"lane", "baseline"},
    "call_reduction": {"lane", "baseline"},
    "quality_ratio": {"lane", "baseline", "metric"},
    "equivalence": {"lane", "baseline"},
    "preference": {"lane", "baseline"},
    "device_ratio": {"lane"},
    "noise_removed": {"lane", "end"},
    "path_share": {"lane", "start", "end"},
    "critical_start": {"lane"},
    "critical_end": {"lane"},
    "recognisable_at": {"lane"},
    "recognisable_earlier": {"lane", "baseline"},
    "close_at": {"lane", "distance"},
    "close_earlier": {"lane", "baseline", "distance"},
}

GUARDS_APART = "; "


@dataclass(frozen=True)
class Claim:
    """A sentence, and the tests that decide it; none if `untestable` says why there can be none."""

    key: str
    text: str
    tests: tuple[Mapping[str, Any], ...]
    untestable: str = ""


@dataclass(frozen=True)
class TestResult:
    """What came of one test: a word, the hypothesis, and the figure with its interval and n."""

    __test__ = False  # not one of pytest's

    word: Word
    hypothesis: str
    figure: str
    n: str
    reason: str = ""
    quantity: str = ""


@dataclass(frozen=True)
class ClaimVerdict:
    """What came of a claim."""

    key: str
    text: str
    word: Word
    tests: tuple[TestResult, ...]
    reason: str = ""

    @property
    def deciding(self) -> TestResult | None:
        """The first test with the verdict's word, or else the first; None if there are no tests."""
        return next((test for test in self.tests if test.word == self.word), next(iter(self.tests), None))


def read_claims(path: Path) -> list[Claim]:
    """Reads claims from TOML: `[[claim]]` with `key`, `text`, and `[[claim.test]]`s or `untestable`.

    Raises:
        StudyError: What is wrong, and where.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"The claims {path} cannot be read: {error}.") from error
    claims = []
    for number, entry in enumerate(data.get("claim", []), 1):
        where = f"{path} [[claim]] {number}"
        tests, untestable = tuple(entry.get("test", ())), entry.get("untestable", "")
        if not entry.get("key") or not entry.get("text") or bool(tests) == bool(untestable):
            raise StudyError(f"{where}: give key, text, and either tests or untestable = 'why'.")
        for test in tests:
            _check(test, where)
        claims.append(Claim(entry["key"], entry["text"], tests, untestable))
    if not claims:
        raise StudyError(f"{path} holds no [[claim]].")
    return claims


def lanes_of(claims: Sequence[Claim]) -> tuple[str, ...]:
    """The lanes that claims speak of, each once."""
    return tuple(
        dict.fromkeys(
            test[key] for claim in claims for test in claim.tests for key in ("lane", "baseline") if key in test
        )
    )


def evaluate(claims: Sequence[Claim], results: StudyTables) -> list[ClaimVerdict]:
    """Puts claims to the test."""
    verdicts = []
    for claim in claims:
        tests = tuple(_tested(test, results) for test in claim.tests)
        word = together([test.word for test in tests])
        verdicts.append(ClaimVerdict(claim.key, claim.text, word, tests, claim.untestable))
    return verdicts


def together(words: Sequence[Word]) -> Word:
    """The verdict of a claim from those of its tests."""
    if "refuted" in words:
        return "refuted"
    if all(word == "not testable" for word in words):
        return "not testable"
    return "confirmed" if all(word == "confirmed" for word in words) else "undecided"


def claim_lines(verdicts: Sequence[ClaimVerdict]) -> list[str]:
    """The verdicts for people: below each claim its tests, below each test what was measured, a line a guard."""
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.word.upper():<13} {verdict.text}")
        if verdict.reason:
            lines.append(f"{'':13} {verdict.reason}")
        for test in verdict.tests:
            lines.append(f"{'':13} {test.word:<13} {test.hypothesis}")
            measured = test.figure.split(GUARDS_APART) if test.figure else []
            if measured and test.n not in measured[-1]:
                measured[-1] += f" ({test.n})"
            lines += [f"{'':27} {line}" for line in (*measured, test.reason) if line]
        lines.append("")
    return lines


def _tested(test: Mapping[str, Any], results: StudyTables) -> TestResult:
    hypothesis, quantity = _hypothesis(test), _quantity(test)
    try:
        if test["quantity"] == "equivalence":
            shown = _equivalence(hypothesis, equivalence(results, test), str(test.get("guard", "")))
            return replace(shown, quantity=quantity)
        found = QUANTITIES[test["quantity"]](results, test)
    except Untestable as reason:
        return TestResult("not testable", hypothesis, "", "", str(reason), quantity)
    low, high = float(test.get("at_least", "-inf")), float(test.get("at_most", "inf"))
    word: Word = "undecided"
    if low <= found.low and found.high <= high:
        word = "confirmed"
    elif found.high < low or found.low > high:
        word = "refuted"
    figure = f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]"
    return TestResult(word, hypothesis, figure, found.n, found.note, quantity)


def _equivalence(hypothesis: str, row: LaneDecision, guard: str) -> TestResult:
    """By all guards of a lane, or by one."""
    if not guard:
        words: dict[str, Word] = {"accepted": "confirmed", "dropped": "refuted"}
        word = words.get(row.status, "undecided")
        return TestResult(word, hypothesis, GUARDS_APART.join(map(str, row.guards)), f"{row.n} prompts", row.missing)
    one = next((each for each in row.guards if each.guard.key == guard), None)
    if one is None or not one.n:
        asked = ", ".join(each.guard.key for each in row.guards)
        raise Untestable(f"'{guard}' has said nothing of '{row.lane}'; the decision's guards are {asked}")
    states: dict[str, Word] = {"shown": "confirmed", "refuted": "refuted"}
    bound = f"bound {one.guard.bound:g}, level {100 * one.level:.3g} %"
    return TestResult(states.get(one.state, "undecided"), hypothesis, str(one), f"{one.n} prompts", bound)


def _hypothesis(test: Mapping[str, Any]) -> str:
    parts = [_quantity(test), f"of {test['lane']}"] + ([f"against {test['baseline']}"] if "baseline" in test else [])
    bounds = [f"at least {test['at_least']:g}"] if "at_least" in test else []
    bounds += [f"at most {test['at_most']:g}"] if "at_most" in test else []
    return " ".join(parts) + (f" is {' and '.join(bounds)}" if bounds else "")


def _quantity(test: Mapping[str, Any]) -> str:
    """E.g. "speedup", "path share 0.4 to 0.8"."""
    parts = [str(test["quantity"]).replace("_", " ")]
    parts += [f"by {test['metric']}"] if "metric" in test else []
    parts += [f"by {test['guard']}"] if "guard" in test else []
    parts += [f"{test['start']:g} to {test['end']:g}"] if "start" in test else []
    parts += [f"by {test['end']:g}"] if "end" in test and "start" not in test else []
    parts += [f"within {test['distance']:g}"] if "distance" in test else []
    return " ".join(parts)


def _check(test: Mapping[str, Any], where: str) -> None:
    for key in test:
        if key not in TEST_KEYS:
            raise StudyError(f"{where}: unknown key '{key}' in a test.{did_you_mean(key, TEST_KEYS)}")
    quantity = test.get("quantity", "")
    if quantity not in NEEDED:
        raise StudyError(f"{where}: unknown quantity '{quantity}'.{did_you_mean(str(quantity), NEEDED)}")
    missing = sorted(NEEDED[quantity] - test.keys())
    if missing:
        raise StudyError(f"{where}: a test of '{quantity}' needs {', '.join(missing)}.")
    if quantity != "equivalence" and not {"at_least", "at_most"} & test.keys():
        raise StudyError(f"{where}: a test of '{quantity}' needs at_least or at_most.")
