"""The fusion field's metrics, on 8-bit grey slices, with the conventions of its published tables.

Every function takes ``(H, W)`` float64 arrays of whole grey levels 0..255 (see `as_grey8`) and returns a float. ``f``
is the fused slice, ``a`` and ``b`` are the sources. Where a formula divides zero by zero (a constant slice has no
correlation and no information), the value is defined here and named in the docstring, so that no NaN enters a mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "average_gradient",
    "correlation",
    "entropy",
    "mutual_information",
    "psnr",
    "qabf",
    "scd",
    "spatial_frequency",
    "ssim",
    "standard_deviation",
    "vif",
]

Array = NDArray[np.float64]


def entropy(f: Array) -> float:
    """EN: entropy of the 256-bin histogram, in bits (0..8)."""
    p = np.bincount(f.astype(np.intp).ravel(), minlength=256) / f.size
    p = p[p > 0]
    return float(-np.sum(p * np.log2(p))) + 0.0  # + 0.0: a constant slice gives 0, not -0


def standard_deviation(f: Array) -> float:
    """SD: population standard deviation, in grey levels."""
    return float(f.std())


def spatial_frequency(f: Array) -> float:
    """SF: root of the mean squared horizontal step plus the mean squared vertical step, in grey levels."""
    return float(np.sqrt(np.mean(np.diff(f, axis=1) ** 2) + np.mean(np.diff(f, axis=0) ** 2)))


def average_gradient(f: Array) -> float:
    """AG: mean of sqrt((gx² + gy²) / 2), central differences inside, one-sided at the border."""
    gy, gx = np.gradient(f)
    return float(np.mean(np.sqrt((gx**2 + gy**2) / 2)))


def mutual_information(f: Array, a: Array, b: Array) -> float:
    """MI: I(f; a) + I(f; b) from the joint 256x256 histograms, in nats."""
    return _shared_information(f, a) + _shared_information(f, b)


def _shared_information(f: Array, s: Array) -> float:
    levels = (f * 256 + s).astype(np.intp).ravel()
    joint = np.bincount(levels, minlength=65536).reshape(256, 256) / f.size
    p_f, p_s = joint.sum(axis=1), joint.sum(axis=0)
    i, j = np.nonzero(joint)
    p = joint[i, j]
    return float(max(np.sum(p * np.log(p / (p_f[i] * p_s[j]))), 0.0))


def correlation(f: Array, a: Array, b: Array) -> float:
    """CC: mean of Pearson's r(f, a) and r(f, b); r with a constant slice counts as 0."""
    return (_pearson(f, a) + _pearson(f, b)) / 2


def scd(f: Array, a: Array, b: Array) -> float:
    """SCD: r(a, f - b) + r(b, f - a), the sum of the correlations of differences (Aslantas and Bendes 2015).

    A difference that is constant (f is a copy of one source) has no correlation: it counts as 0, since nothing of the
    other source is in it.
    """
    return _pearson(a, f - b) + _pearson(b, f - a)


def _pearson(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / norm) if norm > 1e-9 else 0.0


def psnr(f: Array, a: Array, b: Array) -> float:
    """PSNR in dB: peak is f's own maximum, error the mean of the two sources' mean squared errors (the field's habit).

    An exact copy of two equal sources gives 100 dB, a black f 0 dB.
    """
    mse = (np.mean((f - a) ** 2) + np.mean((f - b) ** 2)) / 2
    if mse == 0:
        return 100.0
    return float(10 * np.log10(f.max() ** 2 / mse)) if f.max() > 0 else 0.0


def ssim(f: Array, a: Array, b: Array, data_range: float) -> float:
    """SSIM(f, a) + SSIM(f, b): 7x7 uniform window, sample covariance, border of 3 pixels left out (Wang et al. 2004).

    Args:
        data_range: 255 for 8-bit pixels as intended; 2 as in the published tables (see docs/metrics.md).
    """
    return _ssim(f, a, data_range) + _ssim(f, b, data_range)


