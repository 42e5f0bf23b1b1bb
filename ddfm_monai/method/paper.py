"""The likelihood of the paper's Algorithm 1, as printed (Zhao et al., ICCV 2023, sections 3.2 and 3.3).

A fused image f is to be near both sources, ``min_f ‖f - a‖₁ + φ‖f - b‖₁``. The equations, in the paper's order (the
numbers are this file's):

1. ``x = f - b``, ``y = a - b``, so ``min_x ‖y - x‖₁ + φ‖x‖₁``.
2. Each Laplace is a Gaussian whose variance has an exponential prior:
   ``y | x, m ~ N(x, m), m ~ Exp(γ)`` and ``x | n ~ N(0, n), n ~ Exp(ρ)``.
3. E-step: ``C = E[1/m] = sqrt(2/γ) / |y - x|``, ``D = E[1/n] = sqrt(2/ρ) / |x|``.
4. Hyper-parameters: ``γ = mean(E[m]) = mean(1/C + γ/2)``, ``ρ = mean(1/D + ρ/2)``; φ is their ratio.
5. M-step with a gradient penalty, by half-quadratic splitting ``k ≈ x``, ``u ≈ ∇k``:
   ``min Σ C (x - y)² + D x² + ψ ‖u‖² + η/2 (‖u - ∇k‖² + ‖k - x‖²)``.
6. ``k = F⁻¹[(F(x) + F(∇)* F(u)) / (1 + |F(∇)|²)]``
7. ``u = η / (2ψ + η) ∇k``
8. ``x = (2C y + η k) / (2C + 2D + η)``
9. ``f̂0 = b + x``

γ, ρ and u persist from step to step. Means run over each slice, so that a slice's result does not depend on its
batch-mates.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddfm_monai.method.luma import FULL_RANGE_LUMA
from ddfm_monai.method.noise import Denoiser
from ddfm_monai.method.splitting import gradient, smoothed

__all__ = ["PaperEM"]

_ROUNDING = 1e-6  # |r| is sqrt(r² + this): a residual of 0 has a finite weight


@dataclass
class _State:
    """a, b and the parts of u: (B, 1, H, W); γ and ρ per slice: (B, 1, 1, 1)."""

    a: Tensor
    b: Tensor
    gamma: Tensor
    rho: Tensor
    u: tuple[Tensor, Tensor]
    deviation: Tensor | None = None  # not drawn from
    outside: Tensor | None = None  # nor kept in a range


class PaperEM:
    """EM step of Algorithm 1.

    Args:
        psi: weight ψ of the gradient penalty.
        eta: weight η of the half-quadratic splitting.
    """

    name = "paper"
    luma = FULL_RANGE_LUMA
    default_steps = 100
    start_timestep = 999

    def __init__(self, psi: float = 0.5, eta: float = 0.001) -> None:
        self.psi = psi
        self.eta = eta

    def settings(self) -> dict[str, float]:
        """What a result depends on, for the provenance."""
        return {"psi": self.psi, "eta": self.eta}

    def prepare(self, a: Tensor, b: Tensor, denoise: Denoiser | None = None, seen: Tensor | None = None) -> _State:
        """State before the first step: γ = ρ = 1, u = 0. a, b: (B, 1, H, W) in [-1, 1], taken as they are."""
        one = a.new_ones(len(a), 1, 1, 1)
        return _State(a, b, gamma=one, rho=one, u=(torch.zeros_like(a), torch.zeros_like(a)))

    def initial(self, state: _State) -> Tensor | None:
        """None: sampling starts from pure noise."""
        return None

    def rectify(self, f: Tensor, state: _State) -> Tensor:
        """One EM step: the estimate ``f̃0`` (B, 1, H, W) becomes ``f̂0``; updates ``state``."""
        psi, eta = self.psi, self.eta
        x, y = f - state.b, state.a - state.b  # (1)
        # E-step
        C = torch.sqrt(2 / state.gamma) / _magnitude(y - x)  # (3)
        D = torch.sqrt(2 / state.rho) / _magnitude(x)
        state.gamma = _slice_mean(1 / C + state.gamma / 2)  # (4)
        state.rho = _slice_mean(1 / D + state.rho / 2)
        # M-step
        k = smoothed(x, state.u)  # (6)
        rows, columns = gradient(k)
        state.u = (eta / (2 * psi + eta) * rows, eta / (2 * psi + eta) * columns)  # (7)
        x = (2 * C * y + eta * k) / (2 * C + 2 * D + eta)  # (8)
        return state.b + x  # (9)

    def objective(self, f: Tensor, state: _State) -> Tensor:
        """What an EM step never raises, (B,): the negative logarithm of the posterior, up to a constant.

        ``Σ [sqrt(2/γ) |y - x| + ½ log γ + sqrt(2/ρ) |x| + ½ log ρ] + ½ min_k [ψ ‖u‖² + η/2 (‖u - ∇k‖² + ‖k - x‖²)]``:
        the Laplace terms with m and n integrated out, and the splitting's penalty at the best k. The E-step makes (5)
        an upper bound of twice this that touches it at x, and (6) to (8) each minimise that bound in one unknown.
        """
        x, y = f - state.b, state.a - state.b
        laplace = sum(
            _magnitude(r) * torch.sqrt(2 / scale) + scale.log() / 2
            for r, scale in ((y - x, state.gamma), (x, state.rho))
        )
        k = smoothed(x, state.u)
        u = torch.cat(state.u, 1)
        splitting = (u - torch.cat(gradient(k), 1)).square().sum(1, keepdim=True) + (k - x).square()
        penalty = self.psi * u.square().sum(1, keepdim=True) + self.eta / 2 * splitting
        return (laplace + penalty / 2).sum((1, 2, 3))

    def finish(self, f: Tensor, state: _State) -> Tensor:
        """The last estimate is the result."""
        return f


def _magnitude(r: Tensor) -> Tensor:
    return torch.sqrt(r**2 + _ROUNDING)


def _slice_mean(value: Tensor) -> Tensor:
    return value.mean(dim=(1, 2, 3), keepdim=True)
