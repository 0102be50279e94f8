"""The `decide` command: which lane may replace the baseline."""

import argparse
import math
from collections.abc import Iterator

from engine.analysis.decision import Decision
from engine.analysis.guards import EXCESS, GuardEvidence
from engine.commands.clusters import cluster_of
from engine.commands.console import print_table
from engine.commands.files import given_study
from engine.passes.decide import decide_study
from engine.passes.search_budget import DecideOutcome, parse_budget
from engine.progress import make_progress

# The guard's own label takes half a line.
_HEADINGS = {EXCESS: "latent error too far"}


def decide(arguments: argparse.Namespace) -> int:
    """`decide STUDY`."""
    budget = parse_budget(arguments.budget) if arguments.budget else None
    study = given_study(arguments)
    with cluster_of(arguments, study) as cluster:
        outcome = decide_study(
            study,
            arguments.cache,
            device=arguments.device,
            memory=arguments.memory,
            max_batch=arguments.max_batch,
            progress=make_progress(arguments.progress),
            budget=budget,
            cluster=cluster,
            compiling=arguments.compiling,
        )
    if arguments.progress != "json" and outcome.decision is not None:
        print(f"{outcome.decision.sentence}\n")
        print_table(list(decision_rows(outcome.decision)))
        print(f"\n{_effort(outcome)}")
        print(f"Cache: {arguments.cache}")
    return outcome.exit_code


def decision_rows(decision: Decision) -> Iterator[tuple[str, ...]]:
    """The decision as rows of text: a header with a column for each guard, then the lanes, most expensive first."""
    guards = {guard.guard.key: guard.guard.label for row in decision.lanes for guard in row.guards}
    yield "lane", "time", "status", "prompts", *(_HEADINGS.get(key, label) for key, label in guards.items()), "missing"
    for row in decision.lanes:
        time = "-" if math.isnan(row.cost) else f"{row.cost:.2f}"
        most = max((guard.n for guard in row.guards), default=0)
        cells = {guard.guard.key: _measured(guard, most) for guard in row.guards}
        missing = "" if decision.obstacles else row.missing  # otherwise the same sentence in every row
        yield row.lane, time, row.status, f"{most}", *(cells.get(key, "-") for key in guards), missing


def _measured(guard: GuardEvidence, most: int) -> str:
    """Value and interval of a guard, and the number of prompts where it rests on fewer than the lane has."""
    return f"{guard.measured} n={guard.n}" if 0 < guard.n < most else guard.measured


def _effort(outcome: DecideOutcome) -> str:
    failed = f", {outcome.failed} FAILED (errors above)" if outcome.failed else ""
    return (
        f"{outcome.prompts} prompts examined, calibration included, {outcome.made} cells made "
        f"(about {outcome.calls:,} denoiser calls), {outcome.seconds:,.0f} s{failed}."
    )
