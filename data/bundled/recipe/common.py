"""Shared by every stage of the recipe: configuration, clock, checkpoints, dataset, captions."""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

RECIPE_DIR = Path(__file__).parent
BUNDLED_DIR = RECIPE_DIR.parent


class RecipeError(Exception):
    """A mistake on the user's side; the message says what, where and the remedy."""


@dataclass(frozen=True)
class Stage:
    """What one stage runs with: its own table of the config, the whole config and the folders."""

    name: str
    table: dict[str, Any]
    config: dict[str, Any]
    work: Path
    device: torch.device
    seed: int

    def require(self, key: str) -> Any:
        """Return `table[key]`; raises RecipeError that names the key and the table."""
        if key not in self.table:
            raise RecipeError(f"[{self.name}] needs '{key}'; see small_64.toml for an example.")
        return self.table[key]

    def path(self, name: str) -> Path:
        """Return `work/name`; the parent folder exists afterwards."""
        target = self.work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def need(self, name: str, made_by: str) -> Path:
        """Return `work/name` which must exist; otherwise the error names the stage that makes it."""
        target = self.work / name
        if not target.exists():
            raise RecipeError(f"{target} is missing. Run `python -m data.bundled.recipe.{made_by}` first.")
        return target


def load_config(path: Path) -> dict[str, Any]:
    """Return the TOML file at `path` as a dict."""
    if not path.is_file():
        raise RecipeError(f"No config file {path}. `data/bundled/recipe/small_64.toml` is one.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def open_stage(name: str, config: dict[str, Any], work: Path, device: str = "auto") -> Stage:
    """Return the stage `name` of `config`, with random generators seeded and threads set."""
    if name not in config:
        raise RecipeError(f"The config has no [{name}] table. Tables: {', '.join(config)}.")
    seed = int(config.get("seed", 0))
    random.seed(seed)
    torch.manual_seed(seed)
    if threads := config[name].get("threads", config.get("threads")):
        torch.set_num_threads(int(threads))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    work.mkdir(parents=True, exist_ok=True)
    return Stage(name, config[name], config, work, torch.device(device), seed)


def stage_from_command_line(name: str, argv: Sequence[str] | None = None) -> Stage:
    """Return the stage asked for with `--config FILE --work DIR [--device auto]`."""
    parser = argparse.ArgumentParser(prog=f"python -m data.bundled.recipe.{name}")
    parser.add_argument("--config", type=Path, required=True, help="a TOML file such as small_64.toml")
    parser.add_argument("--work", type=Path, required=True, help="folder for datasets and checkpoints")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    options = parser.parse_args(argv)
    table = {"build_dataset": "dataset", "train_autoencoder": "autoencoder"}
    table |= {"train_clip": "clip", "train_denoiser": "denoiser"}
    try:
        return open_stage(table.get(name, name), load_config(options.config), options.work, options.device)
    except RecipeError as error:
        parser.exit(2, f"{error}\n")


@dataclass
class Budget:
    """A training length: minutes of wall clock, steps, or both; whichever ends first.

    `progress` goes from 0 to 1. `seconds` and `step` are kept in checkpoints, so that a resumed run goes on
    where it stopped.
    """

    minutes: float | None
    steps: int | None
    seconds: float = 0.0
    step: int = 0
    _mark: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, stage: Stage) -> Budget:
        """Return the budget in the stage's `minutes` and `steps`; one of them must be given."""
        minutes, steps = stage.table.get("minutes"), stage.table.get("steps")
        if minutes is None and steps is None:
            raise RecipeError(f"[{stage.name}] needs 'minutes' or 'steps' (or both).")
        return cls(minutes, steps)

    def tick(self) -> None:
        """Count one finished step and the time since the last one."""
        now = time.monotonic()
        self.seconds += now - self._mark
        self._mark = now
        self.step += 1

    def restart_clock(self) -> None:
        """Forget the time since the last step, which was spent waiting for others."""
        self._mark = time.monotonic()

    @property
    def progress(self) -> float:
        """Share of the budget that is used, 0 to 1."""
        by_time = self.seconds / (self.minutes * 60) if self.minutes else 0.0
        by_step = self.step / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_step))

    def rate(self, warmup_steps: int, hold: float = 0.0) -> float:
        """Learning-rate factor: linear warm-up, flat until `hold` of the budget, then linear to 0."""
        decay = min(1.0, (1.0 - self.progress) / max(1e-9, 1.0 - hold))
        return min(1.0, (self.step + 1) / max(1, warmup_steps)) * decay


def second_table(table: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the settings of a stage's second leg: those of the stage, overridden by the sub-table `name`.

    The length is never inherited. None if there is no such sub-table.
    """
    if (own := table.get(name)) is None:
        return None
    return {key: value for key, value in table.items() if key not in ("minutes", "steps")} | own


def save_checkpoint(path: Path, budget: Budget, **parts: Any) -> None:
    """Write `parts` (modules, optimisers or tensors) to `path` in one atomic replace."""
    state: dict[str, Any] = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in parts.items()}
    state |= {"step": budget.step, "seconds": budget.seconds, "rng": torch.get_rng_state()}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def resume_checkpoint(path: Path, budget: Budget, **parts: Any) -> bool:
    """Load `path` into `parts` and `budget`; returns False and changes nothing if there is none."""
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    budget.step, budget.seconds = int(state["step"]), float(state["seconds"])
    torch.set_rng_state(state["rng"])
    return True


class Ema:
    """Running mean of a module's weights, with a decay that starts low and rises to `decay`."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = [p.detach().clone().float() for p in module.parameters()]

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Move the mean towards the module's present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        live = [p.detach().float() for p in module.parameters()]
        torch._foreach_lerp_(self.shadow, live, 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Overwrite the module's weights with the mean."""
        for parameter, mean in zip(module.parameters(), self.shadow, strict=True):
            parameter.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore from `state_dict`."""
        self.updates = state["updates"]
        for mean, saved in zip(self.shadow, state["shadow"], strict=True):
            mean.copy_(saved)


def dropout_free(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module in eval mode and without gradients."""
    return module.eval().requires_grad_(False)


def batched(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Yield lists of `size` items; the last may be shorter."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
