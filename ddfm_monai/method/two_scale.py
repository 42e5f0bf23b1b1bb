"""The default likelihood: brightness from the brighter source, details of both, noise left to the prior.

The model, in the notation of the paper (a, b the sources, f the fused image, ``f̃0`` the network's clean estimate). Each
image is split into a base and details, ``a = Ga + Da``. G is a wide smoothing that keeps steep edges (the guided
filter, He et al. 2013), so that beside a bone neither the base says that the bone goes on, nor the details that it must
be dark there: no halos. Each part of each source is seen through a Laplace term, as in the paper's
``‖f - a‖₁ + φ‖f - b‖₁``, with a weight per pixel:

* base: ``w |Gf - Ga| + (1 - w) |Gf - Gb|``, w large where a is brighter;
* detail: ``v |Df - D'a - κ_b Xb| + (1 - v) |Df - D'b - κ_a Xa|``, v large where a has more detail energy. Xb is what b
  shows at the scale of lesions (D without single-pixel details): where a leads, it is taken to show the fused details
  less the share κ_b that b adds to them, and the other way round. Without that share (κ = 0) a lesion is lost wherever
  the other source leads. Where a and b both show strong details of opposite signs, the sum would show neither: then
  only what is clearly stronger is added. D' is D with single-pixel details raised by ``gain``.

As in the paper each Laplace is a Gaussian whose variance has an exponential prior; neighbouring pixels share the
variance, so that a choice between the sources does not alternate from pixel to pixel. The E-step's expectation of its
inverse is proportional to one over the residual of ``f̃0`` around; the hyper-parameters of the two sources are taken to
be equal, so they cancel. The M-step is then a mean per pixel, weighted by w (or v) times these expectations, within the
range that f may not leave. Single pixels that stick out further than any of the sources' are taken back at the end
(:mod:`ddfm_monai.method.lone_pixels`). The base of f is a hidden variable and persists from step to step, as u does in
the paper: what the network changes in f, it changes in the details.

Noise: a source is a clean image plus noise with a power spectrum (:mod:`ddfm_monai.method.noise`). The clean image is
one more hidden variable; its expectation is what the prior is made for, and it is found by sampling of its own before
the first step. That is all that the prior does here that can be seen: a source without noise is followed as it is, the
network then enters by the E-step alone and moves the result by less than a grey level. Without the prior (``prepare``
without ``denoise``) the sources are followed with their noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfm_monai.method.lone_pixels import limit_lone_pixels, lone_pixels
from ddfm_monai.method.luma import MEAN_GREY
from ddfm_monai.method.noise import Denoiser

__all__ = ["TwoScaleEM"]

_TINY = 1e-6


@dataclass
class _State:
    """All (B, 1, H, W) but for ``outside``, (B,)."""

    base: tuple[Tensor, Tensor]  # Ga, Gb
    base_weight: Tensor  # w
    detail: tuple[Tensor, Tensor]  # D'a + κ_b Xb, D'b + κ_a Xa
    detail_weight: Tensor  # v
    noise: tuple[Tensor, Tensor]  # sd of the noise in a, b: (B, 1, 1, 1)
    low: Tensor  # what the result may not leave; -1 both where it is background, a both outside b's field of view
    high: Tensor
    background: Tensor
    lone: tuple[Tensor, ...]  # how far single pixels may stick out of their neighbours
    f_base: Tensor  # base of f, from the last M-step
    responsibility: tuple[Tensor, Tensor]  # of the first source for base and detail, from the last E-step
    outside: Tensor | None = None  # pixels that the last step had to bring back into the range

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of f given everything else.

        The variance of a choice between two values, the error of the responsibilities themselves (taken as 0.1), and
        what denoising leaves of the noise (0.4).
        """
        (w, v), (a, b) = self.responsibility, self.noise
        variance = 0.4**2 * (v**2 * a**2 + (1 - v) ** 2 * b**2)
        for parts, share in ((self.base, w), (self.detail, v)):
            variance = variance + (share * (1 - share) + 0.1**2) * (parts[0] - parts[1]) ** 2
        return variance.sqrt().masked_fill(self.background, 0.0)


