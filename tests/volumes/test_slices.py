"""Volumes to slices and back, whatever the grid; a slice's data depend on that slice alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.volumes import affine_of, assemble, make_volume, plan_slices, slice_axis, slice_batches

from .helpers import AFFINES, affine, noise

ORIENTATIONS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((-1, 1), repeat=3)
]


def reoriented(order, flips):
    """An affine whose voxel axis ``i`` runs along R, A or S number ``order[i]``, or against it."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, list(order)] * np.array(flips)
    return matrix


def random_mask(shape, matrix, seed):
    """A few boxes of foreground; some slices stay empty."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((1, *shape), dtype=bool)
    for _ in range(3):
        ends = [np.sort(generator.integers(0, n + 1, 2)) for n in shape]
        mask[(0, *[slice(a, b + (a == b)) for a, b in ends])] = True
    mask[(0, *[n // 2 for n in shape])] = True
    volume = make_volume(mask, matrix)
    return volume.bool()


def cut(a, b, mask, stride, batch_size=3, axis=None, margin=8):
    plan = plan_slices(mask, stride, axis, margin)
    return plan, list(slice_batches(plan, a, b, mask, batch_size))


@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    stride=st.sampled_from([1, 4, 8, 16]),
    margin=st.sampled_from([0, 3, 8]),
    orientation=st.sampled_from(ORIENTATIONS),
    axis=st.sampled_from([None, 0, 1, 2]),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=120, deadline=None)
def test_there_and_back(shape, stride, margin, orientation, axis, batch_size, seed):
    matrix = reoriented(*orientation)
    a, b, mask = noise(shape, matrix, seed=seed), noise(shape, matrix, seed=seed + 1), random_mask(shape, matrix, seed)

    plan, batches = cut(a, b, mask, stride, batch_size, axis, margin)

    for batch in batches:
        assert batch.a.shape == batch.b.shape == batch.foreground.shape
        assert len(batch.a) == len(batch.boxes) <= batch_size
        height, width = batch.a.shape[2:]
        assert height % stride == 0 and width % stride == 0
        assert height <= plan.field_shape[0] and width <= plan.field_shape[1]
        assert batch.a.min() >= -1 and batch.a.max() <= 1
    for source, results in ((a, ((x, x.a) for x in batches)), (b, ((x, x.b) for x in batches))):
        again = assemble(plan, results)
        torch.testing.assert_close(again.as_tensor(), (source * mask).as_tensor(), atol=1e-6, rtol=0)
        assert torch.equal(again.as_tensor()[~mask.as_tensor()], torch.zeros(int((~mask).sum())))
        np.testing.assert_array_equal(affine_of(again), matrix)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_axial_slices_stand_as_radiologists_show_them(order, flips):
    matrix = reoriented(order, flips)
    shape = (6, 7, 8)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    x, y, _ = np.moveaxis(index @ matrix[:3, :3].T, -1, 0)
    everything = make_volume(np.ones((1, *shape)), matrix).bool()
    plan = plan_slices(everything, 8)

    assert order[plan.axis] == 2
    for array, axis in ((x, 1), (y, 0)):
        steps = np.diff(plan.slice_of(array, 0), axis=axis)
        assert (steps == -1).all()  # columns run to the left, rows to the back


@pytest.mark.parametrize(("name", "axis"), [("RAS", 2), ("anisotropic", 2), ("sagittal", 1), ("oblique", 2)])
def test_slices_are_cut_as_they_were_acquired(name, axis):
    assert slice_axis(noise(matrix=AFFINES[name])) == axis


def test_a_single_slice_is_cut_across_its_axis():
    assert slice_axis(noise((9, 1, 9), affine(spacing=(1, 1, 5)))) == 1


def test_a_slice_does_not_depend_on_the_others():
    shape = (30, 26, 9)
    a, b, mask = noise(shape), noise(shape, seed=1), random_mask(shape, np.eye(4), 5)
    plan, batches = cut(a, b, mask, 8, batch_size=4)
    field = torch.randn(2, *plan.field_shape)
    whole = {box.index: (x.a[i], x.b[i], x.crop_field(field)[i]) for x in batches for i, box in enumerate(x.boxes)}
    assert len(whole) > 2

    for index, parts in whole.items():
        alone = torch.zeros_like(mask)
        alone[..., index] = mask[..., index]
        other_plan, (batch,) = cut(a * alone, b * alone, alone, 8, batch_size=7)
        assert other_plan.field_shape == plan.field_shape
        box = batch.boxes[0]
        kept = batch.foreground[0]
        torch.testing.assert_close(batch.a[0][kept], parts[0][kept])
        torch.testing.assert_close(batch.b[0][kept], parts[1][kept])
        assert torch.equal(batch.crop_field(field)[0], parts[2])
        assert box in plan.boxes


def test_noise_stands_still_in_the_volume():
    shape = (20, 20, 4)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[0, 8:12, 8:12, 0] = True
    mask[0, 2:18, 5:19, 1] = True  # a larger crop beside a small one
    volume = make_volume(mask, np.eye(4)).bool()
    plan, batches = cut(noise(shape), noise(shape), volume, 4)
    field = torch.arange(float(np.prod(plan.field_shape))).reshape(1, *plan.field_shape) / 1e4

    placed = assemble(plan, ((x, x.crop_field(field)) for x in batches))

    both = mask[0, :, :, 0] & mask[0, :, :, 1]
    assert both.any()
    assert torch.equal(placed[0, :, :, 0][both], placed[0, :, :, 1][both])


def test_crops_keep_a_margin_as_far_as_the_slice_reaches():
    shape = (64, 64, 1)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[0, 30:34, 0:4, 0] = True  # against the edge, beyond which there is nothing to show
    volume = make_volume(mask, np.eye(4)).bool()
    plan, (batch,) = cut(noise(shape) + 1, noise(shape), volume, 8)
    (box,) = batch.boxes
    rows, columns = np.nonzero(batch.foreground[0, 0].numpy())
    height, width = batch.a.shape[2:]
    assert min(rows.min(), columns.min(), width - 1 - columns.max()) >= 8
    assert rows.max() == height - 1 and box.top + box.height == plan.field_shape[0] == 64


def test_equal_sizes_share_a_batch():
    shape = (40, 40, 12)
    mask = make_volume(np.ones((1, *shape)), np.eye(4)).bool()
    _, batches = cut(noise(shape), noise(shape), mask, 8, batch_size=5)
    assert [len(batch.boxes) for batch in batches] == [5, 5, 2]


def test_nothing_to_fuse():
    empty = make_volume(np.zeros((1, 8, 8, 3)), np.eye(4)).bool()
    with pytest.raises(InputError, match="nothing to fuse") as caught:
        plan_slices(empty, 8)
    assert caught.value.code == "E_NO_FOREGROUND"


@pytest.mark.parametrize("wrong", [{"stride": 0}, {"stride": 8, "axis": 3}, {"stride": 8, "margin": -1}])
def test_wrong_arguments(wrong):
    with pytest.raises(UsageError):
        plan_slices(make_volume(np.ones((1, 8, 8, 3)), np.eye(4)).bool(), **wrong)
