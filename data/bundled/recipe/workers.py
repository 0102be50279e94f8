"""Several processes that train one model together, each on its own batches, averaging their weights now and then.

Between two averages nobody waits for anybody (local SGD: Stich, 2019), which matters where other work takes turns on
the same cores.
"""

from __future__ import annotations

import datetime
import os
import signal
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

    def share_weights(self, module: torch.nn.Module) -> None:
        """Give every process the leader's weights, so that all start from the same place."""
        if self.size == 1:
            return
        for weight in module.state_dict().values():
            dist.broadcast(weight, 0)

    def average_weights(self, module: torch.nn.Module) -> None:
        """Replace each learning weight by its mean over the team, in one message."""
        if self.size == 1:
            return
        weights = [p.data for p in module.parameters() if p.requires_grad]
        flat = torch.cat([w.flatten() for w in weights])
        dist.all_reduce(flat)
        flat /= self.size
        for weight, mean in zip(weights, flat.split([w.numel() for w in weights]), strict=True):
            weight.copy_(mean.view_as(weight))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _member(rank: int, size: int, port: int, stage: Stage, train: Callable[[Stage, Team], float]) -> None:
    # What a member is sent when its parent is killed; jobs in the background of a shell ignore it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    # The leader may pause for long.
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=datetime.timedelta(days=7))
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
