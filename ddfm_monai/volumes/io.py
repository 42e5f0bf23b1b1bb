"""Volumes from files and back; the suffix chooses the format, a folder is a DICOM series."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import InputError, UsageError, of_system
from ddfm_monai.files import atomic_path
from ddfm_monai.volume import check_affine, check_values, make_volume
from ddfm_monai.volumes.formats import itk, nifti, picture

__all__ = [
    "NOT_DIAGNOSTIC",
    "PICTURE_SUFFIXES",
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "by_stem",
    "is_volume_file",
    "read_volume",
    "stem_of",
    "suffix_of",
    "write_volume",
]

_FORMATS = (nifti, itk, picture)

PICTURE_SUFFIXES = picture.SUFFIXES
READABLE_SUFFIXES = nifti.SUFFIXES + itk.SUFFIXES + picture.SUFFIXES
WRITABLE_SUFFIXES = (*nifti.SUFFIXES, ".nrrd", ".mha", *picture.WRITABLE_SUFFIXES)

_DICOM = " For DICOM, pass the folder of the series instead of a file."
_CONVERT = " Convert it to NIfTI first; in Python: nibabel.save(nibabel.load(SOURCE), 'TARGET.nii.gz')."
_UNPACK = " Unpack it first."
_HINTS = {
    **dict.fromkeys(("", ".dcm", ".ima"), _DICOM),
    **dict.fromkeys((".img", ".hdr", ".mgz", ".mgh", ".mnc", ".par", ".rec"), _CONVERT),
    **dict.fromkeys((".zip", ".gz", ".bz2", ".zst", ".xz", ".7z", ".tar", ".tgz"), _UNPACK),
    **dict.fromkeys((".gif", ".webp", ".jp2"), " Save it as PNG first."),
}
"""What to do with a file that cannot be read, by its suffix."""

NOT_DIAGNOSTIC = "ddfm-monai fusion, grey scale without units, not for diagnostic use"
"""What every written file says about itself (at most 79 bytes: NIfTI's ``descrip`` field)."""


def suffix_of(path: str | Path) -> str:
    """The lower-case suffix that decides the format; ``.nii.gz`` counts as one suffix."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """The name of a file without :func:`suffix_of`; the whole name of a folder."""
    path = Path(path)
    return path.name if path.is_dir() else path.name[: len(path.name) - len(suffix_of(path))]


def is_volume_file(path: Path) -> bool:
    """Whether it is a file with a volume's or a picture's ending; macOS's ``._`` files beside them are none."""
    return suffix_of(path) in READABLE_SUFFIXES and not path.name.startswith("._") and path.is_file()


def by_stem(files: Iterable[Path]) -> dict[str, Path]:
    """:func:`stem_of` to file.

    Raises:
        UsageError: two of them differ in their endings only.
    """
    found: dict[str, Path] = {}
    for path in files:
        other = found.setdefault(stem_of(path), path)
        if other != path:
            raise UsageError(f"{path}: {other.name} has the same name but for its ending. Keep one of them.")
    return found


def read_volume(path: str | Path, second: bool = False) -> MetaTensor:
    """Read one volume or picture, or the DICOM series in a folder.

    Args:
        path: a NIfTI, NRRD, MetaImage or picture file, or a folder that holds one DICOM series.
        second: it is to be resampled onto another volume's grid, so that a DICOM series may have slices whose spacing
            changes (see :func:`ddfm_monai.dicom.read_folder`).

    Returns:
        ``(C, X, Y, Z)`` float32 with its RAS-mm affine. ``meta["filename_or_obj"]`` is the path as given,
        ``meta["picture"]`` is True for pictures, ``meta["xform_code"]`` is NIfTI's space code (1 scanner, 2 aligned,
        3 Talairach, 4 MNI) where there is one.

    Raises:
        UsageError: there is no such file, or its suffix is none that can be read.
        InputError: the file is empty, truncated or no image, has the wrong dimensions or voxel type, holds NaN or
            infinities, is constant, or has an unusable geometry.
    """
    path = Path(path)
    if path.is_dir():
        from ddfm_monai.dicom.read import read_folder  # pydicom, for those who have DICOM

        return read_folder(path, second)
    _check_file(path)
    array, affine, meta = _format_of(path).read(path)
    check_affine(path, affine)
    check_values(path, torch.from_numpy(array))
    return make_volume(array, affine, filename_or_obj=str(path), **meta)


def write_volume(volume: MetaTensor, path: str | Path) -> None:
    """Write a volume with its geometry; the file appears whole or not at all.

    NIfTI: float32 grey or RGB24, sform and qform both set (a sheared affine has no qform and gets the sform only), mm.
    NRRD and MHA: float32 grey or 8-bit RGB, compressed. PNG and JPEG: one slice only, grey ``[0, 1]`` as 0..255. Each
    carries the note :data:`NOT_DIAGNOSTIC`.

    Args:
        volume: ``(1, X, Y, Z)`` grey (``[0, 1]`` for pictures) or ``(3, X, Y, Z)`` RGB, 0..255.
        path: the suffix chooses the format. An existing file is replaced.

    Raises:
        UsageError: the suffix is none that can be written.
        InputError: the volume does not fit the format (several slices or values outside [0, 1] in a PNG).
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise UsageError(
            f"{path}: cannot write a file with the suffix {suffix or '(none)'!r}. "
            f"Use one of {_names(WRITABLE_SUFFIXES)}.",
            "E_SUFFIX",
        )
    if volume.ndim != 4 or volume.shape[0] not in (1, 3):
        raise InputError(
            f"{path}: cannot write an array of shape {tuple(volume.shape)}; expected (C, X, Y, Z) with C = 1 or 3.",
            "E_DIMENSIONS",
        )
    with atomic_path(path) as temporary:
        _format_of(path).write(volume, temporary, path, NOT_DIAGNOSTIC)


def _format_of(path: Path) -> ModuleType:
    suffix = suffix_of(path)
    return next(format for format in _FORMATS if suffix in format.SUFFIXES)


def _names(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffixes)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder. Check the path.", "E_MISSING_FILE")
    suffix = suffix_of(path)
    if suffix not in READABLE_SUFFIXES:
        hint = _HINTS.get(suffix, "")
        raise UsageError(
            f"{path}: cannot read a file with the suffix {suffix or '(none)'!r}; expected one of "
            f"{_names(READABLE_SUFFIXES)}, or a folder with a DICOM series.{hint}",
            "E_SUFFIX",
        )
    if not os.access(path, os.R_OK):
        raise InputError(str(of_system(OSError(errno.EACCES, ""), path)), "E_FILE")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes). Copy or export it again.", "E_EMPTY_FILE")
