"""DICOM as a file format: scan a folder, split what is in it, read series, write derived ones. Knows no fusion.

The names are loaded on first use: scanning needs pydicom only, not torch.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from ddfm_monai.errors import UsageError

if TYPE_CHECKING:
    from ddfm_monai.dicom.errors import EXPLANATIONS, DicomError, Problem
    from ddfm_monai.dicom.read import DicomVolume, read_folder, read_folder_series, read_subseries
    from ddfm_monai.dicom.scan import ScanResult, scan_folder
    from ddfm_monai.dicom.subseries import SeriesKey, SubSeries

__all__ = [
    "EXPLANATIONS",
    "DicomError",
    "DicomVolume",
    "Problem",
    "ScanResult",
    "SeriesKey",
    "SubSeries",
    "read_folder",
    "read_folder_series",
    "read_subseries",
    "scan_folder",
]

_HOME = {
    "errors": ("EXPLANATIONS", "DicomError", "Problem"),
    "read": ("DicomVolume", "read_folder", "read_folder_series", "read_subseries"),
    "scan": ("ScanResult", "scan_folder"),
    "subseries": ("SeriesKey", "SubSeries"),
}


_OLDEST_PYDICOM = 3


def _check_pydicom() -> None:
    """3D Slicer 5.10 brings pydicom 2.4, with which everything but this room works.

    Raises:
        UsageError: code ``E_PYDICOM``.
    """
    try:
        found = importlib.metadata.version("pydicom")
    except importlib.metadata.PackageNotFoundError:
        found = "none"
    major = found.split(".")[0]
    if not major.isdecimal() or int(major) < _OLDEST_PYDICOM:
        raise UsageError(
            f"pydicom {found} is installed; DICOM needs pydicom {_OLDEST_PYDICOM} or newer. Install it with: "
            'pip install "pydicom>=3". In 3D Slicer, update to 5.12 or newer, which brings it along.',
            "E_PYDICOM",
        )


_check_pydicom()


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"ddfm_monai.dicom.{module}"), name)
    raise AttributeError(f"module 'ddfm_monai.dicom' has no attribute {name!r}")
