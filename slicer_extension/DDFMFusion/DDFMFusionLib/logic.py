"""The module without its panel: check a pair, start a fusion, take in its result."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import slicer

from . import scene
from .choices import Modality
from .command import FusionSettings, fuse_arguments, worker_command
from .i18n import _
from .job import FusionJob, State
from .parameters import DDFMFusionParameterNode
from .problem import FusionProblem
from .process import Worker

__all__ = ["Fusion", "load_sample_pair", "start_fusion", "why_not"]

FOLDER_PREFIX = "DDFM-"
SECONDS_UNTIL_LEFT_OVER = 24 * 3600.0
SAMPLE_RESOLUTION_MM = 1.0


def why_not(parameters: DDFMFusionParameterNode) -> str:
    """Why the Fuse button cannot be pressed, in a sentence; an empty text if it can."""
    reference, second = parameters.referenceVolume, parameters.secondVolume
    if reference is None:
        return _("Choose a reference volume.")
    if second is None:
        return _("Choose a second volume.")
    return _why_not_pair(reference, second) or _why_not_settings(parameters)


def _why_not_pair(reference: slicer.vtkMRMLScalarVolumeNode, second: slicer.vtkMRMLScalarVolumeNode) -> str:
    if reference is second:
        return _("The reference and the second volume are the same; choose two.")
    problem = scene.why_unusable(reference) or scene.why_unusable(second)
    if problem:
        return problem
    if scene.patients_differ(reference, second):
        return _("DICOM says that the two volumes belong to different patients.")
    if not scene.overlap(reference, second):
        return _("The two volumes do not overlap. Are they of the same part of the body, and is a transform missing?")
    return ""


def _why_not_settings(parameters: DDFMFusionParameterNode) -> str:
    if parameters.priorFile and not Path(parameters.priorFile).is_file():
        return _("The prior's file does not exist: {path}").format(path=parameters.priorFile)
    return ""


class Fusion:
    """One run of the worker on two volumes of the scene.

    Args:
        job: the worker being followed.
        pair: the files it reads.
        reference_id, second_id: the sources' node IDs.
    """

    def __init__(self, job: FusionJob, pair: scene.ExportedPair, reference_id: str, second_id: str) -> None:
        self.job = job
        self._pair = pair
        self._sources = (reference_id, second_id)

    def take_results(self) -> scene.FusedNodes:
        """Load what a finished job has written. The temporary folder is removed in any case.

        Raises:
            FusionProblem: the job failed, or its files cannot be read.
        """
        try:
            if self.job.state is not State.FINISHED:
                raise FusionProblem(self.job.problem, self.job.details)
            try:
                return scene.add_results(self.job.outputs, self.job.provenance, self._pair, *self._sources)
            except RuntimeError as error:
                raise FusionProblem(str(error)) from error
        finally:
            self.job.close()


def start_fusion(
    reference: slicer.vtkMRMLScalarVolumeNode,
    second: slicer.vtkMRMLScalarVolumeNode,
    settings: FusionSettings,
    command: list[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Fusion:
    """Write both volumes to a temporary folder and start the worker on them.

    Args:
        command: what runs ``ddfm``; by default Slicer's Python with ``-m ddfm_monai``.
        clock: seconds; see :class:`.job.FusionJob`.

    Raises:
        FusionProblem: no disk space, or the worker cannot be started.
    """
    # ddfm-monai is installed on first use, so it cannot be imported earlier.
    from ddfm_monai.protocol import parse_line

    settings = _with_guesses(settings, reference, second)
    _remove_left_over(Path(slicer.app.temporaryPath))
    # Private to this user, for the volumes are patient data.
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=slicer.app.temporaryPath))
    try:
        pair = scene.export_pair(reference, second, folder)
        arguments = fuse_arguments(settings, pair.reference, pair.second, folder / "fused.nrrd")
        worker = Worker([*(command or worker_command()), *arguments])
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise FusionProblem(_("The worker could not be started: {error}").format(error=error)) from error
        raise
    return Fusion(FusionJob(worker, folder, parse_line, clock), pair, reference.GetID(), second.GetID())


def _remove_left_over(parent: Path) -> None:
    """Remove what a Slicer that crashed in the middle of a fusion has left behind."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        if time.time() - folder.stat().st_mtime > SECONDS_UNTIL_LEFT_OVER:
            shutil.rmtree(folder, ignore_errors=True)


def load_sample_pair(folder: Path, command: list[str] | None = None) -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Make the phantom with ddfm-monai in ``folder`` and load its MRI and CT.

    Args:
        command: the Python to use; by default Slicer's.

    Raises:
        FusionProblem: the phantom could not be made.
    """
    python = command or worker_command()[:1]
    script = (
        "import sys; from ddfm_monai.phantom import write_phantom; "
        "write_phantom(sys.argv[1], resolution=float(sys.argv[2]))"
    )
    made = subprocess.run(
        [*python, "-c", script, str(folder), str(SAMPLE_RESOLUTION_MM)], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise FusionProblem(_("The sample volumes could not be made."), made.stderr)
    return [scene.load_volume(folder / f"{name}.nii.gz", f"Phantom {name.upper()}") for name in ("mri", "ct")]


def _with_guesses(
    settings: FusionSettings, reference: slicer.vtkMRMLScalarVolumeNode, second: slicer.vtkMRMLScalarVolumeNode
) -> FusionSettings:
    """Settings in which an automatic modality is what DICOM or the name says."""
    kinds = {"reference_kind": reference, "second_kind": second}
    guesses = {
        field: scene.modality_of(node)
        for field, node in kinds.items()
        if getattr(settings, field) is Modality.AUTOMATIC
    }
    return dataclasses.replace(settings, **guesses)
