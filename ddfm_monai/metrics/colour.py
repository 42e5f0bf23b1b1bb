"""Hue error: does the colour of a PET, SPECT or visible-light source survive the fusion?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.errors import InputError

__all__ = ["ciede2000_hue_difference", "hue_error", "srgb_to_lab"]

Array = NDArray[np.float64]

COLOURED = 5.0  # CIELAB chroma; below, a pixel of the source is grey and has no hue to keep

# sRGB (IEC 61966-2-1), linear light, to CIE XYZ; divided by the D65 white of the same matrix.
_TO_XYZ = np.array([
    [0.4124, 0.3576, 0.1805],
    [0.2126, 0.7152, 0.0722],
    [0.0193, 0.1192, 0.9505],
])  # fmt: skip
_WHITE = _TO_XYZ.sum(axis=1)


def hue_error(fused: Any, source: Any) -> float:
    """Mean absolute hue term of CIEDE2000, dH' / S_H, between a fused colour picture and its colour source.

    Only the hue term counts, because a fusion is to change lightness. It is taken over the pixels where the source is
    coloured (CIELAB chroma above 5). In CIEDE2000 units: below 1 no eye sees it. A fusion that turns grey has no hue to
    differ by: look at the picture, too.

    Args:
        fused, source: channel-first ``(3, ...)`` sRGB, values 0..255, equal shapes.

    Returns:
        0 if no pixel of the source is coloured.

    Raises:
        InputError: not three channels, or shapes that differ.
    """
    fused, source = np.asarray(fused, dtype=np.float64), np.asarray(source, dtype=np.float64)
    if fused.shape != source.shape or fused.shape[0] != 3:
        raise InputError(f"Hue error compares two (3, ...) colour pictures; found {fused.shape} and {source.shape}.")
    lab_source = srgb_to_lab(source)
    coloured = np.hypot(lab_source[1], lab_source[2]) > COLOURED
    if not coloured.any():
        return 0.0
    return float(ciede2000_hue_difference(lab_source[:, coloured], srgb_to_lab(fused)[:, coloured]).mean())


def srgb_to_lab(rgb: Array) -> Array:
    """CIELAB (D65) of channel-first sRGB 0..255."""
    encoded = np.clip(rgb / 255, 0, 1)
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    relative = np.tensordot(_TO_XYZ / _WHITE[:, None], linear, axes=1)
    fx, fy, fz = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def ciede2000_hue_difference(lab1: Array, lab2: Array) -> Array:
    """|dH' / (k_H S_H)| of CIEDE2000, k_H = 1, per pixel of two ``(3, N)`` CIELAB arrays (Sharma et al. 2005)."""
    mean_chroma7 = ((np.hypot(lab1[1], lab1[2]) + np.hypot(lab2[1], lab2[2])) / 2) ** 7
    stretch = 1 + 0.5 * (1 - np.sqrt(mean_chroma7 / (mean_chroma7 + 25.0**7)))
    (c1, h1), (c2, h2) = (_chroma_and_hue(stretch * lab[1], lab[2]) for lab in (lab1, lab2))

    step = (h2 - h1 + np.pi) % (2 * np.pi) - np.pi
    difference = 2 * np.sqrt(c1 * c2) * np.sin(step / 2)

    mean_hue = np.where(c1 * c2 > 0, h1 + step / 2, h1 + h2)
    t = (
        1
        - 0.17 * np.cos(mean_hue - np.radians(30))
        + 0.24 * np.cos(2 * mean_hue)
        + 0.32 * np.cos(3 * mean_hue + np.radians(6))
        - 0.20 * np.cos(4 * mean_hue - np.radians(63))
    )
    return np.abs(difference) / (1 + 0.015 * (c1 + c2) / 2 * t)


def _chroma_and_hue(a: Array, b: Array) -> tuple[Array, Array]:
    return np.hypot(a, b), np.arctan2(b, a)
