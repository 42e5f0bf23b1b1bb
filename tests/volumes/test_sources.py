"""A source on its way into a fusion: as read, in [0, 1], on another grid; and that evaluation sees the same."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from ddfm_monai import fuse_volumes
from ddfm_monai.errors import InputError
from ddfm_monai.files import sha256_of
from ddfm_monai.fusion.outputs import write_outputs
from ddfm_monai.metrics.files import PairFiles, evaluate_files, read_triple
from ddfm_monai.settings import FusionSettings
from ddfm_monai.volumes import colour_source, make_volume, plan_pair, read_source, write_volume
from ddfm_monai.volumes.colour import colour_map, to_luma

from .helpers import affine, head, noise

GRID = affine(spacing=(5.0, 5.0, 8.0), origin=(-85.0, -105.0, -75.0))
OTHER = affine(spacing=(6.0, 6.0, 9.0), angles=(5, 0, 8), origin=(-80.0, -110.0, -50.0))


@pytest.fixture
def files(tmp_path):
    """An MRI, a CT on another grid (8-bit, so that scaling is 0 to 255), and a colour volume on a third."""
    mr, ct = head((34, 42, 19), GRID), head((28, 36, 12), OTHER, "ct")
    rgb = noise((30, 40, 12), affine(spacing=(6.0, 5.5, 10.0), origin=(-85.0, -105.0, -60.0)), channels=3)
    paths = [tmp_path / name for name in ("head_mri.nii.gz", "head_ct.nii.gz", "head_pet.nii.gz")]
    for path, volume in zip(paths, (mr * 255, ct * 255, rgb), strict=True):
        write_volume(volume.round(), path)
    return paths


def test_a_source_is_its_volume_its_grey_its_scaling_and_its_hash(files):
    source = read_source(files[1], "second")
    assert source.scaling.kind == "ct" and not source.is_colour and not source.resampled
    assert torch.equal(source.grey, source.volume / 255) and torch.equal(source.volume01, source.grey)
    assert source.describe() == {
        "sha256": sha256_of(files[1]),
        "shape": [28, 36, 12],
        "scaling": source.scaling.describe(),
        "resampled": False,
    }


def test_a_colour_source_has_its_luma_as_grey(files):
    source = read_source(files[2], "second")
    assert source.is_colour and source.scaling.kind == "pet"
    assert source.volume01.shape[0] == 3 and torch.allclose(source.volume01, source.volume / 255)
    assert torch.allclose(source.grey, to_luma(source.volume) / 255, atol=1e-6)


def digest_of(array):
    return read_source(make_volume(array, GRID), "second").sha256


def test_the_hash_of_a_volume_in_memory_is_that_of_its_values_and_affine_however_they_are_stored():
    array = noise((9, 7, 5)).numpy()
    expected = hashlib.sha256(array.tobytes() + GRID.tobytes()).hexdigest()
    assert digest_of(array) == digest_of(np.asfortranarray(array)) == expected
    assert digest_of(array[:, ::2]) == digest_of(array[:, ::2].copy())
    assert digest_of(array[:, ::-1].copy()) != expected
    assert read_source(make_volume(array, OTHER), "second").sha256 != expected


@pytest.mark.parametrize("second", [1, 2], ids=["grey", "colour"])
def test_on_the_reference_grid_with_air_outside_the_field_of_view(files, second):
    reference, source = read_source(files[0], "reference"), read_source(files[second], "second")
    moved = source.onto(reference)
    assert moved.resampled and moved.describe()["shape"] == [34, 42, 19]
    assert moved.volume.shape == (source.volume.shape[0], 34, 42, 19) and moved.grey.shape == (1, 34, 42, 19)
    assert float(moved.grey[..., 0].abs().max()) == 0 and float(moved.grey.max()) > 0.5
    assert reference.onto(reference) is reference
    assert reference.onto(reference, np.eye(4)).resampled


def test_what_cannot_be_fused_is_refused_by_the_name_it_was_given():
    with pytest.raises(InputError, match="the left one: every value"):
        read_source(make_volume(np.ones((1, 4, 4, 4)), np.eye(4)), "the left one")


def test_the_plan_leaves_out_slices_without_foreground_in_either(files):
    reference = read_source(files[0], "reference")
    second = read_source(files[1], "second").onto(reference)
    foreground, plan = plan_pair(reference, second, stride=4)
    assert foreground.dtype == torch.bool and foreground.shape == reference.grey.shape
    assert plan.axis == 2
    occupied = ((reference.grey > 0.5 / 255) | (second.grey > 0.5 / 255)).as_tensor().amax(dim=(0, 1, 2))
    assert 0 < len(plan.boxes) < plan.shape[2]
    assert [box.index for box in plan.boxes] == np.flatnonzero(occupied.numpy()).tolist()


@pytest.mark.parametrize("register", ["none", "rigid"])
def test_evaluation_compares_with_the_very_sources_of_the_fusion(files, tmp_path, tiny_prior, register):
    mr, ct, _ = files
    settings = FusionSettings(steps=1, register=register)
    result = fuse_volumes(mr, ct, prior=tiny_prior, settings=settings)
    names = write_outputs(result, tmp_path / "fused.nii.gz")
    assert ("registration_picture" in names) == (register == "rigid")
    assert all(path.is_file() for path in names.values())
    triple = read_triple(PairFiles("head", tmp_path / "fused.nii.gz", mr, ct), settings)
    for found, expected in ((triple.a, result.reference01), (triple.b, result.second01), (triple.fused, result.fused)):
        levels = np.rint(255 * expected.numpy()).astype(np.uint8)
        upright = levels[:, ::-1, ::-1].swapaxes(1, 2)  # rows to the back, columns to the left
        assert np.array_equal(found, upright)


def test_hue_comes_from_a_colour_volume_else_from_pet_or_spect_else_from_nowhere(files):
    mr, ct, rgb = (read_source(path, "") for path in files)
    pet, spect = (read_source(files[0], "", kind) for kind in ("pet", "spect"))
    assert colour_source(mr, rgb) is colour_source(rgb, pet) is rgb
    assert colour_source(mr, pet) is colour_source(pet, ct) is colour_source(spect, pet) is pet
    assert colour_source(mr, ct) is None
    assert rgb.rgb() is rgb.volume
    assert torch.equal(pet.rgb(), colour_map(pet.grey, "pet"))


@pytest.mark.parametrize("functional", ["reference_kind", "second_kind"])
def test_evaluation_measures_hue_against_the_source_that_gave_it(files, tmp_path, tiny_prior, functional):
    mr, ct, _ = files
    kinds = {functional: "pet"}
    result = fuse_volumes(mr, ct, prior=tiny_prior, steps=1, colour=True, **kinds)
    write_volume(result.fused, tmp_path / "fused.nii.gz")
    evaluation = evaluate_files(PairFiles("head", tmp_path / "fused.nii.gz", mr, ct), settings=FusionSettings(**kinds))
    assert evaluation.metrics["hue_error"] < 5


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_head_of_the_size_of_a_grain_or_a_house_is_said(factor):
    volume = make_volume((head((34, 42, 19), GRID) * 800).as_tensor(), np.diag([factor] * 3 + [1.0]) @ GRID, **NAMED)
    (warning,) = read_source(volume, "second").warnings
    assert "unit of length" in warning
    assert not read_source(make_volume(volume.as_tensor(), GRID, **NAMED), "second").warnings


NAMED = {"filename_or_obj": "mri.nii"}
