"""Reads checked values from TOML tables; each error names the key, the place and the remedy."""

import dataclasses
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.errors import StudyError, did_you_mean
from engine.study.custom_schedules import CustomSchedule
from engine.study.lanes import Lane, check_steps, described, known_schedule
from engine.study.schedulers import SCHEDULERS, Scheduler

_REQUIRED = object()


class Table:
    """A TOML table that returns checked values; `finish` refuses keys that were never read."""

    def __init__(self, data: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._data = dict(data)
        self._asked: set[str] = set()

    def error(self, key: str, problem: str) -> StudyError:
        """An error that names this place."""
        return StudyError(f"{self.where}: '{key}' {problem}.")

    def __contains__(self, key: str) -> bool:
        """Whether a key is given."""
        return key in self._data

    def _get(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        value = self._data.get(key, default)
        if value is _REQUIRED:
            raise self.error(key, "is missing")
        return value

    def text(self, key: str, default: Any = None) -> str:
        """A string; required unless a default is given."""
        value = self._get(key, _REQUIRED if default is None else default)
        if not isinstance(value, str):
            raise self.error(key, f"must be text, not {value!r}")
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise self.error(key, "contains a NUL character or an unpaired surrogate, not valid text; remove it")
        return value

    def strings(self, key: str, default: Sequence[str]) -> tuple[str, ...]:
        """A list of strings."""
        value = self._get(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise self.error(key, f"must be a list of texts, not {value!r}")
        return tuple(value)

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds."""
        return self.integers(key, (default,), low, high, single=True)[0]

    def integers(self, key: str, default: Sequence[int], low: int, high: int, single: bool = False) -> tuple[int, ...]:
        """A list of distinct whole numbers within bounds (`single`: one number)."""
        value = self._get(key, default[0] if single else default)
        items = [value] if single else value
        if not isinstance(items, list | tuple) or not items:
            raise self.error(key, f"must be a list of whole numbers, not {value!r}")
        for item in items:
            if isinstance(item, bool) or not isinstance(item, int) or not low <= item <= high:
                raise self.error(key, f"must be from {low} to {high} and whole, not {item!r}")
        if len(set(items)) < len(items):
            raise self.error(key, "lists a number twice")
        return tuple(items)

    def number(self, key: str, default: float, low: float, high: float) -> float:
        """A finite number within bounds."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, f"must be a number, not {value!r}")
        if not low <= value <= high:
            raise self.error(key, f"must be from {low:g} to {high:g}, not {value!r}")
        return float(value)

    def optional_size(self, key: str) -> int | None:
        """Pixels, a multiple of 8 from 8 to 8192, or None if absent."""
        if key not in self._data:
            self._asked.add(key)
            return None
        size = self.integer(key, 0, low=8, high=8192)
        if size % 8:
            raise self.error(key, f"must be a multiple of 8, not {size}")
        return size

    def choice(self, key: str, default: str, known: Sequence[str]) -> Any:
        """One of the known words."""
        value = self.text(key, default)
        if value not in known:
            raise self.error(key, f"must be one of {', '.join(known)}, not {value!r}")
        return value

    def choices(self, key: str, default: Sequence[str], known: Sequence[str]) -> tuple[Any, ...]:
        """A list of known words."""
        for value in (values := self.strings(key, default)):
            if value not in known:
                raise self.error(key, f"may list {', '.join(known)}, not {value!r}")
        return values

    def table(self, key: str) -> "Table":
        """A sub-table, empty if absent."""
        value = self._get(key, {})
        if not isinstance(value, Mapping):
            raise self.error(key, f"must be a table, not {value!r}")
        return Table(value, f"{self.where} [{key}]")

    def tables(self, key: str) -> list["Table"]:
        """An array of tables, empty if absent."""
        value = self._get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
            raise self.error(key, f"must be an array of tables, written [[{key}]]")
        return [Table(item, f"{self.where} [[{key}]] {number}") for number, item in enumerate(value, 1)]

    def value(self, key: str, default: Any = None) -> Any:
        """A value of any kind, to be checked by the caller."""
        return self._get(key, default)

    def rest(self) -> dict[str, Any]:
        """The keys that were not read so far; they count as read from now on."""
        rest = {key: value for key, value in self._data.items() if key not in self._asked}
        self._asked.update(rest)
        return rest

    def finish(self) -> None:
        """Refuses unknown keys.

        Raises:
            StudyError: Names the key and the nearest known one.
        """
        for key in self._data:
            if key not in self._asked:
                raise StudyError(f"{self.where}: unknown key '{key}'.{did_you_mean(key, self._asked)}")


def read_lanes(table: Table) -> list[Lane]:
    """Reads a `[[lane]]`: `key` ("mine:12"), `scheduler_class` or `scheduler`, `steps`, and configuration overrides.

    A list of steps gives a lane for each; `timesteps` or `sigmas` set the schedule, and with it the steps.

    Raises:
        StudyError: A missing or contradicting value, or an unknown scheduler.
    """
    key = table.text("key")
    short, _, in_key = key.partition(":")
    entry, schedule = _scheduler(table, short), _schedule(table)
    told = schedule.steps(entry.target.rpartition(":")[2]) if schedule else None
    given = table.value("steps", int(in_key) if re.fullmatch("[0-9]{1,9}", in_key) else told)
    counts = [check_steps(key, steps) for steps in (given if isinstance(given, list) and given else [given])]
    if in_key and [in_key] != [str(steps) for steps in counts]:
        raise table.error("key", f"says {in_key} steps, but steps = {given}; make them agree")
    if schedule and counts != [told]:
        raise table.error(schedule.kind, f"are a schedule of {told} steps, but steps = {given}; make them agree")
    description = described(entry, table.text("description", entry.note))
    overrides = table.rest()
    for name, value in overrides.items():
        try:
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError):
            raise table.error(name, f"must be text, finite numbers, true or false, or lists, not {value!r}") from None
    if entry.levels == "tuned" and (overrides or schedule):
        raise table.error("key", f"'{short}' was tuned as it is; give it no settings")
    return [
        Lane(f"{short}:{steps}", entry, steps, overrides, description, schedule or known_schedule(entry, steps))
        for steps in counts
    ]


def _schedule(table: Table) -> CustomSchedule | None:
    """The `timesteps` or `sigmas` of a `[[lane]]`."""
    given = [kind for kind in ("timesteps", "sigmas") if kind in table]
    if len(given) > 1:
        raise table.error("sigmas", "and 'timesteps' both set the schedule; give one of them")
    if not given:
        return None
    return custom_schedule(given[0], table.value(given[0]), table.where, table.value("coefficients", []))


def custom_schedule(kind: str, value: Any, where: str, coefficients: Any = ()) -> CustomSchedule:
    """A schedule from plain data.

    Raises:
        StudyError: It is not a list of finite numbers, or the coefficients are not lists of them.
    """
    values = _numbers(value)
    if not values:
        raise StudyError(f"{where}: '{kind}' must be a list of numbers, from noise to picture, not {value!r:.200}.")
    rows = [_numbers(row) for row in coefficients] if isinstance(coefficients, list | tuple) else [None]
    if not all(rows):
        raise StudyError(f"{where}: 'coefficients' must be lists of numbers, one a step, not {coefficients!r:.200}.")
    return CustomSchedule("sigmas" if kind == "sigmas" else "timesteps", values, tuple(row for row in rows if row))


def _numbers(value: Any) -> tuple[float, ...] | None:
    """A list of finite numbers; None if it is none."""
    listed = list(value) if isinstance(value, list | tuple) else []
    numbers = [each for each in listed if isinstance(each, int | float) and not isinstance(each, bool)]
    if not listed or len(numbers) < len(listed) or not all(-1e6 < each < 1e6 for each in numbers):
        return None
    return tuple(float(each) for each in numbers)


def _scheduler(table: Table, key: str) -> Scheduler:
    """The scheduler of a `[[lane]]`: a class, a variant of a known scheduler, or a known one."""
    target = table.text("scheduler_class", "")
    base = table.text("scheduler", "")
    label = table.text("label", "")
    target = target if ":" in target or not target else f"diffusers:{target}"
    if key in SCHEDULERS and (target not in {"", SCHEDULERS[key].target} or base not in {"", key}):
        raise table.error("key", f"'{key}' is {SCHEDULERS[key].label}; use another key for another scheduler")
    if key in SCHEDULERS:
        return dataclasses.replace(SCHEDULERS[key], label=label or SCHEDULERS[key].label)
    if target:
        known = next((entry for entry in SCHEDULERS.values() if entry.target == target), None)
        entry = Scheduler(
            key=key,
            label=label or key,
            target=target,
            stochastic=known.stochastic if known else False,
            calls=known.calls if known else "steps",
        )
        return SCHEDULERS.check(entry)
    if base:
        known = SCHEDULERS.lookup(base)
        if known.levels == "tuned":
            raise table.error("scheduler", f"'{base}' was tuned as it is; use it as key, with its own number of steps")
        return SCHEDULERS.check(dataclasses.replace(known, key=key, label=label or key))
    raise table.error("key", f"names no known scheduler ('{key}'): add scheduler = ... or scheduler_class = ...")


def read_plugins(names: Sequence[str], folder: Path | None) -> tuple[str, ...]:
    """Imports plug-in modules, which register schedulers, metrics or families.

    Args:
        names: Module names, or paths of .py files.
        folder: Base of relative paths.

    Raises:
        StudyError: A plug-in is missing or fails to import.
    """
    for name in names:
        try:
            if name.endswith(".py"):
                _import_file((folder or Path.cwd()) / name)
            else:
                importlib.import_module(name)
        except StudyError:
            raise
        except FileNotFoundError as error:
            raise StudyError(f"There is no plug-in file {error.filename}.") from error
        except (Exception, SystemExit) as error:
            raise StudyError(f"Plug-in '{name}' fails to import: {type(error).__name__}: {error}.") from error
    return tuple(names)


def _import_file(path: Path) -> None:
    """Imports a .py file once under its own name, so that `name:Class` targets resolve."""
    known = sys.modules.get(path.stem)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() == path.resolve():
            return
        raise StudyError(f"Plug-in {path}: a module '{path.stem}' is already loaded; rename the file.")
    if not path.is_file():
        raise StudyError(f"There is no plug-in file {path}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"Plug-in {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
