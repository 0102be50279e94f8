"""Reads a study stored in the cache: untrusted JSON, validated here once."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from engine.errors import CacheRefused

MAX_DEPTH = 16
_WHOLE = range(-(2**63), 2**63)
_LANE = {
    "key": str,
    "scheduler": str,
    "label": str,
    "steps": int,
    "target": str,
    "description": str,
    "overrides": dict,
    "config": dict,
    "timesteps": [float],
    "sigmas": [float],
    "coefficients": [[float]],
}
# Expected types: a type, a list of one type, or a table with these entries. Any entry may be missing or null.
_SHAPE: dict[str, Any] = {
    "name": str,
    "model": str,
    "baseline": str,
    "description": str,
    "negative_prompt": str,
    "dtype": str,
    "prompts": [str],
    "seeds": [int],
    "lanes": [_LANE],
    "plugins": [str],
    "guidance_scale": float,
    "width": int,
    "height": int,
    "frames": {"count": int, "kinds": [str]},
    "timing": {"repeats": int, "warmup": int, "batch_sizes": [int]},
    "reference": {"lane": str, "check": str, "tolerance": float},
    "commitment": dict,
    "decide": dict,
    "pipeline": dict,
}
_NAMES = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}


def read_stored_study(text: str, study: str) -> dict[str, Any]:
    """Parses the settings of a stored study and checks the type of every entry that the lab reads.

    Raises:
        CacheRefused: It is invalid.
    """
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(study, "it is not JSON") from None
    if not isinstance(spec, dict):
        raise _refused(study, "it is not a table")
    # Evaluated lazily, since each check relies on the one before.
    problem = next(itertools.chain(_bad_values(spec), _wrong_types(spec, _SHAPE, "it"), _duplicate_keys(spec)), None)
    if problem:
        raise _refused(study, problem)
    return spec


def _refused(study: str, why: str) -> CacheRefused:
    return CacheRefused(
        f"The stored study '{study[:80]}' cannot be read: {why}. Run the study again, or ask for a file made by "
        "`python -m engine export`."
    )


def _bad_values(spec: Any) -> Iterator[str]:
    """Values that JSON allows but a study does not; level by level instead of recursive, since it may be very deep."""
    level = [spec]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, int) and value not in _WHOLE:
                yield "a whole number in it is too large"
            elif isinstance(value, float) and not math.isfinite(value):
                yield "a number in it is not finite"
        level = inner
    if level:
        yield f"it is nested more than {MAX_DEPTH} levels deep"


def _wrong_types(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Entries whose type is not the expected one."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} is not {_NAMES[dict]}"
            return
        for key, inner in shape.items():
            if value.get(key) is not None:
                yield from _wrong_types(value[key], inner, f"'{key}'")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} is not a list"
            return
        for item in value:
            yield from _wrong_types(item, shape[0], f"an entry of {where}")
    elif isinstance(value, bool) or not isinstance(value, (int, float) if shape is float else shape):
        yield f"{where} is not {_NAMES[shape]}"


def _duplicate_keys(spec: Mapping[str, Any]) -> Iterator[str]:
    keys = [lane.get("key") for lane in spec.get("lanes") or []]
    if len(set(keys)) < len(keys):
        yield "two of its lanes have the same key"
