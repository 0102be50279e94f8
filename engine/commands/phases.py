"""The command phases: how the pictures of a cached study form. Nothing here imports torch."""

import argparse
import json
from typing import Any

import pandas as pd

from engine.analysis.borders import BORDERS, Measured, border_rows, borders
from engine.analysis.commitment import Commitment, commitment, point_rows
from engine.cache import phases
from engine.cache.connection import reading
from engine.commands.files import cached_name, check_json, migrate_existing, write_json
from engine.commands.words import print_table
from engine.errors import StudyError
from engine.results import read_results


def show(arguments: argparse.Namespace) -> int:
    """`phases STUDY`."""
    check_json(arguments.json)
    name = cached_name(arguments.study)
    migrate_existing(arguments.cache)
    with reading(arguments.cache) as db:
        results = read_results(db, name)
        lanes = list(dict.fromkeys(results.cells["study_lane"]))
        curves = {lane: (phases.step_curves(db, name, lane), phases.frame_curves(db, name, lane)) for lane in lanes}
        changes = phases.commitment(db, name)
    measured = [row for lane, (steps, frames) in curves.items() for row in borders(steps, frames, [lane])]
    decided = commitment(changes) if len(changes) else None
    if not measured and decided is None:
        raise StudyError(f"No step of '{name}' has been recorded; run it first.")
    if measured:
        print_table(border_rows(measured))
        known = {row.border.key for row in measured}
        print("\n" + "\n".join(f"{border.label}: {border.definition}." for border in BORDERS if border.key in known))
    if decided is not None:
        print(f"\nWhen the picture is decided (prompts exchanged during the run, judged by {decided.by}):")
        print_table(point_rows(decided))
        print("Left out: runs that keep to the first prompt from the first exchange on, or never do.")
    print(
        "\nMeans over prompts, or pairs of prompts, with 95 % bootstrap intervals. Progress is the share of the "
        "denoiser calls."
    )
    print("\n".join(f"Computed on {line}." for line in results.environment_lines))
    write_json(arguments.json, {"study": name, "environments": results.environment_lines, **_plain(measured, decided)})
    return 0


def _plain(measured: list[Measured], decided: Commitment | None) -> dict[str, Any]:
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
