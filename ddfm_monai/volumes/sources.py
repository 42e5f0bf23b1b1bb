"""The two sources of a fusion: read, checked, scaled to [0, 1], on one grid, cut along the same slices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from ddfm_monai.errors import InputError
from ddfm_monai.files import sha256_of
from ddfm_monai.rules import Origin, kind_of
from ddfm_monai.volume import affine_of, check_volume, is_picture, place_is_unknown, spacing_of
from ddfm_monai.volumes.colour import colour_map, to_luma
from ddfm_monai.volumes.grids import field_of_view, resample_to, same_grid
from ddfm_monai.volumes.intensity import Scaling, choose_scaling, common_foreground
from ddfm_monai.volumes.io import read_volume
from ddfm_monai.volumes.kind import spoken
from ddfm_monai.volumes.slices import SlicePlan, plan_slices, slice_axis

__all__ = ["Source", "colour_source", "plan_pair", "read_source"]


_SMALLEST, _LARGEST = 15.0, 3000.0  # mm; a mouse's head, and a patient with outstretched arms


@dataclass(frozen=True)
class Source:
    """One source on its way: as read (or resampled), and as grey in [0, 1].

    Args:
        volume: ``(1 or 3, X, Y, Z)`` in its own units, RGB in 0..255; once resampled, a grey one is ``grey``.
        grey: ``(1, X, Y, Z)`` in [0, 1], of a colour volume its luma.
        scaling: the mapping between the two; its ``kind`` is that of the source.
        sha256: of the file, or of voxels and affine where there is no file.
        resampled: whether it was brought onto another grid.
        seen: ``(1, X, Y, Z)`` bool, its field of view on that grid; None: everywhere.
    """

    volume: MetaTensor
    grey: MetaTensor
    scaling: Scaling
    sha256: str
    resampled: bool = False
    seen: MetaTensor | None = None

    @property
    def is_colour(self) -> bool:
        """Whether it is RGB."""
        return self.volume.shape[0] == 3

    @property
    def origin(self) -> Origin | None:
        """What its DICOM files say about where it comes from; None for a volume that is not from DICOM."""
        return Origin.from_meta(self.volume.meta.get("origin"))

    @property
    def volume01(self) -> MetaTensor:
        """``(1 or 3, X, Y, Z)`` in [0, 1]: ``grey``, or the colours where there are any."""
        return self.scaling.apply(self.volume) if self.is_colour else self.grey

    @property
    def decision(self) -> str:
        """What it was taken for, why, and which values became black and white: ``"PET, by its name; 0 to 22069"``."""
        scaling = self.scaling
        kind = spoken(scaling.kind)
        return f"{kind}, {scaling.decided}; {scaling.low:g} to {scaling.high:.6g} ({scaling.source})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should look at before trusting a result."""
        if is_picture(self.volume):
            return self.scaling.doubts
        size = spacing_of(self.volume) * self.volume.shape[1:]
        found = list(self.scaling.doubts)
        if not _SMALLEST <= size.max() <= _LARGEST:
            sides = " x ".join(f"{side:.3g}" for side in size)
            found.append(f"is {sides} mm in size: check the unit of length in its header.")
        if "two_places" in self.volume.meta:
            found.append(
                f"its header gives two places, up to {self.volume.meta['two_places']} mm apart (sform and qform, with "
                "one code): the sform was taken, as nibabel does; other programs take the qform. Look at the result."
            )
        if place_is_unknown(self.volume):
            found.append(
                "its header gives no position in space (or it came without one): that it fits the other volume is "
                "taken on trust. Look at the result, or register (--register rigid)."
            )
        return tuple(found)

    def rgb(self) -> Tensor:
        """``(3, X, Y, Z)``, 0..255: the volume's own colours, or those of the colour map of PET or SPECT."""
        return self.volume if self.is_colour else colour_map(self.grey, self.scaling.kind)

    def onto(self, reference: Source, transform: np.ndarray | None = None) -> Source:
        """This source on the reference's grid; scaled before, so that outside its field of view is air.

        Args:
            reference: gives the grid.
            transform: ``(4, 4)`` RAS mm, takes a point of the reference to the matching point of this source.

        Raises:
            InputError: as :func:`~ddfm_monai.volumes.resample_to`.
        """
        if transform is None and same_grid(reference.volume, self.volume):
            return self
        grey = resample_to(self.grey, reference.volume, transform)
        volume = resample_to(self.volume, reference.volume, transform) if self.is_colour else grey
        seen = field_of_view(self.volume, reference.volume, transform)
        return replace(self, volume=volume, grey=grey, resampled=True, seen=None if seen.all() else seen)

    def describe(self) -> dict[str, Any]:
        """A JSON-able account for the provenance file."""
        return {
            "sha256": self.sha256,
            "shape": list(self.volume.shape[1:]),
            "scaling": self.scaling.describe(),
            "resampled": self.resampled,
            **({"warnings": list(self.warnings)} if self.warnings else {}),
        }


