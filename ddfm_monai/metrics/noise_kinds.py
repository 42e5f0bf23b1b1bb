"""Noise as scanners make it: stationary, with a power spectrum that is known.

| kind | where it comes from | power at (f_y, f_x), cycles per pixel, f their length |
| --- | --- | --- |
| white | a raw acquisition | 1 |
| zero-filled | MRI whose matrix was doubled in k-space | 1 where both are below 1/4, else 0 |
| linear | anything resampled by linear interpolation | (sinc f_y · sinc f_x)⁴ |
| soft, sharp | CT, filtered back-projection with either kind of kernel | f · exp(-2 (f / c)²), c = 0.15, 0.35 |

Each is normalised to mean 1 and has a floor of 0.001 (rounding to whole grey levels makes one as well).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["NOISE_KINDS", "USUAL_SD", "coloured_noise", "noise_spectrum"]

Array = NDArray[np.float64]

USUAL_SD = {"white": 10.0, "zero-filled": 10.0, "linear": 10.0, "soft": 12.0, "sharp": 12.0}
"""Kind to a usual standard deviation in grey levels of 255; 12 of CT noise are 4 HU in a brain window."""

NOISE_KINDS = tuple(USUAL_SD)

_FLOOR = 1e-3


def noise_spectrum(kind: str, shape: tuple[int, int]) -> Array:
    """Variance per frequency, ``(H, W)`` in the order of ``np.fft.fft2``, mean 1.

    Raises:
        ValueError: an unknown kind.
    """
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :]
    f = np.hypot(fy, fx)
    if kind == "white":
        power = np.ones(shape)
    elif kind == "zero-filled":
        power = ((np.abs(fy) < 0.25) & (np.abs(fx) < 0.25)).astype(np.float64)
    elif kind == "linear":
        power = (np.sinc(fy) * np.sinc(fx)) ** 4
    elif kind in ("soft", "sharp"):
        power = f * np.exp(-2 * (f / (0.15 if kind == "soft" else 0.35)) ** 2)
    else:
        raise ValueError(f"noise is {kind!r}; {', '.join(NOISE_KINDS)} are known.")
    power = np.maximum(power / power.mean(), _FLOOR)
    return power / power.mean()


def coloured_noise(kind: str, shape: tuple[int, ...], sd: float, random: np.random.Generator) -> Array:
    """Gaussian noise of that kind, ``(..., H, W)``, of standard deviation ``sd``; each plane by itself, periodic.

    Raises:
        ValueError: an unknown kind.
    """
    amplitude = np.sqrt(noise_spectrum(kind, (shape[-2], shape[-1])))
    return sd * np.fft.ifft2(np.fft.fft2(random.normal(size=shape)) * amplitude).real
