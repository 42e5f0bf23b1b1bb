"""The gradient penalty of the paper's M-step by half-quadratic splitting: periodic differences, solved by FFT."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gradient", "smoothed"]


def gradient(k: Tensor) -> tuple[Tensor, Tensor]:
    """``∇k``: periodic differences ``k[j+1] - k[j]`` along rows and along columns, each (B, 1, H, W)."""
    return k.roll(-1, -2) - k, k.roll(-1, -1) - k


def smoothed(x: Tensor, u: tuple[Tensor | float, Tensor | float]) -> Tensor:
    """``argmin_k ‖k - x‖² + ‖∇k - u‖² = F⁻¹[(F(x) + F(∇)* F(u)) / (1 + |F(∇)|²)]``; numbers in u must be 0."""
    height, width = x.shape[-2:]
    rows = torch.exp(2j * torch.pi * torch.fft.fftfreq(height, dtype=x.dtype, device=x.device))[:, None] - 1
    columns = torch.exp(2j * torch.pi * torch.fft.rfftfreq(width, dtype=x.dtype, device=x.device))[None, :] - 1
    numerator = torch.fft.rfft2(x)
    for transfer, part in ((rows, u[0]), (columns, u[1])):
        if isinstance(part, Tensor):
            numerator = numerator + transfer.conj() * torch.fft.rfft2(part)
    return torch.fft.irfft2(numerator / (1 + rows.abs() ** 2 + columns.abs() ** 2), s=x.shape[-2:])
