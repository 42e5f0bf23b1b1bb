"""The check of one fused picture: what does it show that the sources do not explain, what do they show that it lacks?

There is no true fused picture to compare with. But around any place a fusion follows a rule: it takes so much of the
one source, so much of the other, so much of the brighter of both. Where it departs from that rule, a reader should look
at the sources. Two tests, slice by slice:

* **Local rule**, at the scale of lesions. Near each pixel ``f ≈ α a + β b + δ max(a, b) + γ`` is fitted by least
  squares in a window of 10 pixels, its middle (6 pixels) left out: the surroundings tell what is to be expected
  in the middle. A departure of more than 22 grey levels is flagged. If a fit that includes the middle does not
  explain it either, no combination of the sources has that structure: **invented**. If it does, the sources have
  something there that does not come through as it does around: **missing** (or exaggerated).
* **Fourier ring correlation**, at the scale of detail, in patches of 32 pixels. Of the fused detail, how much do the
  sources explain (the correlation with their best combination)? And how much of the stronger source's detail is
  there? Where either is nearly nothing, though there is detail well above the sources' noise: **detail**, which is
  texture of neither source, or smoothing. (Scanning ring correlation: DIDSR/sfrc, arXiv 2603.04673.)

It is a help for looking, no proof: what is fainter than 22 grey levels, lost everywhere in the same way, or detail
on and beside white bone, is not flagged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai.metrics.slices import BACKGROUND_LEVEL, as_grey8, require_same_shape

__all__ = ["FLAGS", "Check", "check_fusion", "flagged_slice"]

Array = NDArray[np.float64]

FLAGS = {"invented": 1, "missing": 2, "detail": 3}
"""Name of each flag to its value in the map; 0 is not flagged."""

WINDOW, MIDDLE = 5.0, 3.0  # sd in pixels of the halved picture: 10 and 6 pixels
FLAT = 10.0  # grey levels, sd: what varies less does not say how it is followed
DEPARTURE = 22.0  # grey levels
UNEXPLAINED = 0.7  # share of a departure that a fit with the middle leaves: above, it is invented

PATCH, HOP = 32, 8  # pixels
RINGS = ((4, 6), (6, 8), (8, 10))  # cycles per patch: 0.125 to 0.31 per pixel
EXPLAINED = 0.2  # ring correlation with the best combination of the sources; texture of neither has 0.13
FOLLOWED = 0.06  # amplitude of the explained detail over that of the stronger source
WHITE = 250.0  # grey levels
FAINT = 3.0  # grey levels, sd: detail below is none


class Check(NamedTuple):
    """What `check_fusion` finds.

    Attributes:
        flags: uint8, of the shape of the picture: 0, or one of `FLAGS`.
        shares: name of each flag, and ``"flagged"`` for all, to its share of the head, 0 to 1.
    """

    flags: NDArray[np.uint8]
    shares: dict[str, float]


def check_fusion(fused: Any, a: Any, b: Any) -> Check:
    """Flag what the sources do not explain, and what of them does not come through (see the module's text).

    Args:
        fused, a, b: ``(H, W)``, ``(X, Y, Z)`` with slices along the last axis, or ``(C, X, Y, Z)``; grey levels 0..255.

    Raises:
        InputError: shapes differ, values not 0..255.
    """
    fused, a, b = as_grey8(fused, "fused"), as_grey8(a, "first source"), as_grey8(b, "second source")
    require_same_shape(fused, a, b)
    if fused.ndim == 2:
        flags = flagged_slice(fused, a, b)
    else:
        slices = (flagged_slice(fused[..., k], a[..., k], b[..., k]) for k in range(fused.shape[-1]))
        flags = np.stack(list(slices), axis=-1)
    planes = flags[..., None] if flags.ndim == 2 else flags
    pairs = np.maximum(a, b) if a.ndim == 3 else np.maximum(a, b)[..., None]
    pixels = max(sum(int(_head(pairs[..., k]).sum()) for k in range(pairs.shape[-1])), 1)
    shares = {name: float(np.sum(planes == value)) / pixels for name, value in FLAGS.items()}
    return Check(flags, {"flagged": float(np.sum(planes > 0)) / pixels, **shares})


def flagged_slice(fused: NDArray[np.uint8], first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The flags of one ``(H, W)`` uint8 slice, unchecked: the inner loop of `check_fusion`."""
    flags = np.zeros(fused.shape, dtype=np.uint8)
    head = _head(np.maximum(first, second))
    if not head.any():
        return flags
    f, a, b = (x.astype(np.float64) for x in (fused, first, second))
    flags[_detail_departs(f, a, b, head)] = FLAGS["detail"]
    outside, inside = (_enlarged(x, f.shape) for x in _departures(f, a, b, head))
    departs = np.abs(outside) > DEPARTURE
    invented = np.abs(inside) > UNEXPLAINED * np.abs(outside)
    flags[departs & ~invented] = FLAGS["missing"]
    flags[departs & invented] = FLAGS["invented"]
    flags[~head] = 0
    return flags


def _head(brighter: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return ndimage.binary_fill_holes(brighter > BACKGROUND_LEVEL)


# --- the local rule --------------------------------------------------------------------------------------------------


def _departures(f: Array, a: Array, b: Array, head: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Of the halved picture: f minus what the surroundings let expect, and minus the fit with the middle."""
    y = _halved(f)
    x = np.stack([_halved(a), _halved(b), _halved(np.maximum(a, b))])
    # Where a source is flat, the surroundings do not say how it is followed: then as in the whole head.
    usual = _usual_slope(y, x, _halved(head.astype(np.float64)))
    y = y - np.tensordot(usual, x, axes=1)
    wide = _moments(y, x, WINDOW)
    middle = _moments(y, x, MIDDLE)
    ring = [(WINDOW**2 * w - MIDDLE**2 * m) / (WINDOW**2 - MIDDLE**2) for w, m in zip(wide, middle, strict=True)]
    return _residual(y, x, *ring), _residual(y, x, *wide)


def _usual_slope(y: Array, x: Array, weight: Array) -> Array:
    """Least-squares slope (N,) of y on x over the head, each pixel against its surroundings."""
    my, mx, mxy, mxx = _moments(y, x, WINDOW)
    xy, xx = mxy - mx * my, mxx - mx[:, None] * mx[None, :]
    xx, xy = np.tensordot(xx, weight, 2), np.tensordot(xy, weight, 2)
    return np.asarray(np.linalg.solve(xx + np.eye(len(x)), xy), dtype=np.float64)


def _halved(image: Array) -> Array:
    """Smoothed over 2 pixels and with every second one left out: the scale of lesions."""
    rows, columns = image.shape
    even = np.pad(image, ((0, rows % 2), (0, columns % 2)), mode="edge")
    return ndimage.gaussian_filter(even.reshape(len(even) // 2, 2, -1, 2).mean(axis=(1, 3)), 1.0)


def _moments(y: Array, x: Array, sigma: float) -> tuple[Array, Array, Array, Array]:
    """Weighted means around each pixel: of y (H, W), of x (N, H, W), of x y, and of x xᵀ (N, N, H, W)."""

    def mean(value: Array) -> Array:
        return ndimage.gaussian_filter(value, sigma, axes=(-2, -1), truncate=3.0)

    return mean(y), mean(x), mean(x * y), mean(x[:, None] * x[None, :])


def _residual(y: Array, x: Array, my: Array, mx: Array, mxy: Array, mxx: Array) -> Array:
    """y minus its least-squares fit by the regressors x and a constant, with the weights of the moments."""
    flat = FLAT**2 * np.eye(len(x))[..., None, None]
    covariance = np.moveaxis(mxx - mx[:, None] * mx[None, :] + flat, (0, 1), (-2, -1))
    slope = np.linalg.solve(covariance, np.moveaxis(mxy - mx * my, 0, -1)[..., None])[..., 0]
    return y - my - np.sum(np.moveaxis(slope, -1, 0) * (x - mx), axis=0)


def _enlarged(halved: Array, shape: tuple[int, ...]) -> Array:
    return np.repeat(np.repeat(halved, 2, axis=0), 2, axis=1)[: shape[0], : shape[1]]


# --- ring correlation ------------------------------------------------------------------------------------------------


def _detail_departs(f: Array, a: Array, b: Array, head: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the fused detail is that of neither source, or where there is none though a source has some."""
    spectra = [_patch_spectra(x) for x in (f, a, b)]
    rings = [_products(*(s[..., ring] for s in spectra)) for ring in _RINGS]
    # Each ring on the scale of the stronger source there, so that all have a say.
    pooled = sum(r / np.maximum(np.maximum(r[1], r[2]), 0.1) for r in rings)
    correlation = np.sqrt(_explained(pooled, 0.01) / np.maximum(pooled[0], 1e-9))
    own, theirs = sum(r[0] for r in rings), sum(np.maximum(r[1], r[2]) for r in rings)
    foreign = (correlation < EXPLAINED) & (own > np.maximum(FAINT**2, theirs / 4))

    finest = rings[-2] + rings[-1]
    strength, followed = np.maximum(finest[1], finest[2]), _explained(finest, 0.1)
    # Nothing can be shown on white bone.
    white = ndimage.uniform_filter((np.maximum(a, b) >= WHITE).astype(np.float64), PATCH)[::HOP, ::HOP] > 0.25
    judged = head[::HOP, ::HOP] & ~white
    if not judged.any():
        return np.zeros(f.shape, dtype=bool)
    # What is lacking everywhere is noise.
    lacking = 2 * max(np.quantile((strength - followed)[judged], 0.1), 0)
    smoothed = (followed < FOLLOWED**2 * strength) & (strength - lacking > FAINT**2)
    flagged = np.repeat(np.repeat((foreign | smoothed) & judged, HOP, axis=0), HOP, axis=1)
    # A patch stands for the pixels around its middle.
    moved = np.pad(flagged, HOP // 2)[HOP:, HOP:]
    return moved[: f.shape[0], : f.shape[1]]


_RADIUS = np.hypot(np.fft.fftfreq(PATCH)[:, None], np.fft.rfftfreq(PATCH)[None, :]) * PATCH
_RINGS = [(_RADIUS >= low) & (_RADIUS < high) for low, high in RINGS]  # noqa: SIM300
_TAPER = np.outer(np.hanning(PATCH + 2)[1:-1], np.hanning(PATCH + 2)[1:-1])


def _patch_spectra(image: Array) -> NDArray[np.complex128]:
    """Spectra of tapered patches around every HOP-th pixel, scaled so that a ring's power is a variance."""
    padded = np.pad(image, PATCH // 2, mode="edge")
    patches = sliding_window_view(padded, (PATCH, PATCH))[: image.shape[0] : HOP, : image.shape[1] : HOP]
    tapered = (patches - patches.mean(axis=(-2, -1), keepdims=True)) * _TAPER
    return np.fft.rfft2(tapered) * np.sqrt(2 / np.sum(_TAPER**2)) / PATCH


def _products(f: NDArray[np.complex128], a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Array:
    """Power and cross power of one ring's spectra: ff, aa, bb, fa, fb, ab, stacked."""
    pairs = ((f, f), (a, a), (b, b), (f, a), (f, b), (a, b))
    return np.stack([(x * y.conj()).real.sum(axis=-1) for x, y in pairs])


def _explained(products: Array, nothing: float) -> Array:
    """Power of f that the best combination of a and b explains; power below ``nothing`` explains nothing."""
    _, aa, bb, fa, fb, ab = products
    aa, bb = aa + nothing, bb + nothing
    return np.maximum((bb * fa**2 - 2 * ab * fa * fb + aa * fb**2) / (aa * bb - ab**2), 0)
