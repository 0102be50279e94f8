"""The command about a decision: which lane may replace the baseline, and how sure that is."""

import argparse
from collections.abc import Iterator

from engine.analysis.decision import Decision
from engine.cache.input_pictures import kept_in
from engine.commands.clusters import cluster_of
from engine.commands.console import print_table
from engine.passes.decide import decide_study
from engine.passes.search_budget import DecideOutcome, parse_budget
from engine.progress import make_progress
from engine.study.study import load_study


def decide(arguments: argparse.Namespace) -> int:
    """`decide STUDY`."""
    budget = parse_budget(arguments.budget) if arguments.budget else None
    study = load_study(arguments.study, arguments.settings, kept_in(arguments.cache))
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
        )
    if arguments.progress != "json" and outcome.decision is not None:
        print_table(list(decision_rows(outcome.decision)))
        print(f"\n{outcome.decision.sentence}")
        print(_effort(outcome))
        print(f"Cache: {arguments.cache}")
    return outcome.exit_code


def decision_rows(decision: Decision) -> Iterator[tuple[str, ...]]:
    """The decision as rows of text, a heading first, dearest lane first."""
    yield "lane", "time", "status", "prompts", "why"
    for row in decision.lanes:
        time = "-" if row.cost != row.cost else f"{row.cost:.2f}"
        yield row.lane, time, row.status, f"{row.n}", row.reason


def _effort(outcome: DecideOutcome) -> str:
    failed = f", {outcome.failed} FAILED (each told above)" if outcome.failed else ""
    return (
        f"{outcome.prompts} prompts looked at, {outcome.made} cells made (about {outcome.calls:,} denoiser calls), "
        f"{outcome.seconds:,.0f} s{failed}."
    )
