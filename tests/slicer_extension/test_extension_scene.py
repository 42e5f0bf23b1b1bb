"""Tier B: volumes of a real MRML scene go out to files and come back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

OBLIQUE = np.array([[0.8, -0.5, 0.2, 10.0], [0.6, 0.9, -0.3, -20.0], [0.1, 0.4, 2.5, 30.0], [0, 0, 0, 1.0]])
RNG = np.random.default_rng(6)


@pytest.fixture
def scene(slicer: Any) -> Any:
    from DDFMFusionLib import scene

    return scene


@pytest.fixture
def logic(slicer: Any) -> Any:
    from DDFMFusion import DDFMFusionLogic

    return DDFMFusionLogic()


@pytest.fixture
def add_transform(slicer: Any) -> Callable[[np.ndarray], Any]:
    def add(matrix: np.ndarray) -> Any:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        return node

    return add


def affine_of_file(path: Path) -> np.ndarray:
    """IJK to RAS of an image file, read by SimpleITK."""
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def rotation(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, shift[0]], [s, c, 0, shift[1]], [0, 0, 1, shift[2]], [0, 0, 0, 1.0]])


# -- out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_exported_file_has_the_voxels_and_geometry(
    dtype: str, scene: Any, add_volume: Callable[..., Any], tmp_path: Path
) -> None:
    array = RNG.integers(0, 200, (4, 5, 6)).astype(dtype)
    rotated = rotation(20, (1, 2, 3)) @ np.diag([0.9, 0.9, 3.0, 1.0])
    pair = scene.export_pair(add_volume("a", array, rotated), add_volume("b"), tmp_path)
    image = sitk.ReadImage(str(pair.reference))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    assert sitk.GetArrayFromImage(image).dtype == dtype
    np.testing.assert_allclose(affine_of_file(pair.reference), rotated, atol=1e-9)
    assert pair.transform_id is None


def test_exported_file_is_private_and_uncompressed(scene: Any, add_volume: Callable[..., Any], tmp_path: Path) -> None:
    array = np.zeros((10, 20, 30), np.int16)
    pair = scene.export_pair(add_volume("Müller^Anna", array), add_volume("b"), tmp_path)
    assert pair.reference.stat().st_size > array.nbytes
    assert "ller" not in pair.reference.name
    assert b"Anna" not in pair.reference.read_bytes()


def test_second_volume_is_exported_in_the_coordinates_of_the_reference(
    scene: Any, add_volume: Callable[..., Any], add_transform: Callable[..., Any], tmp_path: Path
) -> None:
    reference, second = add_volume("a", affine=OBLIQUE), add_volume("b")
    to_world = [rotation(30, (5, 0, 0)), rotation(-10, (0, 7, -2))]
    for node, matrix in zip((reference, second), to_world, strict=True):
        node.SetAndObserveTransformNodeID(add_transform(matrix).GetID())
    pair = scene.export_pair(reference, second, tmp_path)
    assert pair.transform_id == reference.GetTransformNodeID()
    expected = np.linalg.inv(to_world[0]) @ to_world[1]
    np.testing.assert_allclose(affine_of_file(pair.second), expected, atol=1e-9)


def test_hardened_and_unhardened_transforms_give_the_same_files(
    scene: Any, add_volume: Callable[..., Any], add_transform: Callable[..., Any], tmp_path: Path
) -> None:
    reference, second = add_volume("a"), add_volume("b", affine=rotation(5, (1, 1, 1)))
    second.SetAndObserveTransformNodeID(add_transform(rotation(12, (3, -4, 5))).GetID())
    files = []
    for name in ("soft", "hard"):
        (tmp_path / name).mkdir()
        files.append(scene.export_pair(reference, second, tmp_path / name).second)
        second.HardenTransform()
    np.testing.assert_allclose(affine_of_file(files[0]), affine_of_file(files[1]), atol=1e-9)


def test_a_nonlinear_transform_is_applied_by_resampling_a_copy(
    slicer: Any, scene: Any, add_volume: Callable[..., Any], tmp_path: Path
) -> None:
    import vtk

    ramp = np.broadcast_to(np.arange(20, dtype=np.float32), (8, 12, 20)).copy()
    reference, second = add_volume("a", ramp), add_volume("b", ramp)
    source, target = vtk.vtkPoints(), vtk.vtkPoints()
    for point in np.ndindex(2, 2, 2):
        position = np.array(point) * (19.0, 11.0, 7.0)
        source.InsertNextPoint(position)
        target.InsertNextPoint(position + np.array([2.0, 0.0, 0.0]))
    spline = vtk.vtkThinPlateSplineTransform()
    spline.SetSourceLandmarks(source)
    spline.SetTargetLandmarks(target)
    spline.SetBasisToR()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformToParent(spline)
    second.SetAndObserveTransformNodeID(node.GetID())
    nodes_before = slicer.mrmlScene.GetNumberOfNodes()
    pair = scene.export_pair(reference, second, tmp_path)
    moved = sitk.GetArrayFromImage(sitk.ReadImage(str(pair.second)))
    world_x = affine_of_file(pair.second)[0, 3] + np.arange(moved.shape[2])
    inside = (world_x > 4) & (world_x < 19)
    np.testing.assert_allclose(moved[4, 6, inside], world_x[inside] - 2.0, atol=0.05)
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes_before
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(second), ramp)


def test_no_disk_space_is_a_sentence(
    scene: Any, add_volume: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from DDFMFusionLib.problem import FusionProblem

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(FusionProblem, match="Not enough space on the disk"):
        scene.export_pair(add_volume("a"), add_volume("b"), tmp_path)


# -- questions ----------------------------------------------------------------------------------------


def test_a_volume_is_on_its_own_grid_after_nifti(
    slicer: Any, scene: Any, add_volume: Callable[..., Any], tmp_path: Path
) -> None:
    oblique = rotation(33, (-91.234567, 17.7654321, 3.14159)) @ np.diag([0.43, 0.43, 3.3, 1.0])
    original = add_volume("a", affine=oblique)
    image = nib.Nifti1Image(slicer.util.arrayFromVolume(original).T, oblique)
    nib.save(image, tmp_path / "a.nii")
    again = scene.load_volume(tmp_path / "a.nii", "again")
    assert slicer.vtkSlicerVolumesLogic().CompareVolumeGeometry(original, again) != ""  # too strict for this
    assert scene.on_same_grid(original, again)


def test_half_a_voxel_off_is_another_grid(scene: Any, add_volume: Callable[..., Any]) -> None:
    assert not scene.on_same_grid(add_volume("a"), add_volume("b", affine=rotation(0, (0.5, 0, 0))))


def test_overlap_follows_transforms(
    scene: Any, add_volume: Callable[..., Any], add_transform: Callable[..., Any]
) -> None:
    reference, second = add_volume("a"), add_volume("b", affine=rotation(0, (100, 0, 0)))
    assert not scene.overlap(reference, second)
    second.SetAndObserveTransformNodeID(add_transform(rotation(0, (-98, 0, 0))).GetID())
    assert scene.overlap(reference, second)


def test_modality_by_dicom_before_name(slicer: Any, scene: Any, add_volume: Callable[..., Any]) -> None:
    from DDFMFusionLib.choices import Modality

    node = add_volume("T1 like")
    assert scene.modality_of(node) is Modality.MR
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(node), "DICOM.Modality", "PT")
    assert scene.modality_of(node) is Modality.PET


def put_under_patient(slicer: Any, node: Any, patient_id: str) -> int:
    """Make the branch patient, study, volume as Slicer's DICOM module does. Returns the study's item."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.GetItemByUID("DICOM", patient_id)
    if patient == hierarchy.GetInvalidItemID():
        patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody")
        hierarchy.SetItemUID(patient, "DICOM", patient_id)
    study = hierarchy.CreateStudyItem(patient, "a study")
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), study)
    return study


