"""Lesion transfer: is a lesion that one source shows, or both, still seen in the fused picture?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL, as_grey8

__all__ = [
    "LESION_KINDS",
    "SHARED_KINDS",
    "Fuse",
    "LesionProbe",
    "SharedProbe",
    "contrast_kept",
    "lesion_probes",
    "lesion_transfer",
    "shared_lesion_probes",
    "shared_lesion_transfer",
    "transferred",
]

Array = NDArray[np.float64]
Fuse = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Any]
"""Two uint8 sources of one shape, ``(H, W)`` or ``(X, Y, Z)``, to their fusion of that shape, grey levels 0..255."""

LESION_KINDS = ("a+", "a-", "b+", "b-")
SHARED_KINDS = ("a+b+", "a-b-", "a+b-", "a-b+")

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


class SharedProbe(NamedTuple):
    """A pair of sources with lesions at the same places in both.

    Attributes:
        a, b: the altered sources, uint8.
        lesions: the stronger one of each place, in its source, after clipping and rounding: float64, same shape.
        centres: pixel indices of each lesion.
    """

    a: NDArray[np.uint8]
    b: NDArray[np.uint8]
    lesions: Array
    centres: list[tuple[int, ...]]


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
        amplitude = AMPLITUDE if kind[1] == "+" else -AMPLITUDE
        amplitudes = [amplitude if kind[0] == source else 0.0 for source in "ab"]
        centres = _places((a8, b8), amplitudes)
        altered = [_with_lesions(x, centres, size) for x, size in zip((a8, b8), amplitudes, strict=True)]
        source = 0 if kind[0] == "a" else 1
        lesion = altered[source].astype(np.float64) - (a8, b8)[source]
        probes[kind] = LesionProbe(altered[0], altered[1], lesion)
    return probes


def transferred(clean: Any, altered: Any, lesion: Array) -> float:
    """<dF, L> / <L, L>: the mean over all lesions of the array.

    Args:
        clean, altered: two fusions, grey levels, without and with the lesions.
        lesion: L, of the same shape (:class:`LesionProbe`).
    """
    change = np.asarray(altered, dtype=np.float64) - np.asarray(clean, dtype=np.float64)
    return float(np.sum(change * lesion) / np.sum(lesion * lesion))


def shared_lesion_transfer(fuse: Fuse, a: Any, b: Any, ratio: float = 1.0) -> dict[str, float]:
    """How much contrast is left of a lesion that both sources show, bright or dark in each.

    An oedema, a cyst or most lesions of a T2-weighted MRI are bright there and dark in CT. A mixture of both sources
    then takes one from the other, and a choice between them may flip inside the lesion. The four kinds are
    ``a+b+ a-b- a+b- a-b+``; lesions are those of `lesion_transfer`, at the places where they fit into both sources.

    The contrast kept of one lesion is abs(<dF, L>) / <L, L>, L the stronger of the two: bright or dark, it must be
    seen. Places are taken one by one, so that bright and dark results do not cancel in the mean.

    Args:
        fuse: the fusion; called five times.
        a, b: sources, ``(H, W)`` or ``(X, Y, Z)``, grey levels 0..255.
        ratio: amplitude in b over that in a; the stronger one has 50 grey levels. At 1 the two would cancel in the
            mean image where their signs are opposite.

    Returns:
        The contrast kept of each kind, mean over its lesions, and ``"worst"``. A kind that fits nowhere is NaN.

    Raises:
        InputError: as `lesion_transfer`.
    """
    a8, b8 = _pair(a, b)
    clean = fuse(a8, b8)
    kept = {}
    for kind, probe in shared_lesion_probes(a8, b8, ratio).items():
        kept[kind] = contrast_kept(clean, fuse(probe.a, probe.b), probe) if probe.centres else float("nan")
    if np.isnan(list(kept.values())).all():
        raise InputError("No lesion fits into both sources: no tissue is 24 pixels wide, or all of it is clipped.")
    kept["worst"] = float(np.nanmin(list(kept.values())))
    return kept


def shared_lesion_probes(a: Any, b: Any, ratio: float = 1.0) -> dict[str, SharedProbe]:
    """The four altered pairs of `shared_lesion_transfer`, whose arguments and errors these are."""
    a8, b8 = _pair(a, b)
    sizes = AMPLITUDE * min(1.0, 1 / ratio), AMPLITUDE * min(1.0, ratio)
    probes = {}
    for kind in SHARED_KINDS:
        amplitudes = [size if sign == "+" else -size for size, sign in zip(sizes, kind[1::2], strict=True)]
        centres = _places((a8, b8), amplitudes)
        altered = [_with_lesions(x, centres, amplitude) for x, amplitude in zip((a8, b8), amplitudes, strict=True)]
        stronger = int(ratio > 1)
        lesions = altered[stronger].astype(np.float64) - (a8, b8)[stronger]
        probes[kind] = SharedProbe(altered[0], altered[1], lesions, centres)
    return probes


def contrast_kept(clean: Any, altered: Any, probe: SharedProbe) -> float:
    """Mean over the probe's lesions of abs(<dF, L>) / <L, L>, two fusions without and with them."""
    change = np.asarray(altered, dtype=np.float64) - np.asarray(clean, dtype=np.float64)
    reach = int(SPACING / 2)
    kept = []
    for row, column, *k in probe.centres:
        around = slice(max(row - reach, 0), row + reach), slice(max(column - reach, 0), column + reach)
        here, lesion = ((x[..., k[0]] if k else x)[around] for x in (change, probe.lesions))
        kept.append(abs(np.sum(here * lesion)) / np.sum(lesion**2))
    return float(np.mean(kept))


def _pair(a: Any, b: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    a8, b8 = as_grey8(a, "first source"), as_grey8(b, "second source")
    if a8.shape != b8.shape:
        raise InputError(f"Shapes differ: first source {a8.shape}, second source {b8.shape}.")
    return a8, b8


def _places(sources: tuple[NDArray[np.uint8], NDArray[np.uint8]], amplitudes: list[float]) -> list[tuple[int, ...]]:
    """Centres, pixel indices, where a lesion lies in tissue and fits into each source that has one (amplitude)."""
    if sources[0].ndim == 3:
        return [
            (*centre, k)
            for k in range(sources[0].shape[-1])
            for centre in _places((sources[0][..., k], sources[1][..., k]), amplitudes)
        ]
    head = ndimage.binary_fill_holes(np.maximum(*sources) > BACKGROUND_LEVEL)
    # Padded: the picture's edge is a border, too.
    depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
    return [
        centre
        for centre in _lattice(head)
        if depth[centre] >= MARGIN
        and all(_fits(x, amplitude, centre) for x, amplitude in zip(sources, amplitudes, strict=True) if amplitude)
    ]


def _fits(source: NDArray[np.uint8], amplitude: float, centre: tuple[int, int]) -> bool:
    lesion = amplitude * _blob(source.shape, centre)
    added = np.clip(source + lesion, 0, 255) - source
    return bool(np.sum(added * lesion) >= HEADROOM * np.sum(lesion * lesion))


def _with_lesions(source: NDArray[np.uint8], centres: list[tuple[int, ...]], amplitude: float) -> NDArray[np.uint8]:
    lesions = np.zeros(source.shape)
    for row, column, *k in centres:
        plane = lesions[..., k[0]] if k else lesions  # a view
        plane += amplitude * _blob(source.shape[:2], (row, column))
    return np.clip(np.rint(source + lesions), 0, 255).astype(np.uint8)


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
