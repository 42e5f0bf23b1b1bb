"""Voxel grids in space: are two the same, do they overlap, and one volume resampled onto another's grid."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from ddfm_monai import space
from ddfm_monai.errors import InputError
from ddfm_monai.rules import LEAST_OVERLAP
from ddfm_monai.volume import affine_of, grid_of, is_picture, make_volume, name_of, space_meta

__all__ = [
    "check_overlap",
    "field_of_view",
    "index_mapping",
    "nearest_ras",
    "overlap_fraction",
    "resample_to",
    "same_grid",
]

_SLAB_VOXELS = 1 << 22  # resampling works in slabs so that its index arithmetic stays small


def same_grid(first: MetaTensor, second: MetaTensor) -> bool:
    """True where every voxel of one lies on its counterpart, to a hundredth of a voxel."""
    return space.same_grid(grid_of(first), grid_of(second))


def nearest_ras(volume: MetaTensor) -> tuple[np.ndarray, np.ndarray]:
    """``(C, X', Y', Z')`` with the axes turned to those of R, A, S next to them (a view), and the affine of that."""
    affine = affine_of(volume)
    orientation = nib.io_orientation(affine)
    channels_last = np.moveaxis(volume.as_tensor().detach().cpu().numpy(), 0, -1)
    turned = np.moveaxis(nib.apply_orientation(channels_last, orientation), -1, 0)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, tuple(volume.shape[1:]))


def overlap_fraction(first: MetaTensor, second: MetaTensor, transform: np.ndarray | None = None) -> float:
    """:func:`ddfm_monai.space.overlap_fraction` of two volumes, with its transform."""
    return space.overlap_fraction(grid_of(first), grid_of(second), transform)


def check_overlap(first: MetaTensor, second: MetaTensor, transform: np.ndarray | None = None) -> None:
    """Raise InputError (``E_NO_OVERLAP``) for volumes that share less than a tenth of the smaller one's box."""
    fraction = overlap_fraction(first, second, transform)
    if fraction < LEAST_OVERLAP:
        raise InputError(
            f"{name_of(second)} overlaps {name_of(first)} by {fraction:.0%} only; at least {LEAST_OVERLAP:.0%} is "
            "needed. Check that both show the same body part of one patient; if their scanners' coordinates differ, "
            "register them (--register rigid).",
            "E_NO_OVERLAP",
        )


def index_mapping(moving: MetaTensor, reference: MetaTensor, transform: np.ndarray | None = None) -> np.ndarray:
    """``(4, 4)``: a voxel of ``reference`` to the place in ``moving`` that it shows, both as voxel indices.

    Args:
        moving, reference: volumes.
        transform: as of :func:`resample_to`.
    """
    mapping: np.ndarray = np.linalg.inv(affine_of(moving)) @ (np.eye(4) if transform is None else transform)
    return mapping @ affine_of(reference)


def resample_to(
    moving: MetaTensor,
    reference: MetaTensor,
    transform: np.ndarray | None = None,
    fill: float = 0.0,
    needs_overlap: bool = True,
) -> MetaTensor:
    """``moving`` on the grid of ``reference``, interpolated linearly; any affine is right, sheared ones included.

    Scale intensities before: then ``fill`` = 0 is air outside the field of view of ``moving``. A voxel is a box:
    within half a voxel of the outermost centres the outermost value holds, beyond that ``fill``.

    Args:
        moving: ``(C, X, Y, Z)`` float32, grey or colour.
        reference: ``(C', X', Y', Z')``, gives the grid.
        transform: ``(4, 4)`` RAS mm, takes a point of ``reference`` to the matching point of ``moving``
            (:attr:`Registration.matrix`); default: none.
        fill: value outside the field of view.
        needs_overlap: refuse two volumes that share next to nothing.

    Returns:
        ``(C, X', Y', Z')`` float32 with the affine and space of ``reference`` and the file name of ``moving``. Where
        the grids agree already the data of ``moving`` are returned, not a copy.

    Raises:
        InputError: the two do not overlap (``E_NO_OVERLAP``), or are pictures of different sizes
            (``E_SHAPES_DIFFER``), or a picture and a volume (``E_PICTURE_AND_VOLUME``).
    """
    _check_pictures(reference, moving)
    affine = affine_of(reference)
    meta = space_meta(reference)
    if "filename_or_obj" in moving.meta:
        meta["filename_or_obj"] = moving.meta["filename_or_obj"]
    if transform is None and same_grid(reference, moving):
        return make_volume(moving.as_tensor(), affine, **meta)
    if needs_overlap:
        check_overlap(reference, moving, transform)
    mapping = index_mapping(moving, reference, transform)
    data = moving.as_tensor().detach().cpu().numpy()
    shape = tuple(int(n) for n in reference.shape[1:])
    output = np.empty((data.shape[0], *shape), dtype=np.float32, order="F")
    for start, stop in _slabs(shape):
        _resample_slab(data, mapping, output[..., start:stop], start, fill)
    return make_volume(output, affine, **meta)


