"""What a volume shows around the body: air with or without noise, padding, and backgrounds that are not the minimum."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

__all__ = ["Air", "Fill", "Surround", "black_out", "find_air", "find_surround", "is_solid", "is_whole", "sample_of"]

_SAMPLE_VOXELS = 1 << 21  # percentiles come from an even subset of about this size
_SOLID = 0.93  # of the voxels of a constant background have a neighbour of the same value
_FILL_SHARE = 0.03
_UNDERSHOOT = 0.05  # of what is no background may lie below it and still be the undershoot of an interpolation


@dataclass(frozen=True)
class Air:
    """The values of the air around a body, in the volume's units."""

    middle: float
    ceiling: float  # of its noise; equal to `middle` where it has none


class Surround(Enum):
    """Where a constant surround lies among the values of what it surrounds."""

    FLOOR = "floor"  # below all else, but for the undershoot of an interpolation: a masked or clipped background
    PADDING = "padding"  # negative, below values that are not: a mark for "not measured"
    MIDDLE = "middle"  # values on both sides: a background of 0 in a z-scored volume
    ABOVE = "above"  # above all else: padding of unsigned data


@dataclass(frozen=True)
class Fill:
    """A constant around the body.

    Args:
        value: in the volume's units.
        surround: where it lies.
        rest: 1-D, the sample without it.
    """

    value: float
    surround: Surround
    rest: np.ndarray


def sample_of(volume: MetaTensor) -> np.ndarray:
    """An even subset of the values, 1-D float64; the same for the same volume, always."""
    values = volume.as_tensor().detach().cpu()[0]
    size = values.numel()
    step = max(1, round((size / _SAMPLE_VOXELS) ** (1 / 3)))
    # slices are few: thin out rows and columns first
    kept = values[::step, ::step, :: max(1, min(step, values.shape[2] // 32))]
    return np.asarray(kept.to(torch.float64)).ravel()


def is_whole(sample: np.ndarray) -> bool:
    """True where all values are whole numbers."""
    return bool((sample == np.rint(sample)).all())


def find_air(volume: MetaTensor, sample: np.ndarray) -> Air | None:
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
    if is_solid(volume, middle):
        return Air(middle, middle)
    deviation = max(1.4826 * float(np.median(np.abs(air - middle))), upper - middle)
    if is_whole(sample):
        deviation = max(deviation, 0.5)  # noise of less than a step of the scale
    return Air(middle, min(middle + 4 * deviation, threshold))


def is_solid(volume: MetaTensor, value: float) -> bool:
    """True where voxels of this very value lie side by side, as in a masked or clipped background, not in noise."""
    values = volume.as_tensor().detach().cpu()[0]
    depth = values.shape[2]
    equal = torch.stack([values[:, :, k] == value for k in sorted({depth // 4, depth // 2, 3 * depth // 4})])
    first, second = equal[:, :-1], equal[:, 1:]
    count = int(first.sum())
    return count > 0.005 * first.numel() and int((first & second).sum()) >= _SOLID * count


def find_surround(volume: MetaTensor, sample: np.ndarray) -> Fill | None:
    """The constant that the corners of a volume show, if there is one and it is no air of the usual sort.

    Args:
        volume: ``(1, X, Y, Z)``.
        sample: of :func:`sample_of`.
    """
    corners = volume.as_tensor().detach().cpu()[0][:: max(volume.shape[1] - 1, 1), :: max(volume.shape[2] - 1, 1)]
    found, counts = np.unique(np.asarray(corners.to(torch.float64)), return_counts=True)
    value = float(found[np.argmax(counts)])
    rest = sample[sample != value]
    if rest.size > (1 - _FILL_SHARE) * sample.size or rest.size < 10 or not is_solid(volume, value):
        return None
    low, least, most, high = np.percentile(rest, [0.1, 2, 98, 99.9])
    below = float((rest < value).mean())
    if value > high and most > least:
        return Fill(value, Surround.ABOVE, rest)
    if below > _UNDERSHOOT and value < high:
        return Fill(value, Surround.MIDDLE, rest)
    gap = low - value
    if value < 0 and gap > 0.02 * (most - least) and (low >= 0 or gap > 2 * (most - least)):
        return Fill(value, Surround.PADDING, rest)
    return Fill(value, Surround.FLOOR, rest) if value <= most else None


def black_out(scaled: torch.Tensor, background: torch.Tensor) -> None:
    """Set ``scaled`` to 0 where ``background`` is true and hangs together with the edge of the volume.

    Args:
        scaled: ``(1, X, Y, Z)``, changed in place.
        background: ``(1, X, Y, Z)`` bool; single voxels of that value inside the body stay.
    """
    parts, _ = ndimage.label(background.cpu().numpy()[0])
    faces = [parts[end] for end in (0, -1)] + [parts[:, end] for end in (0, -1)]
    outside = np.setdiff1d(np.unique(np.concatenate([face.ravel() for face in faces])), [0])
    scaled[0, torch.from_numpy(np.isin(parts, outside)).to(scaled.device)] = 0
