"""What the formats have in common: their refusals, and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ddfm_monai.errors import InputError, of_system

__all__ = ["Contents", "check_opaque", "spatial_shape", "to_byte", "unreadable"]

Contents = tuple[np.ndarray, np.ndarray, dict[str, Any]]
"""What a format's ``read`` gives: ``(C, X, Y, Z)`` float32, affine (RAS mm), and entries for ``meta``."""


def unreadable(path: Path, what: str, error: Exception | None = None) -> InputError:
    """The error for a file that its library, or the system, cannot read."""
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(str(of_system(error, path)), "E_FILE")
    reason = str(error).strip().splitlines() if error else []
    detail = f" ({reason[-1].strip(' -')})" if reason else ""
    return InputError(
        f"{path}: cannot be read as {what}: it is truncated, damaged or another kind of file{detail}. "
        "Copy or export it again.",
        "E_UNREADABLE",
    )


def spatial_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The three dimensions of a volume; InputError (``E_DIMENSIONS``) for fewer or more."""
    kept = shape
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) == 3 and min(kept) > 0:
        return (kept[0], kept[1], kept[2])
    size = " x ".join(str(n) for n in shape) or "no size"
    if len(kept) < 3:
        todo = "Save it as a volume with one slice (X x Y x 1), or as a PNG picture."
    elif len(kept) > 3:
        todo = "Save one time point or channel as a 3-D volume."
    else:
        todo = "Export it again."
    raise InputError(f"{path}: found {len(shape)} dimensions ({size}); expected a 3-D volume. {todo}", "E_DIMENSIONS")


def check_opaque(path: Path, alpha: np.ndarray) -> None:
    """Raise InputError (``E_ALPHA``) for an image that is transparent in parts."""
    if alpha.min() != 255 and alpha.any():
        raise InputError(
            f"{path}: has transparent parts (alpha from {alpha.min()} to {alpha.max()}); expected none. "
            "Flatten it onto its background first.",
            "E_ALPHA",
        )


def to_byte(values: np.ndarray) -> np.ndarray:
    """Rounded to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
