"""A study: what to compare, read from TOML and checked before any work starts. Imports no torch."""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from engine.errors import StudyError
from engine.paths import DATA
from engine.picture_files import PICTURE_PIXELS
from engine.study.commitment_settings import CommitmentSettings, read_commitment
from engine.study.decision_settings import DecisionSettings, read_decision
from engine.study.frame_settings import FrameSettings, read_frames
from engine.study.lanes import Lane, fitting_lanes, parse_lanes, parse_steps
from engine.study.model_parts import ModelParts, equipped
from engine.study.pipeline_settings import PipelineSettings, read_pipeline
from engine.study.reading import Table, read_lanes, read_plugins
from engine.study.reference import ReferenceSettings, read_reference
from engine.study.source import find_model

DType = Literal["auto", "float32", "float16", "bfloat16"]
MAX_PROMPT_CHARACTERS = 20_000
# (study, file name, SHA-256 or "") -> the file as a cache has kept it, or None.
FindStudyPicture = Callable[[str, str, str], bytes | None]


@dataclass(frozen=True)
class TimingSettings:
    """The timing pass: measured repeats and discarded warm-up runs for each batch size; 0 repeats skips it."""

    repeats: int = 10
    warmup: int = 3
    batch_sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Study:
    """A comparison: every lane on every prompt and seed. See `data/studies/` for examples."""

    name: str
    model: str
    prompts: tuple[str, ...]
    lanes: tuple[Lane, ...]
    baseline: str
    seeds: tuple[int, ...] = (0,)
    negative_prompt: str = ""
    guidance_scale: float = 7.5
    width: int | None = None
    height: int | None = None
    dtype: DType = "auto"
    description: str = ""
    frames: FrameSettings = field(default_factory=FrameSettings)
    timing: TimingSettings = field(default_factory=TimingSettings)
    plugins: tuple[str, ...] = ()
    reference: ReferenceSettings | None = None
    commitment: CommitmentSettings | None = None
    decide: DecisionSettings = field(default_factory=DecisionSettings)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)

    def spec(self) -> dict[str, Any]:
        """Plain data, as stored in the cache."""
        plain = asdict(self)
        plain["lanes"] = [
            {
                "key": lane.key,
                "scheduler": lane.scheduler.key,
                "label": lane.label,
                "steps": lane.steps,
                "overrides": dict(lane.overrides),
                "description": lane.description,
                "target": lane.scheduler.target,
                "config": lane.config,
                **(lane.schedule.spec() if lane.schedule else {}),
            }
            for lane in self.lanes
        ]
        plain["frames"] = self.frames.spec()
        plain["reference"] = self.reference.spec() if self.reference else None
        plain["decide"] = self.decide.spec()
        del plain["pipeline"]
        if self.pipeline or self.pipeline.parts:
            plain["pipeline"] = self.pipeline.spec()
        return plain


def load_study(source: str | Path, settings: Sequence[str] = (), kept: FindStudyPicture | None = None) -> Study:
    """Reads a study from a TOML file, or a preset of `data/studies/` by name.

    Args:
        source: Path of a TOML file, or the name of a preset.
        settings: `key=value` pairs that replace values of the file; `table.key` for values in tables.
        kept: Finds pictures of `[pipeline]` whose files are gone.

    Raises:
        StudyError: The study is missing, unreadable or invalid.
    """
    path = Path(source)
    if path.suffix != ".toml":
        path = DATA / "studies" / f"{source}.toml"
        if not path.is_file():
            names = ", ".join(presets())
            raise StudyError(f"No preset '{source}' and no .toml file of that name. Presets: {names}.")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"There is no study file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} cannot be read: {error}.") from error
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits, and thousands of brackets
        raise StudyError(f"{path} is not valid TOML: {error}.") from error
    return parse_study(data, str(path), path.parent, kept, settings)


def presets() -> list[str]:
    """Names of the project's own studies."""
    return sorted(path.stem for path in (DATA / "studies").glob("*.toml"))


def parse_study(
    data: Mapping[str, Any],
    where: str = "study",
    folder: Path | None = None,
    kept: FindStudyPicture | None = None,
    settings: Sequence[str] = (),
) -> Study:
    """Makes a study from plain data; arguments as in `load_study`.

    Raises:
        StudyError: An unknown or missing key, a value of the wrong kind, an unknown scheduler, ...
    """
    plain = dict(data)
    for setting in settings:
        _apply(plain, setting)
    table = Table(plain, where)
    plugins = read_plugins(table.strings("plugins", ()), folder)
    model = table.text("model", "bundled")
    name = _name(table)
    pipeline = read_pipeline(table.table("pipeline"), folder, partial(kept, name) if kept else None)
    lanes = _lanes(table, model, pipeline.parts)
    baseline = _baseline(table, lanes)
    study = Study(
        name=name,
        model=model,
        prompts=_prompts(table, folder),
        lanes=lanes,
        baseline=baseline,
        seeds=table.integers("seeds", (0,), low=0, high=2**63 - 1),
        negative_prompt=_checked_prompt(table.text("negative_prompt", ""), where),
        guidance_scale=table.number("guidance_scale", 7.5, low=0.0, high=100.0),
        width=table.optional_size("width"),
        height=table.optional_size("height"),
        dtype=table.choice("dtype", "auto", get_args(DType)),
        description=table.text("description", ""),
        frames=read_frames(table.table("frames"), model, pipeline.parts, folder),
        timing=_timing(table.table("timing")),
        plugins=plugins,
        reference=read_reference(table.table("reference"), given="reference" in plain),
        commitment=_commitment(table.table("commitment"), where, given="commitment" in plain),
        decide=read_decision(table.table("decide"), [lane.key for lane in lanes], baseline),
        pipeline=pipeline,
    )
    table.finish()
    if (study.width is None) != (study.height is None):
        raise StudyError(f"{where}: give both width and height, or neither.")
    if (study.width or 0) * (study.height or 0) > PICTURE_PIXELS:
        raise StudyError(
            f"{where}: {study.width} x {study.height} pixels are too many; a cache keeps pictures of up to "
            f"{PICTURE_PIXELS:,}."
        )
    return study


