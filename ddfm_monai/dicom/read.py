"""A sub-series to a volume: pixels by pydicom, values rescaled slice by slice, geometry from the slice positions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from monai.data import MetaTensor
from pydicom.dataset import Dataset

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.subseries import SubSeries

__all__ = ["DicomVolume", "read_folder", "read_folder_series", "read_subseries"]


@dataclass(frozen=True)
class DicomVolume:
    """A volume read from DICOM, with the headers its result is to be derived from.

    Args:
        volume: ``(1, X, Y, Z)`` float32 (X columns, Y rows, Z slices), rescaled values (CT: HU; PET: the unit of
            Units; MR: none), ``affine`` 4x4 float64 to RAS mm, ``meta["space"] = "RAS"``.
        subseries: what it was read from. ``subseries.slices[z]`` is slice z of the volume.
        headers: one Dataset per slice, in the order of Z, without pixels. Of a multi-frame object each is a flat
            header as of a single-frame image: the frame's Image Position, Orientation, Pixel Spacing, Slice Thickness
            and, for MR, its times stand at the top level, and the functional groups are gone.
        lossy: a source file was compressed with loss, now or earlier.
        warnings: remarks from scan and reading.
    """

    volume: MetaTensor
    subseries: SubSeries
    headers: tuple[Dataset, ...]
    lossy: bool
    warnings: tuple[Problem, ...]


def read_subseries(subseries: SubSeries) -> DicomVolume:
    """Read the pixels of a sub-series and build its volume.

    Every file is checked against the scan. The volume is right, or an error is raised.

    Raises:
        DicomError: with the code of the reason; names the file.
    """
    raise NotImplementedError


def read_folder_series(path: Path | str) -> DicomVolume:
    """Read a folder (or one multi-frame file) that holds exactly one series that can be a volume.

    Localizers, strays and other objects beside it are passed over.

    Raises:
        UsageError: the path does not exist.
        DicomError: no such series (``E_NO_SERIES``, with the reasons), several (``E_SEVERAL_SERIES``), or one that
            cannot be read.
    """
    raise NotImplementedError


def read_folder(path: Path | str) -> MetaTensor:
    """The volume of :func:`read_folder_series`: ``(1, X, Y, Z)`` float32, RAS mm."""
    return read_folder_series(path).volume
