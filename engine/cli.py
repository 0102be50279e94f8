"""The command line. Exit codes: 0, done; 1, something failed; 2, bad input, nothing was run; 3, no decision yet."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.commands import sharing_options
from engine.commands.console import safe_terminal
from engine.environment import DEVICES, MEMORIES
from engine.errors import LabError
from engine.paths import CLAIMS, DEFAULT_CACHE
from engine.progress import interruptible
from engine.study.tuned import register_tuned

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    parsed = parser().parse_args(arguments)
    if parsed.command == "lab.dashboard":  # Streamlit prints by itself
        return _run(parsed)
    with safe_terminal():
        return _run(parsed)


def _run(parsed: argparse.Namespace) -> int:
    module, _, name = parsed.command.partition(".")
    try:
        # Imported late, so that no command waits for another one's imports.
        with interruptible():
            if hasattr(parsed, "cache"):
                for problem in register_tuned(parsed.cache):
                    print(f"warning: skipped: {problem}", file=sys.stderr)
            command: Callable[[argparse.Namespace], int] = getattr(import_module(f"engine.commands.{module}"), name)
            return command(parsed)
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. Finished work is saved; the same command continues from there.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def parser() -> argparse.ArgumentParser:
    """The argument parser with every command."""
    top = argparse.ArgumentParser(prog="python -m engine", description="Measures what a diffusion scheduler buys.")
    add = top.add_subparsers(required=True, metavar="COMMAND").add_parser

    run = add("run", help="compute the cells of a study that are not in the cache")
    _study(run)
    run.add_argument("--max-batch", type=_positive, metavar="N", help="most images in flight (default: by device)")
    run.add_argument("--progress", choices=("bar", "json", "none"), default="bar")
    _compiling(run)
    _cluster(run)
    run.set_defaults(command="studies.run")

    decide = add("decide", help="add prompts until the cheapest lane as good as the baseline is known; exit 3: not yet")
    _study(decide)
    decide.add_argument(
        "--budget", metavar="N", help="limit of this call: minutes (10m), prompts (200p) or calls (5000c)"
    )
    decide.add_argument("--max-batch", type=_positive, metavar="N", help="most images in flight (default: by device)")
    decide.add_argument("--progress", choices=("bar", "json", "none"), default="bar")
    _compiling(decide)
    _cluster(decide)
    decide.set_defaults(command="deciding.decide")

    tune = add("tune", help="search a schedule with few steps that is as good as many, and test it on unseen prompts")
    _tune(tune)
    _cache(tune)
    tune.set_defaults(command="tuning.tune")

    plan = add("plan", help="show what is cached, what would run and how long it may take; makes no pictures")
    _study(plan)
    plan.set_defaults(command="studies.plan")

    score = add("score", help="score cached pictures of a study that have no scores yet; generates no pictures")
    _study(score)
    score.add_argument("--progress", choices=("bar", "json", "none"), default="bar")
    score.set_defaults(command="studies.score_study")

    claims = add("claims", help="test the claims in data/claims.toml on a cached study")
    claims.add_argument(
        "study", nargs="?", default="readme_claims", help="a cached study, by name or file (default readme_claims)"
    )
    claims.add_argument("--claims", type=Path, default=CLAIMS, metavar="FILE", help="another file of claims")
    claims.add_argument("--json", type=Path, metavar="FILE", help="also write the verdicts to a file")
    _cache(claims)
    claims.set_defaults(command="studies.claims")

    lint = add("lint", help="show what schedulers really run: timesteps, noise levels, settings, known bugs")
    lint.add_argument("what", nargs="?", metavar="STUDY|LANE", help="a study, or a lane such as dpmpp_2m:20")
    lint.add_argument("--model", help="model whose scheduler configuration is used (default: the study's, or bundled)")
    lint.add_argument("--levels", action="store_true", help="print every call and setting, as for a single lane")
    lint.add_argument("--bugs", action="store_true", help="list known bugs of diffusers and whether they hold here")
    lint.add_argument("--store", action="store_true", help="store the findings on a study's lanes in the cache")
    lint.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    lint.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="replace a value of the study"
    )
    _cache(lint)
    lint.set_defaults(command="linting.lint")

    noise = add("noise", help="rerun a few cells in ways that should not matter, and store the differences")
    _study(noise)
    noise.add_argument("--lanes", type=_positive, default=4, metavar="N", help="how many lanes, the baseline first")
    noise.add_argument("--cells", type=_positive, default=4, metavar="N", help="how many cells of each lane")
    noise.add_argument("--no-compile", action="store_false", dest="compile", help="skip torch.compile")
    noise.set_defaults(command="repeats.noise")

    verify = add("verify", help="recompute a few cached cells and compare them with the stored ones")
    _study(verify)
    verify.add_argument("--cells", type=_positive, default=8, metavar="N", help="how many, spread over the study")
    verify.set_defaults(command="repeats.verify")

    order = add("convergence", help="show errors over denoiser calls and the observed order of each scheduler")
    order.add_argument("study", help="a cached study that has a [reference], by name or TOML file")
    order.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    _cache(order)
    order.set_defaults(command="analyses.show_convergence")

    phases = add("phases", help="show where the phases of denoising lie, and when the picture is decided")
    phases.add_argument("study", help="a cached study, by name or TOML file")
    phases.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    _cache(phases)
    phases.set_defaults(command="analyses.show_phases")

    sharing_options.add_commands(add, _cache)

    dashboard = add("dashboard", help="show a cache in the browser, until Ctrl-C")
    _cache(dashboard)
    dashboard.add_argument("--allow-runs", action="store_true", help="anyone who opens the pages may start studies")
    dashboard.add_argument(
        "--read-only", action="store_true", help="never write to the cache, and treat it as untrusted"
    )
    dashboard.add_argument("--port", type=_positive, metavar="N", help="default 8501, or the next free one")
    dashboard.set_defaults(command="lab.dashboard")

    schedulers = add("schedulers", help="list the schedulers, or show one")
    schedulers.add_argument("key", nargs="?", help="show everything about this one")
    schedulers.set_defaults(command="lab.schedulers")

    models = add("models", help="list the available models, or check one")
    models.add_argument("model", nargs="?", help="bundled, gaussian, a diffusers folder or a hub id")
    models.set_defaults(command="lab.models")

    doctor = add("doctor", help="show device and versions, what would be used, and what is missing")
    doctor.set_defaults(command="lab.doctor")

    bench = add("bench", help="compare the engine's speed with plain diffusers, side by side")
    bench.add_argument("--model", default="bundled")
    bench.add_argument("--device", choices=DEVICES, default="auto")
    bench.add_argument("--repeats", type=_positive, default=3, metavar="N")
    bench.add_argument("--max-batch", type=_positive, metavar="N")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    bench.add_argument(
        "--growth",
        type=_positive,
        nargs=2,
        metavar=("FEW", "MANY"),
        help="instead: cost per cell in a study of MANY cells compared with one of FEW, e.g. 100 10000",
    )
    bench.add_argument(
        "--ray",
        type=_positive,
        nargs="?",
        const=36,
        metavar="SEEDS",
        help="instead: one worker of a Ray cluster beside two, one core each, on 16 cells a seed (default 36 seeds)",
    )
    bench.set_defaults(command="lab.bench")

    rehearse = add("rehearse", help="what a model will cost, before downloading it: real size, random weights")
    rehearse.add_argument("model", help="sd15, sdxl, sd3.5-medium, flux or wan-1.3b")
    rehearse.add_argument("--steps", type=_positive, default=20, metavar="N")
    rehearse.add_argument("--device", choices=DEVICES, default="auto")
    rehearse.add_argument("--dtype", choices=("auto", "float32", "float16", "bfloat16"), default="auto")
    rehearse.add_argument("--batches", type=_batches, default=(1, 2, 4, 8), metavar="N,N", help="default 1,2,4,8")
    rehearse.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    rehearse.set_defaults(command="rehearsing.rehearse")

    check = add("check", help="check a cache for changed or undecodable pictures, incomplete cells and orphaned rows")
    _cache(check)
    check.set_defaults(command="lab.check_cache")

    repair = add("repair", help="delete what `check` finds; the next run computes those cells again")
    _cache(repair)
    repair.set_defaults(command="lab.repair_cache")

    migrate = add("migrate", help="update an older cache")
    _cache(migrate)
    migrate.set_defaults(command="lab.migrate_cache")
    return top


def _study(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", help="a TOML file, or the name of a preset (see data/studies)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="replace a value of the study, e.g. --set model=FOLDER or timing.repeats=5",
    )
    command.add_argument("--device", choices=DEVICES, default="auto")
    command.add_argument(
        "--memory",
        choices=MEMORIES,
        default="standard",
        help="low: only the active component is on the GPU; slicing: also slice attention, slower and often no smaller",
    )
    _cache(command)


def _compiling(command: argparse.ArgumentParser) -> None:
    both: dict[str, Any] = {"action": "store_const", "dest": "compiling", "default": ""}
    text = "compile the denoiser (torch.compile) for batches of 1, 2, 4, 8 and 16; faster after minutes of compiling"
    command.add_argument("--compile", const="cells", help=text, **both)
    command.add_argument("--compile-timing", const="all", help="also where times are taken", **both)


def _cluster(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="make the cells on a Ray cluster; local: on one that is started here (default: the one that runs here)",
    )
    command.add_argument("--workers", type=_positive, metavar="N", help="most workers (default: one a GPU, or a core)")


def _tune(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--model", default="bundled", help="bundled, gaussian, a diffusers folder or a hub id")
    add("--scheduler", default="dpmpp_2m", help="which solver; it must take lists of timesteps or sigmas")
    add("--steps", type=_positive, default=10, metavar="N")
    add("--name", help="name of the schedule; its lane is tuned_NAME:N (default: by model, scheduler and steps)")
    add("--guidance", type=float, metavar="SCALE", help="guidance scale to tune for (default: 2 for bundled, else 7.5)")
    add("--negative-prompt", default="", metavar="TEXT", help="negative prompt to tune with (default: none)")
    add("--prompts", type=Path, metavar="FILE", help="prompts, one per line (default: the model's pool)")
    add("--search", type=_positive, default=32, metavar="N", help="prompts to search on (default 32)")
    add("--validation", type=_positive, default=32, metavar="N", help="prompts that select the result (default 32)")
    add("--test", type=_positive, default=300, metavar="N", help="most prompts to test the result on (default 300)")
    add("--rounds", type=_positive, default=5, metavar="N", help="most refinement rounds of the best start (default 5)")
    add(
        "--objective",
        default="latent_error",
        metavar="KEY",
        help="what to minimise: latent_error, other_pictures, or the loss of a metric of pictures, e.g. ssim, lpips or "
        "clip_score, against the converged picture (default latent_error)",
    )
    add(
        "--coefficients",
        action="store_true",
        help="also fit coefficients that correct each step, kept only if better on validation (DPM++ multistep)",
    )
    add("--no-proof", action="store_false", dest="proof", help="search only; the test prompts stay unused")
    add("--budget", metavar="N", help="limit of the test: minutes (10m), prompts (200p) or calls (5000c)")
    add("--device", choices=DEVICES, default="auto")
    add("--max-batch", type=_positive, metavar="N", help="most images in flight (default: by device)")
    add("--progress", choices=("bar", "json", "none"), default="bar")


def _cache(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cache", type=Path, default=DEFAULT_CACHE, metavar="PATH", help=f"default {DEFAULT_CACHE}")


def _batches(text: str) -> tuple[int, ...]:
    return tuple(_positive(size) for size in text.split(","))


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number
