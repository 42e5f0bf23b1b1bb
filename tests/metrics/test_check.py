"""The check of a fused picture: right fusions pass, wrong ones are caught, each by its own kind of flag."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ddfm_monai.errors import InputError
from ddfm_monai.metrics import FLAGS, check_fusion

SIZE = 144
CENTRE = (70, 76)


def texture(seed: int, sigma: float) -> np.ndarray:
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(SIZE, SIZE)), sigma)
    return field / field.std()


def blob(sigma: float, centre: tuple[int, int] = CENTRE) -> np.ndarray:
    rows, columns = (np.arange(SIZE) - c for c in centre)
    return np.exp(-(rows[:, None] ** 2 + columns**2) / (2 * sigma**2))


def grey(image: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


@pytest.fixture
def sources() -> tuple[np.ndarray, np.ndarray]:
    """Two heads with texture of their own at the scales of lesions and of detail, black around."""
    head = blob(60) > 0.5
    a = 110 + 14 * texture(1, 4) + 9 * texture(2, 1)
    b = 90 + 14 * texture(3, 5) + 7 * texture(4, 1.2)
    return grey(a * head), grey(b * head)


def mixture(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return grey(0.7 * a + 0.5 * b)


def evenly(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return grey(0.7 * a + 0.7 * b)


def regional(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From the one source to the other over 20 pixels."""
    share = 1 / (1 + np.exp(-(np.arange(SIZE) - 70) / 5))
    return grey(share * a + (1 - share) * b)


RIGHT: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mixture": mixture,
    "maximum": np.maximum,
    "regional": regional,
    "first": lambda a, b: a,
    "inverted second": lambda a, b: grey(a + 60 - 0.4 * b),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_fusion_that_takes_from_its_sources_passes(sources: tuple[np.ndarray, np.ndarray], name: str) -> None:
    found = check_fusion(RIGHT[name](*sources), *sources)
    assert found.shares["flagged"] < 0.005
    assert found.flags.shape == (SIZE, SIZE) and found.flags.dtype == np.uint8


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["mixture", "maximum", "regional"])
def test_a_lesion_pasted_in_is_flagged_as_invented(
    sources: tuple[np.ndarray, np.ndarray], name: str, sign: int
) -> None:
    wrong = grey(RIGHT[name](*sources) + sign * 60 * blob(4))
    flags = check_fusion(wrong, *sources).flags
    core = flags[blob(4) > 0.7]
    assert np.mean(core == FLAGS["invented"]) > 0.9
    assert not flags[blob(14) < 0.1].any()  # and there only


@pytest.mark.parametrize("which", [0, 1])
def test_a_lesion_left_out_is_flagged_as_missing(sources: tuple[np.ndarray, np.ndarray], which: int) -> None:
    with_lesion = [x.astype(float) for x in sources]
    with_lesion[which] += 120 * blob(3)
    a, b = map(grey, with_lesion)
    assert check_fusion(evenly(a, b), a, b).shares["flagged"] < 0.005
    flags = check_fusion(evenly(*sources), a, b).flags
    core = flags[blob(3) > 0.7]
    assert np.any(core == FLAGS["missing"]) and not np.any(core == FLAGS["invented"])
    assert not flags[blob(14) < 0.1].any()


def test_a_region_smoothed_is_flagged_in_its_detail(sources: tuple[np.ndarray, np.ndarray]) -> None:
    right = mixture(*sources)
    region = blob(20) > 0.4
    flags = check_fusion(np.where(region, gaussian_filter(right, 2.5), right), *sources).flags
    assert np.mean(flags[blob(20) > 0.8] == FLAGS["detail"]) > 0.9
    assert not flags[blob(30) < 0.1].any()


def test_texture_of_neither_source_is_flagged_in_its_detail(sources: tuple[np.ndarray, np.ndarray]) -> None:
    smooth = gaussian_filter(mixture(*sources).astype(float), 4)
    foreign = grey(smooth + 12 * texture(9, 1))
    flags = check_fusion(foreign, *sources).flags
    assert np.mean(flags[blob(30) > 0.5] == FLAGS["detail"]) > 0.6


def test_where_sources_are_flat_the_rule_is_that_of_the_head() -> None:
    """A small lesion in even tissue comes through as all of the head does; what stands in the air is no rule."""
    head = blob(40) > 0.5
    tissue = 110 + 14 * texture(1, 4) * (1 - blob(12)) + 25 * blob(3)
    a = grey(np.where(head, tissue, np.clip(5 + 2.5 * texture(5, 5), 0, 10)))
    b = grey(np.where(head, 90, 0))
    flags = check_fusion(grey(np.where(head, 0.8 * a + 20, 20.0 * a)), a, b).flags
    assert not flags[blob(25) > 0.5].any()


def test_denoising_is_no_smoothing(sources: tuple[np.ndarray, np.ndarray]) -> None:
    """Noise that both sources have everywhere may go."""
    head = sources[0] > 0
    random = np.random.default_rng(0)
    clean = [grey(gaussian_filter(x.astype(float), 2.5) * head) for x in sources]
    noisy = [grey((x + random.normal(0, 10, x.shape)) * head) for x in clean]
    assert check_fusion(mixture(*clean), *noisy).shares["flagged"] < 0.01


def test_a_volume_is_checked_slice_by_slice_and_shares_are_of_the_head(sources: tuple[np.ndarray, np.ndarray]) -> None:
    right = mixture(*sources)
    wrong = grey(right + 50 * blob(4))
    empty = np.zeros_like(right)
    a, b = (np.stack([x, x, empty], axis=-1) for x in sources)
    found = check_fusion(np.stack([wrong, right, empty], axis=-1), a, b)
    alone = check_fusion(wrong, *sources)
    assert np.array_equal(found.flags[..., 0], alone.flags) and not found.flags[..., 2].any()
    assert alone.shares["invented"] > 0
    assert found.shares["invented"] == pytest.approx(alone.shares["invented"] / 2)
    assert found.shares["flagged"] == pytest.approx(sum(found.shares[name] for name in FLAGS))


@pytest.mark.parametrize("shape", [(17, 33), (40, 41)])
def test_any_size_can_be_checked(shape: tuple[int, int]) -> None:
    a = np.random.default_rng(0).integers(20, 200, shape).astype(np.uint8)
    assert check_fusion(a, a, a).flags.shape == shape
    assert not check_fusion(np.zeros_like(a), np.zeros_like(a), np.zeros_like(a)).flags.any()
    with pytest.raises(InputError, match="Shapes differ"):
        check_fusion(a[:-1], a, a)