def test_two_patients_are_noticed(slicer: Any, scene: Any, add_volume: Callable[..., Any]) -> None:
    a, b, c, unknown = (add_volume(name) for name in "abcd")
    for node, patient in ((a, "1"), (b, "2"), (c, "1")):
        put_under_patient(slicer, node, patient)
    assert scene.patients_differ(a, b)
    assert not scene.patients_differ(a, c)
    assert not scene.patients_differ(a, unknown)


# -- there and back -----------------------------------------------------------------------------------


def test_result_is_placed_linked_and_shown_in_grey(
    slicer: Any, logic: Any, scene: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    reference, second = add_volume("T2", affine=OBLIQUE), add_volume("CT head", affine=OBLIQUE)
    reference.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    study = put_under_patient(slicer, reference, "1")
    logic.workerCommand = fake_worker("works")
    fused = logic.fuse(reference, second).fused

    array = slicer.util.arrayFromVolume(reference).astype(np.float32)
    stored = slicer.util.arrayFromVolume(fused)
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, np.rint(0.5 * array / array.max() * 32767))
    assert scene.on_same_grid(reference, fused)
    assert fused.GetName() == "T2 + CT head fused"
    assert fused.GetNodeReference("DDFM.reference") is reference
    assert fused.GetNodeReference("DDFM.second") is second
    assert fused.GetAttribute("DICOM.instanceUIDs") is None
    assert "Not for diagnosis" in fused.GetDescription()
    assert fused.GetStorageNode() is None
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(fused)) == study
    display = fused.GetDisplayNode()
    assert display.GetColorNodeID() == "vtkMRMLColorTableNodeGrey"
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0.0, 32767.0)
    assert not display.GetAutoWindowLevel()


