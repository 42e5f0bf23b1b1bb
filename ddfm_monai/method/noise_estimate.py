"""Which noise is in a stack of slices: its power spectrum, found blindly.

Periodograms of windows are pooled over all slices; of each band of frequencies the quietest windows count, since there
anatomy has least power. What is left is modelled as anatomy plus noise,

    ``P(band) = Σ_j α_j k^-p_j / (1 + (k / c_j)^8) + h F_family(band) + w``,

powers of the frequency k with or without the roll-off of a scanner, and one of the families of spectra that scanners
and resampling make, on a white floor. The coefficients of each family maximise Whittle's likelihood of the
periodograms, ``-Σ P / M - log(P / M)`` for a model M (Itakura-Saito divergence, multiplicative updates: Févotte et al.
2009); the most likely family is taken. Air, where there is any, is one more observation: it shows the noise's level
without any anatomy.

Clean pictures have texture, and texture looks like noise. What is found counts as noise only if air shows it as well,
or if it is more than the texture of clean pictures ever was (docs/noise.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ddfm_monai.method.noise import TABLE, Noise

__all__ = ["estimate_noise"]

_WINDOW = 32  # pixels
_TOO_MUCH = 1.04  # found over true sd, all kinds and modalities alike: anatomy is in the quietest windows too
_QUIETEST = 0.05  # share of the windows
_SLICES, _WINDOWS = 16, 8000  # so many are enough
_FEWEST_WINDOWS, _FEW_SLICES = 12, 4
_DARKEST_TISSUE = 0.2  # of the brightest: what is darker may be the noise of a magnitude image in air
_NEGLIGIBLE = 4.0  # grey levels²: power per frequency that nobody sees, and rounding

# Grey levels of 255. Clean volumes with silent air reach 7.3 and 3.0 (docs/noise.md).
_TEXTURE = 4.5  # noise that air shows as well: more than this in all
_TEXTURE_SEEN = 8.0  # noise that air does not show: more than this where it outweighs anatomy,
_TEXTURE_FINE = 3.5  # or more than this at frequencies above 0.42 cycles per pixel
_AIR_SHARE = (
    0.42  # of the sd in tissue is left in air at least (0.58 if clipped at black, 0.45 above a median at black)
)
_UNEVEN = 15.0  # of noise beside anatomy, where it counts without air; anatomy on coarse pixels has 13 to 30
_AIR_SHARE_OF_FEW, _TEXTURE_FINE_OF_FEW = 0.5, 5.0
_BLACK = 15.0  # grey levels: the mean of a window of air at most,
_RAYLEIGH = (1.7, 2.2)  # unless it is so many of its sd
_ONE_VALUE = 0.05  # sd of a window: less is one value (a single pixel of 1 has 0.06)
_SILENT = 1.5  # grey levels: less in air says nothing of noise
_LEAST_AIR = 0.05  # share of the windows
_QUIETEST_AIR = 0.1  # share of the slices
_EVEN_AIR = 0.8  # the sd of a quarter of the air over its median: noise has 0.85 or more
_AIR_RATIO = 1.8  # sd of noise in tissue over that in air, between the two
_AIR_WEIGHT = 0.2  # of the air's one observation, where all bands together have 1
_OCCAM = 0.01  # by so much a coloured family must be nearer to the periodograms than a constant,
_OCCAM_SMOOTH = 0.005  # a smooth one nearer still, since it looks like anatomy,
_OCCAM_UNUSUAL = 0.003  # and a cut of k-space elsewhere than at half the band: scanners double the matrix
_USUAL_CUT = 0.25  # cycles per pixel
_SMOOTHEST_CT = "tomographic, 0.1"


def estimate_noise(slices: Tensor, black: float = -1.0, white: float = 1.0) -> Noise | None:
    """The noise of a stack of slices, or None where none is seen (or fewer than 32 pixels are to be seen).

    Args:
        slices: (N, H, W) of one scan, air near ``black``.
        black, white: the ends of the grey scale.

    Returns:
        The noise in image values from -1 to 1, whatever the scale of the slices.
    """
    if min(slices.shape[-2:]) < _WINDOW:
        return None
    evenly = torch.linspace(0, len(slices) - 1, min(len(slices), _SLICES)).round().long()
    grey = (slices[evenly.to(slices.device)].float().cpu() - black) * (255 / (white - black))
    mean, sd = _small_windows(grey)
    ceiling = _air_ceiling(mean, sd)
    windows = _tissue(grey, ceiling)
    if len(windows) < _FEWEST_WINDOWS:
        return None
    power = _power(windows)
    air = _air(mean, sd, ceiling)
    fit = _most_likely(_quiet(power), air)
    return fit.noise() if _is_noise(fit, air, _unevenness(power, fit), len(grey)) else None


# --- what is observed ------------------------------------------------------------------------------------------------


def _tissue(grey: Tensor, air_ceiling: float) -> Tensor:
    """Windows (n, 32, 32) brighter than air, and neither black nor white: noise is clipped there."""
    count, height, width = grey.shape
    step = 8 * math.ceil(math.sqrt(count * height * width / 64 / _WINDOWS))
    windows = grey.unfold(1, _WINDOW, step).unfold(2, _WINDOW, step).reshape(-1, _WINDOW, _WINDOW)
    mean = windows.mean((1, 2))
    clipped = ((windows <= 2) | (windows >= 253)).float().mean((1, 2))
    darkest = max(10.0, _DARKEST_TISSUE * float(mean.quantile(0.95)), air_ceiling)
    return windows[(clipped < 0.02) & (mean > darkest) & (mean < 245)]


def _air_ceiling(mean: Tensor, sd: Tensor) -> float:
    """Mean of a window in grey levels up to which it is air or as dark: 15, more where magnitudes have a bright air.

    There the darkest windows have a mean of 1.9 sd (Rayleigh), all alike, which tissue has not.
    """
    scanned = sd > _ONE_VALUE
    ceiling = 1.25 * float(mean[scanned].quantile(0.1)) if scanned.any() else 0.0
    if ceiling <= _BLACK:
        return _BLACK
    dark = (mean < ceiling) & scanned
    lower, upper = (mean / sd)[dark].quantile(torch.tensor([0.25, 0.75]))
    return ceiling if _RAYLEIGH[0] < lower and upper < _RAYLEIGH[1] else _BLACK


def _small_windows(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of windows of 16 x 16 pixels, (slices, windows) each, without black margins."""
    seen = (grey > 0).any(0)
    rows, columns = (along.nonzero().flatten() for along in (seen.any(1), seen.any(0)))
    if min(len(rows), len(columns)) >= _WINDOW:
        grey = grey[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    windows = grey.unfold(1, 16, 8).unfold(2, 16, 8).reshape(len(grey), -1, 256)
    return windows.mean(2), windows.std(2)


def _air(mean: Tensor, sd: Tensor, ceiling: float) -> float:
    """Standard deviation in air, grey levels: that of windows that are dark in the mean; 0 without any air.

    Of all slices the quietest, as of the windows of tissue. A window of one value was never scanned (padding, a mask)
    or is silent, and says nothing. Where no air is in view, dark tissue is as black. Within a slice noise is the same
    all over, tissue is not.
    """
    scanned = sd > _ONE_VALUE
    air = (mean < ceiling) & scanned
    if air.sum() < _LEAST_AIR * scanned.sum() or not air.any():
        return 0.0
    sd = sd.masked_fill(~air, math.nan)
    median = sd.nanmedian(1, keepdim=True).values
    if (sd / median)[air].quantile(0.25) <= _EVEN_AIR:
        return 0.0
    return float(median.nanquantile(_QUIETEST_AIR))


def _power(windows: Tensor) -> Tensor:
    """In each band of each window, (n, bands)."""
    return _periodograms(windows).flatten(1) @ _bands().members.T


def _quiet(power: Tensor) -> Tensor:
    """Power in each band in the quietest windows, as if they were no quieter than others, (bands,)."""
    return power.quantile(_QUIETEST, 0) / _quietest_white()


@lru_cache(maxsize=1)
def _quietest_white() -> Tensor:
    """What the quietest windows of white noise of variance 1 have: less than 1, least in bands of few frequencies."""
    white = torch.randn(4000, _WINDOW, _WINDOW, generator=torch.Generator().manual_seed(0))
    return _power(white).quantile(_QUIETEST, 0)


def _periodograms(windows: Tensor) -> Tensor:
    """Of windows without their plane, tapered: (n, 32, 32), mean = variance."""
    flat = windows.flatten(1)
    plane = _plane()
    flat = flat - (flat @ plane) @ plane.T
    taper = torch.hann_window(_WINDOW)
    taper = taper[:, None] * taper
    return torch.fft.fft2(flat.view_as(windows) * (taper / taper.norm())).abs() ** 2


@lru_cache(maxsize=1)
def _plane() -> Tensor:
    """Orthonormal basis (1024, 3) of what is linear in a window."""
    t = torch.arange(_WINDOW) - (_WINDOW - 1) / 2
    basis = torch.stack([torch.ones(_WINDOW**2), t.repeat_interleave(_WINDOW), t.repeat(_WINDOW)], 1)
    return torch.linalg.qr(basis)[0]


@dataclass(frozen=True)
class _Bands:
    """Rings of frequencies one step wide, each in three parts: towards the rows, the columns, and between."""

    members: Tensor  # (bands, 1024), rows sum to 1
    frequency: Tensor  # (bands,) mean, in steps of a window
    count: Tensor  # (bands,)


@lru_cache(maxsize=1)
def _bands() -> _Bands:
    f = torch.fft.fftfreq(_WINDOW)
    length = torch.hypot(f[:, None], f) * _WINDOW
    ring = length.round().long()
    part = (torch.atan2(f.abs()[:, None].expand_as(ring), f.abs().expand_as(ring)) / (math.pi / 6)).long().clamp(max=2)
    label = torch.where(ring < 3, 3 * ring, 3 * ring + part).flatten()
    inside = torch.stack([label == one for one in label.unique() if one > 0]).float()
    count = inside.sum(1)
    return _Bands(inside / count[:, None], (inside @ length.flatten()) / count, count)


# --- the model -------------------------------------------------------------------------------------------------------

Spectrum = Callable[[Tensor, Tensor], Tensor]
"""Power at frequencies (f_rows, f_columns), cycles per pixel, broadcast against each other."""


def _low_pass(cut: float) -> Callable[[Tensor], Tensor]:
    return lambda f: torch.sigmoid((cut - f.abs()) / 0.006)


def _everything(f: Tensor) -> Tensor:
    return torch.ones_like(f)


def _interpolated(share: float) -> Callable[[Tensor], Tensor]:
    """A mean of two neighbours, ``share`` of the mean product of their weights: 1/6 over all positions, 1/4 halfway."""
    return lambda f: 1 - 2 * share * (1 - torch.cos(2 * math.pi * f))


def _separable(rows: Callable[[Tensor], Tensor], columns: Callable[[Tensor], Tensor]) -> Spectrum:
    return lambda y, x: rows(y) * columns(x)


def _tomographic(c: float) -> Spectrum:
    return lambda y, x: torch.hypot(y, x) * torch.exp(-2 * (y**2 + x**2) / c**2)


def _smooth(c: float) -> Spectrum:
    return lambda y, x: torch.exp(-2 * (y**2 + x**2) / c**2)


@lru_cache(maxsize=1)
def _families() -> dict[str, Spectrum]:
    """Spectra that scanners and resampling make; parameters in cycles per pixel."""
    families = {"white": _separable(_everything, _everything)}
    for cut in (0.2, 0.225, 0.25, 0.275, 0.3, 0.333, 0.375, 0.42):
        low = _low_pass(cut)
        families[f"k-space up to {cut:g}"] = _separable(low, low)
        families[f"k-space up to {cut:g} along rows"] = _separable(_everything, low)
        families[f"k-space up to {cut:g} along columns"] = _separable(low, _everything)
    families["interpolated, sinc^4"] = _separable(lambda f: torch.sinc(f) ** 4, lambda f: torch.sinc(f) ** 4)
    for share in (1 / 12, 1 / 8, 1 / 6, 1 / 4):
        families[f"interpolated, {share:.2f}"] = _separable(_interpolated(share), _interpolated(share))
    for c in (0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7):
        families[f"tomographic, {c:g}"] = _tomographic(c)
        families[f"smooth, {c:g}"] = _smooth(c)
    return families


def _on(spectrum: Spectrum, size: int) -> Tensor:
    """(size, size) of mean 1."""
    f = torch.fft.fftfreq(size)
    power = spectrum(f[:, None], f[None]).expand(size, size)
    return power / power.mean()


def _in_bands(spectrum: Spectrum) -> Tensor:
    """What the periodograms of noise with that spectrum have in each band, (bands,)."""
    power = _on(spectrum, 8 * _WINDOW).roll((4, 4), (0, 1)).view(_WINDOW, 8, _WINDOW, 8).mean((1, 3))
    for axis in (0, 1):  # a Hann window's leakage
        power = power * 2 / 3 + (power.roll(1, axis) + power.roll(-1, axis)) / 6
    return _bands().members @ power.flatten()


@lru_cache(maxsize=1)
def _components() -> Tensor:
    """(families, 2 + anatomies, bands + 1): the family, the white floor, the anatomies; the last entry is the air."""
    k = _bands().frequency
    anatomies = [k**-p / (1 + (k / c) ** 8) for p in (2, 3, 4, 6) for c in (12.0, 1000.0)]
    anatomy = torch.stack([shape / shape.mean() for shape in anatomies])
    noises = torch.stack([_in_bands(spectrum) for spectrum in _families().values()])
    white = noises[:1].expand(len(noises), -1)
    bands = torch.cat([torch.stack([noises, white], 1), anatomy.expand(len(noises), -1, -1)], 1)
    in_air = torch.zeros(bands.shape[:2])
    in_air[:, :2] = 1
    return torch.cat([bands, in_air[:, :, None]], 2)


@dataclass(frozen=True)
class _Fit:
    """The most likely model, in grey levels²."""

    family: str
    coloured: float  # h: variance of the family
    white: float  # w
    in_bands: Tensor  # noise in each band
    anatomy: Tensor

    @property
    def sd(self) -> float:
        return math.sqrt(self.coloured + self.white)

    def noise(self) -> Noise:
        spectrum = self.coloured * _on(_families()[self.family], TABLE) + self.white
        return Noise(spectrum * (_TOO_MUCH**-2 / 127.5**2), self.family)


def _most_likely(power: Tensor, air: float, iterations: int = 200) -> _Fit:
    """Every family's coefficients by multiplicative updates, which raise the likelihood; the best family."""
    W = _components()
    weight = _bands().count.sqrt()
    has_air = air > _SILENT
    weight = torch.cat([weight / weight.sum(), torch.tensor([_AIR_WEIGHT if has_air else 0.0])])
    P = torch.cat([power, torch.tensor([(_AIR_RATIO * air) ** 2])]) + _NEGLIGIBLE
    h = torch.full(W.shape[:2], float(power.mean()) / 20)
    h[:, 0], h[:, 1] = float(power.median()) / 10, 0.1
    for _ in range(iterations):
        M = (h[:, :, None] * W).sum(1) + _NEGLIGIBLE
        h = h * ((W @ (weight * P / M**2)[:, :, None]) / (W @ (weight / M)[:, :, None]))[:, :, 0].sqrt()
    M = (h[:, :, None] * W).sum(1) + _NEGLIGIBLE
    divergence = (weight * (P / M - torch.log(P / M) - 1)).sum(1)
    names = list(_families())
    best = int((divergence + torch.tensor([_handicap(name, has_air) for name in names])).argmin())
    parts = h[best, :, None] * W[best, :, :-1]
    return _Fit(names[best], float(h[best, 0]), float(h[best, 1]), parts[:2].sum(0), parts[2:].sum(0))


def _handicap(family: str, has_air: bool) -> float:
    """By how much a family must be nearer to the periodograms than a constant."""
    if family == "white":
        return 0.0
    if not has_air and (family.startswith("smooth") or family == _SMOOTHEST_CT):
        return math.inf  # it has the spectrum of anatomy: only air can tell
    if family.startswith("smooth"):
        return _OCCAM + _OCCAM_SMOOTH
    unusual = family.startswith("k-space") and not family.startswith(f"k-space up to {_USUAL_CUT:g}")
    return _OCCAM + _OCCAM_UNUSUAL if unusual else _OCCAM


def _unevenness(power: Tensor, fit: _Fit) -> float:
    """How much more power at the noise's frequencies half of the windows (n, bands) have than the quietest.

    In units of what chance makes of as many frequencies: noise alone has 5 to 7, whatever its family.
    """
    count = _bands().count
    weight = count * fit.in_bands / (fit.in_bands + fit.anatomy + _NEGLIGIBLE) ** 2
    quietest, median = (power @ weight).quantile(torch.tensor([_QUIETEST, 0.5]))
    parts = weight * fit.in_bands
    frequencies = parts.sum() ** 2 / (parts**2 / count).sum()
    return float((median / quietest - 1) * frequencies.sqrt())


def _is_noise(fit: _Fit, air: float, unevenness: float, slices: int) -> bool:
    """Whether that is more than the texture of a clean picture.

    A few slices have too few quiet windows to tell: there air must show more of it, and if air is black, only noise
    that is finer than any texture counts. If air is black, it must also be much the same all over: fine anatomy, as
    large pixels have it, is not.
    """
    few = slices < _FEW_SLICES
    if fit.sd > _TEXTURE and air > (_AIR_SHARE_OF_FEW if few else _AIR_SHARE) * fit.sd:
        return True
    if air <= _SILENT and unevenness > _UNEVEN:
        return False
    share = _bands().count / _bands().count.sum()
    seen = float((fit.in_bands * (fit.in_bands > fit.anatomy) * share).sum().sqrt())
    fine = float((fit.in_bands * (_bands().frequency > 13) * share).sum().sqrt())
    return fine > _TEXTURE_FINE_OF_FEW if few else seen > _TEXTURE_SEEN or fine > _TEXTURE_FINE