def field_of_view(moving: MetaTensor, reference: MetaTensor, transform: np.ndarray | None = None) -> MetaTensor:
    """Where on the grid of ``reference`` there is data of ``moving``: ``(1, X', Y', Z')`` bool.

    Args:
        moving, reference, transform: as for :func:`resample_to`.
    """
    mapping = index_mapping(moving, reference, transform)
    shape = tuple(int(n) for n in reference.shape[1:])
    seen = np.empty((1, *shape), dtype=bool, order="F")
    for start, stop in _slabs(shape):
        offset = mapping[:3, 3] + mapping[:3, 2] * start
        seen[0, ..., start:stop] = ~_outside(moving.shape[1:], mapping, offset, (*shape[:2], stop - start))
    return MetaTensor(torch.from_numpy(seen), affine=torch.from_numpy(affine_of(reference)), meta=space_meta(reference))


def _resample_slab(data: np.ndarray, mapping: np.ndarray, output: np.ndarray, start: int, fill: float) -> None:
    """Fill ``output``, the slab of the result that begins at its third index ``start``."""
    offset = mapping[:3, 3] + mapping[:3, 2] * start
    for channel, result in zip(data, output, strict=True):
        ndimage.affine_transform(
            channel, mapping[:3, :3], offset, output_shape=result.shape, output=result, order=1, mode="nearest"
        )
    output[:, _outside(data.shape[1:], mapping, offset, output.shape[1:])] = fill


def _outside(moving: tuple[int, ...], mapping: np.ndarray, offset: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Which voxels of a grid of ``shape`` lie outside the boxes of the voxels of ``moving``."""
    i, j, k = np.ogrid[tuple(slice(n) for n in shape)]
    outside = np.zeros(shape, dtype=bool)
    for axis, size in enumerate(moving):
        index = (mapping[axis, 0] * i + mapping[axis, 1] * j + mapping[axis, 2] * k + offset[axis]).astype(np.float32)
        outside |= (index < -0.501) | (index > size - 0.499)
    return outside


def _slabs(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    depth = max(1, _SLAB_VOXELS // (shape[0] * shape[1]))
    return [(start, min(start + depth, shape[2])) for start in range(0, shape[2], depth)]


def _check_pictures(reference: MetaTensor, moving: MetaTensor) -> None:
    pictures = is_picture(reference), is_picture(moving)
    if pictures == (False, False):
        return
    if pictures != (True, True):
        raise InputError(
            f"{name_of(reference)} and {name_of(moving)}: one is a picture without a place in space, the other a "
            "volume. Give two pictures or two volumes.",
            "E_PICTURE_AND_VOLUME",
        )
    if reference.shape[1:] != moving.shape[1:]:
        sizes = [f"{v.shape[1]} x {v.shape[2]}" for v in (reference, moving)]
        raise InputError(
            f"{name_of(reference)} has {sizes[0]} pixels and {name_of(moving)} has {sizes[1]}; pictures carry no "
            "geometry, so both must have the same size. Align and resize them first.",
            "E_SHAPES_DIFFER",
        )
