"""However a head is stored, its air, brain and lesion come out as the same grey levels; or it is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.errors import InputError
from ddfm_monai.volumes import choose_scaling, foreground_mask, make_volume, read_source
from ddfm_monai.volumes.hounsfield import measure

from . import variants
from .variants import AFFINE, CIRCLE, VARIANTS, Variant, head, levels

PLAIN = {kind: levels(Variant(kind, "").source(), kind) for kind in ("mr", "ct", "pet", "spect")}


def check(found: dict[str, float], kind: str, close: float) -> None:
    assert found["air"] <= 5 and found["outside"] <= 5, found
    for name in ("brain", "lesion"):
        assert abs(found[name] - PLAIN[kind][name]) <= close + (8 if name == "lesion" and close > 5 else 0), found


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: f"{v.kind}: {v.words}")
def test_grey_levels_do_not_depend_on_the_storage(variant):
    source = variant.source()
    assert source.scaling.kind == variant.kind
    check(levels(source, variant.kind), variant.kind, variant.close)
    assert not source.warnings


def test_the_plain_heads_have_the_levels_that_they_should():
    """Brain window: 35 HU of 0..80 is 112. MR: 500 - 7 of the 996 from air to lesion is 126. PET: 12000 of 22111."""
    assert PLAIN["ct"]["brain"] == pytest.approx(112, abs=2) and PLAIN["ct"]["lesion"] == pytest.approx(223, abs=2)
    assert PLAIN["mr"]["brain"] == pytest.approx(126, abs=2) and PLAIN["mr"]["lesion"] > 250
    assert PLAIN["pet"]["brain"] == pytest.approx(138, abs=2) and PLAIN["pet"]["lesion"] > 250


def test_the_table_in_the_documentation_is_what_comes_out():
    page = Path(__file__).parents[2] / "docs" / "inputs.md"
    assert variants.table() in page.read_text()


@given(
    kind=st.sampled_from(["mr", "ct", "pet", "spect"]),
    dtype=st.sampled_from(["i2", "u2", "i4", "f4", "f8"]),
    offset=st.sampled_from([0, 1000, 1024]),
    padding=st.sampled_from([None, -1, -1024, -2000, -3024, -9999, -32768, 32767, 65535]),
    scale=st.floats(-3, 4),
    slope=st.sampled_from([1.0, 0.5, 0.01]),
)
@settings(max_examples=60, deadline=None)
def test_any_storage_gives_the_same_grey_levels(kind, dtype, offset, padding, scale, slope):
    values = head(kind)
    values = values + offset if kind == "ct" else values * 10.0**scale
    if padding is not None and abs(padding) < 3000 and kind != "ct" and values.max() > 50 * abs(padding):
        padding = None  # a value that the image itself has is no padding
    stored = values / slope
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        if stored.max() > limits.max or stored.min() < min(limits.min, -1030 if offset < 1000 else 0) * 1.0:
            return  # does not fit the type, or is wrapped by it
        if (kind != "ct" and stored.max() < 80) or (limits.min == 0 and stored.min() < -30):
            return  # too coarse to tell brain from lesion; negative HU in an unsigned type
        stored = np.clip(np.rint(stored), limits.min, limits.max)
    values = stored * slope
    if padding is not None:
        values = np.where(CIRCLE, padding, values)
    bits = 8 * np.dtype(dtype).itemsize
    source = read_source(make_volume(values[None].astype(np.float32), AFFINE, bitpix=bits), "second", kind)
    check(levels(source, kind), kind, 6)


@pytest.mark.parametrize("offset", [0, 1000, 1024, 32768, -500, 300, 2048])
@pytest.mark.parametrize("air", [-1000, -1024])
@pytest.mark.parametrize("tissue", [28, 35, 45])
def test_the_zero_of_a_ct_is_found_from_air_and_soft_tissue(offset, air, tissue):
    body = head("ct") + np.where((head("ct") > 25) & (head("ct") < 45), tissue - 35, 0)
    values = np.where(head("ct") < -900, air, body)
    found = measure((values + offset).ravel())
    unknown = offset not in (0, 1000, 1024, 32768)
    assert found is not None and found.known != unknown
    if unknown:
        assert abs(found.offset - offset) <= 24  # whether its air is -1000 or -1024 cannot be known
    elif (offset, air, tissue) in ((1000, -1024, 45), (1024, -1024, 28)):
        assert found.other is not None or found.offset == offset  # 1024 + 21 is 1000 + 45: said to be in doubt
    else:
        assert found.offset == offset


def test_two_offsets_that_fit_alike_are_said():
    values = np.where(head("ct") < -900, 0, np.maximum(head("ct") + 1012, 0))
    source = read_source(make_volume(values[None].astype(np.float32), AFFINE), "second", "ct")
    assert any("fits as well" in warning for warning in source.warnings)


@pytest.mark.parametrize(
    "values",
    [
        lambda: head("mr"),
        lambda: head("pet"),
        lambda: head("pet") + np.random.default_rng(1).normal(0, 900, head("pet").shape),
        lambda: np.random.default_rng(0).integers(-4096, 4096, head("mr").shape),
        lambda: variants.undershoot(head("mr")),
        lambda: variants.zscored(head("mr")) * 1000,
    ],
    ids=["MR", "PET", "negative PET", "phase", "undershoot", "z-scored"],
)
def test_what_is_no_ct_has_no_peaks_of_one(values):
    found = measure(np.asarray(values(), dtype=float).ravel())
    assert found is None or found.air is None or not found.known


@pytest.mark.parametrize("window", ["bone", "40,80"])
@pytest.mark.parametrize(
    "stored",
    [
        lambda v: np.rint(255 * np.clip(v / 80, 0, 1)),  # the brain window as an 8-bit picture volume
        lambda v: np.rint(255 * np.clip((v + 160) / 400, 0, 1)),
        lambda v: np.clip(v / 80, 0, 1),
    ],
    ids=["8-bit brain", "8-bit soft tissue", "0 to 1"],
)
def test_a_window_for_a_ct_that_is_not_in_hu_is_refused(stored, window):
    volume = make_volume(stored(head("ct"))[None].astype(np.float32), AFFINE)
    with pytest.raises(InputError, match="not in HU") as caught:
        choose_scaling(volume, "ct", window)
    assert caught.value.code == "E_NOT_HU"
    scaling = choose_scaling(volume, "ct")
    assert scaling.low == 0 and scaling.high in (255, pytest.approx(1, abs=0.01))


def test_a_window_is_in_hu_whatever_the_offset():
    plain = choose_scaling(make_volume(head("ct")[None].astype(np.float32), AFFINE), "ct", "bone")
    moved = choose_scaling(make_volume((head("ct") + 1024)[None].astype(np.float32), AFFINE), "ct", "bone")
    assert (plain.low, plain.high) == (-500, 1300) and (moved.low, moved.high) == (524, 2324)


def test_a_ct_whose_zero_cannot_be_found_is_said_to_be_in_doubt():
    values = np.random.default_rng(0).uniform(-300, 2500, head("ct").shape)
    source = read_source(make_volume(values[None].astype(np.float32), AFFINE), "second", "ct")
    assert any("neither air" in warning for warning in source.warnings)


def test_noise_around_a_pets_offset_does_not_make_its_air_bright():
    noise = np.random.default_rng(0).normal(0, 300, head("pet").shape)
    source = Variant("pet", "", lambda v: v + noise - 20000, "i2").source()
    assert source.scaling.low == pytest.approx(-20000, abs=50)
    check(levels(source, "pet"), "pet", 5)


def test_the_background_of_a_zscored_mri_is_background_and_its_mean_tissue_is_not():
    volume = make_volume(variants.zscored(head("mr"))[None].astype(np.float32), AFFINE)
    inside = (volume[0] == 0).nonzero()
    assert len(inside)
    volume[0, 22, 26, 6] = 0.0  # a voxel of the brain that has exactly the value of the background
    scaling = choose_scaling(volume, "mr")
    grey = scaling.apply(volume)
    assert grey[0, 22, 26, 6] > 0.2
    assert foreground_mask(grey, scaling.air)[0, 0, 0].sum() == 0


@pytest.mark.parametrize(
    ("top", "bits", "picture"),
    [(91, 8, False), (120, 8, False), (200, 16, False), (255, 16, True), (180, 8, True), (255, 8, True)],
)
def test_whole_numbers_are_a_picture_only_if_they_fill_a_byte(top, bits, picture):
    values = np.rint(head("mr") / head("mr").max() * top)
    volume = make_volume(values[None].astype(np.float32), AFFINE, bitpix=bits)
    scaling = choose_scaling(volume, "mr")
    assert ("8-bit" in scaling.source) == picture
    assert scaling.high == 255 if picture else scaling.high <= top


@pytest.mark.parametrize("rim", [1.02, 1.05])
def test_padding_that_lies_as_far_below_air_as_air_below_tissue_is_not_taken_for_air(rim):
    values = np.where(rim > variants.DEPTH, head("ct"), -2000.0)
    found = measure(values.ravel())
    assert found is not None and (found.offset, found.known) == (0, True)
