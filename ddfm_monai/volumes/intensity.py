"""Intensities to [0, 1] and back: one linear mapping per volume, chosen by modality; and what counts as background."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.settings import CT_WINDOWS, KINDS, parse_window
from ddfm_monai.volume import is_picture

__all__ = [
    "DEFAULT_CT_WINDOW",
    "Scaling",
    "choose_scaling",
    "common_foreground",
    "foreground_mask",
    "guess_kind",
]

DEFAULT_CT_WINDOW = "brain"
"""What a CT in HU gets unless told otherwise: 0 to 80 HU.

A fusion with MRI of the head wants two things of the CT: bone, and what is denser than brain (fresh blood at 60 to
80 HU, calcification above 100). In the brain window bone and calcification are white, blood lies 35 of 100 grey levels
above brain, grey and white matter differ by 10, and air is black. The soft tissue window leaves 7 levels between
blood and brain, the bone window 2. Outside the head ``"soft"`` is the better choice.
"""

_TOKENS = {
    "ct": {"ct", "cta", "ncct", "cect", "cbct", "ldct", "hct"},
    "pet": {"pet", "pt", "fdg", "suv", "suvbw", "amyloid", "fet", "petct"},
    "spect": {"spect", "nm", "hmpao", "ecd", "datscan", "tc99m", "tl201"},
    "mr": {
        "mr", "mri", "mra", "t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "pd", "pdw", "flair", "mprage", "swi",
        "dwi", "adc", "fa", "gre", "spgr", "gd",
    },
}  # fmt: skip

_AIR_HU = -500.0  # a CT with values below this shows air
_BONE_HU = 200.0  # a CT in HU with values above this shows bone
_SAMPLE_VOXELS = 1 << 21  # percentiles come from an even subset of about this size
_SOLID = 0.93  # of the voxels of a constant background have a neighbour of the same value
_SPECK_PIXELS = 12
_INVISIBLE = 0.5 / 255  # less than half a grey level is background
_Tensor = TypeVar("_Tensor", bound=torch.Tensor)


@dataclass(frozen=True)
class Scaling:
    """The mapping of one volume's values to [0, 1]: ``(value - low) / (high - low)``, clipped.

    Args:
        kind: ``"mr"``, ``"ct"``, ``"pet"``, ``"spect"`` or ``"picture"``.
        low: the value that becomes 0, in the volume's own units.
        high: the value that becomes 1.
        source: how the two were found, a sentence for people.
        air: noise ceiling of the background, in [0, 1] after scaling; 0 where the background has no noise.
    """

    kind: str
    low: float
    high: float
    source: str
    air: float = 0.0

    def apply(self, volume: _Tensor) -> _Tensor:
        """Values to [0, 1], float32, same shape and meta; the volume itself is left alone."""
        scaled = volume - self.low  # the only copy
        return cast(_Tensor, scaled.div_(self.high - self.low).clamp_(0.0, 1.0))

    def describe(self) -> dict[str, Any]:
        """A JSON-able account for the provenance file."""
        return asdict(self)


def guess_kind(volume: MetaTensor, path: str | Path | None = None) -> str:
    """What made this volume: ``"mr" | "ct" | "pet" | "spect" | "picture"``.

    In this order: values below -500 are Hounsfield units, so CT; a word of the file's name, then of its folder's name
    (``ct``, ``pet``, ``nm``, ``t1``, ``flair``, ...) if it points to one kind only; a colour volume or a picture file
    without such a word is a picture; everything else is MRI.

    Args:
        volume: ``(C, X, Y, Z)`` in its own units.
        path: where it came from; default: ``volume.meta["filename_or_obj"]``.
    """
    if volume.shape[0] == 1 and float(volume.as_tensor().min()) <= _AIR_HU:
        return "ct"
    source = path if path is not None else volume.meta.get("filename_or_obj")
    for name in (Path(str(source)).name, Path(str(source)).parent.name) if source else ():
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        kinds = [kind for kind, tokens in _TOKENS.items() if words & tokens]
        if len(kinds) == 1:
            return kinds[0]
    return "picture" if volume.shape[0] == 3 or is_picture(volume) else "mr"


def choose_scaling(volume: MetaTensor, kind: str = "auto", window: str | tuple[float, float] | None = None) -> Scaling:
    """Choose the one mapping to [0, 1] of a volume.

    * Pictures, and volumes with whole numbers from 0 to 255 (their largest at least 64): as they are, 0 to 255.
    * CT in HU: the window, by default that of the brain. Data stored as HU + 1024 are recognised. Values that cannot
      be HU (none below -500, none above 200) go from the smallest to the 99.9th percentile of the foreground.
    * MRI: the median of the air becomes 0 (in a masked volume that is the background value), the 99.5th percentile of
      the foreground becomes 1. Without air in view: the 0.5th percentile becomes 0.
    * PET and SPECT: 0 (or the smallest value, if that is higher) to the 99.9th percentile of the foreground.

    Args:
        volume: ``(C, X, Y, Z)`` in its own units; a colour volume (``C`` = 3) is 0..255 as it is.
        kind: one of :data:`KINDS`, or ``"auto"`` for :func:`guess_kind`.
        window: for CT only (others ignore it): a name of :data:`CT_WINDOWS`, ``"L,W"`` or ``(level, width)`` in HU.

    Raises:
        UsageError: unknown kind or window.
        InputError: nothing of the volume lies inside the window (``E_WINDOW_EMPTY``).
    """
    if kind == "auto":
        kind = guess_kind(volume)
    if kind not in KINDS:
        raise UsageError(f"kind {kind!r}: expected auto, {', '.join(KINDS)}.", "E_KIND")
    limits = None if window is None else parse_window(window) if isinstance(window, str) else window
    if volume.shape[0] == 3:
        return Scaling(kind, 0.0, 255.0, "colour, taken as it is: 0 to 255")
    sample = _sample(volume)
    if kind == "ct" and limits is not None:
        return _window(kind, limits, sample, "window asked for")
    if _is_8bit(sample) and (is_picture(volume) or sample.max() >= 64):
        scaling = Scaling(kind, 0.0, 255.0, "8-bit values, taken as they are: 0 to 255")
        return _with_air(scaling, _find_air(volume, sample))
    if kind == "ct":
        return _ct_scaling(sample)
    air = _find_air(volume, sample)
    return _with_air(
        _emission_scaling(kind, sample) if kind in ("pet", "spect") else _mr_scaling(kind, sample, air), air
    )


def foreground_mask(scaled: MetaTensor, air: float = 0.0, axis: int = 2) -> MetaTensor:
    """Which voxels are not background, for one scaled volume.

    Background is every voxel below half a grey level (1/510), and outside the body every voxel up to ``air`` (the
    noise ceiling :attr:`Scaling.air`). With noise, specks of fewer than 12 pixels above it are background too, and
    what the remaining foreground encloses within a slice (dark tissue, bone in MRI) belongs to it.

    Args:
        scaled: ``(1, X, Y, Z)`` or ``(3, X, Y, Z)`` in [0, 1].
        air: noise ceiling in [0, 1].
        axis: 0, 1 or 2, the spatial axis across the slices.

    Returns:
        ``(1, X, Y, Z)`` bool with the affine of ``scaled``.
    """
    values = scaled.as_tensor()
    brightest = values.amax(dim=0, keepdim=True) if values.shape[0] > 1 else values
    mask = (brightest > max(air, _INVISIBLE)).cpu()
    if air > _INVISIBLE:
        for plane in np.moveaxis(mask.numpy()[0], axis, 0):
            plane[...] = _solid(plane)
        mask &= (brightest > _INVISIBLE).cpu()
    return MetaTensor(mask, meta=scaled.meta)


def common_foreground(
    a: MetaTensor, b: MetaTensor, air_a: float = 0.0, air_b: float = 0.0, axis: int = 2
) -> MetaTensor:
    """Where at least one of two scaled volumes on one grid is not background: ``(1, X, Y, Z)`` bool.

    Args:
        a, b: ``(1 or 3, X, Y, Z)`` in [0, 1].
        air_a, air_b: their noise ceilings, :attr:`Scaling.air`.
        axis: the spatial axis across the slices.
    """
    mask = foreground_mask(a, air_a, axis)
    mask.logical_or_(foreground_mask(b, air_b, axis))
    return mask


def _solid(plane: np.ndarray) -> np.ndarray:
    """A 2-D mask without specks, with its holes filled.

    Specks are told by their size and not by an opening, which would take the thin ring of the scalp with them.
    """
    parts, _ = ndimage.label(plane, structure=np.ones((3, 3), dtype=bool))
    large = np.bincount(parts.ravel()) >= _SPECK_PIXELS
    large[0] = False
    solid = large[parts]
    gaps, _ = ndimage.label(~solid)
    outside = np.unique(np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]]))
    return solid | ~np.isin(gaps, outside)


def _sample(volume: MetaTensor) -> np.ndarray:
    """An even subset of the values, 1-D float64; the same for the same volume, always."""
    values = volume.as_tensor().detach().cpu()[0]
    size = values.numel()
    step = max(1, round((size / _SAMPLE_VOXELS) ** (1 / 3)))
    # slices are few: thin out rows and columns first
    return values[::step, ::step, :: max(1, min(step, values.shape[2] // 32))].numpy().astype(np.float64).ravel()


def _is_8bit(sample: np.ndarray) -> bool:
    return bool(sample.min() >= 0 and 1 < sample.max() <= 255 and _is_whole(sample))


def _is_whole(sample: np.ndarray) -> bool:
    return bool((sample == np.rint(sample)).all())


@dataclass(frozen=True)
class _Air:
    """The values of the air around a body, in the volume's units."""

    middle: float
    ceiling: float  # of its noise; equal to `middle` where it has none


