"""Commands that analyse a cached study: convergence, phases. Nothing here imports torch."""

import argparse
import json
import math
from typing import Any

import pandas as pd

from engine.analysis.borders import BORDERS, MeasuredBorder, border_rows, borders
from engine.analysis.clip_phases import ClipPhases, clip_phases, clip_rows
from engine.analysis.commitment import Commitment, commitment, point_rows
from engine.analysis.convergence import Convergence, convergence, convergence_rows, order_rows
from engine.analysis.matched import LEVELS, matched_errors, metric_at
from engine.analysis.statistics import Estimate
from engine.cache import score_tables, step_tables, swap_tables
from engine.cache.connection import reading
from engine.commands.console import print_table
from engine.commands.files import cached_name, check_json, migrate_existing, write_json
from engine.errors import StudyError
from engine.results import read_results


def show_convergence(arguments: argparse.Namespace) -> int:
    """`convergence STUDY`."""
    check_json(arguments.json)
    name = cached_name(arguments.study, arguments.cache)
    migrate_existing(arguments.cache)
    with reading(arguments.cache) as db:
        results = read_results(db, name)
        paths = step_tables.paths(db, name)
    end = results.convergence
    if end.errors.empty:
        raise StudyError(
            f"No cell of '{name}' has an error relative to a converged solution; add a [reference] and run it."
        )
    matched, floors = matched_errors(paths)
    parts = {"error at the end": end} | {
        f"at sigma {sigma:g}": convergence(matched, results.cells, metric_at(sigma), floors.get(metric_at(sigma), 0.0))
        for sigma in LEVELS
    }
    print_table(convergence_rows(parts))
    print()
    print_table(order_rows(parts))
    floor = ", ".join(f"{title}: {part.floor:.2g}" for title, part in parts.items())
    print(
        f"\nMedian relative L2 errors with 95 % bootstrap intervals over prompts. Floors: {floor} (~: too close to it)."
    )
    print(results.reference_line)
    print("\n".join(f"Computed on {line}." for line in results.environment_lines))
    write_json(
        arguments.json,
        {
            "study": name,
            "environments": results.environment_lines,
            **{part.metric: _convergence_plain(part) for part in parts.values()},
        },
    )
    return 0


def _convergence_plain(part: Convergence) -> dict[str, Any]:
    return {
        "floor": part.floor,
        "errors": json.loads(part.errors.to_json(orient="records")),
        "orders": json.loads(part.orders.to_json(orient="records")),
    }


def show_phases(arguments: argparse.Namespace) -> int:
    """`phases STUDY`."""
    check_json(arguments.json)
    name = cached_name(arguments.study, arguments.cache)
    migrate_existing(arguments.cache)
    with reading(arguments.cache) as db:
        results = read_results(db, name)
        lanes = list(dict.fromkeys(results.cells["study_lane"]))
        curves = {
            lane: (step_tables.step_curves(db, name, lane), score_tables.frame_curves(db, name, lane)) for lane in lanes
        }
        changes = swap_tables.commitment(db, name)
    measured = [row for lane, (steps, frames) in curves.items() for row in borders(steps, frames, [lane])]
    clips = [row for lane, (steps, frames) in curves.items() for row in clip_phases(steps, frames, [lane])]
    decided = commitment(changes) if len(changes) else None
    if not measured and decided is None:
        raise StudyError(f"No step of '{name}' has been recorded; run it first.")
    if measured:
        print_table(border_rows(measured))
        known = {row.border.key for row in measured}
        print("\n" + "\n".join(f"{border.label}: {border.definition}." for border in BORDERS if border.key in known))
    if clips:
        print("\nWhen motion and appearance of the clips settle, at the same steps: motion energy within 10 % of its")
        print("final value; 90 % of the gain in CLIP similarity to the final clip reached.")
        print_table(clip_rows(clips))
    if decided is not None:
        print(f"\nWhen the picture is decided (prompts swapped during the run, measured by {decided.by}):")
        print_table(point_rows(decided))
        print("Left out: runs that keep the first prompt from the first swap on, or never do.")
    print(
        "\nMeans over prompts, or pairs of prompts, with 95 % bootstrap intervals. Progress is the share of denoiser "
        "calls made."
    )
    print("\n".join(f"Computed on {line}." for line in results.environment_lines))
    write_json(
        arguments.json,
        {
            "study": name,
            "environments": results.environment_lines,
            **_phases_plain(measured, decided),
            "clips": list(map(_clip_plain, clips)),
        },
    )
    return 0


def _clip_plain(found: ClipPhases) -> dict[str, Any]:
    places = {"motion": found.motion, "appearance": found.appearance}
    return {
        "lane": found.lane,
        **{name: {unit: _estimate_plain(place) for unit, place in units.items()} for name, units in places.items()},
        "lead_steps": _estimate_plain(found.lead) if found.lead else None,
        "kept_steps": found.kept,
    }


def _estimate_plain(place: Estimate) -> dict[str, Any]:
    ends = {name: end if math.isfinite(end) else None for name, end in (("low", place.low), ("high", place.high))}
    return {"value": place.value, **ends, "prompts": place.n, "runs": place.pairs}


def _phases_plain(measured: list[MeasuredBorder], decided: Commitment | None) -> dict[str, Any]:
    rows = [
        {
            "lane": row.lane,
            "border": row.border.key,
            "axis": axis,
            "value": place.value,
            "low": place.low,
            "high": place.high,
            "prompts": place.n,
            "runs": row.runs,
            "never": row.never,
        }
        for row in measured
        for axis, place in row.figures.items()
    ]
    points = decided.points if decided is not None else pd.DataFrame()
    return {"borders": rows, "commitment": json.loads(points.to_json(orient="records"))}
