"""Saliency-weighted EM: brightness and gradients decide, pixel by pixel, which source explains the fused image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfm_monai.method.luma import MEAN_GREY

__all__ = ["SaliencyEM"]


@dataclass
class _State:
    a: Tensor
    b: Tensor
    w_a: Tensor
    w_b: Tensor
    gradient: tuple[Tensor, Tensor]
    gamma: Tensor
    rho: Tensor
    background: Tensor


class SaliencyEM:
    """``f̂0 = (2C·w_a·a + 2D·w_b·b + η·k) / (2C·w_a + 2D·w_b + η)``, the M-step written in f with saliency weights.

    Args:
        eta: weight η of the smoothed estimate k.
        mu: weight μ of the gradients in ``k = argmin ‖k - f̃0‖² + μ‖∇k - g‖²``.
        sigma: smoothing of the saliency, pixels.
        power: sharpness p of the selection.
        texture: saliency is brightness times gradient energy instead of brightness alone.
        start_timestep: where the noised maximum is entered into the chain.
    """

    name = "saliency"
    luma = MEAN_GREY

    def __init__(
        self,
        eta: float = 3.0,
        mu: float = 10.0,
        sigma: float = 2.0,
        power: float = 2.0,
        texture: bool = False,
        start_timestep: int = 400,
    ) -> None:
        self.eta, self.mu, self.sigma, self.power, self.texture = eta, mu, sigma, power, texture
        self.start_timestep = start_timestep

    def settings(self) -> dict[str, Any]:
        return dict(vars(self))

    def prepare(self, a: Tensor, b: Tensor) -> _State:
        s_a, s_b = self._saliency(a), self._saliency(b)
        w_a = s_a / (s_a + s_b + 1e-8)
        ones = torch.ones_like(a[:, :, :1, :1])
        background = (a <= -1) & (b <= -1)
        return _State(a, b, w_a, 1 - w_a, _larger_gradient(a, b), ones, ones.clone(), background)

    def initial(self, state: _State) -> Tensor | None:
        return torch.maximum(state.a, state.b)

    def rectify(self, f: Tensor, state: _State, noise_level: float) -> Tensor:
        C = torch.sqrt(2 / state.gamma) / ((state.a - f).abs() + 1e-3)
        D = torch.sqrt(2 / state.rho) / ((f - state.b).abs() + 1e-3)
        state.gamma = (1 / C + state.gamma / 2).mean(dim=(1, 2, 3), keepdim=True)
        state.rho = (1 / D + state.rho / 2).mean(dim=(1, 2, 3), keepdim=True)
        k = _screened_poisson(f, state.gradient, self.mu)
        c, d = 2 * C * state.w_a, 2 * D * state.w_b
        f = (c * state.a + d * state.b + self.eta * k) / (c + d + self.eta)
        return f.masked_fill(state.background, -1.0)

    def finish(self, f: Tensor, state: _State) -> Tensor:
        for _ in range(2):
            f = self.rectify(f, state, 0.0)
        return f

    def _saliency(self, image: Tensor) -> Tensor:
        s = _gaussian(((image + 1) / 2) ** 2, self.sigma)
        if self.texture:
            s = s * _gaussian(sum(g**2 for g in _gradient(image)), self.sigma)  # type: ignore[arg-type]
        return s**self.power


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    radius = int(4 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    image = F.conv2d(F.pad(image, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
    return F.conv2d(F.pad(image, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))


def _gradient(image: Tensor) -> tuple[Tensor, Tensor]:
    return torch.roll(image, -1, -2) - image, torch.roll(image, -1, -1) - image


def _larger_gradient(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    (ay, ax), (by, bx) = _gradient(a), _gradient(b)
    choose = ay**2 + ax**2 >= by**2 + bx**2
    return torch.where(choose, ay, by), torch.where(choose, ax, bx)


def _screened_poisson(f: Tensor, gradient: tuple[Tensor, Tensor], mu: float) -> Tensor:
    height, width = f.shape[-2:]
    rows = torch.exp(2j * torch.pi * torch.fft.fftfreq(height, device=f.device))[:, None] - 1
    columns = torch.exp(2j * torch.pi * torch.fft.rfftfreq(width, device=f.device))[None, :] - 1
    numerator = torch.fft.rfft2(f)
    for transfer, g in zip((rows, columns), gradient, strict=True):
        numerator = numerator + mu * transfer.conj() * torch.fft.rfft2(g)
    return torch.fft.irfft2(numerator / (1 + mu * (rows.abs() ** 2 + columns.abs() ** 2)), s=(height, width))
