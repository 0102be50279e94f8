"""Commands about a study: run, plan, score, claims. Torch is imported only by those that compute."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from engine.analysis.claims import claim_lines, evaluate, read_claims
from engine.analysis.comparison import comparison_rows, undecided_lines
from engine.analysis.sets import feature_lines, refusal_lines, set_rows
from engine.cache.connection import reading
from engine.commands.clusters import cluster_of
from engine.commands.console import duration, print_table
from engine.commands.files import cached_name, check_json, given_study, migrate_existing, write_json
from engine.environment import resolve_device
from engine.errors import StudyError
from engine.passes.decision_forecast import forecasts
from engine.passes.foresight import Foresight, foresee_plan
from engine.passes.plan import StudyPlan, plan_study
from engine.passes.run import RunOutcome, run_study
from engine.passes.sample_size import metrics_without_verdict, power
from engine.passes.scores import score
from engine.passes.scoring import scoring_lines
from engine.progress import make_progress
from engine.rehearsal.configurations import rehearsed_as
from engine.results import Results, read_results
from engine.study.model_parts import equipped
from engine.study.prompt_pool import pool_prompts
from engine.study.source import find_model


def run(arguments: argparse.Namespace) -> int:
    """`run STUDY`."""
    study = given_study(arguments)
    with cluster_of(arguments, study) as cluster:
        outcome = run_study(
            study,
            arguments.cache,
            device=arguments.device,
            memory=arguments.memory,
            max_batch=arguments.max_batch,
            progress=make_progress(arguments.progress),
            cluster=cluster,
            compiling=arguments.compiling,
        )
    if arguments.progress != "json":
        print(_sentence(study.name, outcome))
        print(f"Cache: {arguments.cache}")
    return outcome.exit_code


def plan(arguments: argparse.Namespace) -> int:
    """`plan STUDY`."""
    study = given_study(arguments)
    source = equipped(find_model(study.model), study.pipeline.parts)
    if source.fingerprint is None:
        count = len(study.lanes) * len(study.prompts) * len(study.seeds)
        print(f"{study.name}: {count} cells. Model '{source.name}' is not on this machine; `run` downloads it first.")
        if name := rehearsed_as(source.name):
            from engine.rehearsal.telling import study_told

            print("\n".join(study_told(name, study, resolve_device(arguments.device))))
        print("Dry run      not tried: the model is not on this machine")
        return 0
    found = plan_study(study, source, arguments.cache, arguments.device, arguments.memory)
    ahead = foresee_plan(found, arguments.cache)
    environment = found.environment
    print(
        f"Study        {study.name}: {len(study.lanes)} lanes x {len(study.prompts)} prompts x {len(study.seeds)} seeds"
    )
    print(f"Model        {source.name} ({source.pipeline}, {source.bytes / 1e6:,.0f} MB of weights)")
    print(f"Device       {environment.device}: {environment.device_name}, {found.cells[0].dtype}")
    print(f"Cache        {arguments.cache}")
    print(
        f"Images       {len(found.cells) - len(found.missing_images)} cached, {len(found.missing_images)} to make "
        f"({found.image_calls:,} denoiser calls, about {found.bytes / 1e6:,.0f} MB)"
    )
    if line := _dry_run_line(ahead):
        print(line)
    print("\n".join(_work_lines(found)))
    for lane, finding in found.findings:
        print(f"Warning      {lane.key}: {finding.message}")
    for note in (*found.notes, *ahead.notes):
        print(f"Warning      {note}")
    return 0


def _dry_run_line(ahead: Foresight) -> str:
    """The outcome of the dry run of lanes with missing cells; "" if there are none."""
    count = len(ahead.tried)
    if not count:
        return f"Dry run      not tried: {ahead.untried}" if ahead.untried else ""
    before = count - len(ahead.fresh)
    some = f", the others not: {ahead.untried}" if ahead.untried else ""
    return f"Dry run      {count} lane{'s' * (count > 1)} tried ({before} of them earlier){some}"


def _work_lines(found: StudyPlan) -> Iterator[str]:
    """The remaining work besides images, the statistical power, and the time estimate."""
    study = found.study
    samples = sum(timing.missing for timing in found.missing_timings)
    yield f"Timing       {samples} samples to take ({found.timing_calls:,} denoiser calls with warm-up)"
    if study.reference is not None:
        yield (
            f"Reference    {study.reference.lane.key} checked by {study.reference.check.key}: "
            f"{len(found.missing_references)} cells to make ({found.reference_calls:,} denoiser calls)"
        )
    if study.commitment is not None:
        yield (
            f"Commitment   {len(found.missing_swaps)} of {len(found.swaps)} prompt swaps to make "
            f"({found.swap_calls:,} denoiser calls)"
        )
    yield f"Statistics   {power(len(study.prompts))}"
    yield from (f"No verdict   {line}" for line in metrics_without_verdict(study, found.source))
    yield from _decision_lines(found)
    if found.nothing_to_do:
        yield "Nothing to do."
    elif found.seconds is None:
        yield "Time         unknown: this model has not been timed on this machine yet with these settings"
    else:
        yield (
            f"Time         about {duration(found.seconds)} for the denoiser calls alone, one at a time at "
            f"{found.seconds_per_call:.3f} s each, plus loading, decoding and scoring"
        )


def _decision_lines(found: StudyPlan) -> Iterator[str]:
    """The prompts and calls that `decide` would need, one line per assumed truth."""
    pool = len(pool_prompts(found.study, found.source))
    for case in forecasts(found.study):
        if case.prompts is None:
            yield f"Decision     {case.truth}: more prompts than is practical"
            continue
        pace = found.seconds_per_call
        time = f", about {duration(pace * case.calls)} one at a time" if pace is not None else ""
        short = f"; the pool has {pool}" if case.prompts > pool else ""
        yield f"Decision     {case.truth}: {case.prompts} prompts{short}, {case.calls:,} denoiser calls{time}"


def score_study(arguments: argparse.Namespace) -> int:
    """`score STUDY`."""
    study = given_study(arguments)
    source = equipped(find_model(study.model), study.pipeline.parts)
    progress = make_progress(arguments.progress)
    migrate_existing(arguments.cache)
    found = plan_study(study, source, arguments.cache, arguments.device, arguments.memory)
    result = score(found, arguments.cache, progress)
    if not result.cells:
        raise StudyError(
            f"The cache {arguments.cache} has no finished cell of '{study.name}' with these settings (model "
            f"{source.name}, guidance {study.guidance_scale:g}, {found.cells[0].dtype}). Run it first, or use the "
            "same --set options as the run."
        )
    progress.finish({**result.facts(), "study": study.name, "cache": str(arguments.cache)})
    if arguments.progress != "json":
        print("\n".join(scoring_lines(study.name, result)))
        with reading(arguments.cache) as db:
            results = read_results(db, study.name)
        print(f"\nAgainst {results.baseline}, same prompts and seeds:")
        print_table(comparison_rows(results.comparisons))
        if lines := undecided_lines(results.comparisons):
            print("\n".join(["\nUndecided:", *lines]))
        if len(results.sets):
            print("\nWhole sets of pictures, same prompts and seeds on both sides; the prompt is the unit:")
            print_table(set_rows(results.sets))
            print("\n".join([*refusal_lines(results.sets), *feature_lines(results.sets)]))
    return 1 if result.failed else 0


def claims(arguments: argparse.Namespace) -> int:
    """`claims [STUDY]`."""
    check_json(arguments.json)
    name = cached_name(arguments.study, arguments.cache)
    migrate_existing(arguments.cache)
    with reading(arguments.cache) as db:
        results = read_results(db, name, None)
    verdicts = evaluate(read_claims(arguments.claims), results)
    print("\n".join([*claim_lines(verdicts), *_rests_on(results)]))
    write_json(
        arguments.json,
        {
            "study": name,
            "environments": results.environment_lines,
            "claims": [asdict(verdict) for verdict in verdicts],
        },
    )
    return 0


def _rests_on(results: Results) -> list[str]:
    """The recommendation, and the data and machines behind the verdicts."""
    models = ", ".join(results.models["source"]) if len(results.models) else "none"
    return [
        *results.recommendation.lines,
        "",
        f"Study {results.id}, model {models}. 95 % bootstrap intervals over prompts.",
        *([results.reference_line] if results.reference_line else []),
        *([f"{results.awaited:,} cells of the study have not run yet."] if results.awaited else []),
        *(f"Computed on {line}." for line in results.environment_lines),
    ]


def _sentence(name: str, outcome: RunOutcome) -> str:
    made = outcome.done + outcome.timed + outcome.references + outcome.swaps + outcome.scored
    if not (made or outcome.failed or outcome.untimed):
        return f"{name}: nothing to do, all {outcome.cached} cells are in the cache."
    parts = [f"{outcome.done} cells made", f"{outcome.cached} were cached", f"{outcome.timed} timing samples"]
    if outcome.references:
        parts.append(f"{outcome.references} reference cells")
    if outcome.swaps:
        parts.append(f"{outcome.swaps} prompt swaps")
    if outcome.scored:
        parts.append(f"{outcome.scored} scores")
    if outcome.failed:
        parts.append(f"{outcome.failed} FAILED (errors are stored with the cells)")
    if outcome.untimed:
        parts.append(f"{outcome.untimed} lanes could not be timed")
    return f"{name}: {', '.join(parts)}; {duration(outcome.seconds)}."
