"""A study as the cache holds it: JSON that may come from a stranger, checked once where it is read."""

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
}
# What stands where: a type, a list of one kind in brackets, or a table with these entries. Any may be missing or null.
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
}
_NAMES = {str: "a text", int: "a whole number", float: "a number", dict: "a table"}


def read_stored_study(text: str, study: str) -> dict[str, Any]:
    """The settings of a study in a text; whatever the rest of the lab takes from it has the kind that a study writes.

    Raises:
        CacheRefused: It is none.
    """
    try:
        spec = json.loads(text)
    except (ValueError, RecursionError):
        raise _refused(study, "it is no JSON") from None
    if not isinstance(spec, dict):
        raise _refused(study, "it is no table")
    # Lazily: each may count on what the one before has found in order.
    trouble = next(itertools.chain(_odd_values(spec), _misfits(spec, _SHAPE, "it"), _twice(spec)), None)
    if trouble:
        raise _refused(study, trouble)
    return spec


def _refused(study: str, why: str) -> CacheRefused:
    return CacheRefused(
        f"The stored study '{study[:80]}' cannot be read: {why}. Run the study again, or ask for a file made by "
        "`python -m engine export`."
    )


def _odd_values(spec: Any) -> Iterator[str]:
    """Values that JSON can hold, but no table, file or page of ours; level by level, as the depth may be the trap."""
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


def _misfits(value: Any, shape: Any, where: str) -> Iterator[str]:
    """Where a value is of another kind than it should be."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            yield f"{where} is not {_NAMES[dict]}"
            return
        for key, inner in shape.items():
            if value.get(key) is not None:
                yield from _misfits(value[key], inner, f"'{key}'")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{where} is not a list"
            return
        for item in value:
            yield from _misfits(item, shape[0], f"an entry of {where}")
    elif isinstance(value, bool) or not isinstance(value, (int, float) if shape is float else shape):
        yield f"{where} is not {_NAMES[shape]}"


def _twice(spec: Mapping[str, Any]) -> Iterator[str]:
    keys = [lane.get("key") for lane in spec.get("lanes") or []]
    if len(set(keys)) < len(keys):
        yield "two of its lanes have the same key"
