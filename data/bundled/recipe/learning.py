"""The training step that the stages share: gradient, clipping, optimiser, mean of weights, clock, checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from data.bundled.recipe.common import Budget, Ema, resume_checkpoint, save_checkpoint
from data.bundled.recipe.workers import Team


@dataclass
class Learner:
    """A module in training with all that goes on with it.

    Args:
        optimizer: anything with `param_groups`, `zero_grad`, `step` and `state_dict`.
        table: the settings of this training: learning_rate, minutes or steps, and optionally ema, warmup_steps, hold,
            meet_every.
        checkpoint: where the state is kept; an earlier state there is taken up at once.
        save_every: seconds of training between two checkpoints.
        clamp: called after each optimiser step, before the running mean sees the weights.
    """

    module: torch.nn.Module
    optimizer: Any
    table: dict[str, Any]
    checkpoint: Path
    ema_decay: float
    warmup_steps: int
    hold: float = 0.0
    save_every: float = 120.0
    team: Team = field(default_factory=Team)
    clamp: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        self.budget = Budget(self.table.get("minutes"), self.table.get("steps"))
        self.ema = Ema(self.module, self.table.get("ema", self.ema_decay))
        self.resumed = resume_checkpoint(self.checkpoint, self.budget, **self._parts())
        self._saved = self.budget.seconds
        self._factor = 1.0

    def _parts(self) -> dict[str, Any]:
        return {"model": self.module, "optimizer": self.optimizer, "ema": self.ema}

    @property
    def due_to_meet(self) -> bool:
        """Whether the team averages its weights before the next step: every `meet_every` steps."""
        return self.budget.step % self.table.get("meet_every", 1) == 0

    def factor(self) -> float:
        """Return the share of the learning rate that is due now; 0 at the end.

        The leader's word counts in the whole team, so that all end after the same number of steps.
        """
        if self.due_to_meet:
            warmup, hold = self.table.get("warmup_steps", self.warmup_steps), self.table.get("hold", self.hold)
            self._factor = self.team.from_leader(self.budget.rate(warmup, hold))
        return self._factor

    def step(self, loss: torch.Tensor, factor: float) -> bool:
        """Take one optimiser step at `factor` of the learning rate; returns whether a checkpoint was written."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.table["learning_rate"] * factor
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.module.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        if self.clamp is not None:
            self.clamp()
        self.budget.tick()
        if self.due_to_meet:
            self.team.average_weights(self.module)
        self.ema.update(self.module)
        due = self.team.leads and self.budget.seconds - self._saved > self.save_every
        if due:
            self.save()
        return due

    def save(self) -> None:
        """Write the checkpoint, if this process leads its team."""
        if self.team.leads:
            self._saved = self.budget.seconds
            save_checkpoint(self.checkpoint, self.budget, **self._parts())
