"""Algorithm 1 as printed: its equations against dense linear algebra, and what its EM step never raises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.method.paper import PaperEM


def images(seed: int, shape: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Two sources and an estimate, (1, 1, H, W) float64 in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return tuple((torch.rand(3, 1, 1, *shape, generator=generator, dtype=torch.float64) * 2 - 1).unbind())


def differences(height: int, width: int) -> np.ndarray:
    """∇ as a matrix: periodic differences of neighbours, along rows and then along columns, of a raveled image."""
    index = np.arange(height * width).reshape(height, width)
    return np.concatenate(
        [np.eye(index.size)[np.roll(index, -1, axis).ravel()] - np.eye(index.size) for axis in (0, 1)]
    )


def test_two_steps_solve_the_printed_equations():
    psi, eta, shape = 0.3, 0.7, (5, 6)
    a, b, f = images(0, shape)
    em = PaperEM(psi=psi, eta=eta)
    state = em.prepare(a, b)
    gradient, n = differences(*shape), a.numel()
    gamma, rho, u = 1.0, 1.0, np.zeros(2 * n)
    for _ in range(2):  # in the first step u is 0
        x, y = ((image - b).numpy().ravel() for image in (f, a))
        c, d = (np.sqrt(2 / scale) / np.sqrt(r**2 + 1e-6) for scale, r in ((gamma, y - x), (rho, x)))
        gamma, rho = (np.mean(1 / weight + scale / 2) for scale, weight in ((gamma, c), (rho, d)))
        k = np.linalg.solve(np.eye(n) + gradient.T @ gradient, x + gradient.T @ u)
        u = eta / (2 * psi + eta) * (gradient @ k)
        expected = b.numpy().ravel() + (2 * c * y + eta * k) / (2 * c + 2 * d + eta)
        f = em.rectify(f, state)
        assert f.numpy().ravel() == pytest.approx(expected, abs=1e-9)
        assert float(state.gamma) == pytest.approx(gamma) and float(state.rho) == pytest.approx(rho)


@given(
    seed=st.integers(0, 10**6),
    psi=st.floats(0, 10),
    eta=st.floats(1e-3, 100),
    height=st.integers(2, 12),
    width=st.integers(2, 12),
)
@settings(max_examples=60, deadline=None)
def test_an_em_step_never_raises_the_objective(seed, psi, eta, height, width):
    a, b, f = images(seed, (height, width))
    em = PaperEM(psi=psi, eta=eta)
    state = em.prepare(a, b)
    before = float(em.objective(f, state))
    for _ in range(4):
        f = em.rectify(f, state)
        after = float(em.objective(f, state))
        assert after <= before + 1e-9 * abs(before)
        before = after


def test_the_source_with_the_smaller_scale_is_approached():
    """And not, as in the published code, the other one. With equal scales what lies between the sources stays."""
    a, b, _ = images(1, (8, 8))
    f = (a + b) / 2
    em = PaperEM()
    state = em.prepare(a, b)
    assert torch.allclose(em.rectify(f, state), f, atol=1e-2)
    state.gamma, state.rho = torch.full_like(state.gamma, 0.01), torch.full_like(state.rho, 1.0)
    step = em.rectify(f, state)
    assert float((step - a).abs().mean()) < 0.5 * float((f - a).abs().mean())
