"""The volumes of a page: on one grid of bounded size, in their own units, in as few bytes as show all of it."""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from typing import Any, cast

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch.nn import functional

from ddfm_monai.settings import CT_WINDOWS
from ddfm_monai.volume import affine_of, is_picture, make_volume, spacing_of
from ddfm_monai.volumes import Source, resample_to
from ddfm_monai.volumes.grids import field_of_view, nearest_ras

__all__ = ["MOST_VOXELS", "Layer", "fused_layer", "map_layer", "page_shape", "reduced", "source_layer"]

MOST_VOXELS = 12_000_000
"""A head at 1 mm has some 11 million; a page with three volumes of this size has some 50 MB."""

_LONGEST = 1024  # voxels along an axis: graphics cards need not take textures that are longer
_STEPS = 4095  # what a source with values that are no whole numbers is divided into
_UNSEEN = -32768  # stored where there are no data
_TYPES = {"u1": "uint8", "<i2": "int16"}


@dataclass(frozen=True)
class Layer:
    """One volume of a page.

    Args:
        data: ``(X, Y, Z)`` as it is stored, or ``(X, Y, Z, 4)`` RGBA; axes next to R, A, S.
        affine: ``(4, 4)`` RAS mm.
        slope, intercept: stored value to the value that is shown.
        about: what the page knows of it, JSON-able.
    """

    data: np.ndarray
    affine: np.ndarray
    slope: float
    intercept: float
    about: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """JSON-able: what the page's program needs to show it and to read its values."""
        colour = self.data.ndim == 4
        kind = "rgba" if colour else _TYPES[self.data.dtype.str.lstrip("|")]
        return {**self.about, "type": kind, "slope": self.slope, "intercept": self.intercept, "unseen": _UNSEEN}

    def encoded(self) -> str:
        """A compressed NIfTI file as base64."""
        data = self.data
        if data.ndim == 4:
            data = np.ascontiguousarray(data).view([(channel, "u1") for channel in "RGBA"])[..., 0]
        image = nib.Nifti1Image(data, self.affine)
        image.header.set_slope_inter(self.slope, self.intercept)
        image.header.set_xyzt_units("mm")
        return base64.b64encode(gzip.compress(image.to_bytes(), 6, mtime=0)).decode()


def source_layer(source: Source, reference: MetaTensor, shape: tuple[int, ...], transform: np.ndarray | None) -> Layer:
    """A source as it was read, on the reference's grid, in its own units.

    Args:
        source: as read, on any grid.
        reference: gives the grid.
        shape: of the page's grid.
        transform: ``(4, 4)`` RAS mm, takes a point of the reference to the matching point of the source.
    """
    volume, scaling = source.volume, source.scaling
    lowest = 0.0 if source.is_colour else float(volume.min())
    onto = resample_to(volume, reference, transform, fill=lowest)
    values, affine = nearest_ras(reduced(onto, shape))
    if source.is_colour:
        return Layer(_rgba(values), affine, 1.0, 0.0, {"unit": "grey", "colour": True})
    zero = scaling.zero or 0.0
    is_hu = scaling.kind == "ct" and scaling.zero is not None
    unit = "HU" if is_hu else {"picture": "grey", "pet": "counts", "spect": "counts"}.get(scaling.kind, "")
    windows = {"as fused": (scaling.low - zero, scaling.high - zero)}
    if is_hu:
        windows |= {name: (level - width / 2, level + width / 2) for name, (level, width) in CT_WINDOWS.items()}
    stored, slope, intercept = _in_steps(values[0] - zero, whole=is_hu)
    seen = cast(MetaTensor, field_of_view(volume, reference, transform).float())
    stored[nearest_ras(reduced(seen, shape))[0][0] < 0.5] = _UNSEEN
    colours = scaling.kind if scaling.kind in ("pet", "spect") else "gray"
    return Layer(stored, affine, slope, intercept, {"unit": unit, "windows": _with_range(windows, values - zero),
                                                    "colours": colours})  # fmt: skip


