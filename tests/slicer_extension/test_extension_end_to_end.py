"""The module with the real worker, ``python -m ddfm_monai``, and a tiny random prior."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom.external import dciodvfy, dicom_validator, needs, read_series
from dicom.synthetic import save_pair
from scipy import ndimage
from typer.testing import CliRunner

from ddfm_monai.cli.main import app
from ddfm_monai.dicom import read_folder_series
from ddfm_monai.volume import affine_of

pytest.importorskip("slicer", reason="slicer-core is not installed (pip install ddfm-monai[slicer-test])")

# Powers of two: Slicer's and our way of writing a geometry differ in the last bit of other numbers, and voxels that are
# resampled with them in the last bit, too.
GRID = np.array([[-4.0, 0, 0, 86], [0, -4, 0, 80], [0, 0, 8, -30], [0, 0, 0, 1.0]])
OTHER_GRID = np.array([[0, 4.0, 0, -99], [2, 0, 0, -80], [0, 0, 8, -50], [0, 0, 0, 1.0]])


def head(shape: tuple[int, int, int], affine: np.ndarray, is_ct: bool) -> np.ndarray:
    """A head around the origin of RAS, (K, J, I), with some structure for a registration to hold on to."""
    ijk = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1)
    ras = ijk @ affine[:3, :3].T + affine[:3, 3]

    def ball(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
        return ((ras - centre) ** 2 / np.square(radii)).sum(-1) < 1

    skull, brain = ball((0, 0, 10), (65, 75, 60)), ball((0, 0, 10), (55, 65, 50))
    left, right = ball((-15, 10, 10), (8, 20, 25)), ball((18, 15, 10), (7, 24, 25))
    levels = (1000.0, 40.0, 5.0, -1000.0) if is_ct else (100.0, 600.0, 900.0, 0.0)
    values = np.select([left | right, brain, skull], [levels[2], levels[1], levels[0]], levels[3])
    return ndimage.gaussian_filter(values, 0.7).astype(np.int16).transpose(2, 1, 0)


@pytest.fixture
def volumes(add_volume: Callable[..., Any]) -> tuple[Any, Any]:
    """MRI and CT of one head on two grids."""
    return (
        add_volume("T2", head((44, 42, 10), GRID, is_ct=False), GRID),
        add_volume("CT", head((80, 50, 15), OTHER_GRID, is_ct=True), OTHER_GRID),
    )


@pytest.fixture
def settings(tiny_prior_path: Path) -> Any:
    from DDFMFusionLib.choices import Device
    from DDFMFusionLib.command import FusionSettings

    return FusionSettings(steps=3, prior=tiny_prior_path, device=Device.CPU)


@pytest.fixture
def logic(slicer: Any) -> Any:
    from DDFMFusion import DDFMFusionLogic

    return DDFMFusionLogic()


def test_the_result_equals_the_command_voxel_for_voxel(
    slicer: Any, logic: Any, volumes: tuple[Any, Any], settings: Any, tmp_path: Path
) -> None:
    fused = logic.fuse(*volumes, settings).fused
    files = []
    for node in volumes:
        node.AddDefaultStorageNode()
        files.append(str(tmp_path / f"{node.GetName()}.nrrd"))
        node.GetStorageNode().SetFileName(files[-1])
        assert node.GetStorageNode().WriteData(node)
    output = tmp_path / "command.nrrd"
    options = ["--steps", "3", "--prior", str(settings.prior), "--device", "cpu"]
    kinds = ["--reference-kind", "mr", "--second-kind", "ct"]
    command = CliRunner().invoke(app, ["fuse", *files, "-o", str(output), *options, *kinds])
    assert command.exit_code == 0, command.output
    from DDFMFusionLib import scene

    expected = scene.load_volume(output, "command")
    values = slicer.util.arrayFromVolume(fused)
    assert values.std() > 300
    np.testing.assert_array_equal(values, np.rint(slicer.util.arrayFromVolume(expected) * 32767))
    assert scene.on_same_grid(volumes[0], fused)


def test_colour_uncertainty_and_alignment_come_back_as_nodes(
    slicer: Any, logic: Any, volumes: tuple[Any, Any], settings: Any
) -> None:
    import dataclasses

    from DDFMFusionLib import scene
    from DDFMFusionLib.choices import Modality

    reference, second = volumes
    # The reference lies under a transform, and the second volume is 9 mm away from where it belongs.
    parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    turned = np.array([[0, -1, 0, 40], [1, 0, 0, -10], [0, 0, 1, 5], [0, 0, 0, 1.0]])
    parent.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turned))
    reference.SetAndObserveTransformNodeID(parent.GetID())
    shift = np.eye(4)
    shift[0, 3] = 9.0
    second.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(turned @ shift @ OTHER_GRID))
    settings = dataclasses.replace(
        settings, align=True, colour=True, uncertainty=True, steps=2, second_kind=Modality.PET
    )
    nodes = logic.fuse(reference, second, settings)
    assert nodes.fused.IsA("vtkMRMLVectorVolumeNode")
    assert slicer.util.arrayFromVolume(nodes.fused).shape == (10, 42, 44, 3)
    assert scene.on_same_grid(reference, nodes.fused)
    assert nodes.uncertainty.GetImageData().GetNumberOfScalarComponents() == 1
    second.SetAndObserveTransformNodeID(nodes.alignment.GetID())
    expected = turned @ OTHER_GRID @ [40, 25, 3, 1]
    moved = scene._ijk_to_world(second) @ [40, 25, 3, 1]
    assert np.linalg.norm(moved - expected) < 4.0  # mm; the voxels are 3.9 x 3.9 x 8 mm


def test_volumes_that_overlap_little_are_fused_when_the_user_vouches_for_them(
    slicer: Any, logic: Any, volumes: tuple[Any, Any], settings: Any
) -> None:
    import dataclasses

    from DDFMFusionLib.problem import FusionProblem

    reference, second = volumes
    away = np.array(OTHER_GRID, float)
    away[2, 3] += 60.0  # a third of their height in common
    second.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(away))
    with pytest.raises(FusionProblem, match="tick I know that their coordinates agree"):
        logic.fuse(reference, second, settings)
    fused = logic.fuse(reference, second, dataclasses.replace(settings, trust=True)).fused
    provenance = json.loads(fused.GetAttribute("DDFM.provenance"))
    assert any("lies in the other" in text for text in provenance["warnings"]), provenance["warnings"]


def test_the_real_worker_is_cancelled_without_a_trace(
    slicer: Any, logic: Any, volumes: tuple[Any, Any], settings: Any
) -> None:
    from DDFMFusionLib.job import State
    from DDFMFusionLib.problem import FusionProblem

    parameters = logic.getParameterNode()
    parameters.referenceVolume, parameters.secondVolume = volumes
    parameters.priorFile, parameters.steps = str(settings.prior), 200
    fusion = logic.start(parameters)
    while fusion.job.progress.get("stage") != "fuse":
        fusion.job.poll(wait=0.1)
        assert not fusion.job.is_over, fusion.job.problem
    fusion.job.cancel()
    fusion.job.wait()
    assert fusion.job.state is State.CANCELLED
    with pytest.raises(FusionProblem, match="cancelled"):
        fusion.take_results()
    assert list(Path(slicer.app.temporaryPath).iterdir()) == []


@pytest.fixture
def dicom_volumes(slicer: Any, add_volume: Callable[..., Any], tmp_path: Path) -> tuple[Any, Any]:
    """An MR and a CT read from DICOM series, the CT moved by a transform, as Slicer's DICOM module leaves them."""
    from pydicom import dcmread

    nodes = []
    for name, made in zip(("MR", "CT"), save_pair(tmp_path / "in", slices=5), strict=True):
        folder = tmp_path / "in" / name.lower()
        volume = read_folder_series(folder)
        node = add_volume(name, volume.volume[0].numpy().transpose(2, 1, 0).astype(np.int16), affine_of(volume.volume))
        uids = [header.SOPInstanceUID for header in volume.headers]
        node.SetAttribute("DICOM.instanceUIDs", " ".join(uids))
        for path in folder.rglob("*"):
            if path.is_file():
                slicer.dicomDatabase.files[dcmread(path).SOPInstanceUID] = str(path)
        assert set(uids) <= set(slicer.dicomDatabase.files), made
        nodes.append(node)
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[:3, 3] = (1, -2, 3)
    moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    nodes[1].SetAndObserveTransformNodeID(moved.GetID())
    return nodes[0], nodes[1]


