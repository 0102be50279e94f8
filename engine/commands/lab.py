"""Commands about the lab itself and its cache files: everything that needs no study."""

import argparse
import json
import runpy
import sys
from pathlib import Path

from engine.cache.connection import migrate
from engine.cache.integrity import Fault, check, repair
from engine.commands.console import print_table
from engine.commands.files import check_json, write_json
from engine.display.formats import count
from engine.errors import CacheMissing, ModelError
from engine.paths import ROOT
from engine.picture_files import decoded
from engine.study.schedulers import SCHEDULERS
from engine.study.source import EXAMPLE_HUB_ID, SHIPPED, ModelSource, find_model


def dashboard(arguments: argparse.Namespace) -> int:
    """`dashboard`: serves the pages until stopped; the process exits with Streamlit's exit code."""
    own = ["--cache", str(arguments.cache.expanduser().absolute())]
    own += [option for option in ("--allow-runs", "--read-only") if getattr(arguments, option[2:].replace("-", "_"))]
    port = ["--server.port", str(arguments.port)] if arguments.port else []
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    sys.argv = ["streamlit", "run", str(ROOT / "dashboard" / "app.py"), *port, "--", *own]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)
    return 0


def schedulers(arguments: argparse.Namespace) -> int:
    """`schedulers [KEY]`."""
    if arguments.key:
        entry = SCHEDULERS.lookup(arguments.key)
        for name, value in vars(entry).items():
            print(f"{name:<12} {json.dumps(value) if isinstance(value, dict) else value}")
        return 0
    rows = [("key", "name", "calls", "noise", "paper", "note")]
    rows += [
        (entry.key, entry.label, entry.calls, "yes" if entry.stochastic else "no", entry.paper, entry.note)
        for entry in SCHEDULERS.values()
    ]
    print_table(rows)
    return 0


def models(arguments: argparse.Namespace) -> int:
    """`models [MODEL]`."""
    if arguments.model:
        source = find_model(arguments.model)
        if source.fingerprint is None:
            print(f"{source.name} is not in the local hub cache; `hf download {source.name}` or a run downloads it.")
            return 0
        _print_model(source)
        return 0
    rows = [("model", "pipeline", "pixels", "weights", "folder")]
    for name in (*SHIPPED, "gaussian", EXAMPLE_HUB_ID):
        try:
            source = find_model(name)
        except ModelError as error:
            rows.append((name, f"not usable: {error}", "", "", ""))
            continue
        size = f"{source.size[0]} x {source.size[1]}" if source.size else "-"
        place = str(source.folder) if source.folder else "computed" if name == "gaussian" else "not downloaded"
        rows.append((name, source.pipeline or "-", size, f"{source.bytes / 1e6:,.0f} MB", place))
    print_table(rows)
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
    check_json(arguments.json)
    if arguments.growth:
        from engine.growth import compare_growth, describe_growth

        few, many = arguments.growth
        growth = compare_growth(few, many, print)
        print(describe_growth(growth))
        write_json(arguments.json, growth)
        return 0
    if arguments.ray:
        from engine.cluster_bench import describe_cluster_bench, run_cluster_bench

        shared = run_cluster_bench(arguments.model, arguments.ray, print)
        print(describe_cluster_bench(shared))
        write_json(arguments.json, shared)
        return 0
    from engine.bench import describe_bench, run_bench

    result = run_bench(arguments.model, arguments.device, arguments.repeats, arguments.max_batch, print)
    print(describe_bench(result))
    write_json(arguments.json, result)
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


def check_cache(arguments: argparse.Namespace) -> int:
    """`check`: 0 if the cache is intact, 1 if not."""
    faults = _found(arguments.cache)
    if faults:
        print(f"Repair it with `python -m engine repair --cache {arguments.cache}`.")
    return 1 if faults else 0


def repair_cache(arguments: argparse.Namespace) -> int:
    """`repair`."""
    faults = _found(arguments.cache)
    if faults:
        cells = repair(arguments.cache, faults)
        again = f" Run their studies again to recompute {count(cells, 'cell')}." if cells else ""
        print(f"Repaired.{again}")
    return 0


def _print_model(source: ModelSource) -> None:
    print(f"name         {source.name}\nfolder       {source.folder}\npipeline     {source.pipeline}")
    print(f"pixels       {source.size}\nweights      {source.bytes / 1e6:,.1f} MB\nfingerprint  {source.fingerprint}")
    print(f"scheduler    {json.dumps(source.scheduler_config)}")


def _found(cache: Path) -> list[Fault]:
    faults = check(cache, _is_picture)
    print("\n".join(f"{fault.count:>8,} {fault.what}" for fault in faults) or f"{cache} is intact.")
    return faults


def _is_picture(data: bytes, width: int, height: int) -> bool:
    image = decoded(data)
    return image is not None and image.size == (width, height)
