"""What fusions of which the answer is known keep of lesions."""

from __future__ import annotations

import numpy as np
import pytest

from ddfm_monai.metrics.study import study_lesions


def slices(size: int = 200, count: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Two discs of even tissue, ``(H, W, N)`` uint8."""
    y, x = np.mgrid[:size, :size] - size / 2
    head = (np.hypot(x, y) < 0.47 * size)[..., None] * np.ones(count)
    return (head * 100).astype(np.uint8), (head * 110).astype(np.uint8)


def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.rint((a.astype(float) + b) / 2).astype(np.uint8)


def test_the_mean_halves_contrast_loses_no_detectability_and_cancels_opposite_signs() -> None:
    found = study_lesions(mean, *slices(), ("mr", "ct"))
    assert list(found.transfer.values()) == pytest.approx([0.5] * 4, abs=0.01)
    assert found.shared["a+b+"] == pytest.approx(1, abs=0.02) and found.shared["a+b-"] == pytest.approx(0, abs=0.02)
    assert list(found.efficiency.values()) == pytest.approx([1] * 4, abs=0.15)
    assert found.noise == ("zero-filled", "soft")


def test_a_fusion_that_shows_one_source_loses_the_others_lesions() -> None:
    found = study_lesions(lambda a, b: a, *slices(), ("mr", "pet"))
    assert found.transfer == pytest.approx({"a+": 1, "a-": 1, "b+": 0, "b-": 0}, abs=0.01)
    assert found.efficiency["a+"] > 0.9 and found.efficiency["b+"] < 0.1


def test_where_no_lesion_fits_nothing_is_claimed() -> None:
    found = study_lesions(mean, *slices(60), ("mr", "ct"))
    assert not found.efficiency and not found.false_positives
    empty = study_lesions(mean, *slices(20), ("mr", "ct"))
    assert not empty.transfer and not empty.shared
