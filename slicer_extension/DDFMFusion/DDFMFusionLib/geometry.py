"""Where volumes lie: same grid, or at least an overlap. All affines map voxel (i, j, k, 1) to RAS mm, (4, 4)."""

from __future__ import annotations

import numpy as np

__all__ = ["boxes_overlap", "corners", "same_grid"]


def corners(shape: tuple[int, int, int], affine: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """The eight corner positions in mm, (8, 3): centres of the corner voxels, or ``margin`` voxels further out."""
    grid = np.array(np.meshgrid(*[(-margin, size - 1 + margin) for size in shape], indexing="ij")).reshape(3, 8)
    return (affine @ np.vstack([grid, np.ones(8)]))[:3].T


def same_grid(
    shape_a: tuple[int, int, int],
    affine_a: np.ndarray,
    shape_b: tuple[int, int, int],
    affine_b: np.ndarray,
    tolerance: float = 0.01,
) -> bool:
    """Whether all voxels of both grids lie within ``tolerance`` voxels of each other.

    Slicer's own comparison uses millionths of a millimetre, which a volume that went through NIfTI's float32 header
    fails against itself.
    """
    if tuple(shape_a) != tuple(shape_b):
        return False
    apart_mm = corners(shape_b, affine_b) - corners(shape_a, affine_a)
    apart_voxels = np.linalg.solve(affine_a[:3, :3], apart_mm.T)
    return bool(np.abs(apart_voxels).max() <= tolerance)


def boxes_overlap(
    shape_a: tuple[int, int, int], affine_a: np.ndarray, shape_b: tuple[int, int, int], affine_b: np.ndarray
) -> bool:
    """False only if two volumes surely share no point: their boxes along the patient's axes are disjoint."""
    a, b = corners(shape_a, affine_a, margin=0.5), corners(shape_b, affine_b, margin=0.5)
    return bool(np.all(a.min(axis=0) < b.max(axis=0)) and np.all(b.min(axis=0) < a.max(axis=0)))
