"""Tier C: the panel, driven by clicks, without a display."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed (pip install ddfm-monai[slicer-test])")
QtWidgets = pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed (ddfm-monai[slicer-test])")

AddVolume = Callable[..., Any]


class Panel:
    """The module's panel in a window, and what a user can do with it."""

    def __init__(self) -> None:
        from DDFMFusion import DDFMFusionWidget

        self.window = QtWidgets.QWidget()
        self.window.setLayout(QtWidgets.QVBoxLayout())
        self.widget = DDFMFusionWidget(self.window)
        self.widget.setup()
        self.enter()
        self.ui = self.widget.ui

    def enter(self) -> None:
        self.window.isEntered = True
        self.widget.enter()

    def exit(self) -> None:
        self.window.isEntered = False
        self.widget.exit()

    def click(self, button: str) -> None:
        from PySide6 import QtCore, QtTest

        QtTest.QTest.mouseClick(getattr(self.ui, button), QtCore.Qt.MouseButton.LeftButton)

    def choose(self, reference: Any, second: Any) -> None:
        self.ui.referenceSelector.setCurrentNode(reference)
        self.ui.secondSelector.setCurrentNode(second)

    def until(self, condition: Callable[[], bool]) -> None:
        from standins.qt_modules import run_event_loop_until

        run_event_loop_until(condition)

    def until_done(self) -> None:
        self.until(lambda: self.widget.work is None)

    @property
    def reason(self) -> str:
        return self.ui.reasonLabel.text

    @property
    def log(self) -> str:
        return self.ui.logBox.plainText


