"""What a fusion keeps of lesions that are put into some slices: their contrast, and how well they can be detected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.detectability import Noise, detectability
from ddfm_monai.metrics.lesions import LESION_KINDS, SHARED_KINDS, Fuse, lesion_transfer, shared_lesion_transfer
from ddfm_monai.metrics.slices import Grey8

__all__ = ["LesionStudy", "study_lesions"]

_USUAL = {"mr": "zero-filled", "ct": "soft", "pet": "soft", "spect": "soft"}
_REALISATIONS = 8
_FEWEST = 40  # lesions; an efficiency of fewer says nothing
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class LesionStudy:
    """What one method keeps; a kind of lesion that finds too few places in the slices is left out.

    Args:
        transfer: kind of lesion (`LESION_KINDS`) to the part of its contrast that is kept.
        shared: kind of lesion of both sources (`SHARED_KINDS`, equal amplitudes) to the part of its contrast.
        efficiency: kind of lesion to the efficiency of an observer of the fused picture, noise in its source alone.
        false_positives: kind of lesion to the share of lesion-free places at which that observer sees one; 0.05 in
            the source.
        noise: kinds of noise of the first and the second source in the observer study.
    """

    transfer: dict[str, float]
    shared: dict[str, float]
    efficiency: dict[str, float]
    false_positives: dict[str, float]
    noise: tuple[str, str]


def study_lesions(fuse: Fuse, a: Grey8, b: Grey8, kinds: tuple[str, str]) -> LesionStudy:
    """`lesion_transfer`, `shared_lesion_transfer` and `detectability` of some slices.

    Args:
        fuse: the fusion, of volumes ``(H, W, N)``, grey levels 0..255; slices must not know one another.
        a, b: the slices of either source, ``(H, W, N)`` uint8.
        kinds: what the sources are: their noise is what such scanners usually make.
    """
    noise = Noise(*(_USUAL.get(kind, "white") for kind in kinds))
    transfer = _where_there_is_room(lambda: lesion_transfer(fuse, a, b))
    shared = _where_there_is_room(lambda: shared_lesion_transfer(fuse, a, b))
    observed = _where_there_is_room(lambda: detectability(fuse, a, b, noise, _REALISATIONS))
    observed = {kind: found for kind, found in observed.items() if found.places >= _FEWEST}
    return LesionStudy(
        {kind: transfer[kind] for kind in LESION_KINDS if np.isfinite(transfer.get(kind, np.nan))},
        {kind: shared[kind] for kind in SHARED_KINDS if np.isfinite(shared.get(kind, np.nan))},
        {kind: found.efficiency["DoG"] for kind, found in observed.items()},
        {kind: found.false_positives for kind, found in observed.items()},
        (noise.a, noise.b),
    )


def _where_there_is_room(measure: Callable[[], dict[str, _Found]]) -> dict[str, _Found]:
    """The measure; nothing where no lesion fits into the tissue, or too few for an observer to learn from."""
    try:
        return measure()
    except (InputError, np.linalg.LinAlgError):
        return {}
