"""How a colour network's estimate gives the grey image that the likelihood corrects, and takes it back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FULL_RANGE_LUMA", "MEAN_GREY", "STUDIO_LUMA", "Luma"]


@dataclass(frozen=True)
class Luma:
    """``Y = w · rgb + offset``; replacing Y by Y' adds ``gain * (Y' - Y)`` to every channel, so chroma stays.

    Images with one channel are their own luma.
    """

    weights: tuple[float, float, float]
    offset: float = 0.0
    gain: float = 1.0

    def of(self, f: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 1, H, W), C = 1 or 3."""
        if f.shape[1] == 1:
            return f
        weights = torch.tensor(self.weights, dtype=f.dtype, device=f.device)
        return (f * weights[:, None, None]).sum(1, keepdim=True) + self.offset

    def replace(self, f: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """f (B, C, H, W) with its luma ``old`` (B, 1, H, W) replaced by ``new``."""
        return new if f.shape[1] == 1 else f + self.gain * (new - old)


# ITU-R BT.601 in studio range (16..235 of 255), applied to values in [-1, 1] as the published code does.
STUDIO_LUMA = Luma((65.481 / 255, 128.553 / 255, 24.966 / 255), offset=16 / 255, gain=255 / 219)
FULL_RANGE_LUMA = Luma((0.299, 0.587, 0.114))
MEAN_GREY = Luma((1 / 3, 1 / 3, 1 / 3))
