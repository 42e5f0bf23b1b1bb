"""Lesion transfer, noise gain, coherence and hue error on fusions whose behaviour is known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.color import deltaE_ciede2000, rgb2lab

from ddfm_monai.errors import InputError
from ddfm_monai.metrics import (
    hue_error,
    lesion_probes,
    lesion_transfer,
    noise_gain,
    pixel_alternation,
    shared_lesion_probes,
    shared_lesion_transfer,
    streak_scene,
    streak_test,
    through_plane_coherence,
)
from ddfm_monai.metrics.colour import ciede2000_hue_difference, srgb_to_lab


def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a.astype(float) + b) / 2


def head(level: int, shape: tuple[int, ...] = (128, 144)) -> np.ndarray:
    """An ellipse of one grey level on black, the same in every slice."""
    y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    plane = np.where(x**2 + y**2 < 0.8, level, 0).astype(np.uint8)
    return plane if len(shape) == 2 else np.repeat(plane[..., None], shape[2], axis=2)


# --- lesions


def test_the_mean_keeps_half_of_every_lesion() -> None:
    found = lesion_transfer(mean, head(100), head(150))
    assert found == pytest.approx(dict.fromkeys(("a+", "a-", "b+", "b-", "worst"), 0.5))


def test_the_maximum_loses_what_the_brighter_source_covers() -> None:
    found = lesion_transfer(np.maximum, head(80), head(160))
    assert found["a+"] == 0 and found["a-"] == 0 and found["worst"] == 0
    assert found["b+"] == 1 and found["b-"] == 1


def test_taking_one_source_keeps_its_lesions_only() -> None:
    found = lesion_transfer(lambda a, b: a, head(100), head(100))
    assert [found[kind] for kind in ("a+", "a-", "b+", "b-")] == [1, 1, 0, 0]


def test_a_volume_is_fused_as_a_volume_and_averages_to_its_slices() -> None:
    shapes = []

    def fuse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        shapes.append(a.shape)
        return mean(a, b)

    volume = lesion_transfer(fuse, head(100, (128, 144, 3)), head(150, (128, 144, 3)))
    assert shapes == [(128, 144, 3)] * 5
    assert volume == pytest.approx(lesion_transfer(mean, head(100), head(150)))


def test_lesions_lie_deep_in_the_head_and_are_not_clipped() -> None:
    a, b = head(100), head(230)
    probes = lesion_probes(a, b)
    inside = a > 0
    for kind, probe in probes.items():
        altered, source, other = (probe.a, a, probe.b) if kind[0] == "a" else (probe.b, b, probe.a)
        assert np.array_equal(other, b if kind[0] == "a" else a)
        assert np.array_equal(altered.astype(float) - source, probe.lesion)
        assert np.sum(probe.lesion[~inside] ** 2) < 1e-3 * max(np.sum(probe.lesion**2), 1)
    assert probes["a+"].lesion.max() == 50 and probes["a-"].lesion.min() == -50
    assert np.count_nonzero(probes["a+"].lesion == 50) >= 4  # several positions
    assert not probes["b+"].lesion.any()  # no headroom above 230


def test_a_kind_that_fits_nowhere_is_nan_and_not_the_worst() -> None:
    found = lesion_transfer(mean, head(100), head(230))
    assert math.isnan(found["b+"]) and found["worst"] == pytest.approx(0.5)


@pytest.mark.parametrize("level", [0, 128])
def test_no_room_for_any_lesion_is_an_error(level: int) -> None:
    tiny = np.full((20, 20), level, np.uint8)
    with pytest.raises(InputError, match="No lesion fits"):
        lesion_transfer(mean, tiny, tiny)


def test_fusion_of_another_shape_is_refused() -> None:
    with pytest.raises(InputError, match="same"):
        lesion_transfer(lambda a, b: a[:-1], head(100), head(100))


# --- lesions in both sources

SIGNS = {"a+b+": 1, "a-b-": 1, "a+b-": -1, "a-b+": -1}


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_the_mean_adds_lesions_of_equal_sign_and_takes_opposite_ones_from_each_other(ratio: float) -> None:
    found = shared_lesion_transfer(mean, head(100), head(150), ratio)
    weaker = min(ratio, 1 / ratio)
    for kind, sign in SIGNS.items():
        assert found[kind] == pytest.approx((1 + sign * weaker) / 2, abs=0.02)  # 25 levels are rounded to whole ones
    assert found["worst"] == min(found[kind] for kind in SIGNS)


def test_a_selected_source_keeps_its_own_part_of_a_shared_lesion() -> None:
    second_only = shared_lesion_transfer(lambda a, b: b, head(100), head(150), 0.5)
    assert all(found == pytest.approx(0.5, abs=0.02) for found in second_only.values())
    second_only = shared_lesion_transfer(lambda a, b: b, head(100), head(150), 2.0)
    assert all(found == 1 for found in second_only.values())


def test_a_choice_that_flips_inside_the_lesion_loses_contrast() -> None:
    """b is 40 brighter: at the rim of the lesion b, darkened, is still the brighter one, in its middle a."""
    found = shared_lesion_transfer(np.maximum, head(100), head(140))
    assert found["a-b+"] == 1 and found["a+b+"] == 1 and found["a-b-"] == 1
    assert 0 < found["a+b-"] < 0.5


def test_bright_and_dark_results_do_not_cancel() -> None:
    """The left part takes a, the right part b: each keeps the lesion fully, one bright and one dark."""
    left = np.arange(144) < 52  # between two columns of lesions

    def halves(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(left, a, b)

    found = shared_lesion_transfer(halves, head(100), head(150))
    assert found["a+b-"] > 0.98


def test_shared_lesions_are_in_both_sources_and_in_a_volume_too() -> None:
    volume = shared_lesion_probes(head(100, (128, 144, 2)), head(150, (128, 144, 2)))["a+b-"]
    slices = shared_lesion_probes(head(100), head(150))["a+b-"]
    assert len(volume.centres) == 2 * len(slices.centres) >= 8
    assert np.array_equal(volume.a[..., 1], slices.a) and np.array_equal(volume.b[..., 0], slices.b)
    assert all(volume.a[centre] == 150 and volume.b[centre] == 100 for centre in volume.centres)
    assert not shared_lesion_probes(head(100), head(230))["a-b+"].centres  # no headroom in b


# --- artefacts


def test_streaks_displace_nothing_if_the_mri_is_taken() -> None:
    assert streak_test(lambda a, b: a) == pytest.approx(
        {"mri": 1, "streaks": 0, "r_mri": 1, "r_ct": streak_test(lambda a, b: a)["r_ct"]}
    )
    taken = streak_test(lambda a, b: b)
    assert taken["mri"] == pytest.approx(0) and taken["streaks"] == pytest.approx(1) == taken["r_ct"]
    halved = streak_test(mean)
    assert halved["mri"] == pytest.approx(0.5) == halved["streaks"]
    assert halved["r_ct"] > halved["r_mri"]  # as in a real one, the streaks are the stronger detail


def test_the_streaks_are_in_one_source_only() -> None:
    scene = streak_scene()
    assert np.array_equal(scene.b[~(scene.a > 40)], scene.streaked[~(scene.a > 40)])
    assert np.ptp(scene.b[scene.where]) == 0 < np.ptp(scene.streaked[scene.where])


def test_pixels_that_alternate_are_seen_and_the_sources_own_are_not() -> None:
    a, b = textured(0)[..., :1], textured(1)[..., :1]
    assert pixel_alternation(a, a, b) == 0 and pixel_alternation(b, a, b) == 0
    assert pixel_alternation(mean(a, b), a, b) < 0.1
    dotted = np.maximum(a, b).astype(int)
    dotted[10:40:10, 5:35:2] += 60
    found = [pixel_alternation(np.clip(x, 0, 255), a, b) for x in (np.maximum(a, b), dotted)]
    assert found[1] > 3 * found[0]


def test_an_edge_is_no_alternation() -> None:
    edge = np.where(np.arange(64) < 32, 40, 200) * np.ones((64, 1), int)
    still = np.full((64, 64), 40)
    assert pixel_alternation(edge, still, still) == 0
    checkers = still + 20 * (np.add.outer(np.arange(64), np.arange(64)) % 2)
    assert pixel_alternation(checkers, still, still) > 5


# --- noise


def test_the_maximum_gains_nothing_over_itself() -> None:
    assert noise_gain(np.maximum, head(100), head(90)) == {"slice": 0, "head": 0}


def test_the_mean_gains_three_decibels_where_the_maximum_takes_one_source() -> None:
    # Far from each other's level the maximum passes on one source's noise whole; the mean halves its power.
    assert noise_gain(mean, head(60), head(180))["head"] == pytest.approx(10 * math.log10(2), abs=0.1)


def test_smoothing_gains_and_sharpening_loses() -> None:
    def smooth(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return gaussian_filter(np.maximum(a, b).astype(float), 1.5)

    def sharp(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        m = np.maximum(a, b).astype(float)
        return np.clip(m + 2 * (m - gaussian_filter(m, 1.5)), 0, 255)

    a, b = head(100), head(60)
    assert noise_gain(smooth, a, b)["slice"] > 6
    assert noise_gain(sharp, a, b)["head"] < -3


def test_blackening_the_background_gains_on_the_slice_but_not_in_the_head() -> None:
    inside = head(1).astype(bool)
    found = noise_gain(lambda a, b: np.maximum(a, b) * inside, head(100), head(60))
    assert found["slice"] > 0.5 and found["head"] == 0


def test_noise_depends_on_its_seed_only() -> None:
    found = [noise_gain(mean, head(100), head(60), seed=seed)["slice"] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_noise_needs_a_head() -> None:
    with pytest.raises(InputError, match="foreground"):
        noise_gain(mean, np.zeros((32, 32)), np.zeros((32, 32)))


# --- coherence


def textured(seed: int) -> np.ndarray:
    x = gaussian_filter(np.random.default_rng(seed).normal(0, 1, (40, 44, 8)), 1.5)
    return np.clip(128 + 400 * x, 20, 255).astype(np.uint8)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_selecting_and_mixing_add_no_change_between_slices(seed: int) -> None:
    a, b = textured(seed), textured(seed + 1)
    for fuse in (np.maximum, np.minimum, lambda a, b: a):
        assert through_plane_coherence(fuse(a, b), a, b) == 0
    assert through_plane_coherence(mean(a, b), a, b) < 1e-3  # rounding


def test_flicker_shows_in_proportion() -> None:
    a, b = textured(0), textured(1)
    flicker = np.array([-1, 1] * 4)
    found = [through_plane_coherence(np.clip(mean(a, b) + s * flicker, 0, 255), a, b) for s in (2, 5, 20)]
    assert 0.005 < found[0] < found[1] < found[2]


def test_still_sources_allow_no_change() -> None:
    a = head(100, (32, 32, 4))
    fused = a + np.where(a > 0, np.array([0, 6, 0, 6], np.uint8), 0)
    assert through_plane_coherence(a, a, a) == 0
    assert through_plane_coherence(fused, a, a) == pytest.approx(6)


def test_coherence_needs_slices() -> None:
    with pytest.raises(InputError, match="two slices"):
        through_plane_coherence(head(100), head(100), head(100))


# --- colour


def colours(seed: int, count: int = 500) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, count)).astype(float)


def test_lab_is_scikit_images() -> None:
    rgb = colours(0)
    assert np.allclose(srgb_to_lab(rgb).T, rgb2lab(rgb.T / 255), atol=0.05)


def test_hue_term_is_that_of_ciede2000() -> None:
    """Switching lightness and chroma off by huge weights leaves the hue term (and no rotation term) of an oracle."""
    one, two = srgb_to_lab(colours(1)), srgb_to_lab(colours(2))
    oracle = deltaE_ciede2000(one.T, two.T, kL=1e9, kC=1e9, kH=1)
    assert np.allclose(ciede2000_hue_difference(one, two), oracle, atol=1e-6)


def test_luma_changes_cost_no_hue_but_swapped_colours_do() -> None:
    rgb = colours(3).reshape(3, 20, 25) / 3 + 20
    assert hue_error(rgb, rgb) == 0
    assert hue_error(rgb[[1, 2, 0]], rgb) > 10
    assert hue_error(1.4 * rgb, rgb) < 2


def test_a_grey_source_has_no_hue_to_lose() -> None:
    grey = np.repeat(colours(4)[:1], 3, axis=0)
    assert hue_error(colours(5), grey) == 0


def test_hue_error_wants_two_colour_pictures() -> None:
    with pytest.raises(InputError, match="colour"):
        hue_error(np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
