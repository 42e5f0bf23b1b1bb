"""Single pixels that stick out: a fused image may show as much of them as its sources do, no more.

Where a choice between two sources changes from pixel to pixel, and where details of two sources that lie a pixel apart
add up, a fused image has bright or dark single pixels that are in neither source: a dotted rim along bone. A pixel
sticks out along a line (row, column, both diagonals) by the smaller of its two steps if both go the same way;
:func:`ddfm_monai.metrics.pixel_alternation` measures how much a fused image has of that beyond its sources.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["limit_lone_pixels", "lone_pixels"]

_ROUNDS = 2  # a pixel that gives way changes its neighbours' lines: excess 6 % before, 1.0 after one, 0.3 after two


def lone_pixels(a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """By how much pixels stick out along each line, the most of both images within 3 x 3 pixels: four (B, 1, H, W)."""
    most = (x.maximum(y) for x, y in zip(_sticking_out(a), _sticking_out(b), strict=True))
    return tuple(F.max_pool2d(x, 3, stride=1, padding=1) for x in most)


def limit_lone_pixels(image: Tensor, allowed: tuple[Tensor, ...]) -> Tensor:
    """Pixels that stick out by more than ``allowed`` (of :func:`lone_pixels`) give way to it, (B, 1, H, W)."""
    for _ in range(_ROUNDS):
        low, high = torch.full_like(image, -torch.inf), torch.full_like(image, torch.inf)
        for (darker, brighter), most in zip(_lines(image), allowed, strict=True):
            low, high = low.maximum(darker - most), high.minimum(brighter + most)
        # Lines that contradict each other (a saddle) meet in the middle.
        image = image.clamp(low, high).where(low <= high, (low + high) / 2)
    return image


def _sticking_out(image: Tensor) -> list[Tensor]:
    return [(image - high).maximum(low - image).clamp(min=0) for low, high in _lines(image)]


def _lines(image: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The darker and the brighter of a pixel's two neighbours along each of the four lines; edges are continued."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    pairs = []
    for down, right in ((1, 0), (0, 1), (1, 1), (1, -1)):
        before, after = (
            padded[..., 1 + s * down : 1 + s * down + height, 1 + s * right : 1 + s * right + width] for s in (-1, 1)
        )
        pairs.append((before.minimum(after), before.maximum(after)))
    return pairs
