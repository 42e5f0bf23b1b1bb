"""A fused volume as a DICOM series, through ddfm-monai's own writer."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer

from . import scene
from .command import worker_command
from .dependencies import dicom_is_possible
from .i18n import _
from .job import Job, State, start_job
from .nrrd import write_nrrd
from .problem import FusionProblem

__all__ = ["Export", "start_export", "why_not_export"]

INSTANCES_ATTRIBUTE = "DICOM.instanceUIDs"


@dataclass(frozen=True)
class Export:
    """A series being written.

    Args:
        job: the worker being followed.
        target: the folder that it makes.
    """

    job: Job
    target: Path

    def finish(self) -> None:
        """Clean up after a finished job.

        Raises:
            FusionProblem: the job failed; no folder was made.
        """
        self.job.close()
        if self.job.state is not State.FINISHED:
            raise FusionProblem(self.job.problem, self.job.details)


def why_not_export(fused: slicer.vtkMRMLVolumeNode | None) -> str:
    """Why a volume cannot be saved as a DICOM series, in a sentence; an empty text if it can."""
    if not scene.is_result(fused):
        return _("Choose a fused volume.")
    if not dicom_is_possible():
        return _("Saving as DICOM needs pydicom 3, which comes with Slicer 5.12 and newer. Update Slicer.")
    reference = fused.GetNodeReference(scene.REFERENCE_ROLE)
    if reference is None:
        return _("The reference is no longer in the scene, so nothing says whose study the series belongs to.")
    if not reference.GetAttribute(INSTANCES_ATTRIBUTE):
        return _(
            "{name} was not read from DICOM, so there is no patient and study that the series could belong to."
        ).format(name=reference.GetName())
    if scene.recorded_pair(fused).get("bent"):
        return _("{name} was bent by a transform when it was fused; the result lies on no series' slices.").format(
            name=reference.GetName()
        )
    return ""


def start_export(fused: slicer.vtkMRMLVolumeNode, target: Path, command: list[str] | None = None) -> Export:
    """Start a worker that writes the series into ``target``, a folder that does not exist yet.

    The sources' DICOM files are copied into the worker's private folder, so that it sees these series and nothing else.

    Args:
        command: what runs ``ddfm``; by default Slicer's Python with ``-m ddfm_monai``.

    Raises:
        FusionProblem: it cannot be saved, or the DICOM files are not there.
    """
    reason = why_not_export(fused)
    if reason:
        raise FusionProblem(reason)

    def arguments(folder: Path) -> list[str]:
        volume = folder / "fused.nrrd"
        values = slicer.util.arrayFromVolume(fused)
        if not fused.IsA("vtkMRMLVectorVolumeNode"):
            values = (values / scene.GREY_MAXIMUM).astype("float32")
        write_nrrd(volume, values, scene.ijk_to_ras(fused))
        provenance = folder / "fused.json"
        provenance.write_text(fused.GetAttribute(scene.PROVENANCE_ATTRIBUTE), encoding="utf-8")
        reference = fused.GetNodeReference(scene.REFERENCE_ROLE)
        options = ["--reference", str(_copy_series(reference, folder / "reference"))]
        write_nrrd(folder / "voxels.nrrd", slicer.util.arrayFromVolume(reference), scene.ijk_to_ras(reference))
        options += ["--reference-volume", str(folder / "voxels.nrrd")]
        second, affine = fused.GetNodeReference(scene.SECOND_ROLE), scene.recorded_pair(fused).get("second_affine")
        if second is not None and second.GetAttribute(INSTANCES_ATTRIBUTE) and affine is not None:
            options += ["--second", str(_copy_series(second, folder / "second"))]
            write_nrrd(folder / "moved.nrrd", slicer.util.arrayFromVolume(second), np.array(affine))
            options += ["--second-volume", str(folder / "moved.nrrd")]
        return ["dicom", "wrap", str(volume), *options, "-o", str(target), "--json"]

    cancelled = _("Saving as DICOM was cancelled; nothing was written.")
    return Export(start_job(Path(slicer.app.temporaryPath), command or worker_command(), arguments, cancelled), target)


def _copy_series(node: slicer.vtkMRMLVolumeNode, folder: Path) -> Path:
    """Copy the DICOM files of a volume into a new folder and return it."""
    folder.mkdir()
    uids = node.GetAttribute(INSTANCES_ATTRIBUTE).split()
    files = dict.fromkeys(slicer.dicomDatabase.fileForInstance(uid) for uid in uids)
    for number, file in enumerate(files):
        if not file or not Path(file).is_file():
            raise FusionProblem(
                _(
                    "The DICOM files of {name} are no longer where Slicer's DICOM database has them. "
                    "Import the series again with the module DICOM."
                ).format(name=node.GetName())
            )
        try:
            shutil.copyfile(file, folder / f"{number:05d}.dcm")
        except OSError as error:
            raise FusionProblem(
                _("A DICOM file could not be copied to {folder}: {error}").format(
                    folder=folder, error=error.strerror or error
                )
            ) from error
    return folder
