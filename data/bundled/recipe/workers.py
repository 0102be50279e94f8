"""Several processes that train one model together, each on its own share of the batch."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from data.bundled.recipe.common import Stage, open_stage


@dataclass(frozen=True)
class Team:
    """This process's place among `size` processes; a team of one needs no communication."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def from_leader(self, value: float) -> float:
        """Return the leader's value in every process."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return shared.item()

    def average_gradients(self, module: torch.nn.Module) -> None:
        """Replace each gradient by its mean over the team, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _member(rank: int, size: int, port: int, stage: Stage, train: Callable[[Stage, Team], float]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=size)
    own = open_stage(stage.name, stage.config, stage.work, str(stage.device))
    torch.manual_seed(stage.seed + rank)
    train(own, Team(rank, size))
    dist.destroy_process_group()


def train_together(stage: Stage, train: Callable[[Stage, Team], float]) -> None:
    """Run `train` in as many processes as the stage's `workers` says; one by default, in this process."""
    size = int(stage.table.get("workers", 1))
    if size == 1:
        train(stage, Team())
        return
    arguments = (size, _free_port(), stage, train)
    multiprocessing.spawn(_member, args=arguments, nprocs=size, join=True)
