"""Voxel grids in space: a shape and an affine, (X, Y, Z) and (4, 4), serve every question. numpy only.

An affine takes a voxel index to a point in mm, RAS as nibabel and MONAI have it; DICOM and ITK count LPS, and
:func:`flip` goes from one to the other and back. A voxel is a box: a volume reaches half a voxel beyond the outermost
centres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Affine",
    "Shape",
    "apply",
    "corners",
    "covered_fraction",
    "flip",
    "flip_transform",
    "is_sheared",
    "overlap_fraction",
    "rotation_degrees",
    "same_grid",
    "spacing_of",
]

Affine = NDArray[np.float64]
Shape = tuple[int, ...]

_LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SAMPLES_PER_AXIS = 32
_SHEAR_TOLERANCE = 1e-4  # cosine between two axes that still counts as a right angle; single precision headers need it


def flip(affine: Affine) -> Affine:
    """A voxel-to-RAS affine as voxel-to-LPS, or the other way round.

    >>> flip(np.eye(4)).diagonal().tolist()
    [-1.0, -1.0, 1.0, 1.0]
    """
    return np.asarray(_LPS_FROM_RAS @ affine, dtype=np.float64)


def flip_transform(transform: Affine) -> Affine:
    """A (4, 4) transform between points in RAS mm as one between points in LPS mm, or the other way round."""
    return np.asarray(_LPS_FROM_RAS @ transform @ _LPS_FROM_RAS, dtype=np.float64)


def apply(matrix: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) points taken by a (4, 4) matrix."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def spacing_of(affine: Affine) -> NDArray[np.float64]:
    """(3,) voxel sizes along X, Y, Z in mm."""
    return np.asarray(np.linalg.norm(np.asarray(affine)[:3, :3], axis=0))


def corners(shape: Shape) -> NDArray[np.float64]:
    """(8, 3) indices of the outermost voxels."""
    return np.array(np.meshgrid(*[(0.0, n - 1.0) for n in shape], indexing="ij")).reshape(3, -1).T


def is_sheared(affine: Affine) -> bool:
    """True where the voxel axes are not at right angles, which a NIfTI qform cannot keep."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() > _SHEAR_TOLERANCE)


def same_grid(first: tuple[Shape, Affine], second: tuple[Shape, Affine], tolerance: float = 0.01) -> bool:
    """True where both have the same size and every voxel lies within ``tolerance`` voxels of its counterpart.

    >>> same_grid(((4, 4, 4), np.eye(4)), ((4, 4, 4), np.eye(4)))
    True
    """
    (shape, affine), (other_shape, other) = first, second
    if tuple(shape) != tuple(other_shape):
        return False
    ends = corners(shape)
    return bool(np.abs(apply(np.linalg.inv(affine) @ other, ends) - ends).max() <= tolerance)


def rotation_degrees(transform: Affine) -> float:
    """The angle of the rotation in a rigid (4, 4) transform, 0 to 180 degrees."""
    cosine = (np.trace(transform[:3, :3]) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def covered_fraction(
    inner: tuple[Shape, Affine], outer: tuple[Shape, Affine], transform: Affine | None = None
) -> float:
    """The part of the box of ``inner`` that lies inside the box of ``outer``, 0 to 1, from 32 x 32 x 32 points.

    Args:
        inner, outer: shape and affine.
        transform: (4, 4) RAS mm, takes a point of ``inner`` to the matching point of ``outer``; default: none.
    """
    (shape, affine), (outer_shape, outer_affine) = inner, outer
    to_outer = np.linalg.inv(outer_affine) @ (np.eye(4) if transform is None else transform) @ affine
    axes = [(np.arange(_SAMPLES_PER_AXIS) + 0.5) / _SAMPLES_PER_AXIS * n - 0.5 for n in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    index = apply(to_outer, points)
    return float(((index >= -0.5) & (index <= np.array(outer_shape) - 0.5)).all(axis=1).mean())


def overlap_fraction(
    first: tuple[Shape, Affine], second: tuple[Shape, Affine], transform: Affine | None = None
) -> float:
    """The part of the smaller box of voxels that lies inside the other's, 0 to 1.

    Args:
        first, second: shape and affine.
        transform: (4, 4) RAS mm, takes a point of ``first`` to the matching point of ``second``; default: none.

    >>> shifted = np.eye(4); shifted[0, 3] = 5
    >>> overlap_fraction(((10, 10, 10), np.eye(4)), ((10, 10, 10), shifted))
    0.5
    """
    sizes = [abs(np.linalg.det(affine[:3, :3])) * float(np.prod(shape)) for shape, affine in (first, second)]
    if sizes[0] <= sizes[1]:
        return covered_fraction(first, second, transform)
    back = None if transform is None else np.asarray(np.linalg.inv(transform), dtype=np.float64)
    return covered_fraction(second, first, back)
