"""Tables of a decision: the best lane under each latency, and what each lane has shown by each guard."""

import math
from typing import Any

from engine.analysis.decision import LaneDecision
from engine.analysis.guards import Guard, GuardEvidence
from engine.analysis.recommendation import WORDS, UseCase, use_cases
from engine.display.formats import NONE, count, number, percent, signed, whole
from engine.display.tables import Entry, FilledColumn, ResultTable, TableCell, name_of, table_of, text, wrap
from engine.results import Results


def use_case_table(results: Results) -> ResultTable:
    """A row a use: the lane to take, its steps, its time, and what its pictures have shown."""
    costs = {row.lane: row.cost for row in results.decision.lanes} if results.decision else {}

    def lane(use: UseCase) -> Entry:
        found = results.lane(use.lane)
        return name_of(found, results.baseline) if found else NONE

    def steps(use: UseCase) -> str:
        found = results.lane(use.lane)
        return whole(found.steps) if found else NONE

    def time(use: UseCase) -> str:
        if use.lane == results.baseline:
            return percent(1.0)
        return percent(costs[use.lane]) if use.lane in costs else NONE

    columns: list[FilledColumn] = [
        (text("Use"), lambda use: use.name),
        (text("Time allowed"), _allowed),
        ("Scheduler", lane),
        ("Steps", steps),
        ("Time of the baseline's", time),
        (wrap("Quality"), lambda use: use.why[:1].upper() + use.why[1:]),
    ]
    return table_of("The best lane under each latency", use_cases(results.decision, results.baseline), columns)


def _allowed(use: Any) -> str:
    return "any" if math.isinf(use.most) else f"at most {percent(use.most)} of the baseline's"


def guard_table(results: Results) -> ResultTable:
    """A row a lane that was looked at: where it stands, and value, interval and n by each guard."""
    lanes = [row for row in results.decision.lanes if row.guards] if results.decision else []
    guards = {found.guard.key: found.guard for row in lanes for found in row.guards}

    def lane(row: LaneDecision) -> Entry:
        found = results.lane(row.lane)
        return name_of(found) if found else row.label

    def by(guard: Guard) -> FilledColumn:
        unit = f" ({guard.unit})" if guard.unit else ""
        return guard.label[:1].upper() + guard.label[1:] + unit, lambda row: _shown(row, guard.key)

    columns: list[FilledColumn] = [("Lane", lane), (text("By all guards"), lambda row: WORDS[row.status])]
    return table_of("What each lane has shown by each guard", lanes, [*columns, *map(by, guards.values())])


def _shown(row: LaneDecision, key: str) -> Entry:
    found = next((guard for guard in row.guards if guard.guard.key == key), None)
    if found is None or not found.n:
        return NONE
    return TableCell(_figure(found), below=(f"{count(found.n, 'prompt')}, {found.state}",))


def _figure(found: GuardEvidence) -> str:
    if found.guard.kind == "difference":
        return f"{signed(found.value)} [{number(found.low)}, {number(found.high)}]"
    value, low, high = (f"{100 * part:.1f}".removesuffix(".0") for part in (found.value, found.low, found.high))
    return f"{value} % [{low}, {high}]"