def _name(table: Table) -> str:
    name = table.text("name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        raise table.error("name", "may hold letters, digits, '.', '_' and '-' only, at most 80 of them")
    return name


def _lanes(table: Table, model: str, parts: ModelParts) -> tuple[Lane, ...]:
    texts = table.strings("lanes", ())
    lanes = [lane for text in texts if not text.strip().startswith("*") for lane in parse_lanes(text)]
    lanes += [lane for entry in table.tables("lane") for lane in read_lanes(entry)]
    named = {lane.key for lane in lanes}
    for text in texts:
        if text.strip().startswith("*"):
            lanes += [lane for lane in _every_lane(text, model, parts) if lane.key not in named]
    if not lanes:
        raise table.error("lanes", 'is empty; name at least one, e.g. lanes = ["ddim:50", "dpmpp_2m:20"]')
    _refuse_twice("lane", (lane.key for lane in lanes), table.where)
    return tuple(lanes)


def _every_lane(text: str, model: str, parts: ModelParts) -> Iterator[Lane]:
    """The lanes that e.g. `*:20` stands for: every scheduler that suits the model."""
    source = equipped(find_model(model), parts)
    if source.fingerprint is None:
        raise StudyError(f"Lane {text!r} needs the files of '{model}', which is not here; download it first.")
    for steps in parse_steps(text):
        yield from fitting_lanes(source.scheduler_config, source.family, steps)


def _baseline(table: Table, lanes: Sequence[Lane]) -> str:
    baseline = table.text("baseline", lanes[0].key)
    if baseline not in {lane.key for lane in lanes}:
        keys = ", ".join(lane.key for lane in lanes)
        raise table.error("baseline", f"'{baseline}' is not one of the lanes ({keys})")
    return baseline


def _prompts(table: Table, folder: Path | None) -> tuple[str, ...]:
    listed = table.strings("prompts", ())
    name = table.text("prompts_file", "")
    if bool(listed) == bool(name):
        raise table.error("prompts", "or prompts_file (one of the two) must name at least one prompt")
    if name:
        listed = _prompt_file(name, folder, table)
    _refuse_twice("prompt", listed, table.where)
    return tuple(_checked_prompt(prompt, table.where) for prompt in listed)


def _prompt_file(name: str, folder: Path | None, table: Table) -> tuple[str, ...]:
    tried = [base / name for base in (folder, DATA) if base is not None]
    try:
        path = next((path for path in tried if path.is_file()), None)
        if path is None:
            raise table.error("prompts_file", "not found; looked at " + ", ".join(map(str, tried)))
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise table.error("prompts_file", f"{path} is not UTF-8 text: {error}") from error
    except OSError as error:
        raise table.error("prompts_file", f"cannot be read: {error}") from error
    prompts = tuple(line for line in lines if line and not line.startswith("#"))
    if not prompts:
        raise table.error("prompts_file", f"{path} has no prompts")
    return prompts


def _checked_prompt(prompt: str, where: str) -> str:
    if "\0" in prompt:
        raise StudyError(f"{where}: a prompt contains a NUL character; remove it.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise StudyError(f"{where}: a prompt contains an unpaired surrogate, not valid text; remove it.") from None
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        raise StudyError(
            f"{where}: a prompt has {len(prompt):,} characters; at most {MAX_PROMPT_CHARACTERS:,} are allowed (text "
            "encoders read about the first 77 tokens)."
        )
    return prompt


def _refuse_twice(what: str, items: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for item in items:
        if item in seen:
            raise StudyError(f"{where}: the {what} {item[:80]!r} is listed twice; remove one.")
        seen.add(item)


def _timing(table: Table) -> TimingSettings:
    settings = TimingSettings(
        repeats=table.integer("repeats", 10, low=0, high=10_000),
        warmup=table.integer("warmup", 3, low=0, high=1000),
        batch_sizes=table.integers("batch_sizes", (1,), low=1, high=1024),
    )
    table.finish()
    return settings


def _commitment(table: Table, where: str, *, given: bool) -> CommitmentSettings | None:
    settings = read_commitment(table, given=given)
    for prompt in settings.prompts if settings else ():
        _checked_prompt(prompt, where)
    return settings


def _apply(data: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise StudyError(f"--set {setting!r} should read key=value, e.g. --set guidance_scale=5.")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    *path, last = key.strip().split(".")
    for part in path:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise StudyError(f"--set {setting!r}: '{part}' is not a table.")
    if last == "prompts_file":
        data.pop("prompts", None)
    if last == "prompts":
        data.pop("prompts_file", None)
    elif key.strip() == "lanes" and isinstance(data.get("decide"), dict):
        data["decide"].pop("shown_only", None)  # it named lanes of the replaced list
    data[last] = value


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal data gives equal text; infinities become strings."""
    try:
        return _CANONICAL.encode(value)
    except (TypeError, ValueError):  # mappings that are no dicts, or infinities: seldom, and looking for them is slow
        return _CANONICAL.encode(_finite(value))


def _finite(value: Any) -> Any:
    """Replaces infinities by strings; diffusers configurations contain them (`lambda_min_clipped`)."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value