@pytest.fixture
def messages(slicer: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts of the error boxes that would have been shown."""
    shown: list[str] = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: shown.append(text))
    return shown


@pytest.fixture
def panel(slicer: Any, messages: list[str]) -> Iterator[Panel]:
    from standins.qt_modules import QSettings

    QSettings.values.clear()
    panel = Panel()
    yield panel
    panel.widget.cleanup()
    panel.window.findChild(slicer.qMRMLWidget).setMRMLScene(None)
    panel.window.deleteLater()


@pytest.fixture
def ready(panel: Panel, add_volume: AddVolume) -> Panel:
    """A panel with two volumes chosen."""
    panel.choose(add_volume("T2"), add_volume("CT"))
    return panel


def layers(slicer: Any) -> tuple[Any, Any, float]:
    """Background, foreground and foreground opacity of the slice views."""
    composite = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceCompositeNode")
    ids = composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()
    return *(slicer.mrmlScene.GetNodeByID(node_id) if node_id else None for node_id in ids), (
        composite.GetForegroundOpacity()
    )


def process_exists(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not yet reaped by init does not count."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


# -- the panel by itself ------------------------------------------------------------------------------


def test_every_widget_of_the_ui_file_has_a_stand_in(panel: Panel) -> None:
    from standins.qt_modules import PanelLoader

    assert PanelLoader.unknown == []


def test_button_says_why_it_is_disabled(panel: Panel, slicer: Any, add_volume: AddVolume) -> None:
    button = panel.ui.fuseButton
    assert not button.enabled
    assert panel.reason == "Choose a reference volume."
    a, b = add_volume("T2"), add_volume("CT")
    panel.ui.referenceSelector.setCurrentNode(a)
    assert panel.reason == "Choose a second volume."
    panel.ui.secondSelector.setCurrentNode(a)
    assert panel.reason == "The reference and the second volume are the same; choose two."
    panel.ui.secondSelector.setCurrentNode(b)
    assert (panel.reason, button.enabled) == ("", True)
    panel.ui.priorEdit.text = "no/such/file.safetensors"
    assert not button.enabled
    assert panel.reason == button.toolTip == "The prior's file does not exist: no/such/file.safetensors"


def test_a_volume_without_voxels_is_refused(panel: Panel, slicer: Any, add_volume: AddVolume) -> None:
    panel.choose(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"), add_volume("CT"))
    assert panel.reason == "empty has no voxels."


def test_button_follows_a_transform_that_brings_the_volumes_together(
    panel: Panel, slicer: Any, add_volume: AddVolume
) -> None:
    far = np.eye(4)
    far[0, 3] = 500
    second = add_volume("CT", affine=far)
    panel.choose(add_volume("T2"), second)
    assert panel.reason.startswith("The two volumes do not overlap.")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.linalg.inv(far)))
    second.SetAndObserveTransformNodeID(node.GetID())
    assert (panel.reason, panel.ui.fuseButton.enabled) == ("", True)


def test_hint_names_modalities_and_grids(ready: Panel, add_volume: AddVolume) -> None:
    assert ready.ui.hintLabel.text == "MR with CT, same grid"
    ready.ui.secondSelector.setCurrentNode(add_volume("something", affine=np.diag([2.0, 2, 2, 1])))
    assert ready.ui.hintLabel.text == "MR with Automatic, second volume will be resampled"
    ready.ui.secondKindComboBox.currentIndex = 3
    assert ready.ui.hintLabel.text == "MR with PET, second volume will be resampled"


def test_label_maps_and_colour_volumes_are_not_offered(panel: Panel, slicer: Any, add_volume: AddVolume) -> None:
    add_volume("T2")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    box = panel.ui.referenceSelector
    assert [box.itemText(index) for index in range(box.count)] == ["None", "T2"]


def test_widgets_write_parameters_and_parameters_write_widgets(panel: Panel) -> None:
    from DDFMFusionLib.choices import CTWindow, Device
    from DDFMFusionLib.parameters import settings_of

    parameters = panel.widget.logic.getParameterNode()
    panel.ui.alignCheckBox.checked = True
    panel.ui.stepsSpinBox.value = 15
    panel.ui.windowComboBox.currentIndex = list(CTWindow).index(CTWindow.CUSTOM)
    panel.ui.levelSpinBox.value, panel.ui.widthSpinBox.value = 50, 300
    assert (parameters.alignFirst, parameters.steps) == (True, 15)
    assert settings_of(parameters).window == (50.0, 300.0)
    parameters.device, parameters.keepColour = Device.CPU, True
    assert panel.ui.deviceComboBox.currentText == "CPU"
    assert panel.ui.colourCheckBox.checked


def test_a_closed_scene_leaves_no_connection_to_the_panel(panel: Panel, slicer: Any) -> None:
    before = panel.widget._parameters
    slicer.mrmlScene.Clear(0)
    assert panel.widget._parameters is not before
    connections = "_parameterGUIs" if hasattr(before, "_parameterGUIs") else "_bindings"  # Slicer's, the stand-in's
    assert getattr(before, connections) == {}


def test_who_aligns_first_need_not_vouch_for_coordinates(panel: Panel) -> None:
    from DDFMFusionLib.command import fuse_arguments
    from DDFMFusionLib.parameters import settings_of

    def register() -> str:
        arguments = fuse_arguments(settings_of(panel.widget.logic.getParameterNode()), Path("a"), Path("b"), Path("c"))
        return arguments[arguments.index("--register") + 1] if "--register" in arguments else "none"

    assert register() == "none"
    panel.ui.trustCheckBox.checked = True
    assert register() == "trust"
    panel.ui.alignCheckBox.checked = True
    assert (register(), panel.ui.trustCheckBox.enabled) == ("rigid", False)
    panel.ui.alignCheckBox.checked = False
    assert (register(), panel.ui.trustCheckBox.enabled) == ("trust", True)


def test_level_and_width_are_for_a_custom_window_only(panel: Panel) -> None:
    from DDFMFusionLib.choices import CTWindow

    parameters = panel.widget.logic.getParameterNode()
    for window in CTWindow:
        parameters.ctWindow = window
        assert panel.ui.levelSpinBox.enabled is (window is CTWindow.CUSTOM)


def test_browse_buttons_fill_in_the_chosen_path(panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    from standins.qt_modules import QFileDialog, QSettings

    monkeypatch.setattr(QFileDialog, "answer", "chosen")
    panel.click("priorBrowseButton")
    panel.click("wheelsBrowseButton")
    assert panel.widget.logic.getParameterNode().priorFile == "chosen"
    assert QSettings.values["DDFM/WheelsFolder"] == "chosen"


# -- a fusion -----------------------------------------------------------------------------------------


def test_a_click_fuses_and_shows_the_result(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]], messages: list[str]
) -> None:
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    assert ready.ui.fuseButton.text == "Cancel"
    ready.until_done()
    assert messages == []
    assert (ready.ui.fuseButton.text, ready.ui.fuseButton.enabled) == ("Fuse", True)
    fused = slicer.util.getNode("T2 + CT fused")
    assert ready.ui.fusedSelector.currentNode() is fused
    assert layers(slicer) == (slicer.util.getNode("T2"), fused, 1.0)
    assert "Done: T2 + CT fused" in ready.log
    assert ready.reason == "Done: T2 + CT fused"
    assert not ready.ui.progressBar.isVisibleTo(ready.window)


def test_progress_shows_slice_step_and_time_left(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]
) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    ready.until(lambda: "step 3 of 4" in ready.ui.timeLabel.text)
    assert ready.ui.timeLabel.text.startswith("Fusing: slice 1 of 1, step 3 of 4")
    assert (ready.ui.progressBar.value, ready.ui.progressBar.maximum) == (3, 4)
    assert ready.ui.progressBar.isVisibleTo(ready.window)


def test_the_bar_is_busy_between_two_stages(ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    ready.until(lambda: "hanging" in ready.log)
    ready.widget.work.job.progress = {"stage": "read", "done": 1, "total": 1, "detail": "reference"}
    ready.widget._show_progress()
    assert (ready.ui.progressBar.maximum, ready.ui.timeLabel.text) == (0, "Reading: reference")


def test_the_panel_stays_usable_while_a_fusion_runs(
    ready: Panel, slicer: Any, add_volume: AddVolume, fake_worker: Callable[[str], list[str]]
) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    other = add_volume("PET")
    ready.ui.secondSelector.setCurrentNode(other)
    ready.ui.stepsSpinBox.value = 3
    assert ready.widget.logic.getParameterNode().secondVolume is other
    assert (ready.ui.fuseButton.text, ready.ui.fuseButton.enabled) == ("Cancel", True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
def test_cancel_leaves_no_process_no_volume_no_file(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]], messages: list[str]
) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    ready.until(lambda: "hanging" in ready.log)
    pids = json.loads(next(Path(slicer.app.temporaryPath).glob("*/pids.json")).read_text())
    assert all(process_exists(pid) for pid in pids)
    ready.click("fuseButton")
    assert (ready.ui.fuseButton.text, ready.ui.fuseButton.enabled) == ("Cancelling...", False)
    ready.until_done()
    assert not any(process_exists(pid) for pid in pids)
    assert list(Path(slicer.app.temporaryPath).iterdir()) == []
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == 2
    assert ready.reason == "The fusion was cancelled."
    assert messages == []
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    ready.until_done()
    assert slicer.util.getNode("T2 + CT fused") is not None


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("crashes", "ended by the system (signal 9)"),
        ("refuses", "the image is constant"),
        ("full-disk", "no space left on the disk"),
        ("prints-garbage", "ended without a result"),
    ],
)
def test_a_failing_worker_is_explained_and_the_panel_goes_on(
    behaviour: str,
    message: str,
    ready: Panel,
    slicer: Any,
    fake_worker: Callable[[str], list[str]],
    messages: list[str],
) -> None:
    ready.widget.logic.workerCommand = fake_worker(behaviour)
    ready.click("fuseButton")
    ready.until_done()
    assert len(messages) == 1
    assert message in messages[0]
    assert message in ready.reason
    assert message in ready.log
    assert (ready.ui.fuseButton.text, ready.ui.fuseButton.enabled) == ("Fuse", True)


def test_no_disk_space_for_the_volumes(
    ready: Panel, slicer: Any, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    ready.widget.logic.workerCommand = ["not reached"]
    ready.click("fuseButton")
    assert messages[0].startswith("Not enough space on the disk")
    assert ready.ui.fuseButton.enabled


def test_garbage_floods_the_log_only_up_to_its_limit(ready: Panel) -> None:
    for number in range(5000):
        ready.widget._log(f"line {number}")
    assert len(ready.log.splitlines()) == ready.ui.logBox.maximumBlockCount == 2000


def test_a_silent_worker_is_mentioned(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    ready.until(lambda: "hanging" in ready.log)
    job = ready.widget.work.job
    ready.widget._poll_timer.stop()  # only this test looks at the clock from now on
    while job.poll():
        pass
    heard = job._last_sign
    monkeypatch.setattr(job, "_clock", lambda: heard + 185)
    ready.widget.onPoll()
    assert ready.ui.timeLabel.text.startswith("No sign of life from the worker for 3 min 5 s.")
    assert (ready.ui.fuseButton.text, ready.ui.fuseButton.enabled) == ("Cancel", True)


def test_closing_the_scene_ends_the_worker(ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    slicer.mrmlScene.Clear(0)
    assert ready.widget.work is None
    assert list(Path(slicer.app.temporaryPath).iterdir()) == []
    assert ready.reason == "Choose a reference volume."


def test_a_fusion_goes_on_while_another_module_is_shown(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]
) -> None:
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    ready.exit()
    ready.until_done()
    assert ready.widget.comparison is None
    ready.enter()
    assert ready.ui.fusedSelector.currentNode().GetName() == "T2 + CT fused"


# -- choices ------------------------------------------------------------------------------------------


def put_under_patient(slicer: Any, node: Any, patient_id: str) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "somebody")
    hierarchy.SetItemUID(patient, "DICOM", patient_id)
    hierarchy.SetItemParent(hierarchy.GetItemByDataNode(node), hierarchy.CreateStudyItem(patient, "a study"))


def test_different_patient_ids_are_asked_about(
    panel: Panel,
    slicer: Any,
    add_volume: AddVolume,
    fake_worker: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = add_volume("T2"), add_volume("CT")
    put_under_patient(slicer, a, "ID-17")
    put_under_patient(slicer, b, "17")
    panel.choose(a, b)
    assert panel.ui.fuseButton.enabled
    assert "different patient IDs" in panel.ui.hintLabel.text
    questions: list[str] = []

    def answer(text: str, **_: Any) -> bool:
        questions.append(text)
        return len(questions) > 1

    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", answer)
    panel.widget.logic.workerCommand = fake_worker("works")
    panel.click("fuseButton")
    assert panel.widget.work is None
    assert panel.reason.startswith("Not fused")
    assert "17" not in questions[0]  # no patient data in a box
    panel.click("fuseButton")
    panel.until_done()
    assert slicer.util.getNode("T2 + CT fused") is not None


def test_colour_is_offered_only_where_there_is_one(panel: Panel, add_volume: AddVolume) -> None:
    from DDFMFusionLib.choices import Modality
    from DDFMFusionLib.logic import to_start

    panel.choose(add_volume("T2"), add_volume("CT"))
    parameters = panel.widget.logic.getParameterNode()
    parameters.keepColour = True
    assert not panel.ui.colourCheckBox.enabled
    assert "Only for PET and SPECT" in panel.ui.colourCheckBox.toolTip
    assert not to_start(parameters).colour
    parameters.secondKind = Modality.SPECT
    assert panel.ui.colourCheckBox.enabled
    assert to_start(parameters).colour
    panel.choose(parameters.referenceVolume, add_volume("FDG-PET"))
    parameters.secondKind = Modality.AUTOMATIC
    assert panel.ui.colourCheckBox.enabled


def test_slider_steps_are_whole(panel: Panel) -> None:
    slider = panel.ui.opacitySlider
    assert (slider.minimum, slider.maximum, slider.singleStep, slider.pageStep, slider.decimals) == (0, 100, 1, 10, 0)


def test_apple_gpu_reaches_the_command(panel: Panel) -> None:
    from DDFMFusionLib.choices import Device
    from DDFMFusionLib.command import fuse_arguments
    from DDFMFusionLib.logic import to_start

    panel.ui.deviceComboBox.currentIndex = list(Device).index(Device.APPLE_GPU)
    assert panel.ui.deviceComboBox.currentText == "Apple GPU"
    settings = to_start(panel.widget.logic.getParameterNode())
    assert "--device mps" in " ".join(fuse_arguments(settings, Path("a"), Path("b"), Path("c")))


def test_one_frame_of_a_sequence_is_said(ready: Panel, slicer: Any, add_volume: AddVolume) -> None:
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "dynamic PET")
    for value in range(3):
        sequence.SetDataNodeAtValue(add_volume("frame"), str(value))
    browser = slicer.mrmlScene.AddNode(slicer.vtkMRMLSequenceBrowserNode())
    browser.AddSynchronizedSequenceNode(sequence)
    browser.AddProxyNode(ready.ui.secondSelector.currentNode(), sequence, False)
    browser.SetSelectedItemNumber(1)
    ready.widget.onVolumeChanged()
    assert "CT is a sequence; the frame shown now (2 of 3) is fused" in ready.ui.hintLabel.text


def test_the_phantom_is_made_behind_a_wait_cursor(
    panel: Panel, slicer: Any, add_volume: AddVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def load() -> list[Any]:
        seen.append((len(slicer.app.cursors), panel.widget._panel.enabled, panel.ui.timeLabel.text))
        return [add_volume("Phantom MRI"), add_volume("Phantom CT")]

    panel.widget.logic.workerCommand = ["installed"]
    monkeypatch.setattr(panel.widget.logic, "loadSamplePair", load)
    panel.click("sampleButton")
    assert seen == [(1, False, "Making the phantom...")]
    assert (slicer.app.cursors, panel.widget._panel.enabled) == ([], True)
    assert panel.ui.secondSelector.currentNode().GetName() == "Phantom CT"


# -- registration -------------------------------------------------------------------------------------


def test_a_pair_is_handed_over_to_slicers_registration(
    ready: Panel, slicer: Any, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    import types

    ready.click("registerElsewhereButton")
    assert "no module General Registration" in messages[0]
    calls: dict[str, Any] = {}
    widget = types.SimpleNamespace(setCurrentCommandLineModuleNode=lambda node: calls.update(shown=node))
    module = types.SimpleNamespace(name="BRAINSFit", widgetRepresentation=lambda: widget)
    monkeypatch.setattr(slicer.modules, "brainsfit", module, raising=False)

    def create(module: Any, parameters: dict[str, Any]) -> str:
        calls.update(parameters)
        return "node"

    monkeypatch.setattr(slicer, "cli", types.SimpleNamespace(createNode=create), raising=False)
    monkeypatch.setattr(slicer.util, "selectModule", lambda module: calls.update(selected=module.name))
    ready.click("registerElsewhereButton")
    assert (calls["selected"], calls["shown"], calls["useRigid"]) == ("BRAINSFit", "node", True)
    assert (calls["fixedVolume"].GetName(), calls["movingVolume"].GetName()) == ("T2", "CT")
    assert calls["linearTransform"].GetName() == "CT to T2"
    assert "put CT under the transform CT to T2" in ready.reason


def test_what_the_alignment_found_is_shown(ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]) -> None:
    assert not ready.ui.alignmentButton.isVisibleTo(ready.window)
    ready.widget.logic.workerCommand = fake_worker("aligns")
    ready.ui.alignCheckBox.checked = True
    ready.click("fuseButton")
    ready.until_done()
    assert ready.ui.alignmentLabel.text == "Moved by 9.0 mm and turned by 2.0 degrees."
    picture = ready.ui.alignmentPicture.pixmap
    assert (picture.width(), picture.height()) == (380, 40)
    assert ready.reason == "Done: T2 + CT fused\nsecond: HU -512 fits as well."
    assert ready.ui.alignmentButton.isVisibleTo(ready.window)
    ready.ui.alignCheckBox.checked = False
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    assert not ready.ui.alignmentButton.isVisibleTo(ready.window), "not while the next one runs, either"
    ready.until_done()
    assert not ready.ui.alignmentButton.isVisibleTo(ready.window)


def test_a_refused_alignment_points_to_slicers_registration(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]], messages: list[str]
) -> None:
    ready.widget.logic.workerCommand = fake_worker("does-not-align")
    ready.click("fuseButton")
    ready.until_done()
    assert "Register with Slicer's own module" in messages[0]
    assert ready.ui.registerElsewhereButton.enabled
    assert "one patient" not in messages[0]


def test_where_a_word_would_do_the_panel_says_where_to_give_it(
    ready: Panel, fake_worker: Callable[[str], list[str]], messages: list[str]
) -> None:
    ready.ui.alignCheckBox.checked = False
    assert not ready.ui.samePatientCheckBox.enabled
    ready.ui.alignCheckBox.checked = True
    assert ready.ui.samePatientCheckBox.enabled
    ready.widget.logic.workerCommand = fake_worker("shapes-differ")
    ready.click("fuseButton")
    ready.until_done()
    assert f"tick {ready.ui.samePatientCheckBox.text}" in messages[0]


# -- comparing ----------------------------------------------------------------------------------------


@pytest.fixture
def views(ready: Panel, slicer: Any, add_volume: AddVolume) -> Iterator[Any]:
    """Slicer's conventional layout, whose views show a PET at 0.3 over an atlas, with labels."""
    from standins.app import LayoutManager

    slicer.app.layouts = manager = LayoutManager(slicer)
    manager.layoutLogic().GetLayoutNode().SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    atlas, pet, labels = add_volume("atlas"), add_volume("PET"), add_volume("labels")
    for name in manager.sliceViewNames():
        composite = manager.sliceWidget(name).sliceLogic().GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(atlas.GetID())
        composite.SetForegroundVolumeID(pet.GetID())
        composite.SetForegroundOpacity(0.3)
        composite.SetLabelVolumeID(labels.GetID())
    yield manager
    ready.widget.cleanup()
    manager.close()


def seen(manager: Any) -> list[tuple[str | None, str | None, float, str | None]]:
    """What each view shows: background, foreground, its opacity, labels."""
    shown = []
    for name in manager.sliceViewNames():
        composite = manager.sliceWidget(name).sliceLogic().GetSliceCompositeNode()
        scene = composite.GetScene()
        ids = (
            composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID()
        )  # fmt: skip
        names = [scene.GetNodeByID(node_id).GetName() if node_id else None for node_id in ids]
        shown.append((names[0], names[1], round(composite.GetForegroundOpacity(), 3), names[2]))
    return shown


AS_BEFORE = [("atlas", "PET", 0.3, "labels")] * 3


@pytest.fixture
def fused(ready: Panel, views: Any, slicer: Any, fake_worker: Callable[[str], list[str]]) -> Panel:
    """A panel with a result, which is being compared."""
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    ready.until_done()
    return ready


def test_a_panel_that_is_only_looked_at_changes_no_view(ready: Panel, views: Any, slicer: Any) -> None:
    ready.ui.opacitySlider.value = 20
    ready.ui.stepsSpinBox.value = 4
    ready.widget.onParametersChanged()
    ready.exit()
    ready.enter()
    slicer.mrmlScene.InvokeEvent(slicer.mrmlScene.StartCloseEvent)
    assert seen(views) == AS_BEFORE


def test_a_blend_follows_slider_and_choice_and_is_restored(fused: Panel, views: Any) -> None:
    assert seen(views) == [("T2", "T2 + CT fused", 1.0, "labels")] * 3
    fused.ui.opacitySlider.value = 25
    fused.ui.compareComboBox.currentIndex = 1
    assert seen(views) == [("CT", "T2 + CT fused", 0.25, "labels")] * 3
    fused.click("compareToggle")
    assert seen(views) == AS_BEFORE
    fused.ui.opacitySlider.value = 75
    assert seen(views) == AS_BEFORE
    fused.click("compareToggle")
    assert seen(views)[0][2] == 0.75


@pytest.mark.parametrize("mode", ["BLEND", "REVEAL", "FLICKER", "SIDE_BY_SIDE"])
@pytest.mark.parametrize("how", ["toggle", "exit", "deleted", "cleanup"])
def test_every_comparison_is_restored_however_it_is_left(
    mode: str, how: str, fused: Panel, views: Any, slicer: Any
) -> None:
    from DDFMFusionLib.choices import CompareMode

    layout = views.layoutLogic().GetLayoutNode()
    fused.widget.logic.getParameterNode().compareMode = CompareMode[mode]
    assert seen(views) != AS_BEFORE
    if how == "toggle":
        fused.click("compareToggle")
    elif how == "deleted":
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("T2 + CT fused"))
        fused.widget.onParametersChanged()
    else:
        getattr(fused, how, getattr(fused.widget, how, None))()
    assert layout.GetViewArrangement() == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
    assert seen(views) == (AS_BEFORE if how != "deleted" or mode == "SIDE_BY_SIDE" else seen(views))
    assert not fused.ui.compareToggle.checked
    assert fused.widget.comparison is None


