"""Rigid registration finds a known displacement, says so in the right direction, and refuses to make things worse."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from ddfm_monai.errors import InputError
from ddfm_monai.volumes import affine_of, make_volume, register_rigid, resample_to

from .helpers import affine, head, noise

FIXED_GRID = affine(spacing=(4, 4, 4), flips=(-1, 1, 1), origin=(88.0, -110.0, -84.0))
MOVING_GRID = affine(spacing=(4, 4, 5), angles=(6, -4, 9), origin=(-95.0, -105.0, -100.0))


@pytest.fixture(scope="module")
def mr():
    return head((44, 56, 43), FIXED_GRID, blur=0.7)


@pytest.fixture(scope="module")
def ct():
    return head((48, 56, 40), MOVING_GRID, "ct", blur=0.7)


def displaced(volume, angles, shift):
    """The volume moved in space, and the matrix that takes a fixed point to the moved one."""
    matrix = affine(angles=angles, origin=shift)
    return make_volume(volume.as_tensor(), matrix @ affine_of(volume)), matrix


def errors(found, truth):
    difference = found @ np.linalg.inv(truth)
    angle = np.degrees(np.arccos(np.clip((np.trace(difference[:3, :3]) - 1) / 2, -1, 1)))
    centre = np.array([0.0, 0.0, 0.0, 1.0])
    return angle, np.linalg.norm(((found - truth) @ centre)[:3])


NEAR, FAR = ((4, -3, 7), (9.0, -6.0, 5.0)), ((0, 0, -2), (120.0, -80.0, 200.0))


@pytest.fixture(scope="module")
def found_near(mr, ct):
    return register_rigid(mr, displaced(ct, *NEAR)[0])


def test_a_known_displacement_is_found(mr, ct, found_near):
    moving, truth = displaced(ct, *NEAR)
    angle, distance = errors(found_near.matrix, truth)
    assert angle < 1
    assert distance < 1
    assert found_near.after > found_near.before
    aligned = resample_to(moving, mr, found_near.matrix).as_tensor()
    assert (aligned - resample_to(ct, mr).as_tensor()).abs().mean() < 0.02


def test_volumes_that_lie_apart_are_brought_together(mr, ct):
    moving, truth = displaced(ct, *FAR)
    angle, distance = errors(register_rigid(mr, moving).matrix, truth)
    assert angle < 1
    assert distance < 1


def test_the_result_is_the_same_in_every_run_and_is_saved(mr, ct, found_near, tmp_path):
    found = register_rigid(mr, displaced(ct, *NEAR)[0])
    assert found.describe() == found_near.describe()

    found.save(tmp_path / "rigid.tfm")

    transform = sitk.ReadTransform(str(tmp_path / "rigid.tfm"))
    point = np.array([12.0, -30.0, 25.0])
    lps = np.array([-1.0, -1.0, 1.0])
    np.testing.assert_allclose(
        np.array(transform.TransformPoint((point * lps).tolist())) * lps, (found.matrix @ [*point, 1])[:3], atol=1e-6
    )


def test_what_is_aligned_already_is_refused(mr):
    with pytest.raises(InputError, match="does not improve") as caught:
        register_rigid(mr, mr)
    assert caught.value.code == "E_REGISTRATION_NO_GAIN"


@pytest.mark.parametrize(
    "volume", [noise((20, 20, 1)), make_volume(np.eye(9)[None, :, :, None], np.eye(4), picture=True)]
)
def test_single_slices_are_refused(mr, volume):
    with pytest.raises(InputError, match="cannot be registered"):
        register_rigid(mr, volume)
