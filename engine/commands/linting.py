"""The `lint` command: what schedulers really run."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cache.connection import reading
from engine.cache.input_pictures import kept_in
from engine.commands.console import print_table
from engine.commands.files import check_json, write_json
from engine.errors import LabError, StudyError
from engine.passes.foresight import NOTHING, Foresight, foresee
from engine.study.cells import tuned_for_others
from engine.study.families import kind_of
from engine.study.lanes import Finding, Lane, for_family
from engine.study.model_parts import equipped
from engine.study.source import ModelSource, find_model
from engine.study.study import Study, load_study, parse_study
from engine.study.tuned import TUNED

if TYPE_CHECKING:
    from engine.sampling.lint import Lint


def lint(arguments: argparse.Namespace) -> int:
    """`lint [STUDY|LANE] [--model MODEL] [--json F] [--store] [--bugs] [--levels]`."""
    from engine.sampling.lint import lint_lane
    from engine.sampling.models import quiet

    check_json(arguments.json)
    quiet()
    if arguments.bugs:
        return _bugs(arguments.json)
    if not arguments.what:
        raise StudyError("Name a study or a lane, e.g. `python -m engine lint dpmpp_2m:20`, or give --bugs.")
    study = _study(arguments)
    source = equipped(find_model(study.model), study.pipeline.parts)
    if not source.scheduler_config:
        raise StudyError(
            f"Model '{source.name}' is not on this machine, so its scheduler configuration is unknown; download it "
            "first (`run` does), or choose another --model."
        )
    references = [study.reference.lane, study.reference.check] if study.reference else []
    named = {lane.key: lane for lane in [*study.lanes, *references]}
    lanes = [for_family(lane, source.family) for lane in named.values()]
    ahead = _ahead(study, lanes, source, arguments.cache)
    handed = {tried.lane: tried.handed for tried in ahead.tried.values()}
    found = [lint_lane(lane, source.scheduler_config, source.pipeline, handed.get(lane.key)) for lane in lanes]
    found = _with_conditions(found, study, source)
    _print(found, levels=arguments.levels or len(found) == 1)
    write_json(arguments.json, [_plain(row) for row in found])
    if arguments.store:
        _store(study, source, ahead, arguments.cache)
    return 1 if any(finding.severity == "error" for row in found for finding in row.findings) else 0


def _study(arguments: argparse.Namespace) -> Study:
    """The study whose lanes are checked; a single lane becomes one, to which --set applies too."""
    kept = kept_in(arguments.cache)
    if ":" in arguments.what and not arguments.what.endswith(".toml"):
        if arguments.store:
            raise StudyError("--store saves the findings of a study's lanes; name a study instead of a lane.")
        plain = {"name": "lint", "model": arguments.model or "bundled", "prompts": [""], "lanes": [arguments.what]}
        if (tuned := TUNED.get(arguments.what.partition(":")[0])) is not None:  # unless --set says otherwise
            plain |= {"guidance_scale": tuned.guidance_scale, "negative_prompt": tuned.negative_prompt}
            plain |= {"width": tuned.width, "height": tuned.height}
        return parse_study(plain, "lint", Path.cwd(), kept, arguments.settings)
    model = [f"model={json.dumps(arguments.model)}"] if arguments.model else []
    return load_study(arguments.what, [*arguments.settings, *model], kept)


def _with_conditions(found: Sequence["Lint"], study: Study, source: ModelSource) -> list["Lint"]:
    """With warnings about lanes that were tuned for other conditions; another model is refused."""
    tuned = tuned_for_others(study, source)
    more = {row.lane.key: tuple(told for lane, told in tuned if lane.key == row.lane.key) for row in found}
    return [replace(row, findings=(*row.findings, *more[row.lane.key])) for row in found]


def _ahead(study: Study, lanes: Sequence[Lane], source: ModelSource, cache: Path) -> Foresight:
    """A dry run of each lane without weights: what the pipeline passes to the scheduler. Only flow models pass any."""
    from engine.study.cells import cells

    if kind_of(source.scheduler_config) != "flow":
        return NOTHING
    study = replace(study, lanes=tuple(lanes), prompts=study.prompts[:1])
    try:
        return foresee(cells(study, source, "cpu")[: len(lanes)], replace(study, prompts=()), source, cache)
    except LabError:
        return NOTHING  # e.g. the pipeline needs a picture


def _store(study: Study, source: ModelSource, ahead: Foresight, cache: Path) -> None:
    from engine.passes.lints import store_lints
    from engine.study.cells import cells, reference_cells

    with reading(cache):
        pass  # raises if the file is missing or not a cache
    every = [*cells(study, source, "cpu"), *(cell for pair in reference_cells(study, source, "cpu") for cell in pair)]
    count = store_lints(cache, every, source, source.scheduler_config, ahead)
    print(f"{count} lanes stored in {cache}." if count else f"{cache} already has all of them.")


def _print(found: Sequence["Lint"], *, levels: bool) -> None:
    rows: list[Sequence[str]] = [("lane", "calls", "timesteps", "first sigma", "last sigma", "final sigma", "findings")]
    for row in found:
        probe = row.probe
        counts = {word: sum(finding.severity == word for finding in row.findings) for word in ("error", "warning")}
        words = ", ".join(f"{count} {word}{'s' * (count > 1)}" for word, count in counts.items() if count) or "-"
        if probe is None:
            rows.append((row.lane.key, "-", "-", "-", "-", "-", words))
            continue
        ends = f"{probe.timesteps[0]:g} to {probe.timesteps[-1]:g}"
        sigmas = (f"{probe.sigmas[0]:.4g}", f"{probe.sigmas[-1]:.4g}", f"{probe.final_sigma:.3g}")
        rows.append((row.lane.key, str(len(probe.timesteps)), ends, *sigmas, words))
    print_table(rows)
    for row in found:
        print(f"\n{row.lane.key}")
        for finding in row.findings:
            print(f"  {finding.severity:<8} {finding.message}{_cited(finding)}")
        if levels and row.probe is not None:
            _print_levels(row)
            print()
            print_table(
                [
                    ("setting", "value", "from", "model's own"),
                    *(
                        (
                            setting.name,
                            json.dumps(setting.value),
                            setting.origin,
                            "" if setting.replaced is None else json.dumps(setting.replaced),
                        )
                        for setting in row.settings
                    ),
                ]
            )


def _print_levels(row: "Lint") -> None:
    assert row.probe is not None
    print()
    rows: list[Sequence[str]] = [("call", "timestep", "sigma", "told sigma", "log SNR")]
    columns = (row.probe.timesteps, row.probe.sigmas, row.probe.told, row.probe.log_snr)
    rows += [
        (str(index), f"{timestep:g}", f"{sigma:.5g}", f"{told:.5g}", f"{snr:.3f}")
        for index, (timestep, sigma, told, snr) in enumerate(zip(*columns, strict=True))
    ]
    print_table(rows)


def _cited(finding: Finding) -> str:
    """The reference of a known bug, unless the message cites it or is a remark that isn't specific to this lane."""
    from engine.sampling.known_bugs import bug_of

    bug = bug_of(finding.code)
    told = "diffusers #" in finding.message or (finding.severity == "info" and finding.code != "inherited")
    return f" ({bug.reference})" if bug and bug.issues and not told else ""