def test_a_view_that_the_user_changed_is_left_alone(fused: Panel, views: Any, slicer: Any) -> None:
    red = views.sliceWidget(views.sliceViewNames()[0]).sliceLogic().GetSliceCompositeNode()
    red.SetForegroundVolumeID(slicer.util.getNode("PET").GetID())
    red.SetForegroundOpacity(0.5)
    fused.ui.opacitySlider.value = 10
    assert seen(views) == [("T2", "PET", 0.5, "labels"), *[("T2", "T2 + CT fused", 0.1, "labels")] * 2]
    fused.click("compareToggle")
    assert seen(views) == [("T2", "PET", 0.5, "labels"), *AS_BEFORE[1:]]


def test_a_comparison_that_the_user_replaced_ends(fused: Panel, views: Any, slicer: Any) -> None:
    slicer.util.setSliceViewerLayers(foreground=slicer.util.getNode("PET"), foregroundOpacity=0.4)
    before = seen(views)
    fused.ui.opacitySlider.value = 10
    assert not fused.ui.compareToggle.checked
    assert seen(views) == before


def test_linked_views_are_restored_each_on_its_own(fused: Panel, views: Any, slicer: Any) -> None:
    fused.click("compareToggle")
    composites = [views.sliceWidget(name).sliceLogic().GetSliceCompositeNode() for name in views.sliceViewNames()]
    composites[1].SetForegroundOpacity(0.9)
    for composite in composites:
        composite.SetLinkedControl(1)
        composite.SetHotLinkedControl(1)
    before = seen(views)
    fused.click("compareToggle")
    fused.click("compareToggle")
    assert seen(views) == before
    assert all(composite.GetLinkedControl() for composite in composites)


