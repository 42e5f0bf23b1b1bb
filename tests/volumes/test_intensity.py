"""Scaling by modality, reversibly; guesses; windows; background."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.volumes import (
    CT_WINDOWS,
    KINDS,
    choose_scaling,
    common_foreground,
    foreground_mask,
    guess_kind,
    make_volume,
    parse_window,
)

from .helpers import affine, head

SHAPE, GRID = (44, 52, 20), affine(spacing=(4.0, 4.0, 8.0), origin=(-88.0, -104.0, -80.0))


def volume(array, path=None):
    meta = {"filename_or_obj": path} if path else {}
    return make_volume(np.asarray(array, dtype=np.float32)[None], GRID, **meta)


def mr(noise=0.0, seed=0):
    """A head in arbitrary units, with the noise of a magnitude image."""
    signal = head(SHAPE, GRID).numpy()[0] * 800
    generator = np.random.default_rng(seed)
    return np.hypot(signal + generator.normal(0, noise, SHAPE), generator.normal(0, noise, SHAPE)) if noise else signal


def ct():
    """A head in HU: bone 1000, brain 35, air -1000."""
    values = head(SHAPE, GRID, "ct").numpy()[0]
    return np.interp(values, [0, 0.1, 0.15, 0.3, 0.35, 1.0], [-1000, -80, 5, 70, 35, 1000])


@given(
    kind=st.sampled_from(KINDS),
    low=st.floats(-2000, 2000),
    span=st.floats(1, 30000),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_any_volume_scales_to_the_unit_range_and_back(kind, low, span, whole, seed):
    values = low + span * np.random.default_rng(seed).random((9, 8, 7))
    source = volume(np.rint(values) if whole else values)
    if source.min() == source.max():
        return
    try:
        scaling = choose_scaling(source, kind)
    except InputError as error:
        assert error.code == "E_WINDOW_EMPTY"  # a CT with nothing in the window
        return

    scaled = scaling.apply(source)

    assert scaled.dtype == torch.float32
    assert scaled.min() >= 0 and scaled.max() <= 1
    assert scaling.high > scaling.low
    within = (source > scaling.low) & (source < scaling.high)
    back = scaled * (scaling.high - scaling.low) + scaling.low
    error = (back - source).abs()[within]
    assert not len(error) or error.max() <= 1e-5 * max(abs(scaling.low), abs(scaling.high))
    json.dumps(scaling.describe(), allow_nan=False)


def test_scaling_leaves_the_volume_alone_and_keeps_its_place():
    source = volume(mr())
    before = source.as_tensor().clone()
    scaled = choose_scaling(source, "mr").apply(source)
    assert torch.equal(source.as_tensor(), before)
    assert torch.equal(scaled.affine, source.affine)


def test_8bit_values_are_taken_as_they_are():
    source = volume(np.rint(mr() / 4))
    for kind in KINDS:
        scaling = choose_scaling(source, kind)
        assert (scaling.low, scaling.high) == (0, 255)
    scaled = scaling.apply(source)
    assert torch.equal((scaled.as_tensor() * 255).round(), source.as_tensor())


def test_ct_in_hu_gets_the_brain_window():
    source = volume(ct())
    scaling = choose_scaling(source, "auto")
    scaled = scaling.apply(source)[0].numpy()
    assert (scaling.kind, scaling.low, scaling.high) == ("ct", 0, 80)
    assert (scaled[ct() == 1000] == 1).all()
    assert (scaled[ct() == -1000] == 0).all()


def test_ct_stored_with_an_offset_is_recognised():
    scaling = choose_scaling(volume(ct() + 1024), "ct")
    assert (scaling.low, scaling.high) == (1024, 1104)


def test_ct_that_is_no_longer_in_hu_uses_its_own_range():
    scaling = choose_scaling(volume(np.clip((ct() + 1000) / 2000, 0, 1)), "ct")
    assert scaling.low == 0
    assert 0.9 < scaling.high <= 1


@pytest.mark.parametrize("stored", ["bytes in fractions", "16 bits of a picture", "12 bits of a picture", "16 bits"])
def test_a_ct_that_was_scaled_for_a_picture_is_not_taken_for_hu(stored):
    window = np.clip(ct() / 80, 0, 1)
    factor = {"bytes in fractions": 255, "12 bits of a picture": 4095}.get(stored, 65535)
    source = volume(window * factor)
    source.meta["picture"] = stored.endswith("picture")
    scaling = choose_scaling(source, "ct")
    expected = torch.from_numpy(window.astype(np.float32))
    assert "not in HU" in scaling.source and not scaling.doubts
    torch.testing.assert_close(scaling.apply(source)[0].as_tensor(), expected, atol=0.02, rtol=0)
    with pytest.raises(InputError, match="not in HU"):
        choose_scaling(source, "ct", "soft")


@pytest.mark.parametrize("name", CT_WINDOWS)
def test_named_windows(name):
    level, width = CT_WINDOWS[name]
    for window in (name, f"{level:g},{width:g}", (level, width)):
        scaling = choose_scaling(volume(ct()), "ct", window)
        assert (scaling.low, scaling.high) == (level - width / 2, level + width / 2)


@pytest.mark.parametrize("text", ["", "brains", "40", "40,0", "40,-80", "nan,80", "40,80,1", "40;80"])
def test_windows_that_are_none(text):
    with pytest.raises(UsageError, match="LEVEL,WIDTH"):
        parse_window(text)


def test_a_window_beside_all_values_is_refused():
    with pytest.raises(InputError, match="nothing lies between 2000 and 3000") as caught:
        choose_scaling(volume(ct()), "ct", (2500, 1000))
    assert caught.value.code == "E_WINDOW_EMPTY"


def test_unknown_kind():
    with pytest.raises(UsageError, match="spect"):
        choose_scaling(volume(mr()), "xray")


@pytest.mark.parametrize("outlier", [1.0, 1e5])
def test_mri_is_scaled_by_percentiles_so_outliers_do_not_matter(outlier):
    array = mr() + 0.5
    array[20, 20, 10] = outlier * 720
    scaling = choose_scaling(volume(array), "mr")
    assert scaling.low == 0.5
    assert 500 < scaling.high < 800


@pytest.mark.parametrize("outside", [0.0, -1.0, -1000.0])
def test_counts_begin_at_zero_whatever_stands_outside_a_mask(outside):
    """The darkest tissue of a masked head is no air: its counts mean what they say."""
    picture = head(SHAPE, GRID, "ct").numpy()[0]
    counts = np.where(picture > 0.12, 5000 + 20000 * picture, outside)
    scaling = choose_scaling(make_volume(counts[None], GRID), "pet")
    assert scaling.low == 0 and scaling.air == 0 and 20000 < scaling.high < 26000


def test_pet_goes_from_zero_to_a_robust_maximum():
    array = ndimage.gaussian_filter(mr(), 1.5) * 20 - 5.0
    array[22, 26, 10] = 1e7
    scaling = choose_scaling(volume(array), "pet")
    assert scaling.low == 0
    assert 5_000 < scaling.high < 20_000


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a/sub01_T1w.nii.gz", "mr"),
        ("a/head_CT.nii.gz", "ct"),
        ("a/FDG-PET.nii", "pet"),
        ("a/patient_nm_3.nii", "spect"),
        ("ct_02/mri.nii.gz", "mr"),
        ("PET/case7.nii.gz", "pet"),
        ("a/ct_to_mri.nii.gz", "ct"),  # "to" names what it was brought onto
        ("a/actor.nii.gz", "mr"),
        ("pt/ct/pet_ct.nii.gz", "ct"),  # two words in the name, one in the folder
        (None, "mr"),
    ],
)
def test_guesses_from_names(path, kind):
    assert guess_kind(volume(mr(), path)) == kind


def test_guesses_from_values():
    assert guess_kind(volume(ct(), "a/scan.nii")) == "ct"
    with pytest.raises(InputError, match=r"says PET, but its values are those of a CT in HU.*-kind pet or ct"):
        guess_kind(volume(ct(), "a/pet.nii"))
    assert guess_kind(make_volume(torch.rand(3, 4, 4, 4) * 255, GRID)) == "picture"
    assert guess_kind(make_volume(torch.rand(3, 4, 4, 4) * 255, GRID, filename_or_obj="spect_rgb.nii")) == "spect"
    assert guess_kind(make_volume(torch.rand(1, 4, 4, 1) * 255, GRID, picture=True)) == "picture"


@pytest.mark.parametrize("noise", [2.0, 8.0, 20.0])
def test_noise_in_the_air_is_background_and_dark_tissue_is_not(noise):
    source = volume(mr(noise))
    scaling = choose_scaling(source, "mr")
    mask = foreground_mask(scaling.apply(source), scaling.air)[0].numpy()
    body = mr() > 0
    air = ~ndimage.binary_dilation(body, iterations=2)
    assert mask[air].mean() < 0.01
    inner = ndimage.binary_erosion(body, iterations=2)
    dark = inner & (mr() < 50)  # bone: as dark as the air
    assert dark.any()
    solid = scaling.apply(source)[0].numpy() > 0.002
    assert mask[inner & solid].mean() > 0.995


@pytest.mark.parametrize("noise", [4.0, 8.0, 20.0])
def test_noise_that_was_clipped_at_zero_is_background(noise):
    """Half of the air is 0, so its median absolute deviation is too."""
    source = volume(np.maximum(mr() + np.random.default_rng(0).normal(0, noise, SHAPE), 0))
    scaling = choose_scaling(source, "mr")
    mask = foreground_mask(scaling.apply(source), scaling.air)[0].numpy()
    assert mask[~ndimage.binary_dilation(mr() > 0, iterations=2)].mean() < 0.001
    assert mask[ndimage.binary_erosion(mr() > 0, iterations=2)].mean() > 0.99


def test_a_clean_background_is_exact():
    for array in (mr(), np.rint(mr() / 4)):
        source = volume(array)
        scaling = choose_scaling(source, "mr")
        assert scaling.air == 0
        np.testing.assert_array_equal(foreground_mask(scaling.apply(source))[0].numpy(), array > 0)


def test_common_foreground_is_where_either_shows_something():
    a, b = torch.zeros(1, 9, 9, 3), torch.zeros(1, 9, 9, 3)
    a[0, 2, 2, 1], b[0, 6, 6, 1] = 0.5, 1.0
    mask = common_foreground(make_volume(a, GRID), make_volume(b, GRID))
    assert torch.equal(mask.as_tensor(), (a + b) > 0)
    assert mask.shape == (1, 9, 9, 3)


def test_what_is_said_to_be_a_picture_is_taken_as_it_is_however_dark():
    dark = torch.zeros(1, 20, 20, 3)
    dark[:, 5:15, 5:15] = 100
    scaling = choose_scaling(make_volume(dark, np.eye(4)), "picture")
    assert (scaling.low, scaling.high) == (0, 255)
