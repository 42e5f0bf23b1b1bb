"""Intensities to [0, 1] and back: one linear mapping per volume, chosen by modality; and what counts as background."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.settings import CT_WINDOWS, parse_window
from ddfm_monai.volume import is_picture, name_of
from ddfm_monai.volumes import hounsfield
from ddfm_monai.volumes.background import (
    Air,
    Fill,
    Surround,
    black_out,
    find_air,
    find_surround,
    is_whole,
    sample_of,
)
from ddfm_monai.volumes.kind import Decision, decide_kind, normal_kind, option_of
from ddfm_monai.volumes.labels import doubt_of_labels

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

_AIR_HU = -500.0  # a CT with values below this shows air
_BONE_HU = 200.0  # a CT in HU with values above this shows bone
_AIR_SHARE = 0.05  # of the brightest tissue: what is brighter is no noise of the air
_LARGEST_STORED = 40_000.0  # HU + 32768 of the densest tissue; what is brighter fills 16 bits, as pictures do
_EIGHTH_BIT = 128.0  # pictures of 8 bits use it
_SPECK_PIXELS = 12
_INVISIBLE = 0.5 / 255  # less than half a grey level is background
_Tensor = TypeVar("_Tensor", bound=torch.Tensor)


@dataclass(frozen=True)
class Scaling:
    """The mapping of one volume's values to [0, 1]: ``(value - low) / (high - low)``, clipped; and why it is that one.

    Args:
        kind: ``"mr"``, ``"ct"``, ``"pet"``, ``"spect"`` or ``"picture"``.
        low: the value that becomes 0, in the volume's own units.
        high: the value that becomes 1.
        source: how the two were found, a sentence for people.
        air: noise ceiling of the background, in [0, 1] after scaling; 0 where the background has no noise.
        decided: how the kind was found, a phrase for people.
        background: a value around the body that becomes 0 though it does not lie below ``low``, or None.
        zero: the stored value of 0 HU of a CT, None where that is not known.
        doubts: what a person should look at.
    """

    kind: str
    low: float
    high: float
    source: str
    air: float = 0.0
    decided: str = "as asked"
    background: float | None = None
    zero: float | None = None
    doubts: tuple[str, ...] = ()

    def apply(self, volume: _Tensor) -> _Tensor:
        """Values to [0, 1], float32, same shape and meta; the volume itself is left alone."""
        scaled = volume - self.low  # the only copy
        scaled.div_(self.high - self.low).clamp_(0.0, 1.0)
        if self.background is not None:
            black_out(scaled, torch.eq(volume, self.background))
        return cast(_Tensor, scaled)

    def describe(self) -> dict[str, Any]:
        """A JSON-able account for the provenance file."""
        return {**asdict(self), "doubts": list(self.doubts)}


def guess_kind(volume: MetaTensor) -> str:
    """What made this volume: the kind that :func:`~ddfm_monai.volumes.kind.decide_kind` finds.

    Raises:
        InputError: it cannot be told (``E_KIND_UNCLEAR``).
    """
    return decide_kind(volume, sample_of(volume)).kind


def choose_scaling(
    volume: MetaTensor, kind: str = "auto", window: str | tuple[float, float] | None = None, role: str = ""
) -> Scaling:
    """Choose the one mapping to [0, 1] of a volume.

    * Pictures, and volumes with whole numbers from 0 to 255 that use the eighth bit (files of more than 8 bits: up to
      250 at least): as they are, 0 to 255.
    * CT: the window, by default that of the brain, where air and soft tissue show that HU are (stored as they are, or
      with an offset of 1000, 1024 or another). Values that cannot be HU (none below -500, none above 200, no such
      peaks) go from the smallest to the 99.9th percentile of the foreground.
    * MRI: the median of the air becomes 0 (in a masked volume that is the background value), the 99.5th percentile of
      the foreground becomes 1. Without air in view: the 0.5th percentile becomes 0. A constant around the head that is
      not the smallest value (z-scored volumes) is black.
    * PET and SPECT: 0 (or the air, where that is not 0) to the 99.9th percentile of the foreground.

    Args:
        volume: ``(C, X, Y, Z)`` in its own units; a colour volume (``C`` = 3) is 0..255 as it is.
        kind: one of :data:`~ddfm_monai.settings.KINDS` in any case, a DICOM name of it (``PT``, ``NM``), or ``"auto"``.
        window: for CT only (others ignore it): a name of :data:`CT_WINDOWS`, ``"L,W"`` or ``(level, width)`` in HU.
        role: ``"reference"`` or ``"second"``, for the option that an error names.

    Raises:
        UsageError: unknown kind or window.
        InputError: the kind cannot be told (``E_KIND_UNCLEAR``), nothing of the volume lies inside the window
            (``E_WINDOW_EMPTY``), or a window was asked for a CT that is not in HU (``E_NOT_HU``).
    """
    limits = None if window is None else parse_window(window) if isinstance(window, str) else window
    sample = sample_of(volume)
    asked = normal_kind(kind)
    decision = decide_kind(volume, sample, role) if asked == "auto" else Decision(asked, "as asked")
    scaling = _scaling(volume, decision.kind, limits, sample)
    assumed = f"taken for MRI: nothing says what it is. Say it with {option_of(role)}." if decision.assumed else None
    doubts = tuple(doubt for doubt in (assumed, doubt_of_labels(volume, sample)) if doubt)
    return replace(scaling, decided=decision.reason, doubts=doubts + scaling.doubts)


def _scaling(volume: MetaTensor, kind: str, limits: tuple[float, float] | None, sample: np.ndarray) -> Scaling:
    if volume.shape[0] == 3:
        return Scaling(kind, 0.0, 255.0, "colour, taken as it is: 0 to 255")
    if _is_8bit(volume, kind, sample):
        if kind == "ct" and limits is not None:
            raise _not_in_hu(volume, "8-bit values from 0 to 255")
        scaling = Scaling(kind, 0.0, 255.0, "8-bit values, taken as they are: 0 to 255")
        return _with_air(scaling, find_air(volume, sample))
    if kind == "ct":
        return _ct_scaling(volume, sample, limits)
    fill = find_surround(volume, sample)
    make = _emission_scaling if kind in ("pet", "spect") else _mr_scaling
    scaling = make(volume, kind, sample, fill)
    if fill is None or fill.surround not in (Surround.ABOVE, Surround.MIDDLE) or fill.value <= scaling.low:
        return scaling
    return replace(scaling, background=fill.value, source=f"{scaling.source}; {fill.value:g} around it is background")


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


def _is_8bit(volume: MetaTensor, kind: str, sample: np.ndarray) -> bool:
    """Whole numbers from 0 to 255 that fill the range of a byte, or that were said to be a picture.

    Counts up to 91 or an MRI up to 200 are whole numbers too. Where the file says that more than 8 bits are stored,
    only values that reach the end of the range count as a picture.
    """
    if not (sample.min() >= 0 and 1 < sample.max() <= 255 and is_whole(sample)):
        return False
    bits = volume.meta.get("bitpix", 8)  # of a NIfTI header, as our reader and MONAI's keep it
    return kind == "picture" or is_picture(volume) or sample.max() >= (_EIGHTH_BIT if int(bits) <= 8 else 250)


def _with_air(scaling: Scaling, air: Air | None) -> Scaling:
    """The same mapping with the noise ceiling of the background filled in."""
    if air is None or air.ceiling <= air.middle:
        return scaling
    return replace(scaling, air=max(0.0, (air.ceiling - scaling.low) / (scaling.high - scaling.low)))


def _foreground(sample: np.ndarray) -> np.ndarray:
    low, high = np.percentile(sample, [2, 98])
    body = sample[sample > low + 0.1 * (high - low)]
    return body if body.size else sample


def _mr_scaling(volume: MetaTensor, kind: str, sample: np.ndarray, fill: Fill | None) -> Scaling:
    values = sample if fill is None or fill.surround is Surround.FLOOR else fill.rest
    if fill is not None and fill.surround is Surround.FLOOR and fill.rest.min() < fill.value:
        air: Air | None = Air(fill.value, fill.value)  # what lies below is the undershoot of an interpolation
    elif fill is not None and fill.surround is Surround.MIDDLE:
        air = None
    else:
        air = find_air(volume, values)
        marked = fill is not None and fill.surround is Surround.PADDING
        if marked and air is not None and air.middle > _AIR_SHARE * float(np.percentile(values, 98)):
            air = None  # the darkest tissue of a masked head
    high = float(np.percentile(_foreground(values), 99.5))
    if air is not None:
        low, source = air.middle, "median of the air to 99.5th percentile of the foreground"
    elif fill is not None and fill.surround is Surround.PADDING:
        low, source = 0.0, "0 to 99.5th percentile of the foreground"
    else:
        low, source = float(np.percentile(values, 0.5)), "0.5th percentile to 99.5th percentile of the foreground"
    if high <= low:
        low, high, source = float(sample.min()), float(sample.max()), "smallest to largest value"
    return _with_air(Scaling(kind, low, high, source), air)


def _emission_scaling(volume: MetaTensor, kind: str, sample: np.ndarray, fill: Fill | None) -> Scaling:
    marked = fill is not None and fill.surround is not Surround.FLOOR and fill.value != 0
    values = fill.rest if fill is not None and marked else sample
    air = find_air(volume, values)
    top = float(np.percentile(values, 98))
    if marked and air is not None and air.middle > _AIR_SHARE * top:
        air = None  # the darkest tissue of a masked head
    if air is not None and (values.min() > 0 or air.middle < -0.5 * abs(top)):  # stored with an offset
        low = air.middle if values.min() < 0 else float(values.min())
        high = float(np.percentile(_foreground(values), 99.9))
    else:
        low = float(values.min()) if values.min() > 0.5 * top else 0.0
        body = _foreground(values) if values.min() >= 0 else values[values > 0.1 * top]
        high = float(np.percentile(body if body.size else values, 99.9))
    if high <= low:
        low, high = float(sample.min()), float(sample.max())
    scaling = Scaling(kind, low, high, f"{low:g} to 99.9th percentile of the foreground")
    return _with_air(scaling, _symmetric_noise(values, air, high))


def _symmetric_noise(values: np.ndarray, air: Air | None, high: float) -> Air | None:
    """The air of a PET that was reconstructed linearly, with as much noise below 0 as above."""
    negative = values[values < 0]
    if air is None or negative.size < 0.05 * values.size or air.middle < -0.5 * high:
        return air
    deviation = 1.4826 * float(np.median(-negative))
    return Air(0.0, min(4 * deviation, 0.15 * high))


def _cannot_be_hu(volume: MetaTensor, sample: np.ndarray) -> bool:
    """Whether a CT without the peaks of air and soft tissue is a picture of one rather than HU with an offset."""
    in_small_numbers = bool(sample.min() > _AIR_HU and sample.max() <= _BONE_HU)
    return in_small_numbers or is_picture(volume) or bool(sample.max() > _LARGEST_STORED)


def _fills_a_byte(volume: MetaTensor) -> bool:
    """From 0 to 255 to the last digit, as a window that was scaled for a picture; a CT in HU does not end there."""
    low, high = torch.aminmax(volume.as_tensor())
    return (float(low), float(high)) == (0.0, 255.0)


def _ct_scaling(volume: MetaTensor, sample: np.ndarray, limits: tuple[float, float] | None) -> Scaling:
    found = hounsfield.measure(sample)
    name = f"{DEFAULT_CT_WINDOW} window" if limits is None else "window asked for"
    level, width = CT_WINDOWS[DEFAULT_CT_WINDOW] if limits is None else limits
    if found is not None:
        scaling = _window(volume, (level, width), found.offset, sample, f"{name}, {found.describe()}")
        if found.other is None:
            return scaling
        other = f"{'+' if found.other > 0 else '-'} {abs(found.other):g}"
        return replace(scaling, doubts=(f"{found.describe()}; HU {other} fits as well. Store it in HU to be sure.",))
    fills_a_byte = _fills_a_byte(volume)
    if fills_a_byte or _cannot_be_hu(volume, sample):
        if limits is not None:
            raise _not_in_hu(volume, f"values from {sample.min():g} to {sample.max():g}")
        if fills_a_byte:
            return Scaling("ct", 0.0, 255.0, "not in HU: scaled to 0 to 255, taken as it is")
        low, high = float(sample.min()), float(np.percentile(_foreground(sample), 99.9))
        return Scaling(
            "ct", low, max(high, float(np.nextafter(low, np.inf))), "not in HU: smallest to 99.9th percentile"
        )
    body = sample[sample > 100]
    offset = 1024.0 if sample.min() >= 0 and body.size and np.median(body) >= 800 and sample.max() > 1100 else 0.0
    how = f"HU + {offset:g}" if offset else "HU"
    scaling = _window(volume, (level, width), offset, sample, f"{name}, taken for {how}")
    doubt = f"taken for {how}, but neither air at -1000 nor soft tissue was found in it. Check that it is a CT in HU."
    return replace(scaling, zero=None, doubts=(doubt,))


def _not_in_hu(volume: MetaTensor, found: str) -> InputError:
    return InputError(
        f"{name_of(volume)}: a CT window was asked for, but this CT is not in HU (found {found}). "
        "Give the CT in HU, or leave the window out: then its own range is used.",
        "E_NOT_HU",
    )


def _window(volume: MetaTensor, limits: tuple[float, float], offset: float, sample: np.ndarray, source: str) -> Scaling:
    """A window in HU on values that are stored with an offset."""
    level, width = (float(value) for value in limits)
    if not width > 0:
        raise UsageError(f"window width {width:g}: expected a width above 0.", "E_WINDOW")
    low, high = level - width / 2 + offset, level + width / 2 + offset
    if sample.max() <= low or sample.min() >= high:
        raise InputError(
            f"{name_of(volume)}: window {level:g},{width:g}: nothing lies between {low:g} and {high:g}, the values go "
            f"from {sample.min():g} to {sample.max():g}. Choose another window, or another kind if it is no CT in HU.",
            "E_WINDOW_EMPTY",
        )
    background = _ct_background(volume, sample, low)
    return Scaling("ct", low, high, f"{source}; level {level:g}, width {width:g}", background=background, zero=offset)


def _ct_background(volume: MetaTensor, sample: np.ndarray, low: float) -> float | None:
    """A constant around the body that the window would show as tissue: 0 where air is -1000, or padding at the top."""
    fill = find_surround(volume, sample)
    shows = fill is not None and fill.value > low
    return fill.value if fill is not None and shows and fill.surround in (Surround.MIDDLE, Surround.ABOVE) else None
