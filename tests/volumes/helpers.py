"""Volumes with known geometry, and a small digital head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from ddfm_monai.volumes import make_volume

SAMPLES = Path(__file__).parents[2].parent / "shared" / "data" / "niivue"
"""Real NIfTI files that development machines have beside the repository."""


def affine(spacing=(1.0, 1.0, 1.0), flips=(1, 1, 1), angles=(0.0, 0.0, 0.0), origin=(-20.0, 10.0, 5.0), shear=0.0):
    """A 4x4 RAS affine; flips of -1 turn an axis round, angles are degrees, shear leans the third axis over."""
    matrix = np.eye(4)
    axes = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * np.array(flips)
    matrix[:3, :3] = axes * np.array(spacing)
    matrix[:3, 2] += shear * matrix[:3, 1]
    matrix[:3, 3] = origin
    return matrix


AFFINES = {
    "RAS": affine(),
    "LAS": affine(flips=(-1, 1, 1)),
    "LPS": affine(flips=(-1, -1, 1)),
    "oblique": affine(spacing=(0.9, 1.1, 1.3), angles=(12, -20, 33)),
    "anisotropic": affine(spacing=(0.7, 0.7, 5.0), flips=(-1, 1, 1), angles=(3, 0, -4)),
    "sagittal": affine(spacing=(1.0, 1.0, 3.0)) @ np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]),
}


def noise(shape=(7, 9, 5), matrix=None, channels=1, seed=0):
    """Random values: grey in [0, 1], colour as whole numbers 0..255."""
    generator = np.random.default_rng(seed)
    if channels == 3:
        values = generator.integers(0, 256, (3, *shape)).astype(np.float32)
    else:
        values = generator.random((1, *shape), dtype=np.float32)
    return make_volume(values, np.eye(4) if matrix is None else matrix)


def head(shape, matrix, kind="mr", blur=0.0):
    """A head in RAS mm around (0, 0, 0), without mirror symmetry, on any grid, blurred by so many voxels; [0, 1]."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ matrix[:3, :3].T + matrix[:3, 3], -1, 0)

    def ball(centre, radii):
        return sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    scalp, skull, brain = (ball((0, 0, 0), (70 - d, 90 - d, 75 - d)) for d in (0, 5, 12))
    spot, ventricle = ball((25, 30, 20), (18, 12, 15)), ball((-8, -10, 5), (9, 28, 12))
    nose = ball((0, 92, -20), (12, 16, 22))
    values = {"mr": (0.9, 0.05, 0.5, 0.8, 0.2, 0.7), "ct": (0.1, 1.0, 0.35, 0.3, 0.15, 0.1)}[kind]
    picture = np.zeros(shape, dtype=np.float32)
    for part, value in zip((nose, scalp, skull, brain, spot, ventricle), (values[5], *values[:5]), strict=True):
        picture[part] = value
    return make_volume(gaussian_filter(picture, blur)[None], matrix)
