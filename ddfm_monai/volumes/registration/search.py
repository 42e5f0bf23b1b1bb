"""Rigid transforms under which two volumes match: sought over the whole overlap, refined at three resolutions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from ddfm_monai import space
from ddfm_monai.volume import grid_of
from ddfm_monai.volumes.registration.similarity import BODY, Similarity

__all__ = ["COARSE", "FINE", "HEAD_RADIUS", "MIDDLE", "Found", "Search", "displacement", "volume_in_view"]

HEAD_RADIUS = 80.0
"""mm; rotations are counted by the way of a point at this distance."""

_LATTICE = 25.0  # mm between the shifts that are tried; the volumes are blurred by 6 mm then
_MAXIMUM_SHIFTS = 6000
_SHIFTS_KEPT = 10
_STARTS = 12
_FEW_DEGREES, _MANY_DEGREES = 14.0, 22.0
_START_DISTANCE = 12.0  # mm; starts that are nearer to each other end in one place
_BODY_POINTS = 500


@dataclass(frozen=True)
class Level:
    """One resolution: blur in mm, number of points, size of the first simplex in mm, most evaluations, precision."""

    blur: float
    points: int
    simplex: float
    evaluations: int
    precision: float


COARSE = Level(6.0, 3_000, 10.0, 100, 0.5)
MIDDLE = Level(3.0, 8_000, 5.0, 120, 0.2)
FINE = Level(1.5, 20_000, 2.0, 150, 0.05)


@dataclass(frozen=True)
class Found:
    """A transform, (4, 4) RAS mm, small volume to large volume, and its match."""

    transform: space.Affine
    match: float


def displacement(first: space.Affine, second: space.Affine, points: NDArray[np.float64]) -> float:
    """How far ``(N, 3)`` points (RAS mm) lie apart under two ``(4, 4)`` transforms, mean in mm."""
    return float(np.linalg.norm(space.apply(first, points) - space.apply(second, points), axis=1).mean())


def volume_in_view(volume: MetaTensor) -> float:
    """The size of a field of view, mm³."""
    shape, affine = grid_of(volume)
    return float(abs(np.linalg.det(affine[:3, :3])) * np.prod(shape))


class Search:
    """The search for the transform that takes points of the small volume to points of the large one.

    Args:
        small, large: ``(1, X, Y, Z)`` in [0, 1].
    """

    def __init__(self, small: MetaTensor, large: MetaTensor) -> None:
        self._volumes = small, large
        self._similarities: dict[Level, Similarity] = {}
        coarse = self.at(COARSE)
        points = coarse.points.T.astype(np.float64)
        body = points[coarse.values > BODY]
        self.body = (body if len(body) else points)[:_BODY_POINTS]
        """Points of the small volume's body: distances between transforms are counted there."""
        self.centre = coarse.small.centre_of_mass

    def at(self, level: Level) -> Similarity:
        """The measure of one resolution."""
        if level not in self._similarities:
            self._similarities[level] = Similarity(*self._volumes, level.blur, level.points)
        return self._similarities[level]

    def starts(self) -> list[space.Affine]:
        """Places to begin from: as the volumes lie, centre on centre, mass on mass, and the best of a wide lattice.

        Shifts are tried over all of the overlap first, then rotations to 22 degrees, and quarter turns, at the best of
        them.
        """
        coarse = self.at(COARSE)
        anchors = [
            np.eye(4),
            _shift(coarse.large.centre - coarse.small.centre),
            _shift(coarse.large.centre_of_mass - self.centre),
        ]
        shifts = self._best(self._lattice() + anchors, [], _SHIFTS_KEPT, 0.9 * _LATTICE)
        turned = [shift @ self.move(turn) for shift in anchors + shifts for turn in _turns()]
        turned += [shift @ self._about_centre(turn) for shift in anchors[1:] for turn in _quarter_turns()]
        return anchors + self._best(turned, anchors, _STARTS, _START_DISTANCE)

    def refine(self, start: space.Affine, level: Level, evaluations: int | None = None) -> Found:
        """The best match near ``start``, by simplex search of at most so many evaluations (by default the level's)."""
        similarity = self.at(level)
        answer = minimize(
            lambda steps: -similarity(start @ self.move(steps)),
            np.zeros(6),
            method="Nelder-Mead",
            options={
                "initial_simplex": np.vstack([np.zeros(6), np.eye(6) * level.simplex]),
                "maxfev": evaluations or level.evaluations,
                "xatol": level.precision,
                "fatol": 1e-6,
            },
        )
        return Found(start @ self.move(answer.x), -float(answer.fun))

    def move(self, steps: NDArray[np.float64]) -> space.Affine:
        """(4, 4) of six steps in mm: rotation about the body's centre (by the way of a point 80 mm off), then shift."""
        turn = Rotation.from_rotvec(np.asarray(steps[:3]) / HEAD_RADIUS)
        return _shift(np.asarray(steps[3:])) @ self._about_centre(turn)

    def _about_centre(self, turn: Rotation) -> space.Affine:
        matrix = np.eye(4)
        matrix[:3, :3] = turn.as_matrix()
        matrix[:3, 3] = self.centre - matrix[:3, :3] @ self.centre
        return matrix

    def distinct(self, found: Iterable[Found], distance: float, count: int) -> list[Found]:
        """The best ``count``, no two of them nearer than ``distance`` mm."""
        kept: list[Found] = []
        for candidate in sorted(found, key=lambda item: -item.match):
            if len(kept) < count and all(self.apart(candidate, other) > distance for other in kept):
                kept.append(candidate)
        return kept

    def apart(self, first: Found, second: Found) -> float:
        """How far the body lies apart under the two, mean in mm."""
        return displacement(first.transform, second.transform, self.body)

    def _best(
        self, transforms: Sequence[space.Affine], taken: Sequence[space.Affine], count: int, distance: float
    ) -> list[space.Affine]:
        """The best few, far enough from each other and from those that are taken."""
        coarse = self.at(COARSE)
        kept: list[space.Affine] = []
        for found in sorted((Found(item, coarse(item)) for item in transforms), key=lambda item: -item.match):
            others = [*taken, *kept]
            if all(displacement(found.transform, other, self.body) > distance for other in others):
                kept.append(found.transform)
            if len(kept) == count:
                break
        return kept

    def _lattice(self) -> list[space.Affine]:
        """Shifts that bring the centre of the small volume anywhere into the large one."""
        coarse = self.at(COARSE)
        low, high = coarse.large.extent - coarse.small.centre
        step = max(_LATTICE, (float(np.prod(high - low)) / _MAXIMUM_SHIFTS) ** (1 / 3))
        axes = [np.arange(np.ceil(a / step), np.floor(b / step) + 1) * step for a, b in zip(low, high, strict=True)]
        return [_shift(np.array(shift)) for shift in itertools.product(*axes)]


def _shift(vector: NDArray[np.float64]) -> space.Affine:
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def _turns() -> list[NDArray[np.float64]]:
    """Fifteen rotations as steps: none, about each axis, about each diagonal."""
    radians = np.radians([_MANY_DEGREES, _FEW_DEGREES]) * HEAD_RADIUS
    axes = [radians[0] * sign * axis for axis in np.eye(3) for sign in (1, -1)]
    diagonals = [radians[1] * np.array(signs) for signs in itertools.product((1, -1), repeat=3)]
    return [np.concatenate([turn, np.zeros(3)]) for turn in (np.zeros(3), *axes, *diagonals)]


def _quarter_turns() -> list[Rotation]:
    """The 23 other ways in which a box can lie on its axes: what a header with axes in the wrong order does."""
    return [turn for turn in Rotation.create_group("O") if turn.magnitude() > 0]
