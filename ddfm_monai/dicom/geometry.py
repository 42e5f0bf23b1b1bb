"""Slice positions to a voxel grid.

Everything here is in the patient coordinates of DICOM (PS3.3 C.7.6.2.1.1): LPS, mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.space import flip

__all__ = ["Grid", "Matrix4", "Vector3", "along_normal", "fit_grid", "is_even", "matrix4"]

# No slice may be further from its place on the even grid that fits the whole stack best than 1 % of a step (highdicom's
# tolerance) and 0.01 mm (3D Slicer's).
RELATIVE_TOLERANCE = 0.01
ABSOLUTE_TOLERANCE = 0.01
# Positions written with one or two decimals lie beside the grid by their rounding, but never by a fifth of a step.
ROUNDING_TOLERANCE = 0.2
# So many gaps of another size one after the other are another spacing; fewer are missing slices.
ANOTHER_SPACING = 3
# Slices of one volume may touch or overlap their neighbours by rounding, but not by a fifth of their thickness.
OVERLAP = 1.2
# Below this many degrees a tilt is rounding of the direction cosines.
SMALLEST_TILT = 0.1
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
        uneven: where the slices are not equally spaced, the place of each on the z axis, in voxels from 0 to Z - 1: the
            grid's own planes are interpolated between them. Empty where plane z is slice z.
    """

    shape: tuple[int, int, int]
    lps: Matrix4
    spacing: Vector3
    tilt: float
    uneven: tuple[float, ...] = ()

    @property
    def affine(self) -> NDArray[np.float64]:
        """4x4 float64, voxel index to RAS mm (the convention of nibabel and MONAI)."""
        return flip(np.array(self.lps))

    def slice_at(self, z: float) -> float:
        """The slice that lies at a place on the z axis, counted from 0, with fractions between two slices."""
        return float(np.interp(z, self.uneven, np.arange(len(self.uneven)))) if self.uneven else z


