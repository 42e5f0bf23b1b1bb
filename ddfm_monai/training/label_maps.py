"""Label maps of heads: which tissue every voxel is.

Labels are numbered as FreeSurfer does it (cortical parcels too); outside the brain as its SAMSEG does: 502 artery,
506 eye, 507 other soft tissue, 508 eye muscle, 509 mucosa, 511 skin, 512 spinal cord, 514 vein, 515 compact and
516 spongy bone, 530 optic nerve.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.training.data import nifti_files, read_lps
from ddfm_monai.training.drawing import Array, Rng, smooth_noise

__all__ = ["CODE", "NAMES", "LabelMap", "read_label_maps"]

TISSUES: dict[str, tuple[int, ...]] = {
    "air": (0,),
    "white": (2, 41, 85, 192, 250, 251, 252, 253, 254, 255),
    "grey": (3, 42, 17, 18, 53, 54),
    "deep grey": (11, 12, 26, 50, 51, 58),
    "thalamus": (10, 49, 28, 60),
    "pallidum": (13, 52),
    "stem": (16, 512),
    "csf": (4, 5, 14, 15, 24, 43, 44, 72),
    "cerebellar white": (7, 46),
    "cerebellar grey": (8, 47),
    "vessel": (30, 62, 502, 514),
    "plexus": (31, 63, 136, 137, 163, 164),
    "lesion": (25, 57, 77, 78, 79),
    "eye": (506,),
    "soft": (507,),
    "muscle": (508,),
    "mucosa": (509,),
    "skin": (511,),
    "bone": (515,),
    "marrow": (516,),
    "nerve": (530,),
    "fat": (),  # split off "soft"
}
NAMES = tuple(TISSUES)
CODE = {name: code for code, name in enumerate(NAMES)}
_CORTICAL_PARCELS = range(1000, 3000)


@dataclass(frozen=True)
class LabelMap:
    """A head: the code of the tissue of every voxel.

    Args:
        tissues: ``(X, Y, Z)`` uint8, axes in LPS order.
        spacing: mm.
    """

    tissues: Array
    spacing: tuple[float, float, float]


def read_label_maps(folder: str | Path | None, seed: int = 3407) -> list[LabelMap]:
    """All label maps (NIfTI) under a folder; ``None`` is none.

    Raises:
        UsageError: the folder does not exist or holds no NIfTI volume.
        InputError: a volume cannot be read, or has a label that is not known (see the head of this file).
    """
    if not folder:
        return []
    maps = []
    for number, path in enumerate(nifti_files(folder, "--labels_dir")):
        found = read_lps(path)
        if found is None:
            raise InputError(f"{path.name}: a colour volume, expected a label map. Remove it.", "E_LABELS")
        labels, spacing = found
        tissues = _to_tissues(labels, path.name)
        maps.append(LabelMap(_with_fat(tissues, np.random.default_rng((seed, number))), spacing))
    if not maps:
        raise UsageError(f"{folder}: no label map (.nii, .nii.gz).", "E_NO_DATA")
    return maps


def _to_tissues(labels: Array, name: str) -> Array:
    numbers, inverse = np.unique(labels, return_inverse=True)
    of = {label: code for code, tissue in enumerate(NAMES) for label in TISSUES[tissue]}
    of |= dict.fromkeys(_CORTICAL_PARCELS, CODE["grey"])
    unknown = sorted({float(n) for n in numbers} - set(of))
    if unknown:
        raise InputError(
            f"{name}: labels {', '.join(f'{n:g}' for n in unknown[:8])} are not known. Expected are FreeSurfer's "
            "numbers, and SAMSEG's outside the brain. Renumber the map, or remove it.",
            "E_LABELS",
        )
    return np.array([of[int(n)] for n in numbers], np.uint8)[inverse].reshape(labels.shape)


def _with_fat(tissues: Array, rng: Rng) -> Array:
    """Splits fat off the soft tissue: a layer below the skin of changing depth, and lobes further inside."""
    soft = tissues == CODE["soft"]
    outside = ndimage.uniform_filter((tissues == CODE["air"]).astype(np.float32) + (tissues == CODE["skin"]), 15)
    lobes = smooth_noise(tuple(n // 4 + 1 for n in tissues.shape), 2.0, rng)
    lobes = ndimage.zoom(lobes, 4, order=1)[tuple(slice(n) for n in tissues.shape)]
    return np.where(soft & (outside * 3 + 0.5 * lobes > 1.0), np.uint8(CODE["fat"]), tissues)
