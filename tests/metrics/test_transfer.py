"""Noise power spectrum and task transfer against spectra and edges that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddfm_monai.metrics.noise_kinds import coloured_noise, noise_spectrum
from ddfm_monai.metrics.transfer import at_half, noise_power_spectrum, task_transfer


@pytest.mark.parametrize("kind", ["white", "soft", "linear"])
def test_noise_power_is_that_of_the_noise_whatever_lies_below(kind: str) -> None:
    anatomy = 100 + 50 * np.sin(np.arange(32) / 3)
    regions = anatomy + coloured_noise(kind, (300, 32, 32), 8.0, np.random.default_rng(0))
    frequency, power = noise_power_spectrum(regions, pixel=0.5)
    expected = 64 * noise_spectrum(kind, (32, 32))[0, :16] * 0.25
    strong = expected > 0.05 * expected.max()
    assert np.allclose(frequency, np.arange(16) / 16)
    assert np.allclose(power[strong][2:] / expected[strong][2:], 1, atol=0.3)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_transfer_of_a_blurred_disc_is_that_of_the_blur(sigma: float) -> None:
    fine = np.hypot(*(np.mgrid[: 4 * 96, : 4 * 96] - 190.3)) < 4 * 24
    disc = gaussian_filter(fine.astype(float), 4 * sigma).reshape(96, 4, 96, 4).mean(axis=(1, 3))
    frequency, transfer = task_transfer(40 + 60 * disc, ((190.3 - 1.5) / 4,) * 2, 24)
    expected = np.exp(-2 * (np.pi * frequency * sigma) ** 2) * np.sinc(frequency)
    assert transfer[0] == 1 and np.max(np.abs(transfer - expected)) < 0.06
    assert at_half(frequency, transfer) == pytest.approx(np.sqrt(np.log(2) / 2) / (np.pi * sigma), rel=0.1)


def test_a_sharp_edge_never_falls_to_half() -> None:
    assert at_half(np.array([0, 0.5]), np.array([1, 0.8])) == 0.5