def fit_grid(
    positions: Sequence[Vector3 | None],
    orientation: tuple[float, ...] | None,
    pixel_spacing: tuple[float, float] | None,
    rows: int,
    columns: int,
    thicknesses: Sequence[float | None] = (),
) -> Grid:
    """The grid on which slices lie.

    Slices whose spacing changes along the stack, and which all touch their neighbours, get an even grid of the smallest
    gap (``Grid.uneven``): such a volume can be resampled onto another, but its grid is none that was measured.

    Args:
        positions: Image Position (Patient) of each slice, in the order of :func:`along_normal`.
        orientation: row direction and column direction, six numbers.
        pixel_spacing: between rows (y), between columns (x), mm.
        rows, columns: matrix of a slice.
        thicknesses: Slice Thickness of each slice, mm.

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
    row, column = _directions(orientation)
    normal = np.cross(row, column)
    points = np.array(known)
    rounding = _rounding(points)
    index, uneven = _planes(points @ normal, rounding, thicknesses)
    count = round(index[-1]) + 1
    if rows * columns * count > MAXIMUM_VOXELS:
        raise Problem("E_TOO_LARGE", f"{columns} x {rows} x {count} voxels").error()
    step, origin = np.polynomial.polynomial.polyfit(index, points, 1)[::-1]
    _check_line(points - origin - index[:, None] * step, step, normal, rounding)
    spacing = (pixel_spacing[1], pixel_spacing[0], float(step @ normal))
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2], lps[:3, 3] = row * spacing[0], column * spacing[1], step, origin
    sideways = float(np.linalg.norm(step - spacing[2] * normal))
    tilt = float(np.degrees(np.arctan2(sideways, spacing[2])))
    # Below a tenth of a pixel over the whole stack the shear is rounding of the header's decimals.
    tilted = sideways * (count - 1) > max(0.1 * min(pixel_spacing), rounding) and tilt > SMALLEST_TILT
    places = tuple(index.tolist()) if uneven else ()
    return Grid((columns, rows, count), matrix4(lps), spacing, tilt if tilted else 0.0, places)


def _planes(
    heights: NDArray[np.float64], rounding: float, thicknesses: Sequence[float | None]
) -> tuple[NDArray[np.float64], bool]:
    """The place of each slice on the z axis, in voxels from 0 to a whole number, and whether they are unevenly spaced.

    Raises:
        DicomError: the slices are not equally spaced, and do not all touch their neighbours either.
    """
    problem = _uneven_gaps(heights, rounding)
    if problem is None:
        return np.arange(len(heights), dtype=np.float64), False
    if problem.code == "E_DUPLICATE_POSITION" or not _touch(heights, thicknesses):
        raise problem.error()
    if _lie_in_each_other(heights, thicknesses):
        found = f"{problem.found}; slices overlap in a part of the stack, as if two stacks lay in each other"
        raise replace(problem, found=found).error()
    index = (heights - heights[0]) / np.diff(heights).min()
    last = int(np.ceil(index[-1] - 0.05))  # the last decimals of positions make no plane more
    return index * (last / index[-1]), True


def is_even(positions: Sequence[Vector3], orientation: tuple[float, ...]) -> bool:
    """Whether slices at these positions (at least two, in the order of :func:`along_normal`) are equally spaced."""
    heights = np.array([along_normal(position, orientation) for position in positions])
    return _uneven_gaps(heights, _rounding(np.array(positions))) is None


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


def _rounding(points: NDArray[np.float64]) -> float:
    """The last decimal that positions are written with, mm: 0.1 or less; 0 for whole numbers, which are not rounded.

    Only coordinates that change along the stack count, the coarsest of them: a header may give x and y with six
    decimals (they follow from the field of view) and the table's place with one.
    """
    changing = points[:, np.ptp(points, axis=0) > ABSOLUTE_TOLERANCE]
    return max((_last_decimal(column) for column in changing.T), default=0.0)


def _last_decimal(values: NDArray[np.float64]) -> float:
    for decimals in range(4):
        if np.abs(values - values.round(decimals)).max() < 1e-7:
            return 10.0**-decimals if decimals else 0.0
    return 0.0


def _uneven_gaps(heights: NDArray[np.float64], rounding: float) -> Problem | None:
    """Why slices are not equally spaced along their normal, measured against the even grid that fits all of them best.

    A gap that is a multiple of the others is a missing slice, unless several such gaps follow one another.
    """
    gaps = np.diff(heights)
    same = np.flatnonzero(gaps < ABSOLUTE_TOLERANCE)
    if len(same):
        found = f"{len(same)} positions are taken twice, the first at slice {same[0] + 1}"
        if (np.diff(same) == 1).any():
            found = f"{len(heights)} slices lie at {len(heights) - len(same)} positions"
        return Problem("E_DUPLICATE_POSITION", found)
    usual = float(np.median(gaps))
    if _off_even_grid(heights, np.arange(len(heights)), rounding) is None:
        return None
    steps = np.maximum(np.rint(gaps / usual), 1).astype(int)
    worst = int(np.abs(gaps - usual).argmax())
    where = f"the gap after slice {worst + 1} of {len(heights)} is {gaps[worst]:.3f} mm, the usual one {usual:.3f} mm"
    if steps.max() > 1 and _off_even_grid(heights, np.concatenate([[0], np.cumsum(steps)]), rounding) is None:
        first = int(np.flatnonzero(steps > 1)[0])
        if not (steps[first : first + ANOTHER_SPACING] > 1).all() or len(gaps) - first < ANOTHER_SPACING:
            gap = f"the gap after slice {first + 1} of {len(heights)} is {gaps[first]:.3f} mm"
            return Problem(
                "E_MISSING_SLICES", f"{int((steps - 1).sum())} slice(s) missing: {gap}, the usual one {usual:.3f} mm"
            )
    return Problem("E_IRREGULAR_SPACING", where)


def _off_even_grid(heights: NDArray[np.float64], index: NDArray[np.int_], rounding: float) -> float | None:
    """How far a slice lies from its place on the best even grid, mm; None if within the tolerance."""
    coefficients = np.polynomial.polynomial.polyfit(index, heights, 1)
    off = float(np.abs(heights - np.polynomial.polynomial.polyval(index, coefficients)).max())
    step = float(coefficients[1])
    return None if off <= _tolerance(step, rounding) else off


def _tolerance(step: float, rounding: float) -> float:
    return max(RELATIVE_TOLERANCE * step + ABSOLUTE_TOLERANCE, min(rounding, ROUNDING_TOLERANCE * step))


def _touch(heights: NDArray[np.float64], thicknesses: Sequence[float | None]) -> bool:
    """Whether no gap is wider than the thicker of the two slices beside it: between them nothing is invented."""
    known = [thickness for thickness in thicknesses if thickness is not None]
    if len(known) < len(heights):
        return False
    thick = np.array(known)
    return bool((np.diff(heights) <= np.maximum(thick[1:], thick[:-1]) * (1 + RELATIVE_TOLERANCE)).all())


def _lie_in_each_other(heights: NDArray[np.float64], thicknesses: Sequence[float | None]) -> bool:
    """Whether slices of one thickness overlap in a part of the stack and touch in another.

    That is how two stacks look that overlap in part, half a slice apart. One such gap may be the seam between two.
    """
    thick = np.array(thicknesses, np.float64)
    alike = np.abs(np.diff(thick)) <= RELATIVE_TOLERANCE * thick[1:]
    overlapping = np.diff(heights) * OVERLAP < thick[1:]
    return any(
        np.count_nonzero(overlapping[here]) > 1 and not overlapping[here].all()
        for here in (alike & (thick[1:] == value) for value in np.unique(thick))
    )


def _check_line(
    away: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64], rounding: float
) -> None:
    """All slice origins on one straight line, else the slices are shifted sideways against each other."""
    sideways = np.linalg.norm(away - (away @ normal)[:, None] * normal, axis=1)
    worst = int(sideways.argmax())
    if sideways[worst] > _tolerance(float(np.linalg.norm(step)), rounding):
        where = f"slice {worst + 1} of {len(away)} lies {sideways[worst]:.3f} mm beside the line of the others"
        raise Problem("E_IRREGULAR_SPACING", where).error()
