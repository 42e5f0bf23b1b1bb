"""Luma, hue and the colour maps."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddfm_monai.errors import UsageError
from ddfm_monai.volumes import make_volume
from ddfm_monai.volumes.colour import colour_map, to_luma, with_luma

from .helpers import AFFINES, noise


def test_luma_is_that_of_pillow():
    rgb = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    expected = np.asarray(Image.fromarray(rgb).convert("L"), dtype=float)

    luma = to_luma(torch.from_numpy(rgb.transpose(2, 0, 1)).float())

    assert luma.shape == (1, 5, 6)
    assert np.abs(luma[0].numpy() - expected).max() <= 1  # Pillow truncates


@given(rgb=st.tuples(*[st.integers(0, 255)] * 3), wanted=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_luma_is_replaced_and_hue_kept(rgb, wanted):
    colour = torch.tensor(rgb, dtype=torch.float32).reshape(3, 1)

    result = with_luma(colour, torch.tensor([[wanted]]))

    assert result.min() >= -1e-3 and result.max() <= 255.001
    assert abs(float(to_luma(result)) - wanted * 255) < 1e-2
    before = (colour - to_luma(colour)).flatten()
    after = (result - to_luma(result)).flatten()
    assert after.norm() <= before.norm() + 1e-2  # never more colourful than the source
    if after.norm() > 1 and before.norm() > 1:
        torch.testing.assert_close(after / after.norm(), before / before.norm(), atol=2e-3, rtol=0)
        hues = [colorsys.rgb_to_hsv(*(c.flatten() / 255).tolist())[0] for c in (colour, result)]
        assert min(abs(hues[0] - hues[1]), 1 - abs(hues[0] - hues[1])) < 0.01


def test_the_same_luma_gives_the_same_colour():
    rgb = noise((4, 5, 3), channels=3).as_tensor()
    torch.testing.assert_close(with_luma(rgb, to_luma(rgb) / 255), rgb, atol=1e-3, rtol=0)


def test_grey_stays_grey():
    grey = torch.full((3, 4), 90.0)
    torch.testing.assert_close(with_luma(grey, torch.full((1, 4), 0.25)), torch.full((3, 4), 63.75))


@pytest.mark.parametrize("kind", ["pet", "spect"])
def test_colour_maps_rise_evenly_and_show_colour(kind):
    grey = torch.linspace(0, 1, 256).reshape(1, -1)

    colours = colour_map(grey, kind)

    torch.testing.assert_close(to_luma(colours), grey * 255, atol=1e-2, rtol=0)
    assert torch.equal(colours[:, 0], torch.zeros(3))
    torch.testing.assert_close(colours[:, -1], torch.full((3,), 255.0))
    chroma = (colours - grey * 255).norm(dim=0)
    assert (chroma[40:200] > 25).all()
    steps = colours.diff(dim=1).norm(dim=0)
    assert steps.max() < 12  # no false edges


def test_maps_are_for_volumes_too():
    volume = noise(matrix=AFFINES["oblique"])
    colours = colour_map(volume, "pet")
    assert colours.shape == (3, *volume.shape[1:])
    assert torch.equal(colours.affine, volume.affine)
    fused = with_luma(colours, make_volume(volume.as_tensor() * 0.5, AFFINES["oblique"]))
    assert torch.equal(fused.affine, volume.affine)
    with pytest.raises(UsageError, match="spect"):
        colour_map(volume, "ct")
