"""Slices through real MRI volumes in other planes and contrasts: the texture that a label map does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import ndimage

from ddfm_monai.training.data import Slices, nifti_files, read_lps, to_grey_levels
from ddfm_monai.training.drawing import SIZE, Array, Rng, random_plane, top_of

__all__ = ["reslice"]


def reslice(folder: str | Path | None, count: int, seed: int = 3407) -> Slices:
    """Slices through the real MRI volumes under a folder, each with a contrast of its own.

    Volumes of nearly cubic voxels are cut in random planes; of others the slices are taken as they lie, in another
    size. The contrast is changed by gamma, or the grey levels are turned over.

    Args:
        folder: NIfTI volumes; ``None`` is none.
        count: slices in all, evenly spread over the volumes.
        seed: slice ``i`` depends on (seed, i).

    Returns:
        ``{"mr": list of (256, 256) uint8 arrays}``; empty where there is no MRI volume.

    Raises:
        UsageError, InputError: as ``read_slices``.
    """
    if not folder or not count:
        return {}
    volumes = []
    for path in nifti_files(folder, "--dataset_dir"):
        found = read_lps(path)
        if found is not None:
            modality, grey = to_grey_levels(found[0], path)
            if modality == "mr":
                values = np.clip(found[0] / np.percentile(found[0][grey > 25], 95), 0, 2).astype(np.float32)
                cubic = max(found[1]) < 1.5 * min(found[1])
                volumes.append((ndimage.spline_filter(values, output=np.float32) if cubic else values, found[1]))
    if not volumes:
        return {}
    return {"mr": [_resliced(*volumes[i % len(volumes)], np.random.default_rng((seed, i))) for i in range(count)]}


def _resliced(volume: Array, spacing: tuple[float, float, float], rng: Rng) -> Array:
    cut = _oblique if max(spacing) < 1.5 * min(spacing) else _native
    while True:
        picture = np.clip(cut(volume, spacing, rng), 0, 1.5)
        if (picture > 0.1).mean() > 0.02:
            return np.asarray(np.rint(255 * np.clip(_other_contrast(picture, rng), 0, 1)).astype(np.uint8))


def _oblique(volume: Array, spacing: tuple[float, float, float], rng: Rng) -> Array:
    """A random plane, one or three millimetres thick, through a volume of spline coefficients."""
    depths = np.arange(int(rng.choice([1, 1, 3])))
    plane = random_plane(volume.shape, spacing, SIZE, 1.0, rng)
    points = plane.points() - 0.5  # a voxel's centre is a whole number here
    sheets = [
        ndimage.map_coordinates(volume, points + (d * plane.normal)[:, None, None], prefilter=False) for d in depths
    ]
    return np.asarray(np.mean(sheets, 0))


def _native(volume: Array, spacing: tuple[float, float, float], rng: Rng) -> Array:
    """An axial slice as it was taken, with pixels of 0.75 to 1.1 mm."""
    sheet = volume[:, :, int(rng.integers(volume.shape[2]))].T
    step = rng.uniform(0.75, 1.1) / np.array([spacing[1], spacing[0]])
    offset = np.array(sheet.shape) / 2 - SIZE / 2 * step
    return np.asarray(ndimage.affine_transform(sheet, step, offset, output_shape=(SIZE, SIZE), mode="constant"))


def _other_contrast(picture: Array, rng: Rng) -> Array:
    """Brighter or darker, or inside the head turned over."""
    picture = picture / top_of(picture, rng.uniform(97, 99.9))
    if rng.random() < 0.35:
        head = ndimage.binary_fill_holes(ndimage.gaussian_filter(picture, 1.5) > 0.06)
        soft = ndimage.gaussian_filter(np.asarray(head, np.float32), 0.7)
        picture = soft * (1 - rng.uniform(0.6, 1.0) * np.clip(picture, 0, 1)) ** rng.uniform(0.8, 2.5)
    return np.asarray(picture * rng.uniform(0.8, 1.3)) ** np.exp(rng.uniform(-0.35, 0.35))
