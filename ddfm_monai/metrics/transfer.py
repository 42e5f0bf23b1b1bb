"""Noise power spectrum and task transfer function of pictures, as AAPM TG-233 defines them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["at_half", "noise_power_spectrum", "task_transfer"]

Array = NDArray[np.float64]


def noise_power_spectrum(regions: ArrayLike, pixel: float = 1.0) -> tuple[Array, Array]:
    """``(Δx² / N²) <|FFT(region - mean)|²>``, averaged over rings.

    Args:
        regions: ``(N, S, S)``, one place in N realisations of the noise; their mean, the anatomy, is taken off.
        pixel: its side, mm by convention; 1 gives cycles per pixel.

    Returns:
        Frequencies, one for each ring of width 1 / (S pixel) up to half the sampling rate, and the power at them, in
        squared grey levels times squared length. Its integral over the plane is the variance.
    """
    stack = np.asarray(regions, dtype=np.float64)
    count, size = stack.shape[0], stack.shape[-1]
    # What the mean over the realisations takes of the noise is given back.
    noise = (stack - stack.mean(axis=0)) * np.sqrt(count / (count - 1))
    power = np.mean(np.abs(np.fft.fft2(noise)) ** 2, axis=0) * (pixel / size) ** 2
    frequency = np.fft.fftfreq(size)
    ring = np.rint(np.hypot(frequency[:, None], frequency) * size).astype(int).ravel()
    sums, counts = np.bincount(ring, power.ravel()), np.bincount(ring)
    rings = np.arange(size // 2)
    return rings / (size * pixel), sums[rings] / counts[rings]


def task_transfer(disc: ArrayLike, centre: tuple[float, float], radius: float) -> tuple[Array, Array]:
    """Task transfer function from the edge of a disc: the spectrum of the derivative of its radial profile.

    Args:
        disc: ``(H, W)``, a disc on an even ground; noise makes it unreliable, so take the mean of many or none.
        centre, radius: of the disc, pixels. The profile is taken from half to one and a half of the radius.

    Returns:
        Frequencies in cycles per pixel up to 0.5, and the transfer, 1 at 0.
    """
    picture = np.asarray(disc, dtype=np.float64)
    rows, columns = (np.arange(n) - c for n, c in zip(picture.shape, centre, strict=True))
    distance = np.hypot(rows[:, None], columns)
    step = 0.25  # pixels: finer than a pixel, because the edge crosses pixels everywhere
    bins = np.rint((distance - radius) / step).astype(int)
    reach = int(radius / 2 / step)
    near = np.abs(bins) <= reach
    index = (bins[near] + reach).ravel()
    counts = np.bincount(index, minlength=2 * reach + 1)
    there = counts > 0
    profile = np.bincount(index, picture[near].ravel(), minlength=2 * reach + 1)[there] / counts[there]
    places = np.arange(2 * reach + 1)
    edge = np.interp(places, places[there], profile)
    spread = np.diff(edge) * np.hanning(2 * reach)
    spectrum = np.abs(np.fft.rfft(spread, 16 * reach))
    frequency = np.fft.rfftfreq(16 * reach, step).astype(np.float64)
    kept = frequency <= 0.5
    return frequency[kept], spectrum[kept] / spectrum[0]


def at_half(frequency: Array, transfer: Array) -> float:
    """The frequency at which a transfer falls to one half, or the highest one if it does not."""
    below = np.flatnonzero(transfer < 0.5)
    if not below.size:
        return float(frequency[-1])
    k = int(below[0])
    share = (transfer[k - 1] - 0.5) / (transfer[k - 1] - transfer[k])
    return float(frequency[k - 1] + share * (frequency[k] - frequency[k - 1]))
