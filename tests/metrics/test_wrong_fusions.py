"""The programs behind the tables of docs/trust.md: their measures on pictures whose answer is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for name in ("quality", "trust", "texture", "wrong_fusions"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_white_noise_has_its_variance_at_every_frequency() -> None:
    import texture

    noise = np.random.default_rng(0).normal(0, 7, (texture.SIZE, texture.SIZE, texture.SLICES))
    sd, power = texture.noise_power(noise)
    assert sd == pytest.approx(7, rel=0.01) and power == pytest.approx([49] * len(power), rel=0.15)


@pytest.mark.parametrize("frequency", [0.1, 0.2])
def test_a_blurred_disc_keeps_its_contrast_and_loses_what_the_blur_takes(frequency: float) -> None:
    import texture
    from scipy.ndimage import gaussian_filter

    disc = texture.source(100, 40)
    blurred = gaussian_filter(disc, 1.5)
    assert texture.contrast(blurred) == pytest.approx(40, abs=0.1)
    lost = texture.task_transfer(blurred, frequency) / texture.task_transfer(disc, frequency)
    assert lost == pytest.approx(np.exp(-2 * (np.pi * frequency * 1.5) ** 2), abs=0.02)


def test_a_pasted_lesion_counts_as_caught_and_the_right_fusion_does_not() -> None:
    import wrong_fusions

    from ddfm_monai.metrics import check_fusion

    random = np.random.default_rng(1)
    a, b = (random.integers(90, 110, (128, 128)).astype(np.uint8) for _ in range(2))
    right, place = (np.maximum(a, b), a, b), (64, 64)
    before = check_fusion(*right).flags
    wrong = dict(wrong_fusions.made_wrong_at(place, 1, right, a))
    assert wrong_fusions.caught(before, wrong["lesion of 50 pasted in"], place, 12)
    assert not wrong_fusions.caught(before, right, place, 12)
    assert not wrong_fusions.caught(before, wrong["lesion of 50 pasted in"], (10, 10), 12)
