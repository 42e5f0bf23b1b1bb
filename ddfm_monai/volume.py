"""What a volume is: a :class:`monai.data.MetaTensor` ``(C, X, Y, Z)``, float32, with its place in space.

``C`` = 1 (grey) or 3 (RGB, 0..255); the affine, 4x4 float64, takes voxel indices to RAS millimetres. The array is never
reoriented: voxel ``[:, i, j, k]`` in memory is voxel ``(i, j, k)`` of the file. A picture is a volume with ``Z = 1``,
``x`` = column and ``y`` = row, and ``meta["picture"]`` = True because its affine is only nominal (1 mm pixels, row 0
anterior, column 0 the patient's right, as radiologists show slices).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ddfm_monai import space
from ddfm_monai.errors import InputError

__all__ = [
    "affine_of",
    "bad_spacing",
    "check_affine",
    "check_values",
    "check_volume",
    "grid_of",
    "in_space_of",
    "is_lps",
    "is_picture",
    "make_volume",
    "name_of",
    "place_is_unknown",
    "space_meta",
    "spacing_of",
]


def affine_of(volume: MetaTensor) -> space.Affine:
    """The 4x4 float64 affine, voxel index to RAS mm, also of a volume whose ``meta["space"]`` is LPS."""
    affine = np.array(volume.affine.detach().cpu(), dtype=np.float64)  # a copy
    return space.flip(affine) if is_lps(volume) else affine


def is_lps(volume: MetaTensor) -> bool:
    """True where ``affine`` counts LPS, as MONAI's ITKReader leaves it with ``affine_lps_to_ras=False``."""
    named = volume.meta.get("space", "")
    return str(getattr(named, "value", named)).upper() == "LPS"


def in_space_of(volume: MetaTensor, reference: MetaTensor) -> MetaTensor:
    """The volume with its affine in the reference's convention, RAS or LPS; no voxel moves."""
    if is_lps(volume) == is_lps(reference):
        return volume
    affine = torch.from_numpy(space.flip(np.array(volume.affine.detach().cpu(), dtype=np.float64)))
    label = reference.meta["space"] if is_lps(reference) else "RAS"
    meta = {key: value for key, value in volume.meta.items() if key != "affine"}
    return MetaTensor(volume.as_tensor(), affine=affine, meta={**meta, "space": label})


def place_is_unknown(volume: MetaTensor) -> bool:
    """True where the file gives voxel sizes but no place in a patient's or scanner's space.

    Both codes of a NIfTI file are 0, an NRRD file has no ``space``, or a tensor came without an affine.
    """
    is_plain = "filename_or_obj" not in volume.meta and bool((volume.affine == torch.eye(4)).all())
    if is_plain or volume.meta.get("place_unknown", False):
        return True
    if "xform_code" in volume.meta:
        return int(volume.meta["xform_code"]) == 0
    codes = [volume.meta.get(name) for name in ("sform_code", "qform_code")]  # as MONAI's NibabelReader keeps them
    return all(code is not None and int(code) == 0 for code in codes)


def grid_of(volume: MetaTensor) -> tuple[space.Shape, space.Affine]:
    """Its shape and affine, as :mod:`ddfm_monai.space` wants them."""
    return tuple(volume.shape[1:]), affine_of(volume)


def spacing_of(volume: MetaTensor) -> np.ndarray:
    """``(3,)`` voxel sizes along X, Y, Z in mm."""
    return space.spacing_of(affine_of(volume))


def name_of(volume: MetaTensor) -> str:
    """What messages call a volume: its file, or else its size."""
    source = volume.meta.get("filename_or_obj")
    return str(Path(str(source))) if source else f"a volume of {' x '.join(str(n) for n in volume.shape[1:])} voxels"


def is_picture(volume: MetaTensor) -> bool:
    """True for a volume that came from a picture file and so has no real geometry."""
    return bool(volume.meta.get("picture", False))


def space_meta(volume: MetaTensor) -> dict[str, Any]:
    """The entries of ``meta`` that belong to the grid, for a volume made on the same grid."""
    return {key: volume.meta[key] for key in ("picture", "xform_code", "place_unknown") if key in volume.meta}


def make_volume(array: np.ndarray | torch.Tensor, affine: np.ndarray, **meta: Any) -> MetaTensor:
    """Wrap ``(C, X, Y, Z)`` data and its RAS-mm affine as a volume, float32, without copying float32 data."""
    data = torch.as_tensor(array, dtype=torch.float32)
    return MetaTensor(data, affine=torch.from_numpy(np.array(affine, dtype=np.float64)), meta={"space": "RAS", **meta})


def check_volume(volume: torch.Tensor, name: str) -> None:
    """Refuse a volume in memory for the reasons for which a file is refused.

    Args:
        volume: expected to be ``(1, X, Y, Z)`` or ``(3, X, Y, Z)``, integers or real numbers.
        name: what the message calls it, for example ``"reference"``.

    Raises:
        InputError: other dimensions or values, NaN or infinities, a constant image, or an unusable geometry.
    """
    if volume.ndim != 4 or volume.shape[0] not in (1, 3) or 0 in volume.shape:
        raise InputError(
            f"{name}: found an array of shape {tuple(volume.shape)}; expected (C, X, Y, Z) with C = 1 or 3. "
            "Add the channel first (MONAI: EnsureChannelFirst); a single slice has Z = 1.",
            "E_DIMENSIONS",
        )
    if volume.is_complex() or volume.dtype == torch.bool or volume.is_quantized:
        raise InputError(
            f"{name}: values of type {volume.dtype} cannot be fused; expected integers or real numbers.", "E_VOXEL_TYPE"
        )
    if isinstance(volume, MetaTensor):
        check_affine(name, affine_of(volume))
        volume = volume.as_tensor()
    check_values(name, volume.detach().to(torch.float32))  # not every type has a largest value in torch


def bad_spacing(path: str | Path, spacing: list[float]) -> InputError:
    """The error for voxels without a size."""
    found = " x ".join(f"{value:g}" for value in spacing)
    return InputError(
        f"{path}: voxel spacing {found} mm; expected three positive numbers. Correct the header or export again.",
        "E_GEOMETRY",
    )


def check_affine(path: str | Path, affine: np.ndarray) -> None:
    """Raise InputError (``E_GEOMETRY``) for an affine that gives voxels no place in space."""
    columns = affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        raise bad_spacing(path, spacing.tolist())
    if abs(np.linalg.det(columns / spacing)) < 1e-3:
        raise InputError(
            f"{path}: the affine is singular (two voxel axes point the same way), so voxels have no place in space. "
            "Correct the header or export again.",
            "E_GEOMETRY",
        )


def check_values(path: str | Path, values: torch.Tensor) -> None:
    """Raise InputError for values that are not finite (``E_NOT_FINITE``) or all the same (``E_CONSTANT``)."""
    low, high = (float(value) for value in torch.aminmax(values))  # a NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(values.numel() - torch.count_nonzero(torch.isfinite(values)))
        raise InputError(
            f"{path}: {bad} of {values.numel()} values are NaN or infinite; expected finite numbers. "
            "Replace them (for example by the background value) first.",
            "E_NOT_FINITE",
        )
    if low == high:
        raise InputError(
            f"{path}: every value is {low:g}; expected an image with contrast. Check that the right file was exported.",
            "E_CONSTANT",
        )
