"""Noise gain: does the fusion pass on less of its sources' noise than the pixelwise maximum does?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.lesions import Fuse
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL, as_grey8, foreground_slices

__all__ = ["add_noise", "noise_gain", "noise_psnr"]


def noise_gain(fuse: Fuse, a: Any, b: Any, sd: float = 10.0, seed: int = 3407) -> dict[str, float]:
    """PSNR of the fusion of noisy sources against the fusion of the clean ones, in dB over the maximum's.

    Independent white Gaussian noise is added to both sources, background included, and the result clipped to 0..255 and
    rounded: what a noisy 8-bit picture is. The fusion and the pixelwise maximum are each compared with their own clean
    result, so a method is neither punished nor rewarded for how it fuses, only for what noise does to it. Positive:
    the fusion lets less noise through.

    Args:
        fuse: the fusion; called twice with arrays of the shape of ``a``.
        a, b: sources, ``(H, W)`` or ``(X, Y, Z)``, grey levels 0..255.
        sd: standard deviation of the noise, in grey levels.
        seed: of the noise.

    Returns:
        ``"slice"``: over whole slices (mean over a volume's foreground slices). ``"head"``: over the pixels where a
        clean source is above 10 grey levels only; a method that blackens the background gains in the first and not
        in the second.

    Raises:
        InputError: shapes differ, values not 0..255, or no foreground.
    """
    a8, b8 = as_grey8(a, "first source"), as_grey8(b, "second source")
    noisy_a, noisy_b = add_noise(a8, b8, sd, seed)
    own = noise_psnr(fuse(a8, b8), fuse(noisy_a, noisy_b), a8, b8)
    maximum = noise_psnr(np.maximum(a8, b8), np.maximum(noisy_a, noisy_b), a8, b8)
    return {region: own[region] - maximum[region] for region in own}


def add_noise(
    a: NDArray[np.uint8], b: NDArray[np.uint8], sd: float, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both sources with independent white Gaussian noise, clipped to 0..255 and rounded."""
    generator = np.random.default_rng(seed)

    def noisy(source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.clip(np.rint(source + generator.normal(0, sd, source.shape)), 0, 255).astype(np.uint8)

    return noisy(a), noisy(b)


def noise_psnr(clean: Any, noisy: Any, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> dict[str, float]:
    """PSNR (peak 255, dB) of two fusions over the whole slice and over the head, mean over foreground slices.

    Args:
        clean, noisy: the fusions, ``(H, W)`` or ``(X, Y, Z)``, grey levels 0..255.
        a, b: the clean sources, of the same shape.

    Raises:
        InputError: shapes differ, or no slice holds foreground.
    """
    clean, noisy = np.asarray(clean, dtype=np.float64), np.asarray(noisy, dtype=np.float64)
    if not clean.shape == noisy.shape == a.shape == b.shape:
        raise InputError(f"Shapes differ: sources {a.shape}, {b.shape}, fused {clean.shape}, {noisy.shape}.")
    squared, head = (clean - noisy) ** 2, np.maximum(a, b) > BACKGROUND_LEVEL
    if squared.ndim == 2:
        squared, head, a, b = squared[..., None], head[..., None], a[..., None], b[..., None]
    slices = list(foreground_slices(a, b))
    if not slices:
        raise InputError("No slice holds foreground; noise gain needs a head.")
    return {
        "slice": float(np.mean([_decibels(squared[..., k]) for k in slices])),
        "head": float(np.mean([_decibels(squared[..., k][head[..., k]]) for k in slices])),
    }


def _decibels(squared_error: NDArray[np.float64]) -> float:
    """PSNR from squared errors; 100 dB where there is none."""
    mse = squared_error.mean()
    return float(10 * np.log10(255**2 / mse)) if mse > 0 else 100.0
