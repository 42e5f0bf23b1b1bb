"""Two folders of one series each to one folder with the derived series: what `ddfm fuse` does with DICOM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddfm_monai.batch.case import CaseSettings, derive
from ddfm_monai.batch.folder import new_case_folder, write_marker
from ddfm_monai.batch.pair import Pair, Relation
from ddfm_monai.batch.run import check_folders, check_settings
from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.read import read_folder_series
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.errors import UsageError
from ddfm_monai.files import check_writable_target
from ddfm_monai.priors import DEFAULT_PRIOR
from ddfm_monai.progress import ProgressCallback, silent
from ddfm_monai.settings import FusionSettings

__all__ = ["FolderResult", "fuse_folders"]


@dataclass(frozen=True)
class FolderResult:
    """What :func:`fuse_folders` wrote.

    Args:
        folder: the output folder.
        record: the content of its ``case.json``.
    """

    folder: Path
    record: dict[str, Any]

    @property
    def provenance(self) -> dict[str, Any]:
        """How the fusion was made, as of `FusionResult`."""
        return self.record["provenance"]


def fuse_folders(
    reference: Path | str,
    second: Path | str,
    output: Path | str,
    *,
    prior: str = DEFAULT_PRIOR,
    settings: FusionSettings | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
) -> FolderResult:
    """Fuse two DICOM series and write the derived series: ``grey/``, with ``colour`` also ``colour/``.

    The output appears whole or not at all.

    Args:
        reference: folder (or multi-frame file) with exactly one series; the result lies on its grid.
        second: the same for the other source.
        output: the folder to make.
        prior: a known name, or a weight file.
        settings: of the fusion.
        overwrite: replace an earlier result there.

    Raises:
        UsageError: a folder is missing, the output exists or lies in an input, or a setting cannot be met.
        DicomError: a series cannot be used, the patients differ, or the two do not share a frame of reference and
            registration is off.
        InputError: the volumes cannot be fused.
    """
    target = Path(output)
    check_writable_target(target, overwrite)
    for folder in (reference, second):
        check_folders(Path(folder), target)
    chosen = settings or FusionSettings()
    how = CaseSettings.of(chosen, prior)
    check_settings(how)
    base, other = read_folder_series(reference), read_folder_series(second)
    for source, kind in ((base.subseries, chosen.reference_kind), (other.subseries, chosen.second_kind)):
        _check_kind(source, kind)
    pair = Pair(
        base.subseries,
        other.subseries,
        _relation(base.subseries, other.subseries, chosen.register),
        output_kind="both" if chosen.colour else "gray",
    )
    number = (base.subseries.series_number or 90) * 100 + 1
    with new_case_folder(target) as new:
        record = derive(base, other, pair, how, new, number, progress)
        write_marker(new, record)
    return FolderResult(target, record)


def _check_kind(source: SubSeries, kind: str) -> None:
    if kind not in ("auto", source.kind):
        raise UsageError(f"a series is called {kind!r}, but its Modality is {source.modality}. Leave the kind out.")


def _relation(base: SubSeries, second: SubSeries, register: str) -> Relation:
    if base.not_as_base is not None:
        raise base.not_as_base.error()
    ids = [(s.patient.patient_id, s.patient.issuer) for s in (base, second)]
    if all(patient_id for patient_id, _ in ids) and ids[0] != ids[1]:
        raise Problem("E_DIFFERENT_PATIENTS", "the patient IDs differ").error()
    if register == "rigid":
        return "register"
    if not base.frame_of_reference_uid or base.frame_of_reference_uid != second.frame_of_reference_uid:
        found = f"frames ...{base.frame_of_reference_uid[-8:]} and ...{second.frame_of_reference_uid[-8:]}"
        raise Problem("S_DIFFERENT_FRAME", found).error()
    return "for"
