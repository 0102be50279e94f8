"""The `tune` command: searches a better schedule for a model and tests it."""

import argparse

from engine.commands.console import duration, print_table
from engine.display.tables import Entry, TableCell
from engine.display.tuned_words import class_table, sentences, tuned_table
from engine.passes.search_budget import parse_budget
from engine.passes.tune_proof import TuneOutcome, TuneRequest
from engine.passes.tune_proof import tune as tune_schedule
from engine.progress import make_progress


def tune(arguments: argparse.Namespace) -> int:
    """`tune --model M --scheduler S --steps N`."""
    request = TuneRequest(
        **{key: getattr(arguments, key) for key in TuneRequest.__dataclass_fields__ if key != "name"},
        name=arguments.name or "",
    )
    outcome = tune_schedule(
        request,
        arguments.cache,
        device=arguments.device,
        max_batch=arguments.max_batch,
        progress=make_progress(arguments.progress),
        budget=parse_budget(arguments.budget) if arguments.budget else None,
    )
    if arguments.progress != "json":
        _print(outcome)
    return outcome.decision.exit_code if outcome.decision else 0


def _print(outcome: TuneOutcome) -> None:
    found, tuned = outcome.found, outcome.tuned
    for shown in filter(None, (tuned_table(tuned), class_table(tuned))):
        print_table([[column.name for column in shown.columns], *(list(map(_text, row)) for row in shown.rows)])
        print()
    print("\n".join(sentences(tuned)))
    evaluations = f"{found.evaluations[0]:,} new evaluations, {found.evaluations[1]:,} in total"
    print(f"\nSearch: {evaluations}, {found.calls:,} denoiser calls, {duration(found.seconds)}.")
    print(f"Schedule: {outcome.files[0]} (lane {tuned.lane})\nSnippet: {outcome.files[1]}\n")
    print(outcome.files[1].read_text(encoding="utf-8"))


def _text(cell: Entry | None) -> str:
    return cell.text if isinstance(cell, TableCell) else cell or ""