@needs("dciodvfy")
@pytest.mark.parametrize("colour", [False, True])
def test_a_result_leaves_slicer_as_a_valid_series_that_shows_it(
    colour: bool, slicer: Any, logic: Any, dicom_volumes: tuple[Any, Any], settings: Any, tmp_path: Path
) -> None:
    import dataclasses

    from DDFMFusionLib.choices import Modality
    from DDFMFusionLib.problem import FusionProblem

    kind = Modality.PET if colour else Modality.CT
    settings = dataclasses.replace(settings, colour=colour, second_kind=kind, steps=1)
    fused = logic.fuse(*dicom_volumes, settings).fused
    export = logic.saveDicom(fused, tmp_path)
    log = export.job.wait()
    export.finish()
    folder = tmp_path / "fused" / ("colour" if colour else "grey")
    results, sources = read_series(folder), read_series(tmp_path / "in/mr")
    np.testing.assert_array_equal(np.stack([ds.pixel_array for ds in results]), slicer.util.arrayFromVolume(fused))
    for result, source in zip(results, sources, strict=True):
        for keyword in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient"):
            assert result[keyword].value == source[keyword].value
    assert results[0].Modality == "MR"
    assert "+CT(5) NOT FOR DIAGNOSTIC USE" in results[0].SeriesDescription, log
    assert [line for path in sorted(folder.iterdir()) for line in dciodvfy(path)] == []
    assert [line for result in results for line in dicom_validator(result)] == []
    if colour:
        return
    again = logic.saveDicom(fused, tmp_path)
    again.job.close()
    assert again.target == tmp_path / "fused-2"  # never over an earlier one
    values = slicer.util.arrayFromVolume(dicom_volumes[0])
    slicer.util.updateVolumeFromArray(dicom_volumes[0], np.roll(values, 2, axis=2))  # bent, or filtered
    bent = logic.saveDicom(fused, tmp_path)
    bent.job.wait()
    with pytest.raises(FusionProblem, match="no longer the series"):
        bent.finish()
    assert not bent.target.exists()