def test_slicers_own_dicom_export_finds_an_mr_and_no_black_images(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    """The export casts voxels to short integers, and takes a series' tags from its subject hierarchy item."""
    from DDFMFusionLib.command import FusionSettings

    reference, second = add_volume("T2"), add_volume("CT head")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    hierarchy.SetItemAttribute(hierarchy.GetItemByDataNode(reference), "DICOM.SeriesNumber", "7")
    logic.workerCommand = fake_worker("works")
    nodes = logic.fuse(reference, second, FusionSettings(uncertainty=True))
    for node, description, number in (
        (nodes.fused, "FUSED MR+CT NOT FOR DIAGNOSTIC USE", "701"),
        (nodes.uncertainty, "UNCERTAINTY MR+CT NOT FOR DIAGNOSTIC USE", "704"),
    ):
        values = slicer.util.arrayFromVolume(node)
        np.testing.assert_array_equal(values.astype(np.int16), values)
        assert values.max() > 16000
        item = hierarchy.GetItemByDataNode(node)
        tags = {tag: hierarchy.GetItemAttribute(item, f"DICOM.{tag}") for tag in ("Modality", "SeriesDescription")}
        assert tags == {"Modality": "MR", "SeriesDescription": description}
        assert hierarchy.GetItemAttribute(item, "DICOM.SeriesNumber") == number
        assert len(description) <= 64


def test_result_follows_the_transform_of_the_reference(
    slicer: Any,
    logic: Any,
    scene: Any,
    add_volume: Callable[..., Any],
    add_transform: Callable[..., Any],
    fake_worker: Callable[[str], list[str]],
) -> None:
    reference, second = add_volume("T2", affine=OBLIQUE), add_volume("CT", affine=OBLIQUE)
    reference.SetAndObserveTransformNodeID(add_transform(rotation(30, (5, 0, 0))).GetID())
    logic.workerCommand = fake_worker("works")
    fused = logic.fuse(reference, second).fused
    assert fused.GetTransformNodeID() == reference.GetTransformNodeID()
    assert scene.on_same_grid(reference, fused)


def test_uncertainty_becomes_a_second_volume(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    from DDFMFusionLib.command import FusionSettings

    logic.workerCommand = fake_worker("works")
    nodes = logic.fuse(add_volume("T2"), add_volume("CT"), FusionSettings(uncertainty=True))
    assert nodes.uncertainty.GetName() == "T2 + CT fused uncertainty"
    assert nodes.uncertainty.GetDisplayNode().GetColorNodeID() == "vtkMRMLPETProceduralColorNodePET-Heat"
    assert nodes.uncertainty.GetDisplayNode().GetWindowLevelMax() == 16384


def test_rgb_result_becomes_a_colour_volume(slicer: Any, scene: Any, tmp_path: Path) -> None:
    colours = RNG.integers(0, 255, (4, 5, 6, 3)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "rgb.nrrd"))
    node = scene.load_volume(tmp_path / "rgb.nrrd", "colour")
    assert node.IsA("vtkMRMLVectorVolumeNode")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(node), colours)


