"""Slice positions to a voxel grid.

Everything here is in the patient coordinates of DICOM (PS3.3 C.7.6.2.1.1): LPS, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.space import flip

__all__ = ["Grid", "Matrix4", "Vector3", "along_normal", "fit_grid", "matrix4"]

# A step may differ from the usual one by 1 % (highdicom's tolerance) and 0.01 mm (3D Slicer's).
RELATIVE_TOLERANCE = 0.01
ABSOLUTE_TOLERANCE = 0.01
# No slice may be further from its place on the grid than a tenth of a step.
DRIFT_TOLERANCE = 0.1
# Direction cosines are decimals of limited length.
ORTHONORMAL_TOLERANCE = 1e-3
# 2 GB as float32.
MAXIMUM_VOXELS = 500_000_000

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
        return flip(np.array(self.lps))


def fit_grid(
    positions: Sequence[Vector3 | None],
    orientation: tuple[float, ...] | None,
    pixel_spacing: tuple[float, float] | None,
    rows: int,
    columns: int,
) -> Grid:
    """The grid on which slices lie.

    Args:
        positions: Image Position (Patient) of each slice, in the order of :func:`along_normal`.
        orientation: row direction and column direction, six numbers.
        pixel_spacing: between rows (y), between columns (x), mm.
        rows, columns: matrix of a slice.

    Raises:
        DicomError: ``E_NO_GEOMETRY``, ``E_NO_PIXEL_SPACING``, ``E_SINGLE_SLICE``, ``E_TOO_LARGE``,
            ``E_DUPLICATE_POSITION``, ``E_MISSING_SLICES`` or ``E_IRREGULAR_SPACING``.
    """
    if orientation is None:
        raise Problem("E_NO_GEOMETRY", "Image Orientation (Patient) is missing").error()
    known = [position for position in positions if position is not None]
    if len(known) < len(positions):
        raise Problem(
            "E_NO_GEOMETRY",
            f"{len(positions) - len(known)} of {len(positions)} slices have no Image Position (Patient)",
        ).error()
    if pixel_spacing is None:
        raise Problem("E_NO_PIXEL_SPACING", "Pixel Spacing is missing or not positive").error()
    if len(known) < 2:
        raise Problem("E_SINGLE_SLICE", "there is one slice only").error()
    if rows * columns * len(known) > MAXIMUM_VOXELS:
        raise Problem("E_TOO_LARGE", f"{columns} x {rows} x {len(known)} voxels").error()
    row, column = _directions(orientation)
    normal = np.cross(row, column)
    points = np.array(known)
    heights = points @ normal
    _check_gaps(np.diff(heights))
    step = (points[-1] - points[0]) / (len(points) - 1)
    _check_line(points, step, normal)
    spacing = (pixel_spacing[1], pixel_spacing[0], float(step @ normal))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2], lps[:3, 3] = row * spacing[0], column * spacing[1], step, points[0]
    sideways = float(np.linalg.norm(step - spacing[2] * normal))
    # Below a tenth of a pixel over the whole stack the shear is rounding of the header's decimals.
    tilted = sideways * (len(points) - 1) > 0.1 * min(pixel_spacing)
    tilt = float(np.degrees(np.arctan2(sideways, spacing[2]))) if tilted else 0.0
    return Grid((columns, rows, len(points)), matrix4(lps), spacing, tilt)


def along_normal(position: Vector3 | None, orientation: tuple[float, ...] | None) -> float:
    """The height of a slice along its normal (row direction x column direction), mm; 0 without geometry."""
    if position is None or orientation is None:
        return 0.0
    return float(np.dot(position, np.cross(orientation[:3], orientation[3:])))


def matrix4(array: NDArray[np.float64]) -> Matrix4:
    """An array as nested tuples, which can be compared, hashed and written as JSON."""
    a, b, c, d = (tuple(float(value) for value in row) for row in np.asarray(array, dtype=np.float64).reshape(4, 4))
    return a, b, c, d  # type: ignore[return-value]


def _directions(orientation: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = float(np.linalg.norm(row)), float(np.linalg.norm(column))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(row @ column))) > ORTHONORMAL_TOLERANCE:
        raise Problem("E_NO_GEOMETRY", "Image Orientation (Patient) is not two perpendicular unit vectors").error()
    return row / lengths[0], column / lengths[1]


def _check_gaps(gaps: NDArray[np.float64]) -> None:
    """Equal steps along the normal; a gap that is a multiple of the others is a missing slice."""
    usual = float(np.median(gaps))
    tolerance = RELATIVE_TOLERANCE * usual + ABSOLUTE_TOLERANCE
    same = np.flatnonzero(gaps < ABSOLUTE_TOLERANCE)
    if len(same):
        raise Problem(
            "E_DUPLICATE_POSITION", f"{len(same)} positions are taken twice, the first at slice {same[0] + 1}"
        ).error()
    off = np.flatnonzero(np.abs(gaps - usual) > tolerance)
    if len(off):
        factors = gaps[off] / usual
        after = f"after slice {off[0] + 1} of {len(gaps) + 1}"
        where = f"the gap {after} is {gaps[off[0]]:.3f} mm, the usual one {usual:.3f} mm"
        if np.all(np.abs(factors - np.round(factors)) * usual < 2 * tolerance) and np.all(np.round(factors) >= 2):
            missing = int(np.sum(np.round(factors) - 1))
            raise Problem("E_MISSING_SLICES", f"{missing} slice(s) missing: {where}").error()
        raise Problem("E_IRREGULAR_SPACING", where).error()
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    drift = np.abs(heights - np.arange(len(heights)) * heights[-1] / len(gaps)).max()
    if drift > DRIFT_TOLERANCE * usual:
        raise Problem("E_IRREGULAR_SPACING", f"the slices drift {drift:.3f} mm from equal spacing").error()


def _check_line(points: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64]) -> None:
    """All slice origins on one straight line, else the slices are shifted sideways against each other."""
    away = points - points[0] - np.arange(len(points))[:, None] * step
    sideways = np.linalg.norm(away - (away @ normal)[:, None] * normal, axis=1)
    worst = int(sideways.argmax())
    if sideways[worst] > RELATIVE_TOLERANCE * np.linalg.norm(step) + ABSOLUTE_TOLERANCE:
        where = f"slice {worst + 1} of {len(points)} lies {sideways[worst]:.3f} mm beside the line of the others"
        raise Problem("E_IRREGULAR_SPACING", where).error()
