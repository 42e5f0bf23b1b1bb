"""NIfTI, by nibabel."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import nibabel as nib
import numpy as np
from monai.data.meta_tensor import MetaTensor
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from ddfm_monai.errors import InputError
from ddfm_monai.space import apply, corners, is_sheared, spacing_of
from ddfm_monai.volume import affine_of, bad_spacing
from ddfm_monai.volumes.formats.common import Contents, check_opaque, spatial_shape, to_byte, unreadable

__all__ = ["SUFFIXES", "read", "write"]

SUFFIXES = (".nii", ".nii.gz")

_UNREADABLE = (
    ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, KeyError, zlib.error,
)  # fmt: skip
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres in a unit of length, by NIfTI's ``xyzt_units``: metres, millimetres, micrometres."""

_QUATERNION_TOLERANCE = 1e-3  # how far single precision carries the length of a rotation off 1
_SILENT = logging.Logger("silent", level=logging.CRITICAL + 1)  # nibabel tells of every field that it mends


def read(path: Path) -> Contents:
    """A NIfTI-1 or NIfTI-2 file, compressed or not whatever its ending says: grey of any real type, or RGB24."""
    try:
        with _opened(path) as file:
            header = _header(path, file)
            shape = spatial_shape(path, tuple(int(n) for n in header.get_data_shape()))
            kind = _kind(path, header.get_data_dtype())
            affine = _affine(header)
            stored = ArrayProxy(file, header, mmap=False)
            if kind == "grey":
                array = np.asarray(stored, dtype=np.float32).reshape(shape, order="F")[None]
            else:
                array = _rgb_from_struct(path, np.asarray(stored.get_unscaled()).reshape(shape, order="F"))
    except _UNREADABLE as error:
        raise unreadable(path, "NIfTI", error) from error
    meta = {
        "xform_code": int(header["sform_code"]) or int(header["qform_code"]),
        "bitpix": int(header["bitpix"]),
        "intent_code": int(header["intent_code"]),
    }
    apart = _two_places(header, shape, affine)
    meta |= {"two_places": apart} if apart else {}
    return array, affine, {**meta, "descrip": bytes(header["descrip"]).rstrip(b"\0").decode("latin-1")}


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed where they are gzip: a `.nii` may be, and a `.nii.gz` may not be."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not compressed:
            yield raw
            return
        with gzip.open(raw) as file:
            yield cast(IO[bytes], file)
            _read_out(file)


def _read_out(file: gzip.GzipFile) -> None:
    """On to the end, where gzip keeps its checksum: damaged bytes decompress to other voxels, without a word."""
    try:
        while file.read(1 << 20):
            pass
    except gzip.BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):  # what lies behind the end is no part of it
            raise


def _header(path: Path, file: IO[bytes]) -> nib.Nifti1Header:
    """The header, mended where writers are known to err and the meaning is plain."""
    start = file.read(540)
    second = start[4:8] == b"n+2\0" or start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
    kind = nib.Nifti2Header if second else nib.Nifti1Header
    if len(start) < kind.sizeof_hdr or not (second or start[344:347] in (b"n+1", b"ni1")):
        raise ImageFileError("no NIfTI header")
    header = kind(start[: kind.sizeof_hdr], check=False)  # without extensions, which nothing here needs
    header["sizeof_hdr"] = kind.sizeof_hdr
    dim = header["dim"]
    if dim[0] > 3 and (dim[4 : dim[0] + 1] <= 1).all():  # dim[0] = 4 with dim[4] = 0 is one volume
        dim[4:] = 1
        dim[0] = 3
    squares = float(sum(float(header[f"quatern_{axis}"]) ** 2 for axis in "bcd"))
    if 1 < squares < 1 + _QUATERNION_TOLERANCE:
        for axis in "bcd":
            header[f"quatern_{axis}"] /= np.sqrt(squares) * (1 + 1e-7)
    _check_spacing(path, header)
    header.check_fix(logger=_SILENT, error_level=40)
    if header.get_data_offset() < kind.sizeof_hdr:  # readers disagree about where the voxels are then
        raise InputError(
            f"{path}: its header says that the voxels begin at byte {header.get_data_offset()}, which is inside the "
            f"header; expected {kind.single_vox_offset} or more. Correct the field vox_offset, or export the file "
            "again.",
            "E_UNREADABLE",
        )
    return header


def _affine(header: nib.Nifti1Header) -> np.ndarray:
    """Voxel index to RAS mm: the sform, else the qform, else the voxel sizes alone; in mm whatever the file's unit."""
    affine = header.get_best_affine()
    if int(header["sform_code"]) > 0 and not np.asarray(affine)[:3, :3].any() and int(header["qform_code"]) > 0:
        affine = header.get_qform()
    return _in_mm(header, affine)


def _in_mm(header: nib.Nifti1Header, affine: np.ndarray) -> np.ndarray:
    millimetres = _MILLIMETRES.get(int(header["xyzt_units"]) & 0x07, 1.0)
    return np.diag([millimetres] * 3 + [1.0]) @ np.asarray(affine, dtype=np.float64)


def _two_places(header: nib.Nifti1Header, shape: tuple[int, int, int], affine: np.ndarray) -> int:
    """How many mm sform and qform lie apart where both are said to be of one space; 0 where they do not contradict.

    With different codes they are of two spaces (what a program aligned, and where the scanner had it). To half a voxel
    both are one.
    """
    if int(header["sform_code"]) != int(header["qform_code"]) or int(header["sform_code"]) == 0:
        return 0
    try:
        other = _in_mm(header, header.get_qform())
    except (HeaderDataError, ValueError):
        return 0  # no rotation at all: the sform is alone
    ends = corners(shape)
    apart = float(np.linalg.norm(apply(affine, ends) - apply(other, ends), axis=1).max())
    return max(1, round(apart)) if apart > 0.5 * float(spacing_of(affine).min()) else 0


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
    # nibabel mends zero and negative spacings, so look before that. With a sform the spacing is not used; the affine
    # itself is checked for that case.
    if int(header["sform_code"]) > 0:
        return
    spacing = [float(value) for value in header["pixdim"][1:4]]
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise bad_spacing(path, spacing)


def _code(volume: MetaTensor, affine: np.ndarray) -> int:
    """The space code of the file that gave the grid; 0, unknown, is kept where voxel sizes alone give the grid."""
    code = int(volume.meta.get("xform_code", 1))
    if code > 0:
        return code
    plain = nib.Nifti1Header()
    plain.set_data_shape(volume.shape[1:])
    plain.set_zooms(spacing_of(affine))
    return 0 if np.allclose(plain.get_base_affine(), affine, atol=1e-3) else 1


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
    code = _code(volume, affine)
    image.set_sform(affine, code=code)
    image.set_qform(None if is_sheared(affine) else affine, code=0 if is_sheared(affine) else code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()[:79]
    if data.shape[0] == 1 and voxels.min() >= 0 and voxels.max() <= 1:
        image.header["cal_max"] = 1.0  # viewers open the whole grey scale
    nib.save(image, temporary)
