"""NRRD and MetaImage, by SimpleITK; and volumes as SimpleITK's images."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import InputError
from ddfm_monai.space import flip, spacing_of
from ddfm_monai.volume import affine_of
from ddfm_monai.volumes.formats.common import Contents, check_opaque, spatial_shape, to_byte, unreadable

__all__ = ["SUFFIXES", "read", "to_sitk", "write"]

_SCREEN = threading.Lock()
_HARDLY_ANY = 100_000  # bytes
_METAIO = re.compile(rb"Meta(Image|Object): |   ideal = |\w+ required and not defined|Uncompress failed")
_CHECKSUM = b"Uncompress failed"  # MetaIO writes it, and hands over what it has

_MILLIMETRES = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("um", "\xb5m", "micron", "microns", "micrometer", "micrometers"), 0.001),
}

SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")


def read(path: Path) -> Contents:
    """An NRRD or MetaImage file: grey of any real type, or 8-bit RGB."""
    try:
        with _quiet() as held:
            image = sitk.ReadImage(str(path))
        if any(line.startswith(_CHECKSUM) for line in held):
            raise RuntimeError("its checksum does not fit")
    except RuntimeError as error:
        # ITK's own text names source files and, for a short read, a file that does not exist: no help to the reader
        detached = path.suffix.lower() in (".mhd", ".nhdr")
        raise unreadable(path, "NRRD or MetaImage" + (" with its data file beside it" * detached)) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    spatial_shape(path, image.GetSize())
    view = sitk.GetArrayViewFromImage(image)  # (z, y, x) or (z, y, x, component)
    if view.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: voxels of type {view.dtype} cannot be fused; expected integers, real numbers or 8-bit RGB.",
            "E_VOXEL_TYPE",
        )
    components = image.GetNumberOfComponentsPerPixel()
    if components == 1:
        array = np.array(view, dtype=np.float32).transpose(2, 1, 0)[None]
    elif components in (3, 4) and view.dtype == np.uint8:
        if components == 4:
            check_opaque(path, view[..., 3])
        array = np.array(np.moveaxis(view[..., :3], -1, 0), dtype=np.float32).transpose(0, 3, 2, 1)
    else:
        raise InputError(
            f"{path}: found {components} values of type {view.dtype} in every voxel; expected one (grey) or 8-bit RGB. "
            "Save one component as a volume of its own.",
            "E_VOXEL_TYPE",
        )
    affine = _affine_from_itk(image)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        affine = np.diag([*_millimetres(path), 1.0]) @ affine
    return array, affine, _meta(path, image)


def _millimetres(path: Path) -> list[float]:
    """Millimetres in the units of an NRRD file's space, which ITK does not ask for; 1 where none are given."""
    with path.open("rb") as file:
        head = re.split(rb"\r?\n\r?\n", file.read(8192))[0].decode("latin-1")
    given = re.search(r"(?mi)^space units:(.*)$", head)
    names = re.findall(r'"([^"]*)"', given[1]) if given else []
    return [_MILLIMETRES.get(name.strip().lower(), 1.0) for name in names] if len(names) == 3 else [1.0] * 3


@contextmanager
def _quiet() -> Iterator[list[bytes]]:
    """Keep ITK off the screen: its warnings by its own switch, MetaIO's lines about a bad file by their words.

    MetaIO writes straight to the process's standard error, so that is held back while a file is read; what other
    threads say meanwhile is passed on. What MetaIO said is in the list that is yielded, after the block.
    """
    said: list[bytes] = []
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        with _SCREEN, tempfile.TemporaryFile() as held:
            screen = os.dup(2)
            os.dup2(held.fileno(), 2)
            try:
                yield said
            finally:
                os.dup2(screen, 2)
                os.close(screen)
                held.seek(0)
                lines = held.readlines()
                said += [line for line in lines if _METAIO.match(line)]
                os.write(2, b"".join(line for line in lines if not _METAIO.match(line)))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _meta(path: Path, image: sitk.Image) -> dict[str, Any]:
    """What the header says of the kind, and whether it gives the volume a place in a patient's space."""
    keys = {key.lower(): image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        modality, placed = keys.get("modality") or keys.get("dicom.modality"), "nrrd_space" in keys
    else:  # of these keys ITK passes none on
        head = _head(path)
        said = re.search(r"(?mi)^Modality\s*=\s*(\S+)", head)
        modality = said[1] if said else None
        placed = re.search(r"(?mi)^(TransformMatrix|Rotation|Orientation|Offset|Origin|Position)\s*=", head) is not None
    return {**({"modality": modality} if modality else {}), **({} if placed else {"place_unknown": True})}


def _head(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(8192).partition(b"ElementDataFile")[0].decode("latin-1")


def _affine_from_itk(image: sitk.Image) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return flip(lps)


def write(volume: MetaTensor, temporary: Path, path: Path, description: str) -> None:
    """Float32 grey or 8-bit RGB, compressed."""
    image = to_sitk(volume)
    image.SetMetaData("description", description)
    try:
        with _quiet():
            sitk.WriteImage(image, str(temporary), useCompression=True)
    except RuntimeError as error:
        raise _refused(error, temporary) from error


def _refused(error: RuntimeError, path: Path) -> OSError:
    """What the system says of a file that ITK could not write: ITK itself does not always pass it on."""
    is_full = "No space left" in str(error) or shutil.disk_usage(path.parent).free < _HARDLY_ANY
    return OSError(errno.ENOSPC if is_full else errno.EIO, os.strerror(errno.EIO), str(path))


def to_sitk(volume: MetaTensor) -> sitk.Image:
    """The volume as a SimpleITK image (LPS mm): float32 grey, or 8-bit RGB.

    A sheared affine is kept: ITK's images take any three axes, only its NIfTI reader wants right angles.
    """
    data = volume.as_tensor().detach().cpu().numpy()
    if data.shape[0] == 3:
        image = sitk.GetImageFromArray(to_byte(data).transpose(3, 2, 1, 0), isVector=True)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(data[0].transpose(2, 1, 0), dtype=np.float32))
    lps = flip(affine_of(volume))
    spacing = spacing_of(lps)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image
