"""What a tuned schedule is worth, in words and as a table; the same in the command and on the page."""

import math
from collections.abc import Mapping

from engine.display.tables import Column, ResultTable, Row, TableCell, bold, table, text
from engine.study.tuned import TunedSchedule

CHOSEN, RECORDED = "chosen", "local errors"


def sentences(tuned: TunedSchedule) -> list[str]:
    """What was found: of the search, of the test at the same calls, and of the decision."""
    search, test = tuned.evidence.get("search") or {}, tuned.evidence.get("test") or {}
    medians: Mapping[str, float] = search.get("validation_median") or {}
    known = {name: value for name, value in medians.items() if name not in {CHOSEN, RECORDED}}
    if not known or CHOSEN not in medians:
        return ["The file says nothing of how the schedule was found."]
    best = min(known, key=lambda name: known[name])
    told = [
        f"On validation: median latent error {medians[CHOSEN]:.4g}, best known schedule ({best}) {known[best]:.4g}."
        if search.get("better")
        else f"Nothing better was found: keep {best} ({known[best]:.4g} on validation)."
    ]
    if not test.get("lanes") or "ratio" not in test:
        return [*told, "It has not been proved on other prompts yet."]
    ratio, lane = test["ratio"], test["best_known"]
    figures = f"{ratio['value']:.2f} of that of {lane} ({ratio['low']:.2f} to {ratio['high']:.2f}, n = {test['n']})"
    told.append(
        f"On the test, at the same calls: median latent error {figures}."
        if ratio["high"] < 1
        else f"On the test, keep {lane}: it isn't shown that the tuned schedule is better, median error {figures}."
    )
    return [*told, f"Against {test['baseline']}: {test['decision']}"]


def schedule_names(tuned: TunedSchedule) -> dict[str, str]:
    """The lane of each schedule of the search."""
    lanes = {CHOSEN: tuned.lane, "default": f"{tuned.scheduler}:{tuned.steps}", RECORDED: ""}
    medians = (tuned.evidence.get("search") or {}).get("validation_median") or {}
    return {name: lanes.get(name, f"{tuned.scheduler}_{name}:{tuned.steps}") for name in medians}


def tuned_table(tuned: TunedSchedule) -> ResultTable:
    """Median errors of all schedules on validation and test, the best on validation first."""
    medians = (tuned.evidence.get("search") or {}).get("validation_median") or {}
    test = (tuned.evidence.get("test") or {}).get("lanes") or {}
    names, rows = schedule_names(tuned), list[Row]()
    for name, value in sorted(medians.items(), key=lambda item: float(item[1])):
        label: str | TableCell = bold(names[name]) if name == CHOSEN else names[name] or name
        rows.append((label, f"{value:.4f}", _measured(test.get(names[name]))))
    rows += [(lane, "", _measured(row)) for lane, row in test.items() if lane not in names.values()]
    columns: tuple[str | Column, ...] = (text("Schedule"), "Median error, validation", "Median error, test (95 %)")
    return table("Median latent errors of schedules", columns, rows)


def _measured(row: Mapping[str, float] | None) -> str:
    if row is None:
        return ""
    if math.isnan(row["low"]):
        return f"{row['median']:.4f}"
    return f"{row['median']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
