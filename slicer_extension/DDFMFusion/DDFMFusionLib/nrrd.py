"""Hand a volume over as an uncompressed NRRD file (https://teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from .i18n import _
from .problem import FusionProblem

__all__ = ["write_nrrd"]

_TYPES = {
    "int8": "int8",
    "uint8": "uint8",
    "int16": "int16",
    "uint16": "uint16",
    "int32": "int32",
    "uint32": "uint32",
    "int64": "int64",
    "uint64": "uint64",
    "float32": "float",
    "float64": "double",
}
_SPARE_BYTES = 64 * 2**20


def write_nrrd(path: Path, array: np.ndarray, ijk_to_ras: np.ndarray) -> None:
    """Write a grey or a colour volume.

    Args:
        path: the file, ``.nrrd``.
        array: (K, J, I), or (K, J, I, 3) for colour, as ``slicer.util.arrayFromVolume`` gives it.
        ijk_to_ras: (4, 4), voxel (i, j, k) to RAS mm.

    Raises:
        FusionProblem: the disk is full, or the folder cannot be written to.
    """
    free = shutil.disk_usage(path.parent).free
    if free < array.nbytes + _SPARE_BYTES:
        raise FusionProblem(
            _("Not enough space on the disk of {folder}: {free} MB are free, {needed} MB are needed.").format(
                folder=path.parent, free=free // 2**20, needed=(array.nbytes + _SPARE_BYTES) // 2**20
            )
        )
    try:
        with path.open("wb") as file:
            file.write(_header(array, ijk_to_ras).encode("ascii"))
            np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tofile(file)
    except OSError as error:
        raise FusionProblem(
            _("The volume could not be written to {folder}: {error}").format(
                folder=path.parent, error=error.strerror or error
            )
        ) from error


def _header(array: np.ndarray, ijk_to_ras: np.ndarray) -> str:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ ijk_to_ras
    vectors = ["(" + ",".join(repr(float(value)) for value in column[:3]) + ")" for column in lps.T]
    is_colour = array.ndim == 4
    return "\n".join(
        [
            "NRRD0004",
            f"type: {_TYPES[array.dtype.name]}",
            f"dimension: {array.ndim}",
            "space: left-posterior-superior",
            "sizes: " + " ".join(str(size) for size in reversed(array.shape)),
            "space directions: " + "none " * is_colour + " ".join(vectors[:3]),
            "kinds: " + "RGB-color " * is_colour + "domain domain domain",
            "endian: little",
            "encoding: raw",
            f"space origin: {vectors[3]}",
            "\n",
        ]
    )
