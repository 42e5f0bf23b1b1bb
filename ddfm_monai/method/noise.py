"""The observation model: each source is a clean image plus stationary noise with a power spectrum.

    ``y = x + n``,  ``F(n)(k) ~ N(0, S(k))``,  x from the prior                                                    (1)

S(k) is the variance per spatial frequency; its mean over k is the variance of a pixel. White noise has a constant S,
noise of scanners has not: k-space is filled up with zeros, tomographic reconstruction filters, resampling averages.

The expected clean image is found as the paper finds the fused one: alternately a data step, which is diagonal in
Fourier space, and the network's estimate at a noise level, while that level falls, ``σ_1 > ... > σ_K``:

    fill-up    ``z = D(y + n', σ_1)``,  ``n' ~ N(0, σ_1² - S)``,  ``σ_1² = max S``                                  (2)
    data step  ``x = argmin Σ_k |F(y - x)|² / S + λ |F(x - z)|² / σ² = z + F⁻¹[σ² / (σ² + λ S) F(y - z)]``          (3)
    prior      ``z = D(x, σ)``                                                                                     (4)

D(., σ) is Tweedie's formula: one evaluation of the network at the timestep with that noise. (2) makes the noise white,
which is what the network knows; (3) then gives back what the data know better: at frequencies where there is little
noise the data are followed, at the others the estimate. Where S is constant nothing is filled up, K is 1 and all of it
is Tweedie's formula: white noise is not a case of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfm_monai.method.tweedie import tweedie

__all__ = ["Denoiser", "Noise", "Observed", "denoise", "expected_clean", "noise_levels_for", "on_grid", "resampled"]

TABLE = 64  # spectra are tables of so many frequencies along rows and columns

_DATA_WEIGHT = 0.25  # λ: less smooths textures away, more lets smooth noise through (docs/noise.md)
_LAST_LEVEL = 0.02  # σ_K: noise of 2.5 of 255 grey levels is not worth an evaluation
_MOST_EVALUATIONS = 5
_PADDING = 16  # pixels by which a crop is continued, so that its opposite edges do not meet


@dataclass(frozen=True)
class Noise:
    """Stationary noise.

    Args:
        spectrum: S, (TABLE, TABLE) float32 in squared image values (black -1, white 1), at ``torch.fft.fftfreq(TABLE)``
            cycles per pixel along rows and columns; its mean is the variance of a pixel.
        family: what it looks like, for people.
    """

    spectrum: Tensor
    family: str

    @property
    def sd(self) -> float:
        """Standard deviation of a pixel, in image values (black -1, white 1)."""
        return float(self.spectrum.mean().sqrt())

    def seen(self, transposed: bool, mirrored: bool) -> Noise:
        """The same noise with rows and columns exchanged, then with one of the two running the other way."""
        spectrum = self.spectrum.T if transposed else self.spectrum
        return Noise(spectrum.flip(0).roll(1, 0) if mirrored else spectrum, self.family)


@dataclass(frozen=True)
class Observed:
    """What a source says without its noise.

    Args:
        clean: (B, 1, H, W), the expected clean images.
        sd: (B, 1, 1, 1), of the noise that was there; 0 for a clean source.
    """

    clean: Tensor
    sd: Tensor


Denoiser = Callable[[Tensor, Tensor], tuple[Observed, Observed]]
"""Both sources, (B, 1, H, W) in [-1, 1], to what they say without their noise."""


# --- the expected clean image ----------------------------------------------------------------------------------------


def denoise(
    network: Callable[[Tensor, Tensor], Tensor], white: Tensor, noise: Sequence[Noise | None], y: Tensor
) -> Observed:
    """:func:`expected_clean` of a batch; a clean source costs no evaluation.

    Args:
        network: ``(x, timesteps) -> noise``.
        white: (B, 1, H, W), standard normal.
        noise: of each slice, or one for all of them; None for a clean one.
        y: (B, 1, H, W) in [-1, 1].
    """
    if len(noise) == 1:
        clean = y if noise[0] is None else expected_clean(network, y, noise[0], white)
    else:
        each = zip(y.split(1), noise, white.split(1), strict=True)
        clean = torch.cat([x if n is None else expected_clean(network, x, n, w) for x, n, w in each])
    sd = y.new_tensor([0.0 if n is None else n.sd for n in noise])
    return Observed(clean, sd.expand(len(y)).view(-1, 1, 1, 1))


def expected_clean(
    network: Callable[[Tensor, Tensor], Tensor], y: Tensor, noise: Noise, white: Tensor, evaluations: int | None = None
) -> Tensor:
    """``E[x | y]``, as the module's text says.

    Args:
        network: ``(x, timesteps) -> noise``.
        y: (B, 1, H, W) in [-1, 1].
        noise: the noise of every image.
        white: (B, 1, H, W) or (1, 1, H, W), standard normal: what is filled up is made from it.
        evaluations: K; by default as :func:`noise_levels_for` has it.

    Returns:
        (B, 1, H, W) in [-1, 1].
    """
    S = on_grid(noise.spectrum.to(y), *y.shape[-2:])
    sigmas = noise_levels_for(noise, evaluations)
    missing = (sigmas[0] ** 2 - S).clamp(min=0)
    z = tweedie(network, y + _filtered(white, missing.sqrt()), sigmas[0])
    height, width = (size + 2 * _PADDING for size in y.shape[-2:])
    padded = on_grid(noise.spectrum.to(y), height, width)
    for sigma in sigmas[1:]:
        trust = sigma**2 / (sigma**2 + _DATA_WEIGHT * padded)
        x = z + _continued_and_filtered(y - z, trust)
        z = tweedie(network, x, sigma)
    return z


def noise_levels_for(noise: Noise, evaluations: int | None = None) -> list[float]:
    """``σ_1 > ... > σ_K``: from the largest of sqrt(S) to its smallest (or what is not worth an evaluation).

    Each about half of the one before it, so that noise which is nearly white takes one evaluation.
    """
    first = float(noise.spectrum.max().sqrt())
    last = min(first, max(_LAST_LEVEL, float(noise.spectrum.min().clamp(min=0).sqrt())))
    if evaluations is None:
        evaluations = min(_MOST_EVALUATIONS, 1 + round(math.log2(first / last)))
    steps = max(evaluations - 1, 1)
    return [first * (last / first) ** (k / steps) for k in range(evaluations)]


def on_grid(spectrum: Tensor, height: int, width: int) -> Tensor:
    """S of (TABLE, TABLE) at the frequencies of a transform of height x width pixels, linearly between its entries."""
    rows, columns = (_periodic_linear(size, len(spectrum)).to(spectrum) for size in (height, width))
    return rows @ spectrum @ columns.T


@lru_cache(maxsize=64)
def _periodic_linear(size: int, table: int) -> Tensor:
    position = torch.arange(size, dtype=torch.float64) * table / size
    lower = position.floor()
    weight = position - lower
    matrix = torch.zeros(size, table, dtype=torch.float64)
    matrix.scatter_add_(1, lower.long()[:, None] % table, (1 - weight)[:, None])
    return matrix.scatter_add_(1, (lower.long() + 1)[:, None] % table, weight[:, None])


def _filtered(image: Tensor, gain: Tensor) -> Tensor:
    return torch.fft.ifft2(torch.fft.fft2(image) * gain).real


def _continued_and_filtered(image: Tensor, gain: Tensor) -> Tensor:
    """A filter on the image continued by reflection; gain is for the continued size."""
    smallest = min(image.shape[-2:])
    mode = "reflect" if smallest > _PADDING else "replicate"
    continued = F.pad(image, (_PADDING,) * 4, mode=mode)
    return _filtered(continued, gain)[..., _PADDING:-_PADDING, _PADDING:-_PADDING]


# --- through a linear resampling -------------------------------------------------------------------------------------


def resampled(noise: Noise, steps: Tensor, phases: Tensor) -> Noise:
    """The noise after trilinear interpolation onto another grid.

    Noise is taken to be independent from slice to slice. With r the autocovariance of the source's noise, that of
    the result at lag Δ (in pixels of the new slices) is ``R(Δ) = Σ_q r(q) Π_axis B(steps Δ - q)``, where B is the
    autocorrelation of the interpolation's triangle: averaged over all positions between two voxels a cubic B-spline;
    for an axis along which the new pixels keep step with the voxels, what that one position (its phase) gives.

    Args:
        noise: of the source's slices.
        steps: (3, 2), voxels by which a step along the rows and along the columns of the new slices moves along the
            source's rows, its columns and across its slices.
        phases: (P, 3), fractional positions between voxels along these axes at the first pixels of P new slices.

    Returns:
        The noise of the new slices.
    """
    table = len(noise.spectrum)
    lags = torch.fft.fftfreq(table, 1 / table).double()
    r = torch.fft.ifft2(noise.spectrum.double().cpu()).real
    i, j = torch.meshgrid(lags, lags, indexing="ij")
    shift = steps.double()[:, 0, None] * i.flatten() + steps.double()[:, 1, None] * j.flatten()  # (3, TABLE²)
    overlap = [_overlap(steps[axis], phases[:, axis]) for axis in range(3)]
    along_rows, along_columns = (overlap[axis](shift[axis, :, None] - lags) for axis in (0, 1))
    R = ((along_rows @ r) * along_columns).sum(1) * overlap[2](shift[2])
    spectrum = torch.fft.fft2(R.view(table, table)).real.clamp(min=0)
    return Noise(spectrum.to(noise.spectrum), f"{noise.family}, resampled linearly")


def _overlap(steps: Tensor, phases: Tensor) -> Callable[[Tensor], Tensor]:
    """B along one axis: the cubic B-spline, or, where the steps are whole voxels, the product at these phases."""
    if bool(((steps - steps.round()).abs() > 1e-3).any()):
        return _cubic_spline
    u = phases.double()
    same, next_one = float((u**2 + (1 - u) ** 2).mean()), float((u * (1 - u)).mean())

    def in_step(shift: Tensor) -> Tensor:
        distance = shift.abs().round()
        return torch.where(distance == 0, same, torch.where(distance == 1, next_one, 0.0)).to(shift)

    return in_step


def _cubic_spline(shift: Tensor) -> Tensor:
    d = shift.abs()
    return torch.where(d < 1, 2 / 3 - d**2 + d**3 / 2, (2 - d).clamp(min=0) ** 3 / 6)
