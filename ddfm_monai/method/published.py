"""The likelihood as the published DDFM code computes it, quirks included.

The differences from the paper's Algorithm 1 (``paper.py``) are kept on purpose, so that published results can be
reproduced: the smoothing acts on ``y - x = a - f̃0`` instead of x, D is capped at 2C, and the returned image is
``a - x``, the complement ``a + b - f`` of the paper's solution. Each step therefore pulls the estimate towards the
other source, and the result comes close to the plain average of the two. Means run over each slice, so that a slice's
result does not depend on its batch-mates (equal to the published code for a batch of one).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddfm_monai.method.luma import STUDIO_LUMA
from ddfm_monai.method.noise import Denoiser
from ddfm_monai.method.splitting import smoothed

__all__ = ["PublishedEM"]


@dataclass
class _State:
    a: Tensor  # (B, 1, H, W)
    b: Tensor
    gamma: Tensor | float  # γ of the paper, per slice (B, 1, 1, 1); "tau_a" in the golden files
    rho: Tensor | float  # ρ of the paper, per slice; "tau_b" in the golden files
    u: tuple[Tensor | float, Tensor | float]  # ∇k, (B, 1, H, W) along rows and along columns
    deviation: Tensor | None = None  # the published model is never drawn from
    outside: Tensor | None = None  # nor kept in a range


class PublishedEM:
    """EM step of the published code (``lamb`` is ψ, ``rho`` is η there).

    Args:
        psi: weight ψ of the gradient penalty.
        eta: weight η of the half-quadratic splitting.
    """

    name = "published"
    luma = STUDIO_LUMA
    default_steps = 100
    start_timestep = 999

    def __init__(self, psi: float = 0.5, eta: float = 0.001) -> None:
        self.psi = psi
        self.eta = eta

    def settings(self) -> dict[str, float]:
        """What a result depends on, for the provenance."""
        return {"psi": self.psi, "eta": self.eta}

    def prepare(self, a: Tensor, b: Tensor, denoise: Denoiser | None = None, seen: Tensor | None = None) -> _State:
        """State before the first step. a, b: (B, 1, H, W) in [-1, 1], taken as they are."""
        return _State(a, b, gamma=1.0, rho=1.0, u=(0.0, 0.0))

    def initial(self, state: _State) -> Tensor | None:
        """None: sampling starts from pure noise."""
        return None

    def rectify(self, f: Tensor, state: _State) -> Tensor:
        """One EM step: the estimate ``f̃0`` (B, 1, H, W) becomes ``f̂0``; updates ``state``."""
        x = f - state.b
        y = state.a - state.b
        # E-step
        D = torch.sqrt(2 / state.rho / (x**2 + 1e-6))
        C = torch.sqrt(2 / state.gamma / (y - x + 1e-6) ** 2)
        D = torch.minimum(D, 2 * C)
        state.rho = _slice_mean(1 / (D + 1e-10) + state.rho / 2)
        state.gamma = _slice_mean(1 / (C + 1e-10) + state.gamma / 2)
        # M-step
        k = smoothed(y - x, state.u)
        shrink = self.eta / (2 * self.psi + self.eta)
        state.u = (shrink * _drop(k, -2), shrink * _drop(k, -1))
        x = (2 * C * y + self.eta * (y - k)) / (2 * C + 2 * D + self.eta)
        return state.a - x

    def objective(self, f: Tensor, state: _State) -> Tensor | None:
        """None: with D capped and the complement returned, the published step lowers no function that is known."""
        return None

    def finish(self, f: Tensor, state: _State) -> Tensor:
        """The last estimate is the result."""
        return f


def _slice_mean(value: Tensor) -> Tensor:
    return value.mean(dim=(1, 2, 3), keepdim=True)


def _drop(k: Tensor, dim: int) -> Tensor:
    """``k[j] - k[j+1]`` along dim; the last entry keeps k itself."""
    zero = torch.zeros_like(k.narrow(dim, 0, 1))
    return k - torch.cat([k.narrow(dim, 1, k.shape[dim] - 1), zero], dim)
