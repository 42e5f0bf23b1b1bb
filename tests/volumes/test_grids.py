"""Resampling against an independent implementation and against known fields; overlap and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from ddfm_monai.errors import InputError
from ddfm_monai.volumes import (
    affine_of,
    check_overlap,
    make_volume,
    overlap_fraction,
    resample_to,
    same_grid,
    spacing_of,
)
from ddfm_monai.volumes.formats.itk import to_sitk

from .helpers import AFFINES, affine, noise


def ramp(shape, matrix):
    """A volume whose value is a linear function of the place in mm: linear interpolation must hit it exactly."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ matrix[:3, :3].T + matrix[:3, 3], -1, 0)
    return make_volume((100 + 0.5 * x - 0.25 * y + z).astype(np.float32)[None], matrix)


def inside(reference, moving, transform=None):
    """Voxels of ``reference`` that lie between voxel centres of ``moving``."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in reference.shape[1:]], indexing="ij"), axis=-1)
    mapping = np.linalg.inv(affine_of(moving)) @ (np.eye(4) if transform is None else transform) @ affine_of(reference)
    mapped = index @ mapping[:3, :3].T + mapping[:3, 3]
    return ((mapped >= 0) & (mapped <= np.array(moving.shape[1:]) - 1)).all(axis=-1)


CENTRED = {"origin": (-10.0, -12.0, -9.0)}


@pytest.mark.parametrize(
    "moving",
    [
        affine(flips=(-1, 1, 1), origin=(12, -12, -9)),
        affine(spacing=(0.8, 1.2, 2.5), angles=(10, -15, 25), **CENTRED),
        affine(spacing=(1, 1, 1.5), angles=(8, 0, 0), shear=0.3, **CENTRED),
    ],
    ids=["LAS", "oblique", "sheared"],
)
def test_a_linear_field_is_found_again(moving):
    reference = noise((20, 22, 14), affine(spacing=(1.1, 1.0, 1.6), angles=(0, 5, -7), **CENTRED))
    source = ramp((26, 25, 20), moving)

    result = resample_to(source, reference)

    where = inside(reference, source)
    expected = ramp(tuple(reference.shape[1:]), affine_of(reference))
    assert where.mean() > 0.2
    np.testing.assert_allclose(result[0].numpy()[where], expected[0].numpy()[where], atol=1e-3)
    np.testing.assert_array_equal(affine_of(result), affine_of(reference))
    assert result.shape[1:] == reference.shape[1:]
    assert result.dtype == torch.float32


def test_agrees_with_simpleitk_outside_the_field_of_view_too():
    reference = noise((20, 22, 14), affine(spacing=(1.1, 1.0, 1.6), angles=(0, 5, -7), **CENTRED))
    moving = noise((15, 14, 10), affine(spacing=(0.9, 1.3, 2.1), angles=(10, -15, 25), **CENTRED), seed=3)

    ours = resample_to(moving, reference, fill=-1.0)[0].numpy()

    theirs = sitk.GetArrayFromImage(
        sitk.Resample(to_sitk(moving), to_sitk(reference), sitk.Transform(), sitk.sitkLinear, -1.0)
    )
    np.testing.assert_allclose(ours, theirs.T, atol=1e-4)
    assert (ours == -1).any()


def test_a_transform_takes_reference_points_to_moving_points():
    reference = noise((16, 16, 16), affine(origin=(0, 0, 0)))
    shift = np.eye(4)
    shift[:3, 3] = (2, -3, 1)
    source = ramp((24, 24, 24), affine(origin=(-4, -4, -4)))

    result = resample_to(source, reference, shift)

    where = inside(reference, source, shift)
    expected = ramp((16, 16, 16), shift @ affine_of(reference))
    np.testing.assert_allclose(result[0].numpy()[where], expected[0].numpy()[where], atol=1e-3)


def test_colour_is_resampled_channel_by_channel():
    colour = noise((10, 11, 6), affine(origin=(0, 0, 0)), channels=3)
    reference = noise((8, 9, 5), affine(origin=(0.5, 0.5, 0.5)))

    result = resample_to(colour, reference)

    for channel in range(3):
        single = make_volume(colour.as_tensor()[channel : channel + 1], affine_of(colour))
        assert torch.equal(result.as_tensor()[channel], resample_to(single, reference).as_tensor()[0])


def test_equal_grids_are_not_touched():
    moving = noise()
    reference = make_volume(torch.zeros(1, 7, 9, 5), affine_of(moving) + 1e-9)

    result = resample_to(moving, reference)

    assert same_grid(moving, reference)
    assert result.data_ptr() == moving.data_ptr()
    np.testing.assert_array_equal(affine_of(result), affine_of(reference))


def test_half_a_voxel_is_another_grid():
    moving = noise()
    shifted = affine_of(moving)
    shifted[0, 3] += 0.5
    assert not same_grid(moving, make_volume(moving.as_tensor(), shifted))
    assert not same_grid(moving, noise((7, 9, 6)))


def test_a_single_slice_fills_its_own_thickness():
    slab = make_volume(torch.full((1, 8, 8, 1), 0.5), affine(spacing=(1, 1, 5), origin=(0, 0, 0)))
    slab.as_tensor()[0, 0, 0, 0] = 0
    reference = noise((8, 8, 9), affine(origin=(0, 0, -4)))

    result = resample_to(slab, reference)[0].numpy()

    np.testing.assert_array_equal((result[4, 4] > 0).nonzero()[0], [2, 3, 4, 5, 6])  # within 2.5 mm of the centre


@pytest.mark.parametrize("name", AFFINES)
def test_spacing_and_self_overlap(name):
    volume = noise(matrix=AFFINES[name])
    np.testing.assert_allclose(spacing_of(volume), np.linalg.norm(AFFINES[name][:3, :3], axis=0))
    assert overlap_fraction(volume, volume) == 1.0


def test_overlap_counts_the_smaller_box():
    large, small = noise((20, 20, 20), affine(origin=(0, 0, 0))), noise((4, 4, 4), affine(origin=(18, 0, 0)))
    assert overlap_fraction(large, small) == overlap_fraction(small, large) == 0.5


def test_a_transform_brings_the_boxes_together_first():
    """It takes a point of the first to the second, whichever of the two is the larger one."""
    large, small = noise((20, 20, 20), affine(origin=(0, 0, 0))), noise((4, 4, 4), affine(origin=(108, 0, 0)))
    assert overlap_fraction(large, small) == overlap_fraction(small, large) == 0
    assert overlap_fraction(large, small, affine(origin=(90, 0, 0))) == 0.5
    assert overlap_fraction(small, large, affine(origin=(-90, 0, 0))) == 0.5
    check_overlap(large, small, affine(origin=(90, 0, 0)))


def test_volumes_apart_are_refused():
    here, there = noise(matrix=affine(origin=(0, 0, 0))), noise(matrix=affine(origin=(100, 0, 0)))
    for call in (check_overlap, lambda a, b: resample_to(b, a)):
        with pytest.raises(InputError, match="overlaps") as caught:
            call(here, there)
        assert caught.value.code == "E_NO_OVERLAP"
        assert "register" in str(caught.value)


def test_pictures_must_have_one_size_and_no_volume_beside_them():
    large = make_volume(torch.rand(1, 8, 9, 1), np.eye(4), picture=True)
    small = make_volume(torch.rand(1, 8, 8, 1), np.eye(4), picture=True)
    with pytest.raises(InputError, match="8 x 9 pixels") as caught:
        resample_to(small, large)
    assert caught.value.code == "E_SHAPES_DIFFER"
    with pytest.raises(InputError, match="two pictures or two volumes"):
        resample_to(noise((8, 9, 1)), large)