def test_what_cannot_leave_slicer_says_why(
    slicer: Any, logic: Any, add_volume: Callable[..., Any], dicom_volumes: tuple[Any, Any], settings: Any,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from DDFMFusionLib import dependencies, scene
    from DDFMFusionLib.export import why_not_export
    from DDFMFusionLib.problem import FusionProblem

    reference, _second = dicom_volumes
    assert why_not_export(reference) == "Choose a fused volume."
    fused = add_volume("fused")
    fused.SetAttribute(scene.PROVENANCE_ATTRIBUTE, "{}")
    assert "no longer in the scene" in why_not_export(fused)
    fused.SetNodeReferenceID(scene.REFERENCE_ROLE, add_volume("from a file").GetID())
    assert "from a file was not read from DICOM" in why_not_export(fused)
    fused.SetNodeReferenceID(scene.REFERENCE_ROLE, reference.GetID())
    assert why_not_export(fused) == ""
    monkeypatch.setattr(dependencies, "_version", {"pydicom": "2.4.4"}.get)
    assert "Update Slicer" in why_not_export(fused)
    monkeypatch.undo()
    export = logic.saveDicom(fused, tmp_path)  # its provenance says nothing
    export.job.wait()
    with pytest.raises(FusionProblem, match="does not say how the volume was made"):
        export.finish()
    fused.SetAttribute(scene.PAIR_ATTRIBUTE, '{"bent": true}')
    assert "was bent by a transform" in why_not_export(fused)
    fused.SetAttribute(scene.PAIR_ATTRIBUTE, None)
    slicer.dicomDatabase.files.clear()
    with pytest.raises(FusionProblem, match="Import the series again"):
        logic.saveDicom(fused, tmp_path)
    assert not (tmp_path / "fused").exists()


def test_the_worker_needs_no_pydicom_for_what_the_panel_hands_over(
    slicer: Any, logic: Any, volumes: tuple[Any, Any], settings: Any
) -> None:
    """Slicer 5.10's pydicom is too old for the DICOM room; any import of it from there would fail."""
    script = (
        "import importlib.metadata as m, sys; real = m.version;"
        "m.version = lambda name: '2.4.4' if name == 'pydicom' else real(name);"
        "from ddfm_monai.cli.main import main; main()"
    )
    logic.workerCommand = [sys.executable, "-c", script]
    assert logic.fuse(*volumes, settings).fused is not None


def test_the_sample_pair_is_made_here_and_can_be_fused(
    slicer: Any, logic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import DDFMFusionLib.logic
    from DDFMFusionLib.logic import why_not

    monkeypatch.setattr(DDFMFusionLib.logic, "SAMPLE_RESOLUTION_MM", 4.0)
    parameters = logic.getParameterNode()
    parameters.referenceVolume, parameters.secondVolume = logic.loadSamplePair()
    assert [parameters.referenceVolume.GetName(), parameters.secondVolume.GetName()] == ["Phantom MRI", "Phantom CT"]
    assert why_not(parameters) == ""
