"""What speaks for a match beside its value: other starts, other places, the body's parts, the body's shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ddfm_monai import space
from ddfm_monai.volumes.registration.result import Evidence
from ddfm_monai.volumes.registration.search import COARSE, FINE, HEAD_RADIUS, MIDDLE, Found, Search, displacement
from ddfm_monai.volumes.registration.similarity import BODY, Similarity

__all__ = ["ELSEWHERE", "gather"]

ELSEWHERE = 10.0
"""mm; a match that far away is another answer."""

_FURTHER_TURNED = 60.0  # degrees; a head fits upside down almost as well, but headers are rarely that wrong
_AGREEMENT = 3.0  # mm
_RESTARTS = np.array([[1, 1, 1, 1, -1, 1], [-1, 1, -1, -1, 1, 1], [1, -1, -1, 1, 1, -1], [-1, -1, 1, -1, -1, -1]]) * 7.0
_RESTART_EVALUATIONS = 80
_STRETCH_EVALUATIONS = 700
_FARTHEST_STRETCH = 25.0  # mm
_BALL_RADIUS = 30.0  # mm
_BALLS_APART = 32.0  # mm
_MOST_BALLS_PER_AXIS = 6
_FEWEST_POINTS, _MOST_POINTS = 150, 1500
_LEAST_BODY = 0.15


def gather(search: Search, best: Found, optima: list[Found]) -> Evidence:
    """The evidence for ``best``, the first of the matches that were found."""
    ends = [best, *(_restart(search, best, steps) for steps in _RESTARTS)]
    agreeing = [end for end in ends if search.apart(best, end) < _AGREEMENT]
    similarity = search.at(FINE)
    return Evidence(
        match=best.match,
        match_before=similarity(np.eye(4)),
        rival=_rival(search, best, [*optima, *ends]),
        starts=len(ends),
        agreeing=len(agreeing),
        spread_mm=max(search.apart(best, end) for end in agreeing),
        parts_mm=_parts(search, best),
        stretch_mm=_stretch(search, best),
        cover=similarity.cover(best.transform),
    )


def _restart(search: Search, best: Found, steps: NDArray[np.float64]) -> Found:
    start = search.refine(best.transform @ search.move(steps), COARSE)
    start = search.refine(start.transform, MIDDLE)
    return search.refine(start.transform, FINE, evaluations=_RESTART_EVALUATIONS)


def _rival(search: Search, best: Found, optima: list[Found]) -> float:
    """The match of the best answer that lies elsewhere, as a part of the best match."""
    upright = space.rotation_degrees(best.transform) + _FURTHER_TURNED
    elsewhere = [
        found.match
        for found in optima
        if search.apart(best, found) > ELSEWHERE and space.rotation_degrees(found.transform) < upright
    ]
    return max(elsewhere, default=0.0) / best.match if best.match > 0 else 1.0


def _stretch(search: Search, best: Found) -> float:
    """How far the body moves, mean in mm, if it may be stretched and sheared for a better match.

    Two volumes of one patient need no stretching; heads of two patients differ in length and breadth.
    """
    similarity = search.at(MIDDLE)

    def stretched(steps: NDArray[np.float64]) -> space.Affine:
        along, across = np.diag(steps[6:9]), np.zeros((3, 3))
        across[np.triu_indices(3, 1)] = steps[9:]
        strain = np.eye(4)
        strain[:3, :3] += (along + across + across.T) / HEAD_RADIUS
        strain[:3, 3] = search.centre - strain[:3, :3] @ search.centre
        return np.asarray(best.transform @ search.move(steps[:6]) @ strain)

    answer = minimize(
        lambda steps: -similarity(stretched(steps)),
        np.zeros(12),
        method="Powell",
        bounds=[(-_FARTHEST_STRETCH, _FARTHEST_STRETCH)] * 12,
        options={"maxfev": _STRETCH_EVALUATIONS, "xtol": 0.05, "ftol": 1e-5},
    )
    return displacement(best.transform, stretched(answer.x), search.body)


def _parts(search: Search, best: Found) -> float:
    """How far balls of the body, each shifted alone, lie from the whole, median in mm.

    A ball is too small for an entropy of its own: its match is the mean of the log ratio
    :math:`\\log p(a, b) / p(a) p(b)` with the histogram of the whole.
    """
    similarity = search.at(FINE)
    ratios = similarity.log_ratios(best.transform)
    shifts = []
    for part in _balls(similarity, search.body):
        answer = minimize(
            lambda shift, part=part: -similarity.mean_ratio(ratios, best.transform, shift, part),
            np.zeros(3),
            method="Nelder-Mead",
            options={
                "initial_simplex": np.vstack([np.zeros(3), np.eye(3) * 4]),
                "maxfev": 50,
                "xatol": 0.3,
                "fatol": 1e-4,
            },
        )
        shifts.append(float(np.linalg.norm(answer.x)))
    return float(np.median(shifts)) if shifts else np.inf


def _balls(similarity: Similarity, body: NDArray[np.float64]) -> list[NDArray[np.intp]]:
    """Indices of the points in each of the balls that cover the body."""
    low, high = np.percentile(body, [2, 98], axis=0)
    counts = np.clip(np.rint((high - low) / _BALLS_APART).astype(int) + 1, 1, _MOST_BALLS_PER_AXIS)
    axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, counts, strict=True)]
    balls = []
    for centre in np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3):
        part = np.flatnonzero(((similarity.points - centre[:, None]) ** 2).sum(axis=0) < _BALL_RADIUS**2)
        if len(part) >= _FEWEST_POINTS and (similarity.values[part] > BODY).mean() >= _LEAST_BODY:
            balls.append(part[:_MOST_POINTS])
    return balls
