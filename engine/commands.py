"""What each command of the command line does. Torch is imported only by those that compute."""

import argparse
import json
import sys
from collections.abc import Sequence

from engine.cache.connection import migrate
from engine.errors import CacheMissing, ModelError
from engine.outline import outline
from engine.progress import make_progress
from engine.run import Summary, run_study
from engine.study.schedulers import SCHEDULERS, lookup
from engine.study.source import EXAMPLE_HUB_ID, ModelSource, find_model
from engine.study.study import load_study


def run(arguments: argparse.Namespace) -> int:
    """`run STUDY`."""
    study = load_study(arguments.study, arguments.settings)
    summary = run_study(
        study,
        arguments.cache,
        device=arguments.device,
        memory=arguments.memory,
        max_batch=arguments.max_batch,
        progress=make_progress(arguments.progress),
    )
    if arguments.progress != "json":
        print(_sentence(study.name, summary))
        print(f"Cache: {arguments.cache}")
    return summary.exit_code


def plan(arguments: argparse.Namespace) -> int:
    """`plan STUDY`."""
    study = load_study(arguments.study, arguments.settings)
    source = find_model(study.model)
    if source.fingerprint is None:
        count = len(study.lanes) * len(study.prompts) * len(study.seeds)
        print(f"{study.name}: {count} cells. Model '{source.name}' is not here yet; `run` would fetch it first.")
        return 0
    found = outline(study, source, arguments.cache, arguments.device, arguments.memory)
    environment = found.environment
    print(
        f"Study        {study.name}: {len(study.lanes)} lanes x {len(study.prompts)} prompts x {len(study.seeds)} seeds"
    )
    print(f"Model        {source.name} ({source.pipeline}, {source.bytes / 1e6:,.0f} MB of weights)")
    print(f"Device       {environment.device}: {environment.device_name}, {found.cells[0].dtype}")
    print(f"Cache        {arguments.cache}")
    print(f"Images       {len(found.cells) - len(found.missing)} cached, {len(found.missing)} to make "
          f"({found.image_calls:,} denoiser calls, about {found.bytes / 1e6:,.0f} MB)")  # fmt: skip
    samples = sum(timing.missing for timing in found.timings)
    print(f"Timing       {samples} samples to take ({found.timing_calls:,} denoiser calls with warm-up)")
    if found.nothing_to_do:
        print("Nothing to do.")
    elif found.seconds is None:
        print("Time         unknown: this model has not been timed on this machine yet")
    else:
        pace = f"{found.seconds_per_call:.3f} s a call at batch 1"
        print(f"Time         at most about {_duration(found.seconds)} (by {pace})")
    for lane, finding in found.findings:
        print(f"Warning      {lane.key}: {finding.message}")
    return 0


def schedulers(arguments: argparse.Namespace) -> int:
    """`schedulers [KEY]`."""
    if arguments.key:
        entry = lookup(arguments.key)
        for name, value in vars(entry).items():
            print(f"{name:<12} {json.dumps(value) if isinstance(value, dict) else value}")
        return 0
    rows = [("key", "name", "calls", "noise", "paper", "note")]
    rows += [
        (entry.key, entry.label, entry.calls, "yes" if entry.stochastic else "no", entry.paper, entry.note)
        for entry in SCHEDULERS.values()
    ]
    _print_table(rows)
    return 0


def models(arguments: argparse.Namespace) -> int:
    """`models [MODEL]`."""
    if arguments.model:
        source = find_model(arguments.model)
        if source.fingerprint is None:
            print(f"{source.name} is not in the local hub cache; `hf download {source.name}` or a run would fetch it.")
            return 0
        _print_model(source)
        return 0
    rows = [("model", "pipeline", "pixels", "weights", "folder")]
    for name in ("bundled", "gaussian", EXAMPLE_HUB_ID):
        try:
            source = find_model(name)
        except ModelError as error:
            rows.append((name, f"not usable: {error}", "", "", ""))
            continue
        size = f"{source.size[0]} x {source.size[1]}" if source.size else "-"
        place = str(source.folder) if source.folder else "computed" if name == "gaussian" else "not fetched"
        rows.append((name, source.pipeline or "-", size, f"{source.bytes / 1e6:,.0f} MB", place))
    _print_table(rows)
    print("\nAny other diffusers folder or hub id works too: --set model=PATH or --set model=owner/name.")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`doctor`."""
    from engine.doctor import report

    lines, healthy = report()
    print("\n".join(lines))
    return 0 if healthy else 1


def bench(arguments: argparse.Namespace) -> int:
    """`bench`."""
    from engine.bench import describe_bench, run_bench

    result = run_bench(arguments.model, arguments.device, arguments.repeats, arguments.max_batch, print)
    print(describe_bench(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def migrate_cache(arguments: argparse.Namespace) -> int:
    """`migrate`."""
    if not arguments.cache.exists():
        raise CacheMissing(f"There is no cache at {arguments.cache}.")
    steps = migrate(arguments.cache)
    for step in steps:
        print(f"{step.version}: {step.name}")
    print("Done." if steps else "The cache is up to date.")
    return 0


def _sentence(name: str, summary: Summary) -> str:
    if not (summary.done or summary.failed or summary.timed or summary.untimed):
        return f"{name}: nothing to do, all {summary.cached} cells are in the cache."
    parts = [f"{summary.done} cells made", f"{summary.cached} were cached", f"{summary.timed} timing samples"]
    if summary.failed:
        parts.append(f"{summary.failed} FAILED (each a row with its error)")
    if summary.untimed:
        parts.append(f"{summary.untimed} lanes could not be timed")
    return f"{name}: {', '.join(parts)}; {_duration(summary.seconds)}."


def _print_model(source: ModelSource) -> None:
    print(f"name         {source.name}\nfolder       {source.folder}\npipeline     {source.pipeline}")
    print(f"pixels       {source.size}\nweights      {source.bytes / 1e6:,.1f} MB\nfingerprint  {source.fingerprint}")
    print(f"scheduler    {json.dumps(source.scheduler_config)}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip(), file=sys.stdout)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