def test_the_guessed_modality_and_settings_reach_the_command(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    from DDFMFusionLib.choices import Device
    from DDFMFusionLib.command import FusionSettings

    logic.workerCommand = fake_worker("works")
    settings = FusionSettings(window=(40.0, 400.0), align=True, steps=7, device=Device.CPU, colour=True)
    fused = logic.fuse(add_volume("FLAIR"), add_volume("PET-CT"), settings).fused
    arguments = " ".join(json.loads(fused.GetAttribute("DDFM.provenance"))["arguments"])
    assert "--reference-kind mr" in arguments
    assert "--second-kind" not in arguments  # the name speaks of two modalities
    for option in ("--window 40,400", "--register rigid", "--steps 7", "--device cpu", "--colour", "--json"):
        assert option in arguments


def test_sources_deleted_meanwhile_do_not_lose_the_result(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    logic.workerCommand = fake_worker("works")
    parameters = logic.getParameterNode()
    parameters.referenceVolume, parameters.secondVolume = add_volume("T2"), add_volume("CT")
    fusion = logic.start(parameters)
    for node in (parameters.referenceVolume, parameters.secondVolume):
        slicer.mrmlScene.RemoveNode(node)
    fusion.job.wait()
    assert fusion.take_results().fused.GetImageData().GetNumberOfPoints() == 4 * 5 * 6


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("crashes", "signal 9"),
        ("refuses", "second.nrrd: the image is constant"),
        ("full-disk", "no space left on the disk"),
        ("prints-garbage", "ended without a result"),
        ("wrong-version", "version 99 of the protocol"),
        ("dies-at-once", "exit code 1"),
        ("is-older", "Press Reinstall or upgrade"),
        ("lost-file", "its file is missing"),
    ],
)
def test_a_failing_worker_leaves_a_sentence_and_no_volume(
    behaviour: str,
    message: str,
    slicer: Any,
    logic: Any,
    add_volume: Callable[..., Any],
    fake_worker: Callable[[str], list[str]],
) -> None:
    from DDFMFusionLib.problem import FusionProblem

    logic.workerCommand = fake_worker(behaviour)
    volumes = add_volume("T2"), add_volume("CT")
    with pytest.raises(FusionProblem, match=message):
        logic.fuse(*volumes)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 2


def test_details_hold_what_the_worker_printed_last(
    logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    from DDFMFusionLib.problem import FusionProblem

    logic.workerCommand = fake_worker("dies-at-once")
    with pytest.raises(FusionProblem) as caught:
        logic.fuse(add_volume("T2"), add_volume("CT"))
    assert "No module named 'ddfm_monai'" in caught.value.details


def test_a_worker_that_cannot_be_started(logic: Any, add_volume: Callable[..., Any]) -> None:
    from DDFMFusionLib.problem import FusionProblem

    logic.workerCommand = ["no-such-program"]
    with pytest.raises(FusionProblem, match="could not be started"):
        logic.fuse(add_volume("T2"), add_volume("CT"))


def test_scene_is_saved_and_comes_back(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]], tmp_path: Path
) -> None:
    from DDFMFusionLib.choices import CTWindow, Modality

    logic.workerCommand = fake_worker("works")
    parameters = logic.getParameterNode()
    parameters.referenceVolume, parameters.secondVolume = add_volume("T2"), add_volume("CT")
    parameters.ctWindow, parameters.secondKind, parameters.steps = CTWindow.BONE, Modality.CT, 12
    parameters.fusedVolume = logic.fuse(parameters.referenceVolume, parameters.secondVolume).fused
    values = slicer.util.arrayFromVolume(parameters.fusedVolume).copy()
    for node in (parameters.referenceVolume, parameters.secondVolume, parameters.fusedVolume):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / f"{node.GetID()}.nrrd"))
        assert node.GetStorageNode().WriteData(node)
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    assert slicer.mrmlScene.Commit()

    slicer.mrmlScene.Clear(1)
    assert logic.getParameterNode().fusedVolume is None
    assert slicer.mrmlScene.Import()
    again = logic.getParameterNode()
    assert (again.ctWindow, again.secondKind, again.steps) == (CTWindow.BONE, Modality.CT, 12)
    assert again.fusedVolume.GetNodeReference("DDFM.reference").GetName() == "T2"
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(again.fusedVolume), values)
    assert json.loads(again.fusedVolume.GetAttribute("DDFM.provenance"))["note"] == 'quotes " and <xml>'


def test_folders_left_by_a_crash_are_removed_after_a_day(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], fake_worker: Callable[[str], list[str]]
) -> None:
    temporary = Path(slicer.app.temporaryPath)
    old, other, recent = temporary / "DDFM-old", temporary / "Other-old", temporary / "DDFM-recent"
    for folder in (old, other, recent):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (1e9, 1e9))
    logic.workerCommand = fake_worker("works")
    logic.fuse(add_volume("T2"), add_volume("CT"))
    assert sorted(temporary.iterdir()) == sorted([other, recent])
    other.rmdir()
    recent.rmdir()