def fused_layer(fused: MetaTensor, shape: tuple[int, ...]) -> Layer:
    """The result: a grey scale without units, or colours."""
    values, affine = nearest_ras(reduced(fused, shape))
    if values.shape[0] == 3:
        return Layer(_rgba(values), affine, 1.0, 0.0, {"unit": "", "colour": True})
    if values.min() < -0.01 or values.max() > 1.01:  # made by something else
        stored, slope, intercept = _in_steps(values[0], whole=False)
        about = {"unit": "", "windows": _with_range({}, values), "colours": "gray"}
        return Layer(stored, affine, slope, intercept, about)
    stored = np.rint(values[0].clip(0, 1) * 255).astype(np.uint8)
    return Layer(stored, affine, 1 / 255, 0.0, {"unit": "", "windows": {"full range": (0.0, 1.0)}, "colours": "gray"})


def map_layer(volume: MetaTensor, shape: tuple[int, ...], flags: bool = False) -> Layer:
    """A map over the result: the uncertainty, or the flags of a check (whole numbers, of which the highest wins).

    Args:
        volume: ``(1, X, Y, Z)``, values of 0 and more.
        shape: of the page's grid.
        flags: it is the flags.
    """
    values, affine = nearest_ras(reduced(volume, shape, highest=flags))
    if flags:
        return Layer(np.rint(values[0]).astype(np.uint8), affine, 1.0, 0.0, {})
    highest = max(float(values.max()), 1e-6)
    stored = np.rint(values[0].clip(0) * (255 / highest)).astype(np.uint8)
    return Layer(stored, affine, highest / 255, 0.0, {"highest": highest})


def page_shape(volume: MetaTensor) -> tuple[int, ...]:
    """The shape at which a page shows a volume: its own, or with larger voxels along the axes that are finest."""
    shape, spacing = np.array(volume.shape[1:]), spacing_of(volume)

    def with_voxels_of(size: float) -> np.ndarray:
        return np.maximum(1, np.minimum(shape, np.ceil(shape * spacing / size - 1e-6))).astype(int)

    def fits(found: np.ndarray) -> bool:
        return int(np.prod(found)) <= MOST_VOXELS and int(found.max()) <= _LONGEST

    size = float(spacing.min())
    while not fits(found := with_voxels_of(size)):
        size *= 1.02
    return tuple(int(n) for n in found)


def reduced(volume: MetaTensor, shape: tuple[int, ...], highest: bool = False) -> MetaTensor:
    """The volume with fewer voxels, each the mean (or the highest) of those that it covers; it stays where it is."""
    before = tuple(volume.shape[1:])
    if before == tuple(shape):
        return volume
    pool = functional.adaptive_max_pool3d if highest else functional.adaptive_avg_pool3d
    size = [int(n) for n in shape]
    smaller = torch.cat([pool(channel[None, None].float(), size)[0] for channel in volume.as_tensor().cpu()])  # type: ignore[arg-type]
    factors = np.array(before) / np.array(shape)
    change = np.diag([*factors, 1.0])
    change[:3, 3] = (factors - 1) / 2
    meta = {"picture": True} if is_picture(volume) else {}
    return make_volume(smaller, affine_of(volume) @ change, **meta)


def _in_steps(values: np.ndarray, whole: bool) -> tuple[np.ndarray, float, float]:
    """Values as int16 with slope and intercept: exact for whole numbers, else in steps of their range."""
    low, high = float(values.min()), float(values.max())
    whole = whole or bool((values == np.rint(values)).all())
    slope = 1.0 if whole and high - low < 65000 else max(high - low, 1e-12) / _STEPS
    low = np.floor(low) if slope == 1.0 else low
    stored = (np.rint((values - low) / slope) - 32767).astype("<i2")
    return stored, slope, float(low + 32767 * slope)


def _with_range(windows: dict[str, tuple[float, float]], values: np.ndarray) -> dict[str, tuple[float, float]]:
    return {**windows, "full range": (float(values.min()), float(values.max()))}


def _rgba(values: np.ndarray) -> np.ndarray:
    colours = np.moveaxis(np.rint(values).clip(0, 255).astype(np.uint8), 0, -1)
    return np.concatenate([colours, np.full_like(colours[..., :1], 255)], axis=-1)
