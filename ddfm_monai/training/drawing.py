"""What slices of label maps and slices of real volumes are drawn with: planes through a volume, smooth noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["SIZE", "Array", "Plane", "Rng", "random_plane", "smooth_noise", "top_of"]

Array = np.ndarray
Rng = np.random.Generator
SIZE = 256
"""Side of a drawn slice, pixels."""


@dataclass(frozen=True)
class Plane:
    """A plane through a volume, in voxels: the centre, the step to the next row and column, and 1 mm of the normal."""

    centre: Array
    rows: Array
    columns: Array
    normal: Array
    side: int

    def points(self) -> Array:
        """``(3, side, side)`` float32."""
        along = np.arange(self.side) + 0.5 - self.side / 2
        down, right = np.outer(self.rows, along), np.outer(self.columns, along)
        return (self.centre[:, None, None] + down[:, :, None] + right[:, None, :]).astype(np.float32)


def random_plane(shape: Sequence[int], spacing: Sequence[float], side: int, step: float, rng: Rng) -> Plane:
    """Most of them axial and nearly straight; pixels of ``step`` times 0.78 to 1.1 mm."""
    extent = np.array(shape) * np.array(spacing)
    base = {"axial": np.eye(3), "coronal": np.eye(3)[[0, 2, 1]], "sagittal": np.eye(3)[[1, 2, 0]]}
    which = str(rng.choice(list(base), p=[0.8, 0.1, 0.1]))
    columns, rows, normal = base[which]
    if which != "axial":
        rows = -rows  # the head is up
    turn = _rotation(np.deg2rad(rng.normal(0, [8, 8, 6])))
    columns, rows, normal = turn @ columns, turn @ rows, turn @ normal
    if rng.random() < 0.5:
        columns = -columns
    pixel = step * rng.uniform(0.78, 1.1)  # mm
    centre = extent / 2 + normal * rng.uniform(-0.32, 0.32) * abs(normal @ extent)
    centre = centre + columns * rng.uniform(-12, 12) + rows * rng.uniform(-12, 12)
    to_voxels = 1 / np.array(spacing)
    return Plane(centre * to_voxels, rows * pixel * to_voxels, columns * pixel * to_voxels, normal * to_voxels, side)


def _rotation(angles: Array) -> Array:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    return np.asarray(
        np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    )


def smooth_noise(shape: tuple[int, ...], sigma: float, rng: Rng) -> Array:
    """Smooth Gaussian noise of unit variance."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap")
    return np.asarray(smooth / (smooth.std() + 1e-6))


def top_of(picture: Array, percentile: float) -> float:
    inside = picture[picture > 0.05 * picture.max()]
    return float(np.percentile(inside, percentile)) + 1e-6
