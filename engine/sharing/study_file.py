"""Converts a stored study back to a study file."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from engine.study.lanes import described
from engine.study.schedulers import SCHEDULERS

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# Keys of tables that the stored study names differently from the file.
_RENAMED = {("commitment", "pairs"): "prompts"}


def study_toml(spec: Mapping[str, Any]) -> str:
    """Formats a stored study as TOML; parsing the text gives the same study.

    Defaults are written out, so that later changes of defaults have no effect. `spec` may be untrusted, so every text
    is quoted.
    """
    values = {key: value for key, value in spec.items() if key != "lanes" and value is not None and value != []}
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lanes = [lane for lane in spec.get("lanes") or [] if isinstance(lane, Mapping)]
    simple = list(itertools.takewhile(_is_simple, lanes))
    if simple:
        plain["lanes"] = [lane.get("key") for lane in simple]
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    for name, table in values.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]"]
            table = _named_parts(table)
            lines += [f"{_key(_RENAMED.get((name, key), key))} = {_value(value)}" for key, value in table.items()]
    for lane in lanes[len(simple) :]:
        lines += ["", "[[lane]]", *_lane(lane)]
    return "\n".join(lines) + "\n"


def _named_parts(table: Mapping[str, Any]) -> dict[str, Any]:
    """A stored table with its weight files by name; pictures keep their digest, which finds them again."""
    plain = dict(table)
    if isinstance(table.get("tiny"), Mapping):
        plain["tiny"] = str(table["tiny"].get("name"))
    if isinstance(table.get("controlnet"), Mapping):
        plain["controlnet"] = str(table["controlnet"].get("name"))
    if isinstance(table.get("lora"), Sequence):
        files = [each for each in table["lora"] if isinstance(each, Mapping)]
        plain["lora"] = [f"{each.get('name')}:{each.get('scale', 1.0)}" for each in files]
    return plain


def _is_simple(lane: Mapping[str, Any]) -> bool:
    """Whether `scheduler:steps` describes the lane completely."""
    entry, steps = SCHEDULERS.get(str(lane.get("scheduler"))), lane.get("steps")
    return (
        entry is not None
        and not lane.get("overrides")
        and (entry.levels or not (lane.get("timesteps") or lane.get("sigmas")))
        and (lane.get("description") or "") in {"", described(entry)}
        and lane.get("key") == f"{entry.key}:{steps}"
        and lane.get("label", f"{entry.label} {steps}") == f"{entry.label} {steps}"
        and lane.get("target", entry.target) == entry.target
    )


def _lane(lane: Mapping[str, Any]) -> list[str]:
    """A lane as a table; the steps at the end of its label are left out, since parsing appends them."""
    label = str(lane.get("label") or "").removesuffix(f" {lane.get('steps')}")
    entry = SCHEDULERS.get(str(lane.get("scheduler")))
    if entry is not None and entry.levels == "tuned":  # it is what it was tuned to be
        values = {"key": lane.get("key"), "label": label or None, "description": lane.get("description") or ""}
        return [f"{key} = {_value(value)}" for key, value in values.items() if value is not None]
    values = {
        "key": lane.get("key"),
        "steps": lane.get("steps"),
        "scheduler_class": lane.get("target"),
        "label": label or None,
        "description": lane.get("description") or "",
        "timesteps": lane.get("timesteps"),
        "sigmas": lane.get("sigmas"),
        "coefficients": lane.get("coefficients"),
        **(lane.get("config") or lane.get("overrides") or {}),
    }
    return [f"{_key(key)} = {_value(value)}" for key, value in values.items() if value is not None]


def _key(key: Any) -> str:
    return str(key) if _BARE.fullmatch(str(key)) else _text(str(key))


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