def read_source(
    source: Tensor | np.ndarray | str | Path,
    name: str,
    kind: str = "auto",
    window: str | tuple[float, float] | None = None,
) -> Source:
    """Read a source (or take it from memory), refuse what cannot be fused, and scale it.

    Args:
        source: ``(1 or 3, X, Y, Z)``, integers or real numbers of any type, or a path as for
            :func:`~ddfm_monai.volumes.read_volume`. One without an affine has voxels of 1 mm and an unknown place.
        name: what an error message calls a volume that is unusable, for example ``"reference"``; ``"second"`` is
            resampled onto the reference's grid.
        kind, window: as for :func:`~ddfm_monai.volumes.choose_scaling`.

    Raises:
        UsageError: no such file, or an unknown kind or window.
        InputError: the volume cannot be read or used.
    """
    if isinstance(source, (Tensor, np.ndarray)):
        volume = _in_memory(source, name)
    elif not isinstance(source, (str, Path)):
        raise InputError(
            f"{name}: found a {type(source).__name__}; expected a tensor or an array of shape (C, X, Y, Z), or a path.",
            "E_VOLUME_TYPE",
        )
    else:
        volume = read_volume(source, second=name == "second")
    origin = Origin.from_meta(volume.meta.get("origin"))
    scaling = choose_scaling(volume, kind_of(origin, kind), window, name)
    if origin is not None:
        scaling = replace(scaling, decided="by its header")
    luma = cast(MetaTensor, to_luma(volume)) if volume.shape[0] == 3 else volume
    return Source(volume, scaling.apply(luma), scaling, _digest(source, volume))


def _in_memory(source: Tensor | np.ndarray, name: str) -> MetaTensor:
    """A volume in memory as float32, after the checks that a file gets."""
    if isinstance(source, np.ndarray):
        if source.dtype.kind not in "iufb":
            raise InputError(
                f"{name}: values of type {source.dtype} cannot be fused; expected integers or real numbers.",
                "E_VOXEL_TYPE",
            )
        source = torch.from_numpy(source)
    check_volume(source, name)
    if isinstance(source, MetaTensor):
        return cast(MetaTensor, source.detach().to(torch.float32))
    return MetaTensor(source.detach().to(torch.float32))


def colour_source(a: Source, b: Source) -> Source | None:
    """The one that gives a fusion its hue: one in colour, or else PET or SPECT; of two such the second."""
    for source in (b, a):
        if source.is_colour:
            return source
    for source in (b, a):
        if source.scaling.kind in ("pet", "spect"):
            return source
    return None


def plan_pair(a: Source, b: Source, stride: int) -> tuple[MetaTensor, SlicePlan]:
    """Their common foreground, ``(1, X, Y, Z)`` bool, and how :func:`~ddfm_monai.volumes.plan_slices` cuts it.

    Args:
        a, b: the reference, and the second source on its grid.
        stride: the network takes heights and widths that are multiples of this.

    Raises:
        InputError: no foreground at all (``E_NO_FOREGROUND``).
    """
    axis = slice_axis(a.volume)
    foreground = common_foreground(a.grey, b.grey, a.scaling.air, b.scaling.air, axis)
    return foreground, plan_slices(foreground, stride, axis)


def _digest(source: Tensor | np.ndarray | str | Path, volume: MetaTensor) -> str:
    """SHA-256 of the file, as its reader noted it or as found; of voxels and affine where there is no file."""
    if "sha256" in volume.meta:
        return str(volume.meta["sha256"])
    if not isinstance(source, (Tensor, np.ndarray)) and Path(source).is_file():
        return sha256_of(Path(source))
    digest = hashlib.sha256()
    for channel in volume.as_tensor().cpu().numpy():
        for plane in channel:  # what is copied, if the axes are stored in another order, is one plane
            digest.update(np.ascontiguousarray(plane).data)
    digest.update(affine_of(volume).tobytes())
    return digest.hexdigest()
