"""What the metrics take: 8-bit grey slices, alone or as a volume; checked and converted in one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.errors import InputError

__all__ = ["BACKGROUND_LEVEL", "as_grey8", "foreground_slices", "luma", "require_same_shape"]

Grey8 = NDArray[np.uint8]

BACKGROUND_LEVEL = 10.0  # grey levels; air in an 8-bit picture of a head lies below, tissue above
FOREGROUND_SHARE = 0.01  # of a slice's pixels: a slice with less than this holds nothing to judge


def as_grey8(image: Any, name: str = "image") -> Grey8:
    """An array or tensor as 8-bit grey levels, rounded to whole levels, as the field's tables are computed.

    Args:
        image: ``(H, W)`` slice, ``(X, Y, Z)`` volume, or ``(C, X, Y, Z)`` volume with C = 1 (grey) or 3 (RGB, taken by
            its luma); any real dtype, values 0..255.
        name: what the messages call it.

    Returns:
        ``(H, W)`` or ``(X, Y, Z)`` uint8.

    Raises:
        InputError: wrong dimensions, empty, not finite, or values that are not on the scale 0..255.
    """
    levels = np.asarray(image)
    if levels.ndim == 4:
        if levels.shape[0] not in (1, 3):
            raise InputError(f"{name}: {levels.shape[0]} channels; expected 1 (grey) or 3 (RGB), channel first.")
        levels = luma(levels) if levels.shape[0] == 3 else levels[0]
    if levels.ndim not in (2, 3) or levels.size == 0:
        raise InputError(f"{name}: shape {levels.shape}; expected (H, W), (X, Y, Z) or (C, X, Y, Z), not empty.")
    if levels.dtype == np.uint8:
        return levels
    if not np.isfinite(levels).all():
        raise InputError(f"{name}: holds NaN or infinite values; expected grey levels 0..255.")
    low, high = levels.min(), levels.max()
    if low < -0.5 or high > 255.5:
        raise InputError(f"{name}: values {low:.4g} to {high:.4g}; expected grey levels 0..255. Scale it first.")
    if 0 < high <= 1 and np.any(levels % 1):
        raise InputError(f"{name}: values 0 to {high:.4g} look like the scale [0, 1]; multiply by 255 first.")
    return np.rint(levels).astype(np.uint8)


def luma(rgb: Any) -> NDArray[np.float64]:
    """Luma 0.299 R + 0.587 G + 0.114 B of a channel-first ``(3, ...)`` picture 0..255, rounded to whole levels."""
    red, green, blue = np.asarray(rgb, dtype=np.float64)
    return np.rint(0.299 * red + 0.587 * green + 0.114 * blue)


def require_same_shape(fused: Grey8, a: Grey8, b: Grey8) -> None:
    """Raise InputError unless the three have one shape."""
    if not fused.shape == a.shape == b.shape:
        raise InputError(
            f"Shapes differ: fused {fused.shape}, first source {a.shape}, second source {b.shape}. "
            "Metrics compare pixel by pixel: resample all three to one grid first."
        )


def foreground_slices(a: Grey8, b: Grey8) -> Iterator[int]:
    """Indices along the last axis of the slices of a volume that hold something.

    That is: more than 1 % of the pixels above 10 grey levels in at least one source. Empty end slices would otherwise
    count as perfect (SSIM) or worthless (EN) and shift a volume's mean by how much air it was scanned with.
    """
    for k in range(a.shape[-1]):
        if np.mean(np.maximum(a[..., k], b[..., k]) > BACKGROUND_LEVEL) > FOREGROUND_SHARE:
            yield k
