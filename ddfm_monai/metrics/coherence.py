"""Through-plane coherence: does slice-by-slice fusion add changes from slice to slice that no source has?"""

from __future__ import annotations

from typing import Any

import numpy as np

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL, as_grey8, require_same_shape

__all__ = ["through_plane_coherence"]


def through_plane_coherence(fused: Any, a: Any, b: Any) -> float:
    """What the fused volume's slice-to-slice change adds to that of its sources, as a share of theirs; 0 is best.

    With d the difference of neighbouring slices, per voxel: excess = max(0, |dF| - max(|dA|, |dB|)); the result is
    sum(excess) / sum(max(|dA|, |dB|)) over the voxels of the head (either source above 10 grey levels in either slice).

    Why this measure: the sources' own change is anatomy and must not count, and plain roughness along z would only
    reward blurring. A fusion that takes the brighter source, or mixes both in fixed proportions, can never change more
    than the livelier source does: the pixelwise maximum and the mean score exactly 0. Flicker (each slice stretched on
    its own, another noise field per slice, a decision that flips between slices) shows as excess. Changes that cancel
    (dA = -dB) are allowed the size of either. A fusion that adds details of both sources can exceed the bound where
    both change the same way, so its score is small but not 0: compare methods on the same volume.

    Args:
        fused, a, b: ``(X, Y, Z)`` or ``(C, X, Y, Z)``, Z at least 2, grey levels 0..255.

    Raises:
        InputError: shapes differ, fewer than two slices, values not 0..255.
    """
    fused, a, b = as_grey8(fused, "fused"), as_grey8(a, "first source"), as_grey8(b, "second source")
    require_same_shape(fused, a, b)
    if fused.ndim != 3 or fused.shape[-1] < 2:
        raise InputError(f"Through-plane coherence needs a volume of at least two slices; found shape {fused.shape}.")
    present = np.maximum(a, b) > BACKGROUND_LEVEL
    head = present[..., 1:] | present[..., :-1]
    change_f, change_a, change_b = (np.abs(np.diff(v.astype(np.int16), axis=-1))[head] for v in (fused, a, b))
    allowed = np.maximum(change_a, change_b)
    excess = np.maximum(change_f - allowed, 0)
    # Sources that never change allow no change: any excess then counts against one grey level per voxel.
    return float(excess.sum() / (allowed.sum() or max(head.sum(), 1)))
