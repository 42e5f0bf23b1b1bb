"""Lesion transfer: is a lesion that one source shows still seen in the fused picture?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL, as_grey8

__all__ = ["LESION_KINDS", "Fuse", "LesionProbe", "lesion_probes", "lesion_transfer", "transferred"]

Array = NDArray[np.float64]
Fuse = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any]
"""Two uint8 sources of one shape, ``(H, W)`` or ``(X, Y, Z)``, to their fusion of that shape, grey levels 0..255."""

LESION_KINDS = ("a+", "a-", "b+", "b-")

SIGMA = 4.0  # pixels
AMPLITUDE = 50.0  # grey levels
MARGIN = 3 * SIGMA  # pixels from a lesion's centre to the head's border
SPACING = 10 * SIGMA  # pixels between centres: neighbours 10 sigma apart do not touch
HEADROOM = 0.9  # the share of a lesion that must survive the clipping to 0..255


class LesionProbe(NamedTuple):
    """A pair of sources with lesions put into one of them.

    Attributes:
        a, b: the altered sources, uint8.
        lesion: what was added, after clipping and rounding (negative where dark), float64, same shape.
    """

    a: NDArray[np.uint8]
    b: NDArray[np.uint8]
    lesion: Array


def lesion_transfer(fuse: Fuse, a: Any, b: Any) -> dict[str, float]:
    """How much of a small smooth lesion in one source arrives in the fused picture: <dF, L> / <L, L>.

    L is the lesion, dF the change that it makes to the fusion. 1: fully kept, 0: lost, negative: inverted. The mean
    image gives 0.5 always; the maximum loses dark lesions and those that the other source covers.

    The lesion is a Gaussian blob (sigma 4 pixels, 50 grey levels at its centre), bright or dark, in the first or in the
    second source: the four kinds ``a+ a- b+ b-``. It is placed inside the head (where either source is above 10 grey
    levels, holes filled), its centre at least 3 sigma from the border, so that it lies in tissue entirely; at every
    point of a fixed lattice around the head's centre of mass that has such room and where at least 0.9 of the lesion
    survives clipping to 0..255 (a bright spot cannot be put into what is white already). Lattice points are 10 sigma
    apart, so the lesions of a slice are put in together and cost one fusion per kind. L is what was really added, after
    clipping and rounding.

    Args:
        fuse: the fusion; called five times with arrays of the shape of ``a``.
        a, b: sources, ``(H, W)`` or ``(X, Y, Z)``, grey levels 0..255.

    Returns:
        The transfer of each kind, mean over its lesions, and ``"worst"``, the smallest of the four: what a reader can
        rely on. A kind that fits nowhere (a black source has no room for a dark lesion) is NaN and not part of the
        worst.

    Raises:
        InputError: shapes differ, values not 0..255, or no lesion of any kind fits.
    """
    a8, b8 = _pair(a, b)
    clean = np.asarray(fuse(a8, b8))
    if clean.shape != a8.shape:
        raise InputError(f"The fusion of sources of shape {a8.shape} has shape {clean.shape}; expected the same.")
    transfer = {}
    for kind, probe in lesion_probes(a8, b8).items():
        has_room = np.any(probe.lesion)
        transfer[kind] = transferred(clean, fuse(probe.a, probe.b), probe.lesion) if has_room else float("nan")
    if np.isnan(list(transfer.values())).all():
        raise InputError("No lesion fits into these sources: no tissue is 24 pixels wide, or all of it is clipped.")
    transfer["worst"] = float(np.nanmin(list(transfer.values())))
    return transfer


def lesion_probes(a: Any, b: Any) -> dict[str, LesionProbe]:
    """The four altered pairs of `lesion_transfer`, for those who fuse them in their own way (in batches, say)."""
    a8, b8 = _pair(a, b)
    probes = {}
    for kind in LESION_KINDS:
        source, sign = (a8 if kind[0] == "a" else b8), (1 if kind[1] == "+" else -1)
        altered = np.clip(np.rint(source + _lesions(source, np.maximum(a8, b8), sign)), 0, 255).astype(np.uint8)
        lesion = altered.astype(np.float64) - source
        probes[kind] = LesionProbe(altered, b8, lesion) if kind[0] == "a" else LesionProbe(a8, altered, lesion)
    return probes


def transferred(clean: Any, altered: Any, lesion: Array) -> float:
    """<dF, L> / <L, L> of two fusions, without and with the lesions L: the mean over all lesions of the array."""
    change = np.asarray(altered, dtype=np.float64) - np.asarray(clean, dtype=np.float64)
    return float(np.sum(change * lesion) / np.sum(lesion * lesion))


def _pair(a: Any, b: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    a8, b8 = as_grey8(a, "first source"), as_grey8(b, "second source")
    if a8.shape != b8.shape:
        raise InputError(f"Shapes differ: first source {a8.shape}, second source {b8.shape}.")
    return a8, b8


def _lesions(source: NDArray[np.uint8], brighter: NDArray[np.uint8], sign: int) -> Array:
    """The lesions to add to ``source``; zeros where none fits."""
    if source.ndim == 3:
        slices = [_lesions(source[..., k], brighter[..., k], sign) for k in range(source.shape[-1])]
        return np.stack(slices, axis=-1)
    head = ndimage.binary_fill_holes(brighter > BACKGROUND_LEVEL)
    # Padded: the picture's edge is a border, too.
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    lesions = np.zeros(source.shape)
    for centre in _lattice(head):
        if depth[centre] < MARGIN:
            continue
        lesion = sign * AMPLITUDE * _blob(source.shape, centre)
        added = np.clip(source + lesion, 0, 255) - source
        if np.sum(added * lesion) >= HEADROOM * np.sum(lesion * lesion):
            lesions += lesion
    return lesions


def _lattice(head: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Square lattice through the head's centre of mass, as pixel indices inside the picture."""
    if not head.any():
        return []
    axes = []
    for size, middle in zip(head.shape, ndimage.center_of_mass(head), strict=True):
        axes.append(np.arange(round(middle) % int(SPACING), size, int(SPACING)))
    return [(int(row), int(column)) for row in axes[0] for column in axes[1]]


def _blob(shape: tuple[int, ...], centre: tuple[int, int]) -> Array:
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - c) / SIGMA) ** 2) for n, c in zip(shape, centre, strict=True))
    return rows[:, None] * columns
