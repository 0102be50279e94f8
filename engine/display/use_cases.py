"""The best lane under each latency as a table: scheduler, steps, quality, use."""

import math
from typing import Any

from engine.analysis.recommendation import UseCase, use_cases
from engine.display.formats import NONE, percent, whole
from engine.display.tables import Entry, FilledColumn, ResultTable, name_of, table_of, text, wrap
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
