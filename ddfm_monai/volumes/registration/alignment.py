"""Whether two volumes lie on each other as they are: a quick look, where nobody asked for a registration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.volumes.registration.search import COARSE, Search, displacement, volume_in_view
from ddfm_monai.volumes.registration.similarity import can_be_matched

__all__ = ["Alignment", "look_at_alignment"]

_LEAST_APART = 7.0  # mm
_LEAST_GAIN = 0.12


@dataclass(frozen=True)
class Alignment:
    """How two volumes lie.

    Args:
        apart_mm: how far the best match near where they lie would move the body, mean.
        gain: what that match is better, as a part of it.
    """

    apart_mm: float
    gain: float

    @property
    def is_doubtful(self) -> bool:
        """Far enough and better enough that no well-aligned pair gets there (docs/registration.md has both ranges)."""
        return self.apart_mm >= _LEAST_APART and self.gain >= _LEAST_GAIN

    def describe(self) -> dict[str, Any]:
        """A JSON-able account for the provenance file."""
        return {"apart_mm": round(self.apart_mm, 1), "gain": round(self.gain, 3), "doubtful": self.is_doubtful}


def look_at_alignment(reference01: MetaTensor, second01: MetaTensor) -> Alignment | None:
    """Search for a better match near where two volumes lie, at one coarse level: 100 evaluations of 3000 points.

    Args:
        reference01, second01: ``(1, X, Y, Z)`` in [0, 1], on grids of their own.

    Returns:
        None where that says nothing: pictures, fewer than four slices, nothing to see.
    """
    volumes = reference01, second01
    if not all(map(can_be_matched, volumes)):
        return None
    small, large = sorted(volumes, key=volume_in_view)
    search = Search(small, large)
    as_they_lie = np.eye(4)
    best = search.refine(as_they_lie, COARSE)
    if best.match <= 0:
        return None
    gain = 1 - search.at(COARSE)(as_they_lie) / best.match
    return Alignment(displacement(as_they_lie, best.transform, search.body), max(gain, 0.0))
