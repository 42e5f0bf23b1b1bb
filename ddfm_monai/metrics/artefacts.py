"""Artefacts: do a scanner's streaks displace the other source's detail, do single pixels alternate?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai.metrics.lesions import Fuse
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL, Grey8, as_grey8, require_same_shape

__all__ = ["StreakScene", "pixel_alternation", "streak_scene", "streak_test"]

Array = NDArray[np.float64]

SIZE = 192  # pixels, of the drawn scene
DETAIL = 2.5  # pixels, sd of the Gaussian whose residual is called detail


class StreakScene(NamedTuple):
    """A drawn base of the skull.

    Attributes:
        a: an MRI, brain with folds, uint8.
        b: a CT of the same head without streaks, uint8: bone, and brain without structure.
        streaked: the CT with dark and bright streaks between its two dense bones.
        where: bool, the part of the brain that the streaks cross.
    """

    a: Grey8
    b: Grey8
    streaked: Grey8
    where: NDArray[np.bool_]


def streak_test(fuse: Fuse) -> dict[str, float]:
    """Do beam-hardening streaks of a CT displace the folds that the MRI shows there? On a drawn scene.

    Detail is what a Gaussian of 2.5 pixels takes away. The fused detail, where the streaks are, is explained by that of
    the two sources: fused = m MRI + s CT (least squares).

    Args:
        fuse: the fusion; called once, with the MRI first.

    Returns:
        ``"mri"``: m, the share of the MRI's folds that is left (1: all). ``"streaks"``: s, the share of the streaks
        that arrives (0: none). ``"r_mri"``, ``"r_ct"``: correlation of the fused detail with either source's.
    """
    scene = streak_scene()
    fused = np.asarray(fuse(scene.a, scene.streaked), dtype=np.float64)
    f, mri, ct = (_detail(x)[scene.where] for x in (fused, scene.a, scene.streaked))
    m, s = np.linalg.lstsq(np.stack([mri, ct], axis=1), f, rcond=None)[0]
    return {"mri": float(m), "streaks": float(s), "r_mri": _correlation(f, mri), "r_ct": _correlation(f, ct)}


def streak_scene() -> StreakScene:
    """The scene of `streak_test`, ``(192, 192)``: an oval head, two petrous bones, streaks between and behind them."""
    y, x = (c - (SIZE - 1) / 2 for c in np.mgrid[:SIZE, :SIZE].astype(np.float64))
    radius = np.hypot(x / 78, y / 88)
    head, skull, brain = radius < 1, (radius < 0.94) & (radius >= 0.86), radius < 0.86
    petrous = np.minimum(np.hypot((x - 42) / 16, (y - 8) / 8), np.hypot((x + 42) / 16, (y - 8) / 8)) < 1
    # Folds: the labyrinth of a random field with structure of one size; as sharp as an MRI shows them.
    random = np.random.default_rng(5)
    noise = ndimage.gaussian_filter(random.normal(size=x.shape), 2.2) - ndimage.gaussian_filter(
        random.normal(size=x.shape), 4.4
    )
    folds = np.tanh(2 * noise / noise.std())
    a = np.select([petrous | skull, brain, head], [12.0, 105 + 26 * folds, 170.0], 0.0)
    b = np.select([petrous | skull, brain, head], [250.0, 92.0, 45.0], 0.0)
    streaks = np.zeros_like(x)
    # A fan of narrow bands, dark and bright in turn: what rays through both bones leave.
    for band in range(-4, 5):
        angle, height = np.radians(2.5 * band), 8 + 5.5 * band
        across = (y - height) * np.cos(angle) - x * np.sin(angle)
        streaks += (60 if band % 2 else -80) * np.exp(-0.5 * (across / 1.8) ** 2)
    inside = brain & ~petrous
    streaked = np.where(inside, b + streaks, b)
    where = ndimage.binary_erosion(inside, iterations=5) & (ndimage.gaussian_filter(np.abs(streaks), 2) > 8)
    mri, ct, streaked_ct = (np.clip(np.rint(v), 0, 255).astype(np.uint8) for v in (a, b, streaked))
    return StreakScene(mri, ct, streaked_ct, where)


def pixel_alternation(fused: Any, a: Any, b: Any) -> float:
    """Single pixels of the fused picture that stick out of their neighbours as no source's do, as a share; 0 is best.

    A pixel sticks out along a line (row, column, two diagonals) by the smaller of its two steps, if it is brighter than
    both neighbours or darker than both: half of what a second difference sees, but not fooled by edges. Dotted
    rims and checkerboards are made of such pixels, anatomy hardly is. What the sources show within one pixel is
    allowed: excess = max(0, |F| - max over 3 x 3 pixels and both sources). The result is sum(excess) / sum(allowed)
    over the head, mean over lines.

    Args:
        fused, a, b: ``(H, W)``, ``(X, Y, Z)`` or ``(C, X, Y, Z)``, grey levels 0..255.

    Raises:
        InputError: shapes differ, values not 0..255.
    """
    fused, a, b = as_grey8(fused, "fused"), as_grey8(a, "first source"), as_grey8(b, "second source")
    require_same_shape(fused, a, b)
    head = np.maximum(a, b) > BACKGROUND_LEVEL
    excess = allowed = 0.0
    for step in ((1, 0), (0, 1), (1, 1), (1, -1)):
        most = np.maximum(_sticks_out(a, step), _sticks_out(b, step))
        near = ndimage.maximum_filter(most, size=(3, 3, *(1,) * (most.ndim - 2)))
        excess += float(np.maximum(_sticks_out(fused, step) - near, 0)[head].sum())
        allowed += float(most[head].sum())
    # Sources without any such pixel allow none: any excess then counts against one grey level per pixel.
    return excess / (allowed or max(4 * float(head.sum()), 1.0))


def _sticks_out(image: Grey8, step: tuple[int, int]) -> NDArray[np.int16]:
    """By how many grey levels each pixel is above both (or below both) neighbours along ``step``, else 0."""
    levels = image.astype(np.int16)
    before, after = (levels - np.roll(levels, (k * step[0], k * step[1]), axis=(0, 1)) for k in (1, -1))
    smaller = np.minimum(np.abs(before), np.abs(after))
    return np.where(np.sign(before) == np.sign(after), smaller, np.int16(0))


def _detail(image: Any) -> Array:
    levels = np.asarray(image, dtype=np.float64)
    return levels - ndimage.gaussian_filter(levels, DETAIL)


def _correlation(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float(np.sum(x * y) / np.sqrt(np.sum(x**2) * np.sum(y**2)))