def _ssim(f: Array, s: Array, data_range: float) -> float:
    size = 7
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def local_mean(x: Array) -> Array:
        return ndimage.uniform_filter(x, size)[size // 2 : -(size // 2), size // 2 : -(size // 2)]

    unbiased = size**2 / (size**2 - 1)
    mu_f, mu_s = local_mean(f), local_mean(s)
    var_f = unbiased * (local_mean(f * f) - mu_f**2)
    var_s = unbiased * (local_mean(s * s) - mu_s**2)
    cov = unbiased * (local_mean(f * s) - mu_f * mu_s)
    similarity = ((2 * mu_f * mu_s + c1) * (2 * cov + c2)) / ((mu_f**2 + mu_s**2 + c1) * (var_f + var_s + c2))
    return float(similarity.mean())


def vif(f: Array, a: Array, b: Array) -> float:
    """VIF(a, f) + VIF(b, f): pixel-domain visual information fidelity (Sheikh and Bovik 2006).

    Noise variance 2; four scales with Gaussian windows of 17, 9, 5, 3 pixels and sigma = window / 5. A source without
    any variance gives 1. Slices smaller than 41 pixels use only the scales whose window fits.
    """
    return _vif(a, f) + _vif(b, f)


def _vif(source: Array, f: Array, noise_variance: float = 2.0) -> float:
    kept = total = 0.0
    tiny = 1e-10
    for scale, window in enumerate((17, 9, 5, 3)):
        if scale > 0:
            source, f = (_gaussian_inside(x, window)[::2, ::2] for x in (source, f))
        if min(source.shape) < window:
            break
        mu_s, mu_f = _gaussian_inside(source, window), _gaussian_inside(f, window)
        var_s = np.maximum(_gaussian_inside(source * source, window) - mu_s**2, 0)
        var_f = np.maximum(_gaussian_inside(f * f, window) - mu_f**2, 0)
        cov = _gaussian_inside(source * f, window) - mu_s * mu_f

        # f is modelled as gain * source + noise of variance `residual`.
        gain = cov / (var_s + tiny)
        residual = var_f - gain * cov
        flat_s, flat_f = var_s < tiny, var_f < tiny
        gain[flat_s | flat_f] = 0
        residual[flat_s] = var_f[flat_s]
        residual[flat_f] = 0
        var_s[flat_s] = 0
        inverted = gain < 0
        residual[inverted] = var_f[inverted]
        gain[inverted] = 0
        residual = np.maximum(residual, tiny)

        kept += np.sum(np.log1p(gain**2 * var_s / (residual + noise_variance)))
        total += np.sum(np.log1p(var_s / noise_variance))
    return float(kept / total) if total > 0 else 1.0


def _gaussian_inside(x: Array, window: int) -> Array:
    """Gaussian filter of ``window`` taps, sigma = window / 5, only where the whole window lies inside."""
    half = window // 2
    taps = np.exp(-0.5 * (np.arange(-half, half + 1) / (window / 5)) ** 2)
    taps /= taps.sum()
    if min(x.shape) < window:
        return x[:0, :0]
    x = ndimage.correlate1d(x, taps, axis=0)[half : x.shape[0] - half]
    return ndimage.correlate1d(x, taps, axis=1)[:, half : x.shape[1] - half]


def qabf(f: Array, a: Array, b: Array) -> float:
    """Qabf: how well the sources' edges are kept, 0..1 (Xydeas and Petrovic 2000).

    Sobel gradients with zeros outside; sigmoids (0.9994, -15, 0.5) for strength and (0.9879, -22, 0.8) for orientation;
    weighted by the sources' gradient strength. Two sources without any edge give 0.
    """
    edges_f = _sobel(f)
    kept = total = 0.0
    for source in (a, b):
        strength, angle = _sobel(source)
        kept += np.sum(_edge_preservation(strength, angle, *edges_f) * strength)
        total += np.sum(strength)
    return float(kept / total) if total > 0 else 0.0


def _sobel(x: Array) -> tuple[Array, Array]:
    """Gradient strength, and orientation in (-pi/2, pi/2] (an exactly vertical gradient counts as +pi/2)."""
    gx = ndimage.sobel(x, axis=1, mode="constant")
    gy = -ndimage.sobel(x, axis=0, mode="constant")
    vertical = gx == 0
    angle = np.where(vertical, np.pi / 2, np.arctan(gy / np.where(vertical, 1, gx)))
    return np.hypot(gx, gy), angle


def _edge_preservation(strength_s: Array, angle_s: Array, strength_f: Array, angle_f: Array) -> Array:
    weaker, stronger = np.minimum(strength_s, strength_f), np.maximum(strength_s, strength_f)
    # Equal strengths keep the strength itself, as in the field's evaluator: the sigmoid saturates there.
    ratio = np.where(weaker == stronger, strength_f, weaker / np.where(stronger > 0, stronger, 1))
    alignment = 1 - np.abs(angle_s - angle_f) / (np.pi / 2)
    kept_strength = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
    kept_angle = 0.9879 / (1 + np.exp(-22 * (alignment - 0.8)))
    return kept_strength * kept_angle