def _find_air(volume: MetaTensor, sample: np.ndarray) -> _Air | None:
    """The air in a volume; None where none is in view.

    Air is what lies in the lowest tenth of the robust range (2nd to 98th percentile). Its noise ends four deviations
    above its median, where the Rayleigh noise of magnitude images ends to 99.9 %. The deviation is estimated from
    quantiles, since dark tissue is among the candidates too.
    """
    low, high = np.percentile(sample, [2, 98])
    threshold = float(low + 0.1 * (high - low))
    air = sample[sample <= threshold]
    if high <= low or air.size < 0.02 * sample.size:
        return None
    middle, upper = (float(value) for value in np.percentile(air, [50, 84]))
    if _is_solid(volume, middle):
        return _Air(middle, middle)
    deviation = max(1.4826 * float(np.median(np.abs(air - middle))), upper - middle)
    if _is_whole(sample):
        deviation = max(deviation, 0.5)  # noise of less than a step of the scale
    return _Air(middle, min(middle + 4 * deviation, threshold))


def _is_solid(volume: MetaTensor, value: float) -> bool:
    """True where voxels of this very value lie side by side, as in a masked or clipped background, not in noise."""
    values = volume.as_tensor().detach().cpu()[0]
    depth = values.shape[2]
    equal = torch.stack([values[:, :, k] == value for k in sorted({depth // 4, depth // 2, 3 * depth // 4})])
    first, second = equal[:, :-1], equal[:, 1:]
    count = int(first.sum())
    return count > 0.005 * first.numel() and int((first & second).sum()) >= _SOLID * count


def _with_air(scaling: Scaling, air: _Air | None) -> Scaling:
    """The same mapping with the noise ceiling of the background filled in."""
    if air is None or air.ceiling <= air.middle:
        return scaling
    return replace(scaling, air=max(0.0, (air.ceiling - scaling.low) / (scaling.high - scaling.low)))


def _foreground(sample: np.ndarray) -> np.ndarray:
    low, high = np.percentile(sample, [2, 98])
    body = sample[sample > low + 0.1 * (high - low)]
    return body if body.size else sample


def _mr_scaling(kind: str, sample: np.ndarray, air: _Air | None) -> Scaling:
    high = float(np.percentile(_foreground(sample), 99.5))
    if air is None:
        low, source = float(np.percentile(sample, 0.5)), "0.5th percentile to 99.5th percentile of the foreground"
    else:
        low, source = air.middle, "median of the air to 99.5th percentile of the foreground"
    if high <= low:
        low, high, source = float(sample.min()), float(sample.max()), "smallest to largest value"
    return Scaling(kind, low, high, source)


def _emission_scaling(kind: str, sample: np.ndarray) -> Scaling:
    low = max(0.0, float(sample.min()))
    high = float(np.percentile(_foreground(sample), 99.9))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    return Scaling(kind, low, high, f"{low:g} to 99.9th percentile of the foreground")


def _ct_scaling(sample: np.ndarray) -> Scaling:
    level, width = CT_WINDOWS[DEFAULT_CT_WINDOW]
    if sample.min() > _AIR_HU and sample.max() <= _BONE_HU:
        low, high = float(sample.min()), float(np.percentile(_foreground(sample), 99.9))
        return Scaling(
            "ct", low, max(high, float(np.nextafter(low, np.inf))), "not in HU: smallest to 99.9th percentile"
        )
    body = sample[sample > 100]
    if sample.min() >= 0 and np.median(body) >= 800:
        return _window("ct", (level + 1024, width), sample, f"{DEFAULT_CT_WINDOW} window, data stored as HU + 1024")
    return _window("ct", (level, width), sample, f"{DEFAULT_CT_WINDOW} window")


def _window(kind: str, limits: tuple[float, float], sample: np.ndarray, source: str) -> Scaling:
    level, width = (float(value) for value in limits)
    if not width > 0:
        raise UsageError(f"window width {width:g}: expected a width above 0.", "E_WINDOW")
    low, high = level - width / 2, level + width / 2
    if sample.max() <= low or sample.min() >= high:
        raise InputError(
            f"window {level:g},{width:g}: nothing lies between {low:g} and {high:g}, the values go from "
            f"{sample.min():g} to {sample.max():g}. Choose another window, or another kind if this is no CT in HU.",
            "E_WINDOW_EMPTY",
        )
    return Scaling(kind, low, high, f"{source}: level {level:g}, width {width:g}")
