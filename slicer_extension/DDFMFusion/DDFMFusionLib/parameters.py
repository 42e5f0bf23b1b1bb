"""What the panel shows, kept in a parameter node and therefore in a saved scene."""

# No postponed annotations here: the parameter node wrapper reads the types.
from pathlib import Path
from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from .choices import CompareMode, CompareWith, CTWindow, Device, Modality
from .command import FusionSettings

__all__ = ["DDFMFusionParameterNode", "settings_of"]


@parameterNodeWrapper
class DDFMFusionParameterNode:
    """The parameters of the module.

    referenceVolume, secondVolume: the sources. The result lies on the reference's grid.
    referenceKind, secondKind: their modalities.
    ctWindow, windowLevel, windowWidth: which part of a CT is shown; level and width (HU) count if "custom".
    alignFirst: register rigidly before fusing. samePatient: the user knows that both are of one patient.
    trustCoordinates: the user vouches for them as they are.
    keepColour: an RGB result with the second volume's colours.
    withUncertainty: also make a volume of the spread of several samples.
    steps: sampling steps, 0 for automatic. seed: of the noise.
    device: where to compute. priorFile: weights; empty for the shipped ones.
    fusedVolume, compareWith, compareMode: what a comparison shows.
    fusedShown: per cent of the fused volume in a blend.
    """

    referenceVolume: slicer.vtkMRMLScalarVolumeNode
    secondVolume: slicer.vtkMRMLScalarVolumeNode
    referenceKind: Modality = Modality.AUTOMATIC
    secondKind: Modality = Modality.AUTOMATIC
    ctWindow: CTWindow = CTWindow.AUTOMATIC
    windowLevel: Annotated[float, WithinRange(-1000.0, 3000.0)] = 40.0
    windowWidth: Annotated[float, WithinRange(1.0, 4000.0)] = 400.0
    alignFirst: bool = False
    samePatient: bool = False
    trustCoordinates: bool = False
    keepColour: bool = False
    withUncertainty: bool = False
    steps: Annotated[int, WithinRange(0, 200)] = 0
    seed: Annotated[int, WithinRange(0, 2147483647)] = 3407
    device: Device = Device.AUTOMATIC
    priorFile: str = ""
    fusedVolume: slicer.vtkMRMLScalarVolumeNode
    compareWith: CompareWith = CompareWith.REFERENCE
    compareMode: CompareMode = CompareMode.BLEND
    fusedShown: Annotated[float, WithinRange(0.0, 100.0)] = 100.0


def settings_of(parameters: DDFMFusionParameterNode) -> FusionSettings:
    """The part of the parameters that goes to the command."""
    window = parameters.ctWindow.value
    if parameters.ctWindow is CTWindow.CUSTOM:
        window = (parameters.windowLevel, parameters.windowWidth)
    return FusionSettings(
        reference_kind=parameters.referenceKind,
        second_kind=parameters.secondKind,
        window=window,
        align=parameters.alignFirst,
        same_patient=parameters.samePatient,
        trust=parameters.trustCoordinates,
        colour=parameters.keepColour,
        uncertainty=parameters.withUncertainty,
        steps=parameters.steps,
        seed=parameters.seed,
        device=parameters.device,
        prior=Path(parameters.priorFile) if parameters.priorFile else None,
    )