def _plain(row: "Lint") -> dict[str, Any]:
    return {
        "lane": row.lane.key,
        "levels": None if row.probe is None else vars(row.probe),
        "settings": [vars(setting) for setting in row.settings],
        "findings": [vars(finding) for finding in row.findings],
    }


def _bugs(file: Path | None) -> int:
    """Lists the known bugs, and whether the installed diffusers has them."""
    import diffusers

    from engine.sampling.known_bugs import KNOWN_BUGS

    held = {bug.code: bug.holds() for bug in KNOWN_BUGS}
    print_table(
        [
            ("code", "issues", f"holds in {diffusers.__version__}", "what goes wrong", "remedy"),
            *(
                (
                    bug.code,
                    ", ".join(f"#{issue}" for issue in bug.issues) or "-",
                    "yes" if held[bug.code] else "NO LONGER",
                    bug.title,
                    bug.remedy,
                )
                for bug in KNOWN_BUGS
            ),
        ]
    )
    write_json(
        file,
        [
            {
                "code": bug.code,
                "issues": bug.issues,
                "seen": bug.seen,
                "title": bug.title,
                "remedy": bug.remedy,
                "diffusers": diffusers.__version__,
                "holds": held[bug.code],
            }
            for bug in KNOWN_BUGS
        ],
    )
    return 0 if all(held.values()) else 1