def test_flicker_alternates(fused: Panel, views: Any) -> None:
    from DDFMFusionLib.choices import CompareMode

    fused.widget.logic.getParameterNode().compareMode = CompareMode.FLICKER
    opacities = []
    for _ in range(4):
        fused.widget.onFlicker()
        opacities.append(seen(views)[0][2])
    assert opacities == [0.0, 1.0, 0.0, 1.0]
    assert fused.widget._flicker_timer.active
    fused.click("compareToggle")
    assert not fused.widget._flicker_timer.active


def test_side_by_side_shows_three_linked_views(fused: Panel, views: Any, slicer: Any) -> None:
    from DDFMFusionLib.choices import CompareMode

    fused.widget.logic.getParameterNode().compareMode = CompareMode.SIDE_BY_SIDE
    names = ["DDFMReference", "DDFMSecond", "DDFMFused"]
    assert views.sliceViewNames() == names
    assert [row[0] for row in seen(views)] == ["T2", "CT", "T2 + CT fused"]
    logics = [views.sliceWidget(name).sliceLogic() for name in names]
    assert all(logic.GetSliceCompositeNode().GetLinkedControl() for logic in logics)
    assert len({logic.GetSliceNode().GetFieldOfView() for logic in logics}) == 1
    offsets = [slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS()).tolist() for logic in logics]
    assert offsets[0] == offsets[1] == offsets[2]
    others = [node for node in slicer.util.getNodesByClass("vtkMRMLSliceNode") if node.GetLayoutName() not in names]
    groups = {logic.GetSliceNode().GetViewGroup() for logic in logics}
    assert groups.isdisjoint({node.GetViewGroup() for node in others})


