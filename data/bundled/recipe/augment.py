"""Random changes to pictures that keep what they show; CLIP learns from these views."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def augment(pictures: torch.Tensor, generator: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """Return changed copies of pictures (n, 3, h, w) in -1 to 1; the background stays white.

    Flip, scale, shift, turn, colour, one erased patch, blur and noise, each drawn per picture.
    """
    pictures = _move(pictures, generator, strength)
    pictures = _colour(pictures, generator, 0.25 * strength)
    pictures = _erase(pictures, generator, 0.3 * strength)
    pictures = _blur(pictures, generator, 0.4 * strength)
    level = 0.12 * strength * _uniform(pictures, generator)
    noise = torch.randn(pictures.shape, generator=generator).to(pictures)
    return (pictures + level * noise).clamp(-1, 1)


def _uniform(like: torch.Tensor, generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Return one number per picture in `low` to `high`, shape (n, 1, 1, 1)."""
    draw = torch.rand(len(like), 1, 1, 1, generator=generator)
    return (low + (high - low) * draw).to(like)


def _move(pictures: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Flip half of the pictures; scale by up to a quarter, turn by 12 degrees, shift by an eighth."""

    def draw(reach: float) -> torch.Tensor:
        return _uniform(pictures, generator, -reach, reach).flatten() * strength

    mirror = torch.where(_uniform(pictures, generator).flatten() < 0.5, -1.0, 1.0)
    scale, angle = torch.exp(draw(0.25)), draw(math.pi / 15)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [cos * mirror, -sin, draw(0.25), sin * mirror, cos, draw(0.25)]
    theta = torch.stack(rows, dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return 1.0 - F.grid_sample(1.0 - pictures, grid, align_corners=False)  # outside the picture is white


def _colour(pictures: torch.Tensor, generator: torch.Generator, reach: float) -> torch.Tensor:
    """Change saturation, contrast and brightness, leaving pure white nearly white."""
    grey = pictures.mean(1, keepdim=True)
    pictures = grey + (pictures - grey) * (1 + _uniform(pictures, generator, -reach, reach))
    depth = (1.0 - pictures) * (1 + _uniform(pictures, generator, -reach, reach))
    return (1.0 - depth + _uniform(pictures, generator, -reach, reach) * 0.2).clamp(-1, 1)


def _erase(pictures: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    """Whiten one square of a quarter of the width in a `share` of the pictures."""
    height, width = pictures.shape[-2:]
    top = _uniform(pictures, generator, 0, 0.75) * height
    left = _uniform(pictures, generator, 0, 0.75) * width
    y = torch.arange(height, device=pictures.device).view(1, 1, -1, 1)
    x = torch.arange(width, device=pictures.device).view(1, 1, 1, -1)
    inside = (y >= top) & (y < top + height / 4) & (x >= left) & (x < left + width / 4)
    chosen = _uniform(pictures, generator) < share
    return torch.where(inside & chosen, torch.ones_like(pictures), pictures)


def _blur(pictures: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    """Halve the sharpness of a `share` of the pictures by averaging blocks of 2 x 2."""
    small = F.avg_pool2d(pictures, 2)
    soft = F.interpolate(small, size=pictures.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(_uniform(pictures, generator) < share, soft, pictures)
