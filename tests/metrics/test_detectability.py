"""The observer study on fusions whose efficiency is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.detectability import LEVELS, Noise, detectability
from ddfm_monai.metrics.observers import auc_of_dprime

WHITE = Noise("white", "white")
SHAPE = (152, 168)


def head(level: int) -> np.ndarray:
    """Two slices with an ellipse of one grey level on black."""
    y, x = np.ogrid[-1 : 1 : SHAPE[0] * 1j, -1 : 1 : SHAPE[1] * 1j]
    plane = np.where(x**2 + y**2 < 0.95, level, 0).astype(np.uint8)
    return np.repeat(plane[..., None], 2, axis=-1)


def study(fuse, noise: Noise = WHITE, realisations: int = 8, both: bool = True, **levels: int):
    return detectability(fuse, head(levels.get("a", 110)), head(levels.get("b", 130)), noise, realisations, both=both)


def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(float) + b) / 2


def test_a_copy_of_a_source_is_as_good_as_the_source_and_blind_to_the_other() -> None:
    found = study(lambda a, b: a)
    for kind in ("a+", "a-"):
        cell = found[kind]
        assert all(value == pytest.approx(1) for value in cell.efficiency.values())
        assert cell.difference == (0, 0) and cell.false_positives == pytest.approx(0.05, abs=0.01)
        expected = np.mean([auc_of_dprime(level) for level in LEVELS])
        assert cell.auc_source == pytest.approx(expected, abs=0.05)  # contrasts are set by d'
    for kind in ("b+", "b-"):
        assert found[kind].efficiency["DoG"] < 0.03 and found[kind].difference[1] < -0.2


def test_an_observer_that_learnt_from_few_realisations_is_a_little_worse_than_one_that_knows_never_better() -> None:
    found = study(lambda a, b: a, realisations=12)
    knowing = np.mean([auc_of_dprime(level) for level in LEVELS])
    assert knowing - 0.02 < np.mean([cell.auc_source for cell in found.values()]) < knowing


def test_the_mean_of_two_equally_noisy_sources_has_half_the_efficiency() -> None:
    """Signal halved, noise power halved: (1/2)² / (1/2)."""
    found = study(mean, realisations=12)
    for cell in found.values():
        assert cell.efficiency["DoG"] == pytest.approx(0.5, abs=0.13)
        assert cell.efficiency["NPWE"] == pytest.approx(0.5, abs=0.13)
        assert cell.difference[1] < 0


def test_beside_a_source_without_noise_the_mean_loses_nothing() -> None:
    for cell in study(mean, both=False).values():
        assert cell.efficiency["DoG"] == pytest.approx(1, abs=0.05) and cell.difference[0] > -0.02


def test_of_a_fixed_mixture_the_efficiencies_for_both_sources_add_up_to_one() -> None:
    found = study(lambda a, b: 0.75 * a + 0.35 * b, realisations=12)
    assert found["a+"].efficiency["NPWE"] + found["b+"].efficiency["NPWE"] == pytest.approx(1, abs=0.2)
    assert found["a+"].efficiency["NPWE"] > 2 * found["b+"].efficiency["NPWE"]


def test_contrast_does_not_help_and_smoothing_does_not_hurt_a_linear_observer_much() -> None:
    """Stretching takes signal and noise alike; so does a filter that the observer can undo."""
    found = study(lambda a, b: 60 + 0.5 * gaussian_filter(a.astype(float), (1.0, 1.0, 0)), realisations=6)
    for kind in ("a+", "a-"):
        assert found[kind].efficiency["DoG"] == pytest.approx(1, abs=0.15)


def test_a_fusion_that_invents_lesions_has_false_positives() -> None:
    def clumped(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Noise turned into blobs, as a generative model may."""
        level = np.median(a[a > 0])
        blobs = 6 * gaussian_filter(a - level, (3.0, 3.0, 0))
        return np.where(a > 0, level + (a - level) + blobs, 0)

    assert study(clumped, realisations=4)["a+"].false_positives > 0.2
    assert study(lambda a, b: 60 + 0.5 * a, realisations=4)["a+"].false_positives < 0.01


def test_noise_of_the_other_source_costs_by_its_kind() -> None:
    """A sum with a source whose noise has little power at the lesion's scale loses less."""
    a_plus = {
        noise.b: study(mean, noise, realisations=6)["a+"].efficiency["DoG"]
        for noise in (Noise("white", "sharp"), Noise("white", "zero-filled"))
    }
    assert a_plus["sharp"] > a_plus["zero-filled"] + 0.1


def test_kinds_without_a_place_are_left_out_and_nothing_at_all_is_an_error() -> None:
    assert set(study(np.maximum, b=250)) == {"a+", "a-"}
    with pytest.raises(InputError, match="No place"):
        study(np.maximum, a=250, b=250)
    with pytest.raises(InputError, match="even"):
        study(np.maximum, realisations=5)