def test_reveal_shows_the_fused_volume_around_the_mouse(fused: Panel, views: Any, slicer: Any) -> None:
    from DDFMFusionLib.choices import CompareMode
    from vtk.util.numpy_support import vtk_to_numpy

    colours = slicer.vtkMRMLColorLogic()  # the application has its colour tables before any volume
    colours.SetMRMLScene(slicer.mrmlScene)
    colours.AddDefaultColorNodes()
    display = fused.widget.logic.getParameterNode().fusedVolume.GetDisplayNode()
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeGrey")
    fused.widget.logic.getParameterNode().compareMode = CompareMode.REVEAL
    assert {row[2] for row in seen(views)} == {0.0}
    widget = views.sliceWidget("Red")
    node = widget.sliceLogic().GetSliceNode()
    node.SetDimensions(400, 300, 1)
    widget.sliceLogic().FitSliceToAll()
    node.UpdateMatrices()
    interactor = widget.sliceView().interactor()
    interactor.SetEventPosition(200, 150)
    interactor.InvokeEvent("MouseMoveEvent")
    actors = widget.sliceView().renderWindow().GetRenderers().GetItemAsObject(0).GetActors2D()
    actor = actors.GetLastActor2D()
    assert actor.GetVisibility()
    assert actor.GetPosition() == (120, 70)
    image = actor.GetMapper().GetInput()
    patch = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(161, 161, 3)
    connection = widget.sliceLogic().GetForegroundLayer().GetImageDataConnection()
    whole = connection.GetProducer().GetOutputDataObject(0)
    expected = vtk_to_numpy(whole.GetPointData().GetScalars()).reshape(300, 400, -1)[70:231, 120:281, :3]
    assert expected.std() > 0
    np.testing.assert_array_equal(patch[1:-1, 1:-1], expected[1:-1, 1:-1])
    interactor.InvokeEvent("LeaveEvent")
    assert not actor.GetVisibility()
    fused.click("compareToggle")
    assert actors.GetNumberOfItems() == 0


def test_only_results_can_be_the_fused_volume(fused: Panel, views: Any, slicer: Any) -> None:
    box = fused.ui.fusedSelector
    assert [box.itemText(index) for index in range(box.count)] == ["None", "T2 + CT fused"]
    fused.click("compareToggle")
    fused.widget.logic.getParameterNode().fusedVolume = slicer.util.getNode("PET")  # a script can do that
    assert not fused.ui.compareToggle.enabled
    assert seen(views) == AS_BEFORE


def test_closing_the_scene_in_another_module_waits_for_the_user_to_come_back(fused: Panel, slicer: Any) -> None:
    fused.exit()
    slicer.mrmlScene.Clear(0)
    assert fused.widget._parameters is None
    fused.enter()
    assert fused.reason == "Choose a reference volume."


def test_a_picture_of_the_panel_can_be_taken(fused: Panel, tmp_path: Path) -> None:
    fused.window.resize(440, 900)
    fused.window.show()
    path = tmp_path / "panel.png"
    assert fused.window.grab().save(os.fspath(path))
    fused.window.hide()
    from PIL import Image

    with Image.open(path) as picture:
        assert picture.width >= 440
        assert len(picture.convert("L").getcolors()) > 20  # not one flat colour
