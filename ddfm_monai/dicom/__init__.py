"""DICOM in and out: scan a folder, pair what belongs together, read it, fuse it, write derived series.

The names are loaded on first use: scanning needs pydicom only, not torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddfm_monai.dicom.errors import EXPLANATIONS, DicomError, Problem
    from ddfm_monai.dicom.folders import FolderResult, fuse_folders
    from ddfm_monai.dicom.manifest import read_manifest, write_manifest
    from ddfm_monai.dicom.pair import Pair, PairingOptions, PairingResult, find_pairs
    from ddfm_monai.dicom.read import DicomVolume, read_folder, read_folder_series, read_subseries
    from ddfm_monai.dicom.scan import ScanResult, scan_folder
    from ddfm_monai.dicom.subseries import SeriesKey, SubSeries

__all__ = [
    "EXPLANATIONS",
    "DicomError",
    "DicomVolume",
    "FolderResult",
    "Pair",
    "PairingOptions",
    "PairingResult",
    "Problem",
    "ScanResult",
    "SeriesKey",
    "SubSeries",
    "find_pairs",
    "fuse_folders",
    "read_folder",
    "read_folder_series",
    "read_manifest",
    "read_subseries",
    "scan_folder",
    "write_manifest",
]

_HOME = {
    "errors": ("EXPLANATIONS", "DicomError", "Problem"),
    "folders": ("FolderResult", "fuse_folders"),
    "manifest": ("read_manifest", "write_manifest"),
    "pair": ("Pair", "PairingOptions", "PairingResult", "find_pairs"),
    "read": ("DicomVolume", "read_folder", "read_folder_series", "read_subseries"),
    "scan": ("ScanResult", "scan_folder"),
    "subseries": ("SeriesKey", "SubSeries"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"ddfm_monai.dicom.{module}"), name)
    raise AttributeError(f"module 'ddfm_monai.dicom' has no attribute {name!r}")
