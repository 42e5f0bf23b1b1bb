"""Rigid registration finds a known displacement, leaves alone what is aligned, refuses what it is not sure of."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from ddfm_monai.errors import InputError
from ddfm_monai.volumes import affine_of, make_volume, register_rigid, resample_to
from ddfm_monai.volumes.registration.result import Evidence
from ddfm_monai.volumes.registration.rigid import doubts_about
from ddfm_monai.volumes.registration.similarity import Similarity

from .helpers import affine, head, noise

FIXED_GRID = affine(spacing=(4, 4, 4), flips=(-1, 1, 1), origin=(88.0, -110.0, -84.0))
MOVING_GRID = affine(spacing=(4, 4, 5), angles=(6, -4, 9), origin=(-95.0, -105.0, -100.0))
HALVES = {"lower": (2, slice(0, 20)), "left": (0, slice(0, 24))}


@pytest.fixture(scope="module")
def mr():
    return head((44, 56, 43), FIXED_GRID, blur=0.7)


@pytest.fixture(scope="module")
def ct():
    return head((48, 56, 40), MOVING_GRID, "ct", blur=0.7)


def with_gyri(volume, sign):
    """The head with folds of some centimetres in it: the plain one is nearly round, its halves fit in many ways."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in volume.shape[1:]], indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine_of(volume)[:3, :3].T + affine_of(volume)[:3, 3], -1, 0)
    folds = np.sin(x / 7 + 0.03 * y) + np.sin(y / 9 - 0.05 * z) + np.sin(z / 8 + 0.04 * x)
    inside = (x / 58) ** 2 + (y / 78) ** 2 + (z / 63) ** 2 < 1
    return make_volume(volume.numpy() + sign * (inside * folds)[None].astype(np.float32) / 15, affine_of(volume))


def displaced(volume, angles, shift):
    """The volume moved in space, and the matrix that takes a fixed point to the moved one."""
    matrix = affine(angles=angles, origin=shift)
    return make_volume(volume.as_tensor(), matrix @ affine_of(volume)), matrix


def part_of(volume, axis, part):
    """Some of the slices along an axis, where they were."""
    place = affine_of(volume)
    place[:3, 3] += place[:3, axis] * part.start
    return make_volume(volume.as_tensor()[(slice(None),) * (axis + 1) + (part,)].clone(), place)


def errors(found, truth):
    difference = found @ np.linalg.inv(truth)
    angle = np.degrees(np.arccos(np.clip((np.trace(difference[:3, :3]) - 1) / 2, -1, 1)))
    centre = np.array([0.0, 0.0, 0.0, 1.0])
    return angle, np.linalg.norm(((found - truth) @ centre)[:3])


def of_another_shape(volume, by):
    """Longer by a part, and narrower by the same part."""
    return make_volume(volume.as_tensor(), np.diag([1 - by, 1 + by, 1.0, 1.0]) @ affine_of(volume))


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
    assert not found_near.already_aligned
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


def test_the_account_says_how_far_and_how_sure(found_near):
    """The shift is that of the body's middle, which lies near (0, 0, 0) of the head."""
    account = json.loads(json.dumps(found_near.describe()))
    assert account["rotation_degrees"] == pytest.approx(8.6, abs=1)
    assert account["shift_mm"] == pytest.approx(np.linalg.norm(NEAR[1]), abs=2)
    assert account["sentence"].startswith(f"moved by {account['shift_mm']:.1f} mm and turned by ")
    assert f"{account['confidence']}: {account['evidence']['agreeing']} of 5 starts agree" in account["sentence"]


@pytest.mark.parametrize("part", HALVES)
def test_a_half_that_is_aligned_stays_where_it_is(mr, ct, part):
    """Outside the field of view is unknown; as air it would draw the half away by centimetres."""
    found = register_rigid(with_gyri(mr, 1), part_of(with_gyri(ct, -1), *HALVES[part]))
    assert errors(found.matrix, np.eye(4)) < (1, 1)


