"""The noise of a source: estimated once per volume on its own grid, and carried along when the volume is resampled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfm_monai.method.noise import Noise, resampled
from ddfm_monai.method.noise_estimate import estimate_noise
from ddfm_monai.volumes import SlicePlan, Source, index_mapping, slice_axis

__all__ = ["as_cut", "carried", "describe_noise", "noise_of"]


def noise_of(source: Source) -> Noise | None:
    """The noise in a source's slices, rows and columns being the other two axes in their order; None if it is clean.

    One estimate for the whole volume: what is taken for noise does not change from slice to slice.
    """
    slices = source.grey.as_tensor()[0].movedim(slice_axis(source.grey), 0)
    return estimate_noise(slices, black=0.0)


def carried(noise: Noise | None, source: Source, reference: Source, transform: np.ndarray | None) -> Noise | None:
    """The noise of ``source.onto(reference, transform)``, seen along the slices of the reference."""
    if noise is None:
        return None
    mapping = torch.from_numpy(index_mapping(source.volume, reference.volume, transform))
    across, new_across = slice_axis(source.grey), slice_axis(reference.grey)
    own = [*(axis for axis in range(3) if axis != across), across]
    new = [axis for axis in range(3) if axis != new_across]
    positions = torch.arange(reference.volume.shape[1 + new_across])
    first_pixels = mapping[own, 3] + positions[:, None] * mapping[own, new_across]
    return resampled(noise, mapping[own][:, new], first_pixels - first_pixels.floor())


def as_cut(noise: Noise | None, plan: SlicePlan) -> Noise | None:
    """The noise as it is in slices that stand upright, as the plan cuts them."""
    if noise is None:
        return None
    return noise.seen(plan.row_axis > plan.column_axis, plan.flip_rows != plan.flip_columns)


def describe_noise(noise: Noise | None, source: Source) -> dict[str, Any] | None:
    """A JSON-able account for the provenance: level in the source's own units and in per cent of black to white."""
    if noise is None:
        return None
    share = noise.sd / 2
    scaling = source.scaling
    return {
        "sd": float(f"{share * (scaling.high - scaling.low):.3g}"),
        "percent_of_grey_scale": round(100 * share, 2),
        "spectrum": noise.family,
        "power": _radial(noise.spectrum / noise.spectrum.mean()),
    }


def _radial(spectrum: Tensor, rings: int = 8) -> list[float]:
    """Mean power in rings of frequencies up to half a cycle per pixel."""
    f = torch.fft.fftfreq(len(spectrum))
    ring = (torch.hypot(f[:, None], f) * 2 * rings).long()
    return [round(float(spectrum[ring == k].mean()), 3) for k in range(rings)]
