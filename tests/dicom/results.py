"""Derived series made from synthetic ones, for the tests of writer, tools and registration."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

from ddfm_monai.dicom import DicomVolume, read_folder_series
from ddfm_monai.dicom.write import Derivation

SMALL = {"slices": 5, "rows": 40, "columns": 36}

PROVENANCE: dict[str, Any] = {
    "prior": {"name": "medical", "sha256": "ab" * 32},
    "sampling": {"steps": 20, "seed": 3407},
    "software": {"ddfm_monai": "0", "torch": "2.4.0"},
    "second": {"resampled": True},
}


def derivation(base: Path | DicomVolume, second: Path | DicomVolume, **changes: Any) -> Derivation:
    """How a result of the series in two folders came about, without running a fusion."""
    volumes = [source if isinstance(source, DicomVolume) else read_folder_series(source) for source in (base, second)]
    made = Derivation(volumes[0], volumes[1], np.eye(4), False, PROVENANCE, 301, datetime(2024, 2, 3, 4, 5, 6, 789))
    return replace(made, **changes)


def spoil(path: Path) -> None:
    """Make the pixels of a file undecodable, which its header does not show."""
    ds = dcmread(path)
    ds.PixelData = encapsulate([b"no JPEG stream at all"])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.save_as(path)


def values_of(base: DicomVolume) -> np.ndarray:
    """A stand-in for a fused volume, ``(X, Y, Z)`` in 0..1, with every slice different."""
    volume = base.volume[0].numpy()
    return (volume - volume.min()) / (volume.max() - volume.min())
