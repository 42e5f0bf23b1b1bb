"""Model observers: how well can a lesion be detected in noise, as radiology measures it?

All work on square regions around a known place, ``(N, S, S)``, with and without the lesion. A linear observer has a
template w and gives each region the score wᵀg; its detectability is ``d' = (mean score with - without) / sd`` and its
area under the ROC curve, for Gaussian scores, ``AUC = Φ(d' / √2)``.

* **Channelised Hotelling observer (CHO)**: sees a region through a few channels U only, ``v = Uᵀg``, and weighs them
  with what it knows of their noise: ``w = S⁻¹ Δv̄``, ``d'² = Δv̄ᵀ S⁻¹ Δv̄``, S the mean covariance of both classes.
  Difference-of-Gaussians channels are what the eye has (Abbey and Barrett, JOSA A 18, 473, 2001); Laguerre-Gauss
  channels come close to the best linear observer for a smooth round lesion (Gallas and Barrett, JOSA A 20, 1725, 2003).
* **Non-prewhitening observer with eye filter (NPWE)**: knows the lesion but not the noise,
  ``d'² = (Σ |L|² E²)² / Σ |L|² E⁴ NPS`` (AAPM TG-233), L the lesion's spectrum, E the eye's contrast sensitivity.

The conventions are those of the public reference implementation of the FDA's device centre (DIDSR/LCD_CT).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

__all__ = [
    "DENSE",
    "SPARSE",
    "DoG",
    "auc",
    "auc_of_dprime",
    "bootstrap_interval",
    "channel_outputs",
    "cho_dprime_in_noise",
    "difference_of_gaussians",
    "eye_filter",
    "hotelling_dprime",
    "hotelling_template",
    "laguerre_gauss",
    "npwe_dprime",
    "npwe_template",
]

Array = NDArray[np.float64]


class DoG(NamedTuple):
    """A bank of difference-of-Gaussians channels ``exp(-f²/2(Qs)²) - exp(-f²/2s²)``, s = first, first·ratio, ...

    Attributes:
        first: s of the lowest channel, cycles per pixel.
        ratio: from one channel to the next.
        width: Q.
        number: of channels.
    """

    first: float
    ratio: float
    width: float
    number: int


DENSE = DoG(0.005, 1.4, 1.67, 10)
SPARSE = DoG(0.015, 2.0, 2.0, 3)


def difference_of_gaussians(size: int, bank: DoG = DENSE) -> Array:
    """Channels ``(C, size, size)`` of norm 1, the lowest frequencies first, centred on pixel ``size // 2``."""
    f2 = _squared_frequency(size)
    widths = bank.first * bank.ratio ** np.arange(bank.number)
    spectra = [np.exp(-f2 / (2 * (bank.width * s) ** 2)) - np.exp(-f2 / (2 * s**2)) for s in widths]
    return _unit(np.fft.fftshift(np.fft.ifft2(spectra).real, axes=(-2, -1)))


def laguerre_gauss(size: int, width: float, count: int = 6) -> Array:
    """Channels ``(count, size, size)`` of norm 1: ``exp(-π r²/a²) L_j(2π r²/a²)``, a = ``width`` in pixels."""
    offsets = np.arange(size) - size // 2
    r2 = (offsets[:, None] ** 2 + offsets**2) / width**2
    return _unit(np.stack([special.eval_laguerre(j, 2 * np.pi * r2) for j in range(count)]) * np.exp(-np.pi * r2))


def channel_outputs(channels: Array, regions: ArrayLike) -> Array:
    """``Uᵀg``: regions ``(..., S, S)`` seen through channels ``(C, S, S)``: ``(..., C)``."""
    return np.tensordot(np.asarray(regions, dtype=np.float64), channels, axes=([-2, -1], [1, 2]))


def hotelling_template(present: Array, absent: Array) -> Array:
    """``w = S⁻¹ Δv̄`` from channel outputs ``(N, C)`` with and without the lesion. S may be singular."""
    return np.linalg.pinv(_mean_covariance(present, absent), hermitian=True) @ _difference(present, absent)


