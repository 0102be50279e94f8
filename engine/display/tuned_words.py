"""What a tuned schedule is worth, in words and as a table; the same in the command and on the page."""

import math
from collections.abc import Callable, Mapping

from engine.display.formats import NONE, duration, known, money, number, percent
from engine.display.tables import Column, ResultTable, Row, TableCell, bold, table, text
from engine.study.tuned import CHOSEN, RECORDED, UNKNOWN, TunedSchedule, best_known

UNMEASURED = "not measured"


def sentences(tuned: TunedSchedule) -> list[str]:
    """What was found: of the search, of the test at the same calls, and of the decision."""
    search, test = tuned.evidence.get("search") or {}, tuned.evidence.get("test") or {}
    medians: Mapping[str, float] = search.get("validation_median") or {}
    if CHOSEN not in medians or not medians.keys() - UNKNOWN:
        return ["The file says nothing of how the schedule was found."]
    objective = str(search.get("objective", "latent_error"))
    minimised: Mapping[str, float] = search.get("validation_objective") or medians
    figures, what = medians, "median latent error"
    if objective != "latent_error":
        figures, what = minimised, f"objective {objective}"
    best = best_known(minimised)
    told = [
        f"On validation: {what} {number(figures[CHOSEN])}, best known schedule ({best}) {number(figures[best])}."
        if search.get("better")
        else f"Nothing better was found: keep {best} ({what} {number(figures[best])} on validation)."
    ]
    if (fitted := search.get("coefficients")) is not None:
        told.append(_of_coefficients(fitted))
    if not test.get("lanes") or "ratio" not in test:
        return [*told, "It has not been proved on other prompts yet."]
    ratio, lane = test["ratio"], test["best_known"]
    worth = f"{ratio['value']:.2f} of that of {lane} ({ratio['low']:.2f} to {ratio['high']:.2f}, n = {test['n']})"
    told.append(
        f"On the test, at the same calls: median latent error {worth}."
        if ratio["high"] < 1
        else f"On the test, keep {lane}: it isn't shown that the tuned schedule is better, median error {worth}."
    )
    return [*told, f"Against {test['baseline']}: {test['decision']}"]


def _of_coefficients(fitted: Mapping[str, float]) -> str:
    figures = (
        f"objective {number(fitted['fitted'])} on validation, {number(fitted['alone'])} without them; "
        f"mean error {number(fitted['mean'])}, {number(fitted['mean_alone'])} without them"
    )
    if not fitted["kept"]:
        return f"Fitted coefficients did not help ({figures}): the schedule stands alone."
    spread = f"{fitted['amplitude']:.1%} of the converged ones' amplitude, {fitted['amplitude_alone']:.1%} without them"
    return f"Fitted coefficients correct its steps: {figures}. Latents have {spread}."


def schedule_names(tuned: TunedSchedule) -> dict[str, str]:
    """The lane of each schedule of the search."""
    lanes = {CHOSEN: tuned.lane, "default": f"{tuned.scheduler}:{tuned.steps}", RECORDED: ""}
    medians = (tuned.evidence.get("search") or {}).get("validation_median") or {}
    return {name: lanes.get(name, f"{tuned.scheduler}_{name}:{tuned.steps}") for name in medians}


def tuned_table(tuned: TunedSchedule) -> ResultTable:
    """Median errors of all schedules on validation and test, times and costs, the best on validation first."""
    medians = (tuned.evidence.get("search") or {}).get("validation_median") or {}
    test = tuned.evidence.get("test") or {}
    lanes, baseline = test.get("lanes") or {}, str(test.get("baseline", ""))
    names = schedule_names(tuned)
    shown: list[tuple[str | TableCell, str, str]] = []
    for name, value in sorted(medians.items(), key=lambda item: float(item[1])):
        label = bold(names[name]) if name == CHOSEN else names[name] or name
        shown.append((label, number(value), names[name]))
    shown += [(lane, "", lane) for lane in lanes if lane not in names.values()]
    columns: list[str | Column] = [text("Schedule"), "Median error, validation"]
    if lanes:
        columns += ["Median error, test (95 %)", "Time of a picture", f"Cost, that of {baseline} being 100 %"]
    priced = any("usd_1k" in row for row in lanes.values())
    # As it is stored: of a GPU that is paid for only while it works.
    columns += ["Cost of 1,000 pictures, GPU always busy"] * priced
    rows: list[Row] = []
    for label, validation, lane in shown:
        row = lanes.get(lane) or {}
        tested = [_median(row), _figure(row.get("milliseconds"), duration), _figure(row.get("cost"), percent)]
        priced_at = [money(row["usd_1k"]) if "usd_1k" in row else NONE] * priced
        rows.append((label, validation, *(tested if lanes else []), *priced_at))
    return table("Schedules compared", columns, rows)


def class_table(tuned: TunedSchedule) -> ResultTable | None:
    """Median errors by prompt class: tuned, best known schedule at the same calls, baseline; None without classes."""
    test = tuned.evidence.get("test") or {}
    classes = {name: found for name, found in (test.get("classes") or {}).items() if found.get("lanes")}
    if not classes:
        return None
    lanes = [tuned.lane, test["best_known"], test["baseline"]]
    rows = [
        (name, str(found["n"]), *(_median(found["lanes"].get(lane) or {}) for lane in lanes), _ratio(found["ratio"]))
        for name, found in classes.items()
    ]
    columns = [text("Prompt class"), "Prompts", *lanes, f"{lanes[0]} over {lanes[1]}"]
    return table("Median latent errors by prompt class", columns, rows)


def _median(row: Mapping[str, float]) -> str:
    if "median" not in row:
        return ""
    if math.isnan(row["low"]):
        return number(row["median"])
    return f"{number(row['median'])} ({number(row['low'])} to {number(row['high'])})"


def _ratio(found: Mapping[str, float]) -> str:
    if math.isnan(found["low"]):
        return f"{found['value']:.2f}"
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _figure(found: Mapping[str, float] | None, shown: Callable[[float], str]) -> str:
    """A time or a cost with its interval, or that it was not measured."""
    if not found or not known(found["value"]):
        return UNMEASURED
    if math.isnan(found["low"]):
        return shown(found["value"])
    return f"{shown(found['value'])} ({shown(found['low'])} to {shown(found['high'])})"
