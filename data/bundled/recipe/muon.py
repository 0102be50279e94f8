"""Muon, an optimiser that makes each matrix's update orthogonal, with AdamW for all other weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Return matrices (n, rows, columns) with singular values moved close to 1.

    Newton-Schulz iteration with the quintic of Jordan et al., "Muon: An optimizer for hidden layers" (2024).
    """
    a, b, c = _COEFFICIENTS
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal per matrix; convolutions count as matrices (out, in * k * k).

    Updates are scaled to the size AdamW's have (0.2 * sqrt(longer side); Liu et al., 2025), so that both
    optimisers take the same learning rate.
    """

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Take one step; matrices of one shape go through the iteration together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault((p.shape[0], p[0].numel()), []).append(p)
            for shape, parameters in by_shape.items():
                self._step_shape(shape, parameters, group)

    def _step_shape(self, shape: tuple[int, int], parameters: list[torch.nn.Parameter], group: dict[str, Any]) -> None:
        updates = []
        for p in parameters:
            state = self.state[p]
            buffer = state.setdefault("momentum", torch.zeros_like(p))
            buffer.lerp_(p.grad, 1 - group["momentum"])
            updates.append(p.grad.lerp(buffer, group["momentum"]).reshape(shape))
        stacked = orthogonalize(torch.stack(updates))
        size = 0.2 * max(shape) ** 0.5
        for p, update in zip(parameters, stacked, strict=True):
            p.mul_(1 - group["lr"] * group["decay"])
            p.add_(update.view(p.shape), alpha=-group["lr"] * size)


EDGES = ("conv_in", "conv_out", "time_embedding")


def split_parameters(
    module: torch.nn.Module, edges: tuple[str, ...] = EDGES
) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Return (matrices for Muon, everything else); what has one of `edges` in its dotted name counts as else."""
    matrices, rest = [], []
    for name, p in module.named_parameters():
        edge = any(part in edges for part in name.split("."))
        (rest if p.ndim < 2 or edge else matrices).append(p)
    return matrices, rest


class MuonWithAdamW:
    """Muon for a module's matrices and AdamW for the rest, as one optimiser."""

    def __init__(self, module: torch.nn.Module, lr: float, decay: float = 0.01, edges: tuple[str, ...] = EDGES) -> None:
        matrices, rest = split_parameters(module, edges)
        self.parts = [
            Muon(matrices, lr=lr, decay=decay),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0),
        ]

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both parts."""
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        """Step both parts."""
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        """Clear the gradients of both parts."""
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` takes."""
        return {str(i): part.state_dict() for i, part in enumerate(self.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both parts."""
        for i, part in enumerate(self.parts):
            part.load_state_dict(state[str(i)])
