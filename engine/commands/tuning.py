"""The command tune: a better schedule for a model, and what it is worth."""

import argparse

from engine.commands.console import duration, print_table
from engine.passes.search_budget import parse_budget
from engine.passes.tuning import TuneOutcome, TuneRequest, sentences
from engine.passes.tuning import tune as tune_schedule
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
    rows = [("schedule", "median error on validation", "median error on test")]
    test = tuned.evidence.get("test", {}).get("lanes", {})
    names = {"chosen": tuned.lane, "default": f"{tuned.scheduler}:{tuned.steps}"}
    for name, value in sorted(found.validation.items(), key=lambda item: item[1]):
        lane = names.get(name, f"{tuned.scheduler}_{name}:{tuned.steps}")
        seen = test.get(lane)
        shown = f"{seen['median']:.4f} ({seen['low']:.4f} to {seen['high']:.4f})" if seen else "-"
        rows.append((f"{name}: {lane}" if name == "chosen" else name, f"{value:.4f}", shown))
    print_table(rows)
    print()
    print("\n".join(sentences(outcome)))
    evaluations = f"{found.evaluations[0]:,} evaluations of {found.evaluations[1]:,} kept"
    print(f"\nThe search: {evaluations}, {found.calls:,} denoiser calls, {duration(found.seconds)}.")
    print(f"Schedule: {outcome.files[0]}, as a lane: {tuned.lane}\nSnippet: {outcome.files[1]}\n")
    print(outcome.files[1].read_text(encoding="utf-8"))