@dataclass
class TwoScaleEM:
    """EM step of the two-scale model (see the module's text). Lengths are pixels, image values -1 to 1.

    Args:
        base_sigma: sd of the windows of G, which parts base and details.
        edge: variance in a window from which on more than half of a step belongs to the base (0.4: a step of 160 of 255
            grey levels through its middle).
        base_power: how sharply the brighter base is chosen: ``w = Ga^2p / (Ga^2p + Gb^2p)``, values from black.
        detail_sigma: sd of the window over which detail energy is measured.
        detail_limit: details larger than this count as this large in that energy, so that neither bone nor a streak
            leads by its height alone.
        detail_power: how sharply the source with more detail energy is chosen.
        brightness_power: how much brightness counts beside detail energy in that choice.
        brightness_sigma: sd of the window over which brightness is measured there.
        lesion_sigma: details finer than this (sd) are not added from the source that does not lead.
        reference_share: κ_a, share of the reference's details that is added where the second source leads.
        second_share: κ_b, share of the second source's details that is added where the reference leads.
        opposition: details of opposite signs that are both larger than this do not cancel each other.
        gain: how much single-pixel details are raised.
        variance_sigma: sd of the window over which pixels share the variance of a Laplace term.
        softness: residuals below this do not sharpen the E-step's choice.
        tolerance: how far the result may leave the range of both sources within 9 x 9 pixels (0.2 = 10 % of the
            grey scale).
        start_timestep: where the noised image of the first M-step enters the chain.
    """

    name = "two-scale"
    luma = MEAN_GREY
    default_steps = 2  # agree with 100 steps to 59 dB of PSNR: docs/likelihood.md

    base_sigma: float = 10.0
    edge: float = 0.4
    base_power: float = 10.0
    detail_sigma: float = 3.5
    detail_limit: float = 0.1
    detail_power: float = 5.0
    brightness_power: float = 0.6
    brightness_sigma: float = 1.3
    lesion_sigma: float = 2.0
    reference_share: float = 0.7
    second_share: float = 1.0
    opposition: float = 0.3
    gain: float = 0.25
    variance_sigma: float = 1.5
    softness: float = 0.2
    tolerance: float = 0.2
    start_timestep: int = 300

    def settings(self) -> dict[str, Any]:
        """What a result depends on, for the provenance."""
        return dict(vars(self))

    def prepare(self, a: Tensor, b: Tensor, denoise: Denoiser | None = None, seen: Tensor | None = None) -> _State:
        """Targets, weights and range of sources a, b: (B, 1, H, W) in [-1, 1]; outside ``seen`` the range is a."""
        background = (a <= -1) & (b <= -1)
        sd_a = sd_b = a.new_zeros(len(a), 1, 1, 1)
        if denoise is not None:
            observed_a, observed_b = denoise(a, b)
            a, b, sd_a, sd_b = observed_a.clean, observed_b.clean, observed_a.sd, observed_b.sd
            background = background | _dark(a, sd_a) & _dark(b, sd_b)
        base = (self._base(a), self._base(b))
        detail = (a - base[0], b - base[1])
        shared = (_gaussian(a, self.lesion_sigma) - base[0], _gaussian(b, self.lesion_sigma) - base[1])
        salience = (self._salience(a, detail[0]), self._salience(b, detail[1]))
        sharp = tuple(d + self.gain * (d - _gaussian(d, 1.5)) for d in detail)
        brightness = (_grey(base[0]) ** 2 + _TINY, _grey(base[1]) ** 2 + _TINY)
        w = _choice(brightness[0], brightness[1], self.base_power)
        v = _choice(salience[0], salience[1], self.detail_power)
        low, high = (x.masked_fill(background, -1.0) for x in _local_range(a, b, self.tolerance))
        if seen is not None:
            low, high = torch.where(seen, low, a), torch.where(seen, high, a)
        return _State(
            base=base,
            base_weight=w,
            detail=(
                sharp[0] + self.second_share * _beside(shared[0], shared[1], self.opposition),
                sharp[1] + self.reference_share * _beside(shared[1], shared[0], self.opposition),
            ),
            detail_weight=v,
            low=low,
            high=high,
            background=background,
            lone=lone_pixels(a, b),
            noise=(sd_a, sd_b),
            f_base=_mean(base, w),
            responsibility=(w, v),
        )

    def initial(self, state: _State) -> Tensor | None:
        """The M-step with the weights alone, (B, 1, H, W)."""
        w, v = state.base_weight, state.detail_weight
        return self._maximise(state, (w, 1 - w), (v, 1 - v))

    def rectify(self, f: Tensor, state: _State) -> Tensor:
        """One EM step: the estimate ``f̃0`` (B, 1, H, W) becomes ``f̂0``; updates ``state``."""
        base = self._expect(state.base, state.base_weight, state.f_base)
        detail = self._expect(state.detail, state.detail_weight, f - state.f_base)
        return self._maximise(state, base, detail)

    def objective(self, f: Tensor, state: _State) -> Tensor:
        """What an EM step never raises, (B,), for an f (B, 1, H, W) within the range.

        The weighted Laplace terms of the module's text, at the base of f that the state holds. A Laplace term of a
        softened residual is ``φ(r) = |r| - s log(1 + |r|/s)`` (Fair's), r the root mean square residual around a pixel:
        the E-step's ``1 / (r + s)`` makes ``C r²/2`` an upper bound of it, which the M-step minimises within the range.
        """
        terms = (
            weight * _fair(self._residual(part, source), self.softness)
            for parts, w, part in (
                (state.base, state.base_weight, state.f_base),
                (state.detail, state.detail_weight, f - state.f_base),
            )
            for source, weight in zip(parts, (w, 1 - w), strict=True)
        )
        return sum(terms, torch.zeros_like(f)).sum((1, 2, 3))

    def finish(self, f: Tensor, state: _State) -> Tensor:
        """The last estimate less single pixels that neither source has; a draw may have left the range."""
        return limit_lone_pixels(f.clamp(state.low, state.high), state.lone).clamp(state.low, state.high)

    def _base(self, image: Tensor) -> Tensor:
        """G: the guided filter of an image by itself, with Gaussian windows."""
        mean = _gaussian(image, self.base_sigma)
        variance = (_gaussian(image**2, self.base_sigma) - mean**2).clamp(min=0)
        kept = variance**2 / (variance**2 + self.edge**2)
        return _gaussian(kept, self.base_sigma) * image + _gaussian((1 - kept) * mean, self.base_sigma)

    def _salience(self, image: Tensor, detail: Tensor) -> Tensor:
        """Local detail energy, and brightness with less say, on the scale [0, 1]."""
        limited = self.detail_limit * torch.tanh(detail / self.detail_limit)
        energy = _gaussian(limited**2, self.detail_sigma) / 4 + _TINY
        return energy * (_gaussian(_grey(image) ** 2, self.brightness_sigma) + 1e-4) ** self.brightness_power

    def _expect(self, parts: tuple[Tensor, Tensor], weight: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """E-step: C w and D (1 - w), where C and D are one over the residuals of f around each pixel."""
        C, D = (1 / (self._residual(f, part) + self.softness) for part in parts)
        return self._around(C * weight), self._around(D * (1 - weight))

    def _residual(self, f: Tensor, part: Tensor) -> Tensor:
        """Root mean square of ``f - part`` around each pixel."""
        return _gaussian((f - part) ** 2, self.variance_sigma).sqrt()

    def _around(self, image: Tensor) -> Tensor:
        """What a pixel gets from all windows that it is part of: the transpose of the Gaussian."""
        return _separable(image, _transposed_gaussian_matrix, self.variance_sigma)

    def _maximise(self, state: _State, base: tuple[Tensor, Tensor], detail: tuple[Tensor, Tensor]) -> Tensor:
        """M-step: both parts are weighted means; where their sum leaves the range, the less certain part gives way."""
        P, Q = base[0] + base[1], detail[0] + detail[1]
        w, v = base[0] / P, detail[0] / Q
        f_base = _mean(state.base, w)
        f = f_base + _mean(state.detail, v)
        inside = torch.minimum(torch.maximum(f, state.low), state.high)
        state.f_base = f_base + (inside - f) * Q / (P + Q)
        state.responsibility = (w, v)
        state.outside = ((inside != f) & (state.low < state.high)).sum((1, 2, 3))
        return inside


def _grey(image: Tensor) -> Tensor:
    """From black (0) to white (1)."""
    return (image + 1) / 2


def _mean(parts: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    return weight * parts[0] + (1 - weight) * parts[1]


def _beside(lead: Tensor, other: Tensor, opposition: float) -> Tensor:
    """What the other source adds to the one that leads: all; of strong details of opposite signs only the stronger.

    Of x and y with opposite signs ``y y⁴ / (16 x⁴ + y⁴)``: a seventeenth of a y that would cancel x. That holds as far
    as both are strong, ``m² / (m² + opposition²)`` with m the weaker one: a rule that bent as much for faint details
    would let noise decide whether a faint lesion is shown.
    """
    x, y = lead.square(), other.square()
    weaker = torch.minimum(x, y)
    strong = weaker / (weaker + opposition**2)
    stronger_only = other * y**2 / (16 * x**2 + y**2 + 1e-12)
    return torch.where(lead * other < 0, torch.lerp(other, stronger_only, strong), other)


def _fair(r: Tensor, s: float) -> Tensor:
    """``|r| - s log(1 + |r|/s)``: nearly r²/2s at 0, nearly |r| far from it."""
    return r.abs() - s * torch.log1p(r.abs() / s)


def _choice(a: Tensor, b: Tensor, power: float) -> Tensor:
    """``a^p / (a^p + b^p)``"""
    return torch.sigmoid(power * (a.log() - b.log()))


def _local_range(a: Tensor, b: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of both within 9 x 9 pixels, and as much more either way."""
    return -_local_maximum(-torch.minimum(a, b)) - tolerance, _local_maximum(torch.maximum(a, b)) + tolerance


def _local_maximum(image: Tensor) -> Tensor:
    """Rows, then columns; the maximum over 1, 2, 4, 8 and then 9 pixels, which is quicker than a pooling layer."""
    for dim, padding in ((-2, (0, 0, 4, 4)), (-1, (4, 4, 0, 0))):
        image = F.pad(image, padding, value=-torch.inf)
        for shift in (1, 2, 4, 1):
            length = image.shape[dim] - shift
            image = torch.maximum(image.narrow(dim, 0, length), image.narrow(dim, shift, length))
    return image


def _dark(image: Tensor, sd: Tensor) -> Tensor:
    """Black; in a source that had noise, up to 0.7 of its sd in the mean around (noise clipped at black leaves 0.4)."""
    return (_gaussian(image, 1.5) + 1 <= 0.7 * sd) & (sd > 0) | (image <= -1)


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing, edges continued."""
    return _separable(image, _gaussian_matrix, sigma)


def _separable(image: Tensor, matrix: Callable[..., Tensor], *arguments: float) -> Tensor:
    """A separable filter as one matrix product per axis: for a wide one ten times as quick as a convolution."""
    rows, columns = (matrix(image.shape[dim], image.dtype, image.device, *arguments) for dim in (-2, -1))
    return rows @ image @ columns.T


@lru_cache(maxsize=64)
def _gaussian_matrix(size: int, dtype: torch.dtype, device: torch.device, sigma: float) -> Tensor:
    """(size, size): row i holds the weights of output i, those of pixels beyond an edge added to the edge's."""
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-(offsets.double() ** 2) / (2 * sigma**2))
    sources = (torch.arange(size)[:, None] + offsets).clamp(0, size - 1)
    weights = (kernel / kernel.sum()).expand(size, -1)
    return torch.zeros(size, size, dtype=kernel.dtype).scatter_add(1, sources, weights).to(dtype).to(device)


@lru_cache(maxsize=16)
def _transposed_gaussian_matrix(size: int, dtype: torch.dtype, device: torch.device, sigma: float) -> Tensor:
    return _gaussian_matrix(size, dtype, device, sigma).T.contiguous()