def hotelling_dprime(present: Array, absent: Array) -> float:
    """``sqrt(Δv̄ᵀ S⁻¹ Δv̄)`` from channel outputs ``(N, C)``; too high by chance where N is not much larger than C."""
    return float(np.sqrt(_difference(present, absent) @ hotelling_template(present, absent)))


def cho_dprime_in_noise(channels: Array, lesion: Array, spectrum: Array) -> float:
    """The CHO's d' for a known lesion ``(S, S)`` in stationary noise of known spectrum: no sampling, no bias.

    Args:
        channels: ``(C, S, S)``.
        lesion: its mean signal.
        spectrum: variance per frequency, ``(S, S)`` in the order of ``np.fft.fft2``, mean = variance of a pixel.
    """
    signal = channel_outputs(channels, lesion)
    spectra = np.fft.fft2(channels).reshape(len(channels), -1)
    covariance = ((spectra * spectrum.ravel()) @ spectra.conj().T).real / spectrum.size
    return float(np.sqrt(signal @ np.linalg.pinv(covariance, hermitian=True) @ signal))


def eye_filter(size: int, pixel_mm: float = 54 / 128) -> Array:
    """Contrast sensitivity ``E(f) = f^1.3 exp(-3.04 f²)``, f in cycles per mm on a display seen from 50 cm.

    Args:
        size: of the region; the result is ``(size, size)`` in the order of ``np.fft.fft2``, its peak 1.
        pixel_mm: of the display; by default 128 pixels on 54 mm.
    """
    f2 = _squared_frequency(size) / pixel_mm**2
    response = f2**0.65 * np.exp(-3.04 * f2)
    return response / response.max()


def npwe_template(lesion: Array, eye: Array) -> Array:
    """``(S, S)``: the lesion seen through the eye filter twice (the region passes it, too)."""
    return np.fft.ifft2(np.fft.fft2(lesion) * eye**2).real


def npwe_dprime(lesion: Array, spectrum: Array, eye: Array | float = 1.0) -> float:
    """d' of the NPWE observer for a lesion ``(S, S)`` in noise of known spectrum; without a filter the NPW's.

    Args:
        lesion: the signal in the image: the task function with the task transfer applied.
        spectrum: variance per frequency, ``(S, S)`` in the order of ``np.fft.fft2``.
        eye: `eye_filter`.
    """
    power = np.abs(np.fft.fft2(lesion)) ** 2 / lesion.size
    return float(np.sum(power * eye**2) / np.sqrt(np.sum(power * eye**4 * spectrum)))


def auc(present: ArrayLike, absent: ArrayLike) -> float:
    """Area under the ROC curve of two sets of scores, ``(N,)`` and ``(M,)``: P(present > absent), ties half."""
    present, absent = np.asarray(present), np.asarray(absent)
    ranks = stats.rankdata(np.concatenate([present, absent]))[: len(present)]
    return float((ranks.mean() - (len(present) + 1) / 2) / len(absent))


def auc_of_dprime(dprime: float) -> float:
    """``Φ(d' / √2)``"""
    return float(stats.norm.cdf(dprime / np.sqrt(2)))


def bootstrap_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of bootstrap values, by percentiles."""
    low, high = np.quantile(np.asarray(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _difference(present: Array, absent: Array) -> Array:
    return present.mean(axis=0) - absent.mean(axis=0)


def _mean_covariance(present: Array, absent: Array) -> Array:
    return np.atleast_2d((np.cov(present, rowvar=False) + np.cov(absent, rowvar=False)) / 2)


def _squared_frequency(size: int) -> Array:
    f = np.fft.fftfreq(size)
    return f[:, None] ** 2 + f**2


def _unit(channels: Array) -> Array:
    return channels / np.sqrt(np.sum(channels**2, axis=(1, 2), keepdims=True))
