"""NIfTI, by nibabel."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data.meta_tensor import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from ddfm_monai.errors import InputError
from ddfm_monai.space import is_sheared
from ddfm_monai.volume import affine_of, bad_spacing
from ddfm_monai.volumes.formats.common import Contents, check_opaque, spatial_shape, to_byte, unreadable

__all__ = ["SUFFIXES", "read", "write"]

SUFFIXES = (".nii", ".nii.gz")


def read(path: Path) -> Contents:
    """A NIfTI file: grey of any real type, or RGB24."""
    try:
        image: Any = nib.Nifti1Image.from_filename(path)
        header = image.header
        shape = spatial_shape(path, tuple(int(n) for n in header.get_data_shape()))
        kind = _kind(path, header.get_data_dtype())
        _check_spacing(path, header)
        if kind == "grey":
            array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape, order="F")[None]
        else:
            array = _rgb_from_struct(path, np.asarray(image.dataobj.get_unscaled()).reshape(shape, order="F"))
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, zlib.error) as error:
        raise unreadable(path, "NIfTI", error) from error
    code = int(header["sform_code"]) or int(header["qform_code"])
    return array, np.asarray(image.affine, dtype=np.float64), {"xform_code": code} if code else {}


def _kind(path: Path, dtype: np.dtype) -> str:
    if dtype.names is not None and set("RGB") <= set(dtype.names):
        return "rgb"
    if dtype.names is None and dtype.kind in "iuf":
        return "grey"
    raise InputError(
        f"{path}: voxels of type {dtype} cannot be fused; expected integers, real numbers or RGB24. "
        "For complex data save the magnitude.",
        "E_VOXEL_TYPE",
    )


def _rgb_from_struct(path: Path, voxels: np.ndarray) -> np.ndarray:
    if "A" in (voxels.dtype.names or ()):
        check_opaque(path, voxels["A"])
    array = np.empty((3, *voxels.shape), dtype=np.float32, order="F")
    for channel, name in enumerate("RGB"):
        array[channel] = voxels[name]
    return array


def _check_spacing(path: Path, header: nib.Nifti1Header) -> None:
    # nibabel mends zero and negative spacings while loading, so look at the bytes as stored. With a sform the
    # spacing is not used; the affine itself is checked for that case.
    if int(header["sform_code"]) > 0:
        return
    with ImageOpener(str(path)) as file:
        stored = type(header).from_fileobj(file, check=False)
    spacing = [float(value) for value in stored["pixdim"][1:4]]
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise bad_spacing(path, spacing)


def write(volume: MetaTensor, temporary: Path, path: Path, description: str) -> None:
    """Float32 or RGB24; sform and qform both set (a sheared affine has no qform and gets the sform only), mm."""
    affine = affine_of(volume)
    data = volume.as_tensor().detach().cpu().numpy()
    if data.shape[0] == 3:
        voxels = np.empty(data.shape[1:], dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")], order="F")
        for channel, name in enumerate("RGB"):
            voxels[name] = to_byte(data[channel])
    else:
        voxels = data[0].astype(np.float32, copy=False)
    image = nib.Nifti1Image(voxels, None)
    code = int(volume.meta.get("xform_code", 1))
    image.set_sform(affine, code=code)
    image.set_qform(None if is_sheared(affine) else affine, code=0 if is_sheared(affine) else code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()[:79]
    if data.shape[0] == 1 and voxels.min() >= 0 and voxels.max() <= 1:
        image.header["cal_max"] = 1.0  # viewers open the whole grey scale
    nib.save(image, temporary)
