"""Hand a pair over to Slicer's own registration, for what this module's alignment refuses."""

from __future__ import annotations

import slicer

from .i18n import _
from .problem import FusionProblem

__all__ = ["open_slicer_registration"]


def open_slicer_registration(
    reference: slicer.vtkMRMLScalarVolumeNode, second: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLLinearTransformNode:
    """Open *General Registration (BRAINS)* with both volumes, a rigid transform and a start by moments filled in.

    Returns:
        The new transform node, which the registration will fill when the user presses Apply there.

    Raises:
        FusionProblem: this Slicer has no such module.
    """
    module = getattr(slicer.modules, "brainsfit", None)
    if module is None:
        raise FusionProblem(
            _("This Slicer has no module General Registration (BRAINS). Register the volumes with another module.")
        )
    transform = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLLinearTransformNode",
        slicer.mrmlScene.GenerateUniqueName(
            _("{second} to {reference}").format(second=second.GetName(), reference=reference.GetName())
        ),
    )
    node = slicer.cli.createNode(
        module,
        {
            "fixedVolume": reference,
            "movingVolume": second,
            "linearTransform": transform,
            "useRigid": True,
            "initializeTransformMode": "useMomentsAlign",
            "samplingPercentage": 0.02,
        },
    )
    slicer.util.selectModule(module)
    module.widgetRepresentation().setCurrentCommandLineModuleNode(node)
    return transform
