"""DICOM as a file format: scan a folder, split what is in it, read series, write derived ones. Knows no fusion.

The names are loaded on first use: scanning needs pydicom only, not torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"ddfm_monai.dicom.{module}"), name)
    raise AttributeError(f"module 'ddfm_monai.dicom' has no attribute {name!r}")
