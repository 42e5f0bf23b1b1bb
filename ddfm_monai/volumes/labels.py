"""Masks and label maps, which are numbers of structures and no image: how a volume shows that it is one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from monai.data.meta_tensor import MetaTensor

__all__ = ["doubt_of_labels", "is_named_as_labels"]

_NAMED = re.compile(r"(?i)(?<![a-z])((brain)?mask|(d|prob|a)?seg|segmentations?|labels?)(?![a-z])")
_INTENTS = (1002, 1005)  # of a NIfTI file: NIFTI_INTENT_LABEL, NIFTI_INTENT_NEURONAME
_FEW = 4  # values; a digital phantom may have five


def is_named_as_labels(name: str) -> bool:
    """Whether a file's name says that it holds a mask or labels.

    >>> [is_named_as_labels(name) for name in ("t1_mask.nii.gz", "sub-1_dseg.nii", "t1_masked.nii")]
    [True, True, False]
    """
    return _NAMED.search(name) is not None


def doubt_of_labels(volume: MetaTensor, sample: np.ndarray) -> str | None:
    """What a person is told of a volume that looks like a mask or a label map; None for an image.

    Args:
        volume: ``(C, X, Y, Z)`` in its own units.
        sample: 1-D, of its values.
    """
    witness = _witness(volume, sample)
    if witness is None:
        return None
    return (
        f"looks like a mask or labels, no image ({witness}): its numbers are fused as if they were brightness. "
        "Give the image itself, unless this is meant."
    )


def _witness(volume: MetaTensor, sample: np.ndarray) -> str | None:
    source = volume.meta.get("filename_or_obj")
    if source and "origin" not in volume.meta and is_named_as_labels(Path(str(source)).name):
        return "by its name"
    if int(volume.meta.get("intent_code", 0)) in _INTENTS:
        return "by its header"
    if volume.shape[0] == 1 and len(found := np.unique(sample)) <= _FEW:
        return f"only {len(found)} different values"
    return None