def test_what_is_aligned_already_is_left_alone_and_says_so(mr, ct):
    found = register_rigid(mr, ct)
    assert found.already_aligned
    np.testing.assert_array_equal(found.matrix, np.eye(4))
    assert found.after == found.before
    assert found.sentence().startswith("aligned already, nothing moved")
    assert any("W_ALREADY_ALIGNED" in warning for warning in found.warnings)


def test_smooth_noise_is_refused_with_the_reason_and_a_remedy(mr):
    values = gaussian_filter(np.random.default_rng(1).normal(size=mr.shape[1:]).astype(np.float32), 4.0)
    values = (values - values.min()) / (values.max() - values.min())
    with pytest.raises(InputError, match=r"surely enough.*--register trust") as caught:
        register_rigid(mr, make_volume(values[None], FIXED_GRID))
    assert caught.value.code == "E_REGISTRATION_UNSURE"


def test_a_head_of_another_shape_is_refused(mr, ct):
    """Another person's: a tenth longer, a tenth narrower."""
    with pytest.raises(InputError, match=r"surely enough: the body's shapes differ.*--register same-patient") as caught:
        register_rigid(mr, of_another_shape(ct, 0.1))
    assert caught.value.code == "E_SHAPES_DIFFER"


def test_who_knows_that_it_is_one_patient_may_say_so(mr, ct):
    """Where nothing but the shape speaks against the match; a person then has to look at it."""
    found = register_rigid(mr, of_another_shape(ct, 0.1), same_patient=True)
    assert errors(found.matrix, np.eye(4)) < (2, 3)
    assert found.confidence == "likely"
    assert any("W_SHAPES_DIFFER" in warning and "look at the picture" in warning for warning in found.warnings)


def test_a_word_does_not_answer_for_everything(mr, ct):
    with pytest.raises(InputError, match="surely enough: only") as caught:
        register_rigid(mr, of_another_shape(ct, 0.2), same_patient=True)
    assert "same-patient" not in str(caught.value)
    assert caught.value.code == "E_REGISTRATION_UNSURE"


FITS = Evidence(0.15, 0.1, 0.5, starts=5, agreeing=5, spread_mm=1.0, parts_mm=8.0, stretch_mm=4.0, cover=0.9)


@pytest.mark.parametrize(
    ("seen", "doubts", "left_by_the_word"),
    [
        ({}, 1, 0),
        ({"parts_mm": 3.0}, 0, 0),
        ({"rival": 0.92}, 1, 1),  # a place elsewhere: 130 mm off in a PET of which the front half is in view
        ({"agreeing": 4}, 1, 1),
        ({"rival": 0.98}, 2, 2),
        ({"match": 0.05}, 2, 1),
        ({"cover": 0.3}, 2, 1),
        ({"stretch_mm": 7.5}, 1, 1),
    ],
)
def test_a_word_answers_for_the_shape_alone(seen, doubts, left_by_the_word):
    evidence = replace(FITS, **seen)
    assert len(doubts_about(evidence)) == doubts
    assert len(doubts_about(evidence, same_patient=True)) == left_by_the_word


@pytest.mark.parametrize(
    "volume", [noise((20, 20, 1)), make_volume(np.eye(9)[None, :, :, None], np.eye(4), picture=True)]
)
def test_single_slices_are_refused(mr, volume):
    with pytest.raises(InputError, match="cannot be registered"):
        register_rigid(mr, volume)


def test_what_is_common_by_itself_says_nothing_of_a_part(mr):
    """Of two volumes that know nothing of each other no pair of grey levels speaks for a place, however frequent."""
    unrelated = make_volume(np.random.default_rng(1).random(mr.shape).astype(np.float32), affine_of(mr))
    here, everywhere = np.eye(4), np.arange(8000)
    likeness = {}
    for name, other in (("itself", mr), ("unrelated", unrelated)):
        similarity = Similarity(mr, other, blur=3.0, count=8000)
        ratios = similarity.log_ratios(here)
        likeness[name] = similarity.mean_ratio(ratios, here, np.zeros(3), everywhere)
    assert abs(likeness["unrelated"]) < 0.1
    assert likeness["itself"] > 1
