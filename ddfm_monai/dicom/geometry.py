"""Slice positions to a voxel grid, and how far two grids share space.

Everything here is in the patient coordinates of DICOM (PS3.3 C.7.6.2.1.1): LPS, mm. NIfTI and MONAI use RAS; the flip
of the first two axes happens in one place, :func:`ras_from_lps`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Matrix4", "Vector3", "ras_from_lps"]

Vector3 = tuple[float, float, float]
"""A point or direction in LPS, mm."""

Matrix4 = tuple[
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
]
"""A 4x4 homogeneous matrix, row by row."""


@dataclass(frozen=True)
class Grid:
    """A regular voxel grid in space.

    Args:
        shape: voxels along column index, row index and slice: ``(X, Y, Z)``, that is (Columns, Rows, slices).
        lps: 4x4 matrix from voxel index ``(x, y, z, 1)`` to LPS mm. The z axis is the true step from slice to slice;
            with gantry tilt it is not perpendicular to the slices.
        spacing: voxel size in mm along x, y and z (z: distance between slice planes along their normal).
        tilt: angle between the slice step and the slice normal, degrees; 0 when within rounding.
    """

    shape: tuple[int, int, int]
    lps: Matrix4
    spacing: Vector3
    tilt: float

    @property
    def affine(self) -> NDArray[np.float64]:
        """4x4 float64, voxel index to RAS mm (the convention of nibabel and MONAI)."""
        return ras_from_lps(np.array(self.lps))


def ras_from_lps(lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """A voxel-to-LPS matrix as voxel-to-RAS."""
    return np.asarray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, dtype=np.float64)
