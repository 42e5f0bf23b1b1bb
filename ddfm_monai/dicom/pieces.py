"""Slices that an attribute sets apart: pieces of one volume, volumes of their own, or not to be decided.

An edited header, a re-sent slice or an echo time that jitters may set slices of one volume apart; half of a volume that
is taken for the whole is the worst that can come of it. So what counts is first where the slices lie:

* slices at the same places are images of their own;
* stacks that interleave, and whose slices would overlap those of the other, are volumes of their own (before and after
  contrast, half a slice apart);
* stacks that interleave and fill each other's gaps, or lie one above the other, are pieces of one volume, unless the
  attribute says that they are different contrasts, phases or echoes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.dicom.geometry import ABSOLUTE_TOLERANCE, OVERLAP, Vector3, along_normal, is_even

__all__ = [
    "FEWEST_SLICES",
    "Placed",
    "assemble",
    "fills_gaps",
    "heights_of",
    "interleave",
    "is_stack",
    "places_of",
    "share_places",
]


FEWEST_SLICES = 4
"""Fewer are no automatic candidate, and no acquisition or contrast of their own."""


class Placed(Protocol):
    """A slice with a place."""

    @property
    def position(self) -> Vector3: ...

    @property
    def orientation(self) -> tuple[float, ...]: ...

    @property
    def thickness(self) -> float | None: ...


def heights_of(slices: Sequence[Placed]) -> NDArray[np.float64]:
    """Heights of the slices along the normal of the first, mm, in their order."""
    return np.array([along_normal(item.position, slices[0].orientation) for item in slices])


def places_of(heights: NDArray[np.float64]) -> NDArray[np.int_]:
    """The number of each slice's place along the stack, from 0: slices at the same place have the same number."""
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order], prepend=heights[order[:1]]) > ABSOLUTE_TOLERANCE
    places = np.empty(len(heights), np.int_)
    places[order] = np.cumsum(steps)
    return places


def share_places(first: Sequence[Placed], second: Sequence[Placed]) -> bool:
    """Whether a slice of one lies where a slice of the other does."""
    places = places_of(heights_of([*first, *second]))
    return bool(np.isin(places[: len(first)], places[len(first) :]).any())


def is_stack(slices: Sequence[Placed], fewest: int = 2) -> bool:
    """Whether slices make an equally spaced stack by themselves."""
    if len(slices) < fewest:
        return False
    order = np.argsort(heights_of(slices), kind="stable")
    return is_even([slices[k].position for k in order], slices[0].orientation)


def interleave(first: Sequence[Placed], second: Sequence[Placed]) -> bool:
    """Whether the ranges that two sets of slices take along the stack overlap."""
    heights = heights_of([*first, *second])
    one, other = heights[: len(first)], heights[len(first) :]
    return bool(max(one.min(), other.min()) < min(one.max(), other.max()))


def fills_gaps(first: Sequence[Placed], second: Sequence[Placed]) -> bool | None:
    """Whether slices of one fit between those of the other without overlapping them; None if no thickness is known."""
    thicknesses = [item.thickness for item in (*first, *second) if item.thickness is not None]
    if not thicknesses:
        return None
    gap = float(np.diff(np.sort(heights_of([*first, *second]))).min())
    return float(np.median(thicknesses)) <= OVERLAP * gap


def assemble(parts: Sequence[Sequence[Placed]], telling: bool) -> list[list[int]] | None:
    """Which parts belong together, as lists of their numbers; None if it cannot be decided.

    Args:
        parts: the slices with each value of an attribute.
        telling: the attribute says that its values are different contrasts, phases or echoes.
    """
    return _kept_apart(parts) if telling else _put_together(parts)


def _kept_apart(parts: Sequence[Sequence[Placed]]) -> list[list[int]] | None:
    """Every part by itself, unless that would tear a volume."""
    if any(_torn(one, other) for one, other in combinations(parts, 2)):
        return None
    return [[number] for number in range(len(parts))]


def _torn(one: Sequence[Placed], other: Sequence[Placed]) -> bool:
    """Whether two parts look like the pieces of one volume although an attribute calls them different."""
    if share_places(one, other):
        return False
    if not (is_stack(one) and is_stack(other)):
        return True
    if interleave(one, other):
        return fills_gaps(one, other) is not False
    # One above the other on one grid: a few slices with another value are no volume of their own.
    fewer, more = sorted((len(one), len(other)))
    return (fewer < FEWEST_SLICES or 2 * fewer < more) and is_stack([*one, *other])


def _put_together(parts: Sequence[Sequence[Placed]]) -> list[list[int]] | None:
    """Parts that lie at different places joined, largest first."""
    joined: list[list[int]] = []
    for number in sorted(range(len(parts)), key=lambda k: -len(parts[k])):
        fitting = [members for members in joined if _complete(parts, members, number)]
        if len(fitting) > 1:
            return None
        if fitting:
            fitting[0].append(number)
        else:
            joined.append([number])
    return joined


def _complete(parts: Sequence[Sequence[Placed]], members: list[int], number: int) -> bool:
    """Whether a part belongs to the volume that others make."""
    whole, part = [item for member in members for item in parts[member]], parts[number]
    if share_places(whole, part):
        return False
    if interleave(whole, part) and is_stack(whole) and is_stack(part):
        return fills_gaps(whole, part) is not False
    return True
