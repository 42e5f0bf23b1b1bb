"""A folder of anything to the sub-series in it. Reads headers only and never writes into the folder."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Matrix4
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.progress import ProgressCallback, silent

__all__ = ["RegistrationObject", "ScanResult", "scan_folder"]


@dataclass(frozen=True)
class RegistrationObject:
    """A Spatial Registration object (PS3.3 A.39) as found in the folder.

    Args:
        path: the file.
        sop_instance_uid: its SOP Instance UID.
        patient_key: as in :class:`~ddfm_monai.dicom.subseries.SeriesKey`.
        frame_of_reference_uid: the registered coordinate system, that all matrices lead into.
        by_frame: for each Frame of Reference UID, the matrix (LPS mm) from it to the registered system.
        by_instance: the same for each referenced SOP Instance UID.
    """

    path: Path
    sop_instance_uid: str
    patient_key: str
    frame_of_reference_uid: str
    by_frame: dict[str, Matrix4]
    by_instance: dict[str, Matrix4]


@dataclass(frozen=True)
class ScanResult:
    """What a folder holds.

    Args:
        root: the folder, resolved.
        subseries: all image sub-series, sorted by key; readable or not (see their ``problem`` and ``exclusion``).
        registrations: all Spatial Registration objects.
        problems: one entry for each file that is not part of a sub-series, with its path.
        files: regular files looked at.
    """

    root: Path
    subseries: tuple[SubSeries, ...]
    registrations: tuple[RegistrationObject, ...]
    problems: tuple[Problem, ...]
    files: int

    def counts(self) -> Counter[str]:
        """How many files each code concerns, for a summary."""
        return Counter(problem.code for problem in self.problems)


def scan_folder(root: Path | str, progress: ProgressCallback = silent) -> ScanResult:
    """Look at every file under ``root`` and sort the images into sub-series.

    Symbolic links are followed only to places inside ``root``, each place once. Nothing is written.

    Args:
        root: a folder.
        progress: told ``stage="scan"`` after every few files.

    Raises:
        UsageError: ``root`` is not a folder.
    """
    raise NotImplementedError
