"""Properties that the field's metrics have whatever the pictures, and their values where they can be worked out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from ddfm_monai.errors import InputError
from ddfm_monai.metrics import METRIC_NAMES, evaluate_pair, evaluate_slices


def picture(seed: int, shape: tuple[int, ...] = (48, 56), smooth: bool = True) -> np.ndarray:
    """Blobs on a black frame, uint8."""
    generator = np.random.default_rng(seed)
    x = generator.uniform(0, 255, shape)
    if smooth:
        x = (x + np.roll(x, 1, 0) + np.roll(x, 1, 1) + np.roll(x, (1, 1), (0, 1))) / 4
    x[:6], x[:, :5] = 0, 0
    return np.rint(x).astype(np.uint8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_swapping_the_sources_changes_nothing(seed: int) -> None:
    f, a, b = (picture(seed + k) for k in range(3))
    assert evaluate_pair(f, a, b) == pytest.approx(evaluate_pair(f, b, a), rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(4)))
def test_order_of_slices_does_not_matter(order: list[int]) -> None:
    f, a, b = (picture(k, (44, 40, 4)) for k in range(3))
    assert evaluate_pair(f, a, b) == pytest.approx(evaluate_pair(f[..., order], a[..., order], b[..., order]), rel=1e-9)


def test_three_equal_pictures() -> None:
    a = picture(1)
    found = evaluate_pair(a, a, a)
    p = np.bincount(a.ravel()) / a.size
    entropy = -np.sum(p[p > 0] * np.log2(p[p > 0]))
    assert found["EN"] == pytest.approx(entropy)
    assert found["MI"] == pytest.approx(2 * entropy * math.log(2))
    assert found["VIF"] == pytest.approx(2)
    assert found["SSIM_range2"] == pytest.approx(2)
    assert found["SSIM_range255"] == pytest.approx(2)
    assert found["CC"] == pytest.approx(1)
    assert found["PSNR"] == 100
    assert found["SCD"] == 0
    assert found["Qabf"] == pytest.approx(0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2)), rel=1e-6)


def test_a_copy_of_one_source_has_a_defined_scd() -> None:
    a, b = picture(1), picture(2)
    r = np.corrcoef(a.ravel(), a.ravel() - b.ravel().astype(float))[0, 1]
    assert evaluate_pair(a, a, b)["SCD"] == pytest.approx(r)


def test_checkerboard_values_by_hand() -> None:
    board = np.where(np.indices((20, 20)).sum(0) % 2, 100, 0).astype(np.uint8)
    found = evaluate_pair(board, board, board)
    assert found["EN"] == pytest.approx(1)
    assert found["SD"] == pytest.approx(50)
    assert found["SF"] == pytest.approx(100 * math.sqrt(2))


@pytest.mark.parametrize("data_range", [2, 255])
def test_ssim_is_scikit_images(data_range: int) -> None:
    f, a, b = (picture(k).astype(float) for k in range(3))
    expected = sum(structural_similarity(f, s, data_range=data_range) for s in (a, b))
    assert evaluate_pair(f, a, b)[f"SSIM_range{data_range}"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("level", [0, 17, 255])
@pytest.mark.parametrize("which", ["f", "a", "b", "all"])
def test_constant_pictures_give_numbers(level: int, which: str) -> None:
    pictures = {name: picture(k) for k, name in enumerate("fab")}
    for name in pictures if which == "all" else which:
        pictures[name] = np.full_like(pictures[name], level)
    found = evaluate_pair(pictures["f"], pictures["a"], pictures["b"])
    assert all(math.isfinite(value) for value in found.values()), found


def test_noise_in_the_background_raises_entropy_and_ruins_ssim_at_range_2() -> None:
    """The two pitfalls that docs/metrics.md warns of."""
    a, b = np.zeros((2, 64, 64), np.uint8)
    a[20:44, 20:44] = picture(3, (24, 24))
    clean = np.maximum(a, b)
    noisy = np.where(clean == 0, np.random.default_rng(0).integers(0, 3, clean.shape), clean).astype(np.uint8)
    before, after = evaluate_pair(clean, a, b), evaluate_pair(noisy, a, b)
    assert after["EN"] > before["EN"] + 0.3
    assert after["SSIM_range2"] < before["SSIM_range2"] - 1
    assert after["SSIM_range255"] > before["SSIM_range255"] - 0.3


def test_volume_is_the_mean_of_its_foreground_slices() -> None:
    f, a, b = (picture(k, (40, 44, 3)) for k in range(3))
    for v in (f, a, b):
        v[..., 1] = 0
    rows = evaluate_slices(f, a, b)
    assert sorted(rows) == [0, 2]
    expected = {name: (rows[0][name] + rows[2][name]) / 2 for name in METRIC_NAMES}
    assert evaluate_pair(f, a, b) == pytest.approx(expected)


def test_empty_volumes_have_values_too() -> None:
    empty = np.zeros((32, 32, 2), np.uint8)
    assert evaluate_pair(empty, empty, empty)["EN"] == 0


def test_colour_counts_by_its_luma_and_tensors_are_welcome() -> None:
    f, a, b = (torch.as_tensor(picture(k, (3, 40, 44, 2)), dtype=torch.float32) for k in range(3))
    grey = [np.rint(np.tensordot([0.299, 0.587, 0.114], v.numpy(), axes=1)) for v in (f, a, b)]
    assert evaluate_pair(f, a, b) == pytest.approx(evaluate_pair(*grey))


def test_a_picture_read_as_a_volume_gives_what_its_array_gives() -> None:
    f, a, b = (picture(k) for k in range(3))
    assert evaluate_pair(*(v.T[None, ..., None] for v in (f, a, b))) == evaluate_pair(f, a, b)


def test_smallest_slices() -> None:
    f, a, b = (picture(k, (17, 17)) for k in range(3))
    assert all(map(math.isfinite, evaluate_pair(f, a, b).values()))
    with pytest.raises(InputError, match="16x17"):
        evaluate_pair(f[:16], a[:16], b[:16])


@pytest.mark.parametrize(
    ("fused", "message"),
    [
        (np.zeros((20, 21)), "Shapes differ"),
        (np.zeros((20, 20, 3)), "Shapes differ"),
        (np.full((20, 20), np.nan), "NaN"),
        (np.full((20, 20), np.inf), "infinite"),
        (np.full((20, 20), -3.0), "0..255"),
        (np.full((20, 20), 300.0), "0..255"),
        (np.full((20, 20), 0.5), "multiply by 255"),
        (np.zeros((2, 20, 20, 1)), "2 channels"),
        (np.zeros(400), "shape"),
        (np.zeros((0, 20)), "empty"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_reason(fused: np.ndarray, message: str) -> None:
    a = np.zeros((20, 20), np.uint8)
    with pytest.raises(InputError, match=message):
        evaluate_pair(fused, a, a)
