"""Where a CT's zero is: Hounsfield units (HU) found from the two peaks that every CT of a body has.

Air is -1000 HU and soft tissue about +35 HU (brain; muscle 50, liver 60). Files store HU as they are, or with an offset
of 1000, 1024 or 32768 so that no value is negative, with or without padding outside the scanner's circle. The distance
between the peaks is the same in all of them, and nothing else has it, so the peaks tell the offset and the smallest
value does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

__all__ = ["Hounsfield", "measure"]

_AIR, _SOFT = -1000.0, 35.0
_CLIPPED_AIR = -1024.0  # where 12-bit scanners end, and what fills the outside of many made or masked CTs
_OFFSETS = (0.0, 1000.0, 1024.0, 32768.0)
_NEAR = 10.0  # HU that a peak of air may lie off: noise clipped at zero moves it
_BLUR = 4.0  # HU
_DISTANCES = (990.0, 1110.0)  # between air and soft tissue: clipped air and liver at the most
_PEAKS = 8
_RANGE = (-9000.0, 45000.0)


@dataclass(frozen=True)
class Hounsfield:
    """How the stored values of a CT relate to HU: ``HU = stored - offset``.

    Args:
        offset: the stored value of 0 HU.
        air: the stored value of the peak of air, None where no air is in view.
        soft: the stored value of the peak of soft tissue.
        known: the offset is one in use (0, 1000, 1024, 32768), else it was estimated.
        other: another offset in use that fits the peaks as well, or None.
    """

    offset: float
    air: float | None
    soft: float
    known: bool = True
    other: float | None = None

    def describe(self) -> str:
        """A few words for people, such as ``"stored as HU + 1024: air at 24, soft tissue at 1062"``."""
        found = ("" if self.air is None else f"air at {self.air:g}, ") + f"soft tissue at {self.soft:g}"
        if self.offset == 0:
            return f"in HU: {found}"
        how = f"HU {'+' if self.offset > 0 else '-'} {abs(self.offset):g}{'' if self.known else ' (estimated)'}"
        return f"stored as {how}: {found}"


def measure(values: np.ndarray) -> Hounsfield | None:
    """Find air and soft tissue among the values of a CT; None where they are not there.

    Args:
        values: 1-D, padding among them does not matter.
    """
    values = values[(values > _RANGE[0]) & (values < _RANGE[1])]  # beyond is padding, or no CT
    if not values.size or np.ptp(values) < 100:
        return None
    start, stop = np.floor(values.min()), np.ceil(values.max())
    counts, _ = np.histogram(values, bins=np.arange(start - 0.5, stop + 1.5))
    density = ndimage.gaussian_filter1d(counts / values.size, _BLUR, mode="constant")
    mass = np.concatenate([[0.0], np.cumsum(counts)]) / values.size

    def share(first: float, last: float) -> float:
        ends = np.clip([first - start, last - start + 1], 0, counts.size).astype(int)
        return float(mass[ends[1]] - mass[ends[0]])

    def peak(first: float, last: float) -> float:
        ends = np.clip([first - start, last - start + 1], 0, counts.size).astype(int)
        return float(start + ends[0] + np.argmax(density[ends[0] : ends[1]])) if ends[1] > ends[0] else first

    pairs = []
    for soft in _highest_peaks(density, start):
        air = peak(soft - _DISTANCES[1], soft - _DISTANCES[0])
        masses = share(air - 40, air + 40), share(soft - 60, soft + 60)
        between = share(soft - 600, soft - 250)
        if masses[0] > 0.01 and masses[1] > 0.03 and between < 0.35 * masses[1]:
            pairs.append((masses[0] * masses[1], _with_offset(air, soft)))
    known = [(mass, found) for mass, found in pairs if found.known]  # padding at -2000 and air look like a pair too
    if pairs:
        return max(known or pairs, key=lambda pair: pair[0])[1]
    surround = share(start, start)  # a constant where a mask or a clip put it
    return _without_air(share, peak, 1 - surround if surround > 0.05 else 1.0)


def _highest_peaks(density: np.ndarray, start: float) -> list[float]:
    inner = density[1:-1]
    tops = 1 + np.flatnonzero((inner > density[:-2]) & (inner >= density[2:]))
    return [float(start + top) for top in tops[np.argsort(density[tops])[::-1][:_PEAKS]]]


def _with_offset(air: float, soft: float) -> Hounsfield:
    costs = sorted((cost, offset) for offset in _OFFSETS if (cost := _cost(air, soft, offset)) is not None)
    if costs:
        (best, offset), others = costs[0], costs[1:]
        close = others[0][1] if others and others[0][0] - best < 12 else None
        return Hounsfield(offset, air, soft, other=close)
    return Hounsfield(air - _AIR, air, soft, known=False)


def _cost(air: float, soft: float, offset: float) -> float | None:
    """How badly an offset fits: HU that soft tissue lies off; None where the air does not fit at all."""
    if not -10 <= soft - offset <= 80:
        return None
    if abs(air - offset - _AIR) <= _NEAR:
        return abs(soft - offset - _SOFT)
    if abs(air - offset - _CLIPPED_AIR) <= _NEAR:
        return abs(soft - offset - _SOFT) + 6
    return None


def _without_air(
    share: Callable[[float, float], float], peak: Callable[[float, float], float], shown: float
) -> Hounsfield | None:
    """A part of a body without air in view: soft tissue, and some bone, in the part of the volume that shows any."""
    for offset in _OFFSETS:
        soft = peak(offset + 5, offset + 75)
        narrow, wide = share(soft - 15, soft + 15) / shown, share(soft - 60, soft + 60) / shown
        body = share(offset + 1, offset + 4000) / shown
        bone = share(offset + 200, offset + 4000) / shown
        if offset + 8 < soft < offset + 72 and narrow > 0.2 and wide > 0.35 and body > 0.7 and bone > 0.001:
            return Hounsfield(offset, None, soft)
    return None
