"""All metrics of one fused picture or volume against its two sources."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddfm_monai.errors import InputError
from ddfm_monai.metrics import classic
from ddfm_monai.metrics.slices import Grey8, as_grey8, foreground_slices, require_same_shape

__all__ = ["METRIC_NAMES", "evaluate_pair", "evaluate_slice", "evaluate_slices"]

METRIC_NAMES = (
    "EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "CC", "PSNR", "SSIM_range2", "SSIM_range255",
)  # fmt: skip

SMALLEST_SIDE = 17  # VIF's largest window


def evaluate_pair(fused: Any, a: Any, b: Any) -> dict[str, float]:
    """The field's metrics of a fused picture or volume against its two sources.

    Args:
        fused, a, b: ``(H, W)`` slices, ``(X, Y, Z)`` volumes whose slices lie along the last axis, or ``(C, X, Y, Z)``
            volumes with C = 1 (grey) or 3 (RGB, taken by its luma); arrays or tensors, grey levels 0..255 (rounded to
            whole levels here). A fusion result in [0, 1] is to be multiplied by 255.

    Returns:
        Metric name (`METRIC_NAMES`) to value. For a volume: each metric per slice, averaged over the slices that hold
        foreground (`foreground_slices`), or over all of them if none does.

    Raises:
        InputError: shapes differ, a side below 17 pixels, values that are not grey levels 0..255.
    """
    rows = evaluate_slices(fused, a, b)
    return {name: float(np.mean([row[name] for row in rows.values()])) for name in METRIC_NAMES}


def evaluate_slices(fused: Any, a: Any, b: Any) -> dict[int, dict[str, float]]:
    """As `evaluate_pair`, errors too, but slice by slice: slice index to its metrics (a single slice has index 0)."""
    fused, a, b = as_grey8(fused, "fused"), as_grey8(a, "first source"), as_grey8(b, "second source")
    require_same_shape(fused, a, b)
    if min(fused.shape[:2]) < SMALLEST_SIDE:
        raise InputError(f"Slices of {fused.shape[0]}x{fused.shape[1]} pixels; VIF needs at least {SMALLEST_SIDE}.")
    if fused.ndim == 2:
        return {0: evaluate_slice(fused, a, b)}
    indices = list(foreground_slices(a, b)) or range(fused.shape[-1])
    # x is a picture's column: transposed, a picture read as a volume gives exactly what its (H, W) array gives.
    return {k: evaluate_slice(*(np.ascontiguousarray(v[..., k].T) for v in (fused, a, b))) for k in indices}


def evaluate_slice(fused: Grey8, first: Grey8, second: Grey8) -> dict[str, float]:
    """The metrics of one ``(H, W)`` uint8 slice, unchecked: the inner loop of the functions above."""
    f, a, b = (x.astype(np.float64) for x in (fused, first, second))
    return {
        "EN": classic.entropy(f),
        "SD": classic.standard_deviation(f),
        "SF": classic.spatial_frequency(f),
        "AG": classic.average_gradient(f),
        "MI": classic.mutual_information(f, a, b),
        "SCD": classic.scd(f, a, b),
        "VIF": classic.vif(f, a, b),
        "Qabf": classic.qabf(f, a, b),
        "CC": classic.correlation(f, a, b),
        "PSNR": classic.psnr(f, a, b),
        "SSIM_range2": classic.ssim(f, a, b, data_range=2),
        "SSIM_range255": classic.ssim(f, a, b, data_range=255),
    }
