"""The MRML side: volumes out to files, results back into the scene, layers in the slice views."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import slicer
import vtk

from . import geometry
from .choices import Modality
from .guess import guess_modality
from .i18n import _
from .nrrd import write_nrrd

__all__ = [
    "GREY_MAXIMUM",
    "PROVENANCE_ATTRIBUTE",
    "REFERENCE_ROLE",
    "SECOND_ROLE",
    "ExportedPair",
    "FusedNodes",
    "add_results",
    "export_pair",
    "frames_of",
    "is_result",
    "load_volume",
    "modality_of",
    "on_same_grid",
    "overlap",
    "patients_differ",
    "recorded_pair",
    "why_unusable",
]

REFERENCE_ROLE = "DDFM.reference"
SECOND_ROLE = "DDFM.second"
PROVENANCE_ATTRIBUTE = "DDFM.provenance"
PAIR_ATTRIBUTE = "DDFM.pair"
GREY_MAXIMUM = 32767
"""Voxel value of fused grey 1.0, as `ddfm dicom` stores it; Slicer's own DICOM export reads short integers."""
GREY = "vtkMRMLColorTableNodeGrey"
UNCERTAINTY_COLOURS = "vtkMRMLPETProceduralColorNodePET-Heat"


@dataclass(frozen=True)
class ExportedPair:
    """Two files in one frame of reference.

    Args:
        reference, second: uncompressed NRRD files.
        transform_id: the linear transform under which the reference lies, and the result must; None for the world.
        bent: the reference was resampled under a non-linear transform.
        second_affine: (4, 4) IJK to RAS of the second in the reference's coordinates; None if it was resampled.
    """

    reference: Path
    second: Path
    transform_id: str | None
    bent: bool = False
    second_affine: list[list[float]] | None = None


@dataclass(frozen=True)
class FusedNodes:
    """What a fusion added to the scene.

    Args:
        fused: the fused volume.
        uncertainty: how much the samples differ, if it was asked for.
        alignment: the linear transform that was found for the second volume; it is not applied to it.
        sentence, picture: what the alignment did, for people: a sentence, and a PNG file's bytes.
        warnings: what a person should look at before believing the result.
    """

    fused: slicer.vtkMRMLScalarVolumeNode
    uncertainty: slicer.vtkMRMLScalarVolumeNode | None = None
    alignment: slicer.vtkMRMLLinearTransformNode | None = None
    sentence: str = ""
    picture: bytes = b""
    warnings: tuple[str, ...] = ()


# -- Questions about volumes -----------------------------------------------------------------------


def why_unusable(node: slicer.vtkMRMLVolumeNode) -> str:
    """Why a volume cannot be fused, or an empty text."""
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return _("{name} has no voxels.").format(name=node.GetName())
    if image.GetNumberOfScalarComponents() != 1:
        return _("{name} is a colour volume; choose a grey one.").format(name=node.GetName())
    if np.isclose(np.linalg.det(ijk_to_ras(node)[:3, :3]), 0.0):
        return _("{name} has no usable geometry (a spacing is zero).").format(name=node.GetName())
    return ""


