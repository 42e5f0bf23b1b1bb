"""Two scaled volumes to batches of slices and back.

Every slice is turned so that it stands as radiologists show it (axial: anterior on top, the patient's right on the
left), cropped to its own foreground and handed out with equally sized neighbours. What a slice looks like to the
network depends on that slice alone; :func:`assemble` undoes all of it.

Positions are those of the *field*: one slice, filled up to multiples of the stride. A noise field of that size, cropped
by :meth:`SliceBatch.crop_field`, gives every voxel column of the volume the same noise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.volume import affine_of, make_volume, space_meta, spacing_of

__all__ = ["SliceBatch", "SliceBox", "SlicePlan", "assemble", "plan_slices", "slice_axis", "slice_batches"]

MARGIN = 4
"""Pixels that a crop keeps around the foreground, where the slice has them: as far as the EM step's windows reach."""

_ANISOTROPIC = 1.2  # an axis whose spacing exceeds the next one's by this factor is the one across the slices


@dataclass(frozen=True)
class SliceBox:
    """Where the crop of one slice lies in the field, in pixels; all four are multiples of the plan's stride."""

    index: int
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class SlicePlan:
    """How a volume is cut: see :func:`plan_slices`.

    Args:
        shape: ``(X, Y, Z)`` of the volume.
        axis: the spatial axis across the slices.
        row_axis, column_axis: the spatial axes that become the rows and the columns of a slice.
        flip_rows, flip_columns: whether these run against the stored order.
        field_shape: ``(height, width)`` of the field.
        boxes: one per slice that has foreground, in slice order.
        affine: 4x4, of the volume.
        meta: what the volume says of its space (``picture``, ``xform_code``).
    """

    shape: tuple[int, int, int]
    axis: int
    row_axis: int
    column_axis: int
    flip_rows: bool
    flip_columns: bool
    field_shape: tuple[int, int]
    boxes: tuple[SliceBox, ...]
    affine: np.ndarray
    meta: dict[str, Any]

    def slice_of(self, array: np.ndarray, index: int) -> np.ndarray:
        """Slice ``index`` of an ``(X, Y, Z)`` array as a ``(rows, columns)`` view, standing upright."""
        plane = np.moveaxis(array, (self.axis, self.row_axis, self.column_axis), (0, 1, 2))[index]
        return plane[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def windows(self, box: SliceBox) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """The part of a slice that its box covers, and the place of that part in the crop."""
        rows, columns = self.shape[self.row_axis], self.shape[self.column_axis]
        vertical = _overlap(box.top, box.height, rows)
        horizontal = _overlap(box.left, box.width, columns)
        return (vertical[0], horizontal[0]), (vertical[1], horizontal[1])


@dataclass(frozen=True)
class SliceBatch:
    """Slices of equal crop size.

    Args:
        a: ``(B, 1, H, W)`` float32 in [-1, 1], the reference.
        b: the same of the second source.
        foreground: ``(B, 1, H, W)`` bool.
        boxes: where each comes from.
        seen: ``(B, 1, H, W)`` bool, the field of view of b; None: everywhere.
    """

    a: torch.Tensor
    b: torch.Tensor
    foreground: torch.Tensor
    boxes: tuple[SliceBox, ...]
    seen: torch.Tensor | None = None

    def crop_field(self, field: torch.Tensor) -> torch.Tensor:
        """Crop one fixed field ``(C, *plan.field_shape)``, such as start noise, for each slice: ``(B, C, H, W)``."""
        crops = [field[:, x.top : x.top + x.height, x.left : x.left + x.width] for x in self.boxes]
        return torch.stack(crops)


def slice_axis(volume: MetaTensor) -> int:
    """The spatial axis across the slices of a volume.

    An axis of length 1; else the axis of the largest spacing where that is clearly larger than the others (the slices
    as they were acquired); else the one closest to the patient's head-foot axis.
    """
    shape = tuple(volume.shape[1:])
    if 1 in shape:
        return max(axis for axis in range(3) if shape[axis] == 1)
    spacing = spacing_of(volume)
    order = np.argsort(spacing)
    if spacing[order[2]] > _ANISOTROPIC * spacing[order[1]]:
        return int(order[2])
    return int(np.flatnonzero(nib.io_orientation(affine_of(volume))[:, 0] == 2)[0])


def plan_slices(foreground: MetaTensor, stride: int, axis: int | None = None, margin: int = MARGIN) -> SlicePlan:
    """Decide how a volume is cut into slices.

    The crop of a slice is the box of its own foreground with ``margin`` pixels around as far as the slice reaches,
    widened to multiples of ``stride`` on a lattice fixed to the volume: neighbouring slices are cut along the same
    lines.

    Args:
        foreground: ``(1, X, Y, Z)`` bool, with the affine of the volume.
        stride: the network takes heights and widths that are multiples of this.
        axis: the spatial axis across the slices, 0 to 2; default: :func:`slice_axis`.
        margin: pixels.

    Raises:
        InputError: no foreground at all (``E_NO_FOREGROUND``).
    """
    if stride < 1 or margin < 0 or axis not in (None, 0, 1, 2):
        raise UsageError(
            f"stride={stride}, margin={margin}, axis={axis}: expected stride >= 1, margin >= 0, axis 0 to 2."
        )
    axis = slice_axis(foreground) if axis is None else axis
    orientation = nib.io_orientation(affine_of(foreground))
    # Displays run to the left, to the back and downwards: against each RAS axis. Of the two axes in the slice the one
    # earlier in R, A, S is horizontal.
    column_axis, row_axis = sorted((i for i in range(3) if i != axis), key=lambda i: orientation[i, 0])
    shape = tuple(int(n) for n in foreground.shape[1:])
    field = [_ceil_to(shape[i], stride) for i in (row_axis, column_axis)]
    plan = SlicePlan(
        shape=(shape[0], shape[1], shape[2]),
        axis=axis,
        row_axis=row_axis,
        column_axis=column_axis,
        flip_rows=bool(orientation[row_axis, 1] > 0),
        flip_columns=bool(orientation[column_axis, 1] > 0),
        field_shape=(field[0], field[1]),
        boxes=(),
        affine=affine_of(foreground),
        meta=space_meta(foreground),
    )
    mask = _array(foreground)
    found = (_box(plan.slice_of(mask, index), index, stride, margin) for index in range(shape[axis]))
    boxes = tuple(box for box in found if box is not None)
    if not boxes:
        raise InputError(
            "both sources are background only: nothing to fuse. Check the window and the kinds of the sources.",
            "E_NO_FOREGROUND",
        )
    return replace(plan, boxes=boxes)


def slice_batches(
    plan: SlicePlan,
    a: MetaTensor,
    b: MetaTensor,
    foreground: MetaTensor,
    batch_size: int,
    seen: MetaTensor | None = None,
) -> Iterator[SliceBatch]:
    """Hand out the slices of ``plan``, at most ``batch_size`` of equal size at a time, largest crops first.

    Args:
        plan: from :func:`plan_slices`.
        a, b: ``(1, X, Y, Z)`` in [0, 1].
        foreground: ``(1, X, Y, Z)`` bool, as given to :func:`plan_slices`.
        batch_size: slices per batch.
        seen: ``(1, X, Y, Z)`` bool, the field of view of ``b``; None: everywhere.
    """
    by_size: dict[tuple[int, int], list[SliceBox]] = defaultdict(list)
    for box in plan.boxes:
        by_size[box.height, box.width].append(box)
    arrays = tuple(_array(x) for x in (a, b, foreground, seen) if x is not None)
    for size in sorted(by_size, key=lambda hw: (-hw[0] * hw[1], hw)):
        boxes = by_size[size]
        for start in range(0, len(boxes), batch_size):
            yield _batch(plan, arrays, tuple(boxes[start : start + batch_size]))


def assemble(plan: SlicePlan, results: Iterable[tuple[SliceBatch, torch.Tensor]]) -> MetaTensor:
    """Put fused slices back: crops, borders and skipped slices undone; background exactly 0.

    Args:
        plan: from :func:`plan_slices`.
        results: each batch with its ``(B, 1, H, W)`` result in [-1, 1]; may be a generator that fuses as it goes.

    Returns:
        ``(1, X, Y, Z)`` float32 in [0, 1] with the affine of the volume.
    """
    output = np.zeros(plan.shape, dtype=np.float32, order="F")
    for batch, fused in results:
        grey = fused.detach().float().cpu().add(1).div_(2).clamp_(0, 1).mul_(batch.foreground.cpu()).numpy()
        for box, crop in zip(batch.boxes, grey, strict=True):
            in_slice, in_crop = plan.windows(box)
            plan.slice_of(output, box.index)[in_slice] = crop[0][in_crop]
    return make_volume(output[None], plan.affine, **plan.meta)


def _batch(plan: SlicePlan, arrays: tuple[np.ndarray, ...], boxes: tuple[SliceBox, ...]) -> SliceBatch:
    shape = (len(boxes), 1, boxes[0].height, boxes[0].width)
    crops = [np.zeros(shape, dtype=array.dtype) for array in arrays]
    for number, box in enumerate(boxes):
        in_slice, in_crop = plan.windows(box)
        for crop, array in zip(crops, arrays, strict=True):
            crop[number, 0][in_crop] = plan.slice_of(array, box.index)[in_slice]
    a, b, foreground, *seen = (torch.from_numpy(crop) for crop in crops)
    return SliceBatch(a.mul_(2).sub_(1), b.mul_(2).sub_(1), foreground, boxes, *seen)


def _box(plane: np.ndarray, index: int, stride: int, margin: int) -> SliceBox | None:
    rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
    if not rows.size:
        return None
    top, height = _extent(rows, plane.shape[0], stride, margin)
    left, width = _extent(columns, plane.shape[1], stride, margin)
    return SliceBox(index, top, left, height, width)


def _extent(occupied: np.ndarray, size: int, stride: int, margin: int) -> tuple[int, int]:
    """Start and length, multiples of ``stride``, that cover the occupied indices and a margin inside the slice."""
    start = _floor_to(max(occupied[0] - margin, 0), stride)
    return start, _ceil_to(min(occupied[-1] + 1 + margin, size), stride) - start


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """The part of ``range(size)`` that ``[start, start + length)`` covers, and where that part lies in it."""
    first, last = start, min(start + length, size)
    return slice(first, last), slice(first - start, last - start)


def _ceil_to(value: int, step: int) -> int:
    return -(-int(value) // step) * step


def _floor_to(value: int, step: int) -> int:
    return int(value) // step * step


def _array(volume: torch.Tensor) -> np.ndarray:
    plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    return plain.detach().cpu().numpy()[0]
