"""The module without its panel: check a pair, start a fusion, take in its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import slicer

from . import scene
from .choices import Modality
from .command import FusionSettings, fuse_arguments, slicer_python, worker_command
from .i18n import _
from .job import Job, State, start_job
from .parameters import DDFMFusionParameterNode, settings_of
from .problem import FusionProblem
from .process import run

__all__ = [
    "Fusion",
    "colour_is_possible",
    "kinds_of",
    "load_sample_pair",
    "remarks",
    "start_fusion",
    "to_start",
    "why_not",
]

SAMPLE_RESOLUTION_MM = 1.0
COLOURED = (Modality.PET, Modality.SPECT)


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
    if not scene.overlap(reference, second):
        return _("The two volumes do not overlap. Are they of the same part of the body, and is a transform missing?")
    return ""


def _why_not_settings(parameters: DDFMFusionParameterNode) -> str:
    if parameters.priorFile and not Path(parameters.priorFile).is_file():
        return _("The prior's file does not exist: {path}").format(path=parameters.priorFile)
    return ""


def kinds_of(parameters: DDFMFusionParameterNode) -> tuple[Modality, Modality]:
    """What both volumes are taken for: as chosen, or as DICOM or the name says."""
    chosen = (
        (parameters.referenceVolume, parameters.referenceKind),
        (parameters.secondVolume, parameters.secondKind),
    )
    first, second = (
        scene.modality_of(node) if kind is Modality.AUTOMATIC and node is not None else kind for node, kind in chosen
    )
    return first, second


def colour_is_possible(parameters: DDFMFusionParameterNode) -> bool:
    """Whether one of the sources is of a kind that has colours."""
    return any(kind in COLOURED for kind in kinds_of(parameters))


def remarks(parameters: DDFMFusionParameterNode) -> list[str]:
    """What the user should know of the chosen pair before fusing it."""
    nodes = (parameters.referenceVolume, parameters.secondVolume)
    said = []
    if scene.patients_differ(*nodes):
        said.append(_("The two volumes carry different patient IDs."))
    for node in nodes:
        frame, count = scene.frames_of(node)
        if count > 1:
            said.append(
                _("{name} is a sequence; the frame shown now ({frame} of {count}) is fused, and no other.").format(
                    name=node.GetName(), frame=frame, count=count
                )
            )
    return said


def to_start(parameters: DDFMFusionParameterNode) -> FusionSettings:
    """The settings with which the chosen pair is fused: colour only where there is one."""
    settings = settings_of(parameters)
    return dataclasses.replace(settings, colour=settings.colour and colour_is_possible(parameters))


class Fusion:
    """One run of the worker on two volumes of the scene.

    Args:
        job: the worker being followed.
        pair: the files it reads.
        reference_id, second_id: the sources' node IDs.
    """

    def __init__(self, job: Job, pair: scene.ExportedPair, reference_id: str, second_id: str) -> None:
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
                raise FusionProblem(_with_remedy(self.job), self.job.details)
            try:
                return scene.add_results(self.job.outputs, self.job.provenance, self._pair, *self._sources)
            except RuntimeError as error:
                raise FusionProblem(str(error)) from error
        finally:
            self.job.close()


def _with_remedy(job: Job) -> str:
    """What went wrong, and the way out that only this panel has."""
    if job.code == "S_LITTLE_OVERLAP":
        remedy = _("In Settings, tick I know that their coordinates agree to fuse them as they lie, or Align first.")
    elif job.code == "E_SHAPES_DIFFER":
        remedy = _(
            "In Settings, tick I know that both are of one patient if you do; or Register with Slicer's own module."
        )
    elif job.code.startswith("E_REGISTRATION"):
        remedy = _("In the section Settings, Register with Slicer's own module opens another registration.")
    else:
        return job.problem
    return f"{job.problem}\n{remedy}"


def start_fusion(
    reference: slicer.vtkMRMLScalarVolumeNode,
    second: slicer.vtkMRMLScalarVolumeNode,
    settings: FusionSettings,
    command: list[str] | None = None,
) -> Fusion:
    """Write both volumes to a temporary folder and start the worker on them.

    Args:
        command: what runs ``ddfm``; by default Slicer's Python with ``-m ddfm_monai``.

    Raises:
        FusionProblem: no disk space, or the worker cannot be started.
    """
    settings = _with_guesses(settings, reference, second)
    exported: list[scene.ExportedPair] = []

    def arguments(folder: Path) -> list[str]:
        pair = scene.export_pair(reference, second, folder)
        exported.append(pair)
        return fuse_arguments(settings, pair.reference, pair.second, folder / "fused.nrrd")

    job = start_job(
        Path(slicer.app.temporaryPath),
        command or worker_command(),
        arguments,
        _("The fusion was cancelled."),
    )
    return Fusion(job, exported[0], reference.GetID(), second.GetID())


def load_sample_pair(
    folder: Path, meanwhile: Callable[[], None] = lambda: None
) -> list[slicer.vtkMRMLScalarVolumeNode]:
    """Make the phantom with ddfm-monai in ``folder`` and load its MRI and CT.

    Args:
        meanwhile: called while it is made; see `.process.run`.

    Raises:
        FusionProblem: the phantom could not be made.
    """
    script = (
        "import sys; from ddfm_monai.phantom import write_phantom; "
        "write_phantom(sys.argv[1], resolution=float(sys.argv[2]))"
    )
    code, output = run([slicer_python(), "-c", script, str(folder), str(SAMPLE_RESOLUTION_MM)], meanwhile=meanwhile)
    if code != 0:
        raise FusionProblem(_("The sample volumes could not be made."), output)
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