def overlap(reference: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether the volumes can have a point in common, transforms included. Non-linear transforms: taken as yes."""
    if _is_warped(reference) or _is_warped(second):
        return True
    return geometry.boxes_overlap(_shape(reference), _ijk_to_world(reference), _shape(second), _ijk_to_world(second))


def on_same_grid(reference: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether the voxels of both volumes coincide, transforms included, to a hundredth of a voxel."""
    if _is_warped(reference) or _is_warped(second):
        return False
    return geometry.same_grid(_shape(reference), _ijk_to_world(reference), _shape(second), _ijk_to_world(second))


def modality_of(node: slicer.vtkMRMLVolumeNode) -> Modality:
    """Modality by DICOM if the volume came from there, else by its name."""
    hierarchy, item = _hierarchy_item(node)
    dicom = hierarchy.GetItemAttribute(item, "DICOM.Modality") if item else ""
    return guess_modality(dicom or node.GetAttribute("DICOM.Modality"), node.GetName() or "")


def is_result(node: slicer.vtkMRMLVolumeNode | None) -> bool:
    """Whether a volume was made by this module."""
    return node is not None and bool(node.GetAttribute(PROVENANCE_ATTRIBUTE))


def frames_of(node: slicer.vtkMRMLVolumeNode) -> tuple[int, int]:
    """Which frame of a sequence a volume shows now, counted from 1, and how many there are; (1, 1) for no sequence."""
    browsers = slicer.util.getNodesByClass("vtkMRMLSequenceBrowserNode")
    for browser in browsers:
        sequence = browser.GetSequenceNode(node)
        if sequence is not None:
            return browser.GetSelectedItemNumber() + 1, sequence.GetNumberOfDataNodes()
    return 1, 1


def recorded_pair(fused: slicer.vtkMRMLVolumeNode) -> dict:
    """How the sources of a result lay when it was fused: ``bent`` and ``second_affine`` of `ExportedPair`."""
    return json.loads(fused.GetAttribute(PAIR_ATTRIBUTE) or "{}")


def patients_differ(reference: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether DICOM says that the volumes belong to two patients. False if it says nothing about one of them."""
    patients = [_patient_id(node) for node in (reference, second)]
    return all(patients) and patients[0] != patients[1]


# -- Out -------------------------------------------------------------------------------------------


def export_pair(reference: slicer.vtkMRMLVolumeNode, second: slicer.vtkMRMLVolumeNode, folder: Path) -> ExportedPair:
    """Write both volumes in the reference's own coordinates.

    Linear transforms go into the geometry, so that no voxel of either volume is resampled here. A volume under a
    non-linear transform is resampled by hardening a copy.

    Raises:
        FusionProblem: no space on the disk.
    """
    with _unwarped(reference) as fixed, _unwarped(second) as moving:
        frame = fixed.GetParentTransformNode()
        reference_file, second_file = folder / "reference.nrrd", folder / "second.nrrd"
        write_nrrd(reference_file, slicer.util.arrayFromVolume(fixed), ijk_to_ras(fixed))
        to_reference = _transform_between(moving.GetParentTransformNode(), frame)
        second_affine = to_reference @ ijk_to_ras(moving)
        write_nrrd(second_file, slicer.util.arrayFromVolume(moving), second_affine)
        return ExportedPair(
            reference_file,
            second_file,
            frame.GetID() if frame else None,
            bent=fixed is not reference,
            second_affine=second_affine.tolist() if moving is second else None,
        )


# -- Back ------------------------------------------------------------------------------------------


def add_results(
    outputs: dict[str, Path], provenance: dict, pair: ExportedPair, reference_id: str, second_id: str
) -> FusedNodes:
    """Load a worker's outputs beside the reference.

    Args:
        outputs: role ("fused", "uncertainty", "transform") to file.
        provenance: kept in the fused node's attribute ``DDFM.provenance``.
        pair: what was exported.
        reference_id, second_id: the sources' node IDs; they may have been deleted meanwhile.

    Raises:
        RuntimeError: a file cannot be read.
    """
    sources = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in (reference_id, second_id)]
    names = [node.GetName() if node else _("(deleted)") for node in sources]
    name = _("{reference} + {second} fused").format(reference=names[0], second=names[1])
    fused = load_volume(outputs["fused"], name)
    _store_as_integers(fused)
    _describe(fused, sources, pair, provenance)
    _name_for_dicom(fused, sources, "FUSED")
    fused.SetDescription(_("DDFM fusion for display. Not for diagnosis or measurement: grey values have no unit."))
    _set_display(fused, GREY, 0.0, GREY_MAXIMUM)
    uncertainty = None
    if "uncertainty" in outputs:
        uncertainty = load_volume(outputs["uncertainty"], _("{name} uncertainty").format(name=fused.GetName()))
        _store_as_integers(uncertainty)
        _describe(uncertainty, sources, pair, provenance)
        _name_for_dicom(uncertainty, sources, "UNCERTAINTY")
        uncertainty.SetDescription(_("Spread (standard deviation) of several DDFM samples. Not for diagnosis."))
        highest = float(slicer.util.arrayFromVolume(uncertainty).max())
        _set_display(uncertainty, UNCERTAINTY_COLOURS, 0.0, highest or GREY_MAXIMUM)
    alignment = None
    if "transform" in outputs and sources[1] is not None:
        alignment = _load_alignment(outputs["transform"], sources[1], pair)
    registration = provenance.get("registration") or {}
    picture = outputs.get("registration_picture")
    return FusedNodes(
        fused,
        uncertainty,
        alignment,
        sentence=str(registration.get("sentence", "")),
        picture=picture.read_bytes() if picture is not None else b"",
        warnings=tuple(str(warning) for warning in provenance.get("warnings", ())),
    )


# -- Pieces ----------------------------------------------------------------------------------------


def _shape(node: slicer.vtkMRMLVolumeNode) -> tuple[int, int, int]:
    return node.GetImageData().GetDimensions()


def ijk_to_ras(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _ijk_to_world(node: slicer.vtkMRMLVolumeNode) -> np.ndarray:
    return _transform_between(node.GetParentTransformNode(), None) @ ijk_to_ras(node)


def _transform_between(
    source: slicer.vtkMRMLTransformNode | None, target: slicer.vtkMRMLTransformNode | None
) -> np.ndarray:
    """(4, 4) from the coordinates under ``source`` to those under ``target``; None is the world."""
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(source, target, matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _is_warped(node: slicer.vtkMRMLVolumeNode) -> bool:
    transform = node.GetParentTransformNode()
    return transform is not None and not transform.IsTransformToWorldLinear()


@contextlib.contextmanager
def _unwarped(node: slicer.vtkMRMLVolumeNode) -> Iterator[slicer.vtkMRMLVolumeNode]:
    """The volume itself, or for the time of the block a hardened copy if a non-linear transform bends it."""
    if not _is_warped(node):
        yield node
        return
    copy = slicer.vtkSlicerVolumesLogic.CloneVolume(slicer.mrmlScene, node, node.GetName())
    try:
        copy.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        copy.HardenTransform()
        yield copy
    finally:
        slicer.mrmlScene.RemoveNode(copy.GetDisplayNode())
        slicer.mrmlScene.RemoveNode(copy)


def load_volume(path: Path, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Read a volume file that is about to be removed: to the scene, the volume is new, unsaved data.

    A ``name`` that is taken gets a number.

    Raises:
        RuntimeError: the file cannot be read.
    """
    node = slicer.modules.volumes.logic().AddArchetypeVolume(str(path), name)
    if node is None:
        raise RuntimeError(_("The volume could not be read from {path}").format(path=path))
    slicer.mrmlScene.RemoveNode(node.GetStorageNode())
    return node


def _load_alignment(
    path: Path, second: slicer.vtkMRMLVolumeNode, pair: ExportedPair
) -> slicer.vtkMRMLLinearTransformNode:
    """A transform that moves the second volume, from where it is, to where it was fused.

    The worker's transform holds in the reference's coordinates; the node's is in the world's, so that hardening the
    second volume and putting it under the node is all that is needed.
    """
    node = slicer.mrmlScene.AddNewNodeByClass(
        "vtkMRMLLinearTransformNode", _("{second} aligned").format(second=second.GetName())
    )
    storage = slicer.vtkMRMLTransformStorageNode()
    storage.SetFileName(str(path))
    if not storage.ReadData(node):
        raise RuntimeError(_("The transform could not be read from {path}").format(path=path))
    frame = slicer.mrmlScene.GetNodeByID(pair.transform_id) if pair.transform_id else None
    to_world = _transform_between(frame, None)
    moved = to_world @ _transform_between(node, None) @ np.linalg.inv(to_world)
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(moved))
    return node


def _describe(
    node: slicer.vtkMRMLVolumeNode,
    sources: list[slicer.vtkMRMLVolumeNode | None],
    pair: ExportedPair,
    provenance: dict,
) -> None:
    """Place, link and label a result. It never claims the sources' DICOM instances as its own."""
    if pair.transform_id and slicer.mrmlScene.GetNodeByID(pair.transform_id):
        node.SetAndObserveTransformNodeID(pair.transform_id)
    for role, source in zip((REFERENCE_ROLE, SECOND_ROLE), sources, strict=True):
        if source is not None:
            node.SetNodeReferenceID(role, source.GetID())
    node.SetAttribute(PROVENANCE_ATTRIBUTE, json.dumps(provenance, ensure_ascii=True))
    node.SetAttribute(PAIR_ATTRIBUTE, json.dumps({"bent": pair.bent, "second_affine": pair.second_affine}))
    if sources[0] is not None:
        _place_beside(node, sources[0])


def _store_as_integers(node: slicer.vtkMRMLVolumeNode) -> None:
    """Grey 0 to 1 as 0 to 32767. Slicer's own DICOM export cuts off decimals: of 0 to 1 it would leave black images."""
    values = slicer.util.arrayFromVolume(node)
    if values.dtype.kind == "f":
        stored = np.rint(np.clip(values, 0, 1) * GREY_MAXIMUM).astype(np.int16)
        slicer.util.updateVolumeFromArray(node, stored)


def _name_for_dicom(node: slicer.vtkMRMLVolumeNode, sources: list[slicer.vtkMRMLVolumeNode | None], what: str) -> None:
    """What Slicer's own DICOM export takes from the subject hierarchy; by itself it would say CT."""
    hierarchy, item = _hierarchy_item(node)
    if not item:
        return
    kinds = "+".join(modality_of(source).name if source is not None else "?" for source in sources)
    number = _series_number(sources[0])
    for tag, value in {
        "Modality": "MR",  # no values with a unit; as `ddfm dicom` writes it
        "SeriesDescription": f"{what} {kinds} NOT FOR DIAGNOSTIC USE",
        "SeriesNumber": str(number * 100 + (1 if what == "FUSED" else 4)),
        "Manufacturer": "ddfm-monai",
        "Model": "DDFM",
    }.items():
        hierarchy.SetItemAttribute(item, f"DICOM.{tag}", value)


def _series_number(source: slicer.vtkMRMLVolumeNode | None) -> int:
    """The source's Series Number; 90 where there is none."""
    if source is not None:
        hierarchy, item = _hierarchy_item(source)
        text = hierarchy.GetItemAttribute(item, "DICOM.SeriesNumber") if item else ""
        if text.isdecimal():
            return int(text)
    return 90


def _place_beside(node: slicer.vtkMRMLVolumeNode, neighbour: slicer.vtkMRMLVolumeNode) -> None:
    hierarchy, neighbour_item = _hierarchy_item(neighbour)
    item = _hierarchy_item(node)[1]
    if item and neighbour_item:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(neighbour_item))


def _hierarchy_item(node: slicer.vtkMRMLVolumeNode) -> tuple[slicer.vtkMRMLSubjectHierarchyNode, int]:
    """The subject hierarchy and the node's item in it; 0 if it has none."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node)
    return hierarchy, 0 if item == hierarchy.GetInvalidItemID() else item


def _patient_id(node: slicer.vtkMRMLVolumeNode) -> str:
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    hierarchy, item = _hierarchy_item(node)
    patient = hierarchy.GetItemAncestorAtLevel(item, constants.GetDICOMLevelPatient()) if item else 0
    return hierarchy.GetItemUID(patient, constants.GetDICOMUIDName()) if patient else ""


def _set_display(node: slicer.vtkMRMLVolumeNode, colours: str, low: float, high: float) -> None:
    if node.IsA("vtkMRMLVectorVolumeNode"):
        return  # RGB is shown as it is
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetAndObserveColorNodeID(colours)
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, high)
