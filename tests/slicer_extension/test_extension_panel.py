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
        self.widget.enter()
        self.ui = self.widget.ui

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
        self.until(lambda: self.widget.fusion is None)

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
    ready.widget.fusion.job.progress = {"stage": "read", "done": 1, "total": 1, "detail": "reference"}
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
        ("full-disk", "No space left on device"),
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
    start = ready.widget.fusion.job._clock()
    monkeypatch.setattr(ready.widget.fusion.job, "_clock", lambda: start + 185)
    ready.widget.onPoll()
    assert ready.ui.timeLabel.text.startswith("No sign of life from the worker for 3 min 5 s.")
    assert (ready.ui.fuseButton.text, ready.ui.fuseButton.enabled) == ("Cancel", True)


def test_closing_the_scene_ends_the_worker(ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]) -> None:
    ready.widget.logic.workerCommand = fake_worker("hangs")
    ready.click("fuseButton")
    slicer.mrmlScene.Clear(0)
    assert ready.widget.fusion is None
    assert list(Path(slicer.app.temporaryPath).iterdir()) == []
    assert ready.reason == "Choose a reference volume."


def test_a_fusion_goes_on_while_another_module_is_shown(
    ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]
) -> None:
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    ready.widget.exit()
    ready.until_done()
    ready.widget.enter()
    assert ready.ui.fusedSelector.currentNode().GetName() == "T2 + CT fused"


# -- comparing ----------------------------------------------------------------------------------------


@pytest.fixture
def fused(ready: Panel, slicer: Any, fake_worker: Callable[[str], list[str]]) -> Panel:
    """A panel with a result, and a slice view."""
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    ready.widget.logic.workerCommand = fake_worker("works")
    ready.click("fuseButton")
    ready.until_done()
    return ready


def test_slider_and_choice_change_the_layers(fused: Panel, slicer: Any) -> None:
    fused.ui.opacitySlider.value = 0.25
    assert layers(slicer)[2] == 0.25
    fused.ui.compareComboBox.currentIndex = 1
    assert layers(slicer)[0] is slicer.util.getNode("CT")


def test_flicker_alternates_and_returns_to_the_slider(fused: Panel, slicer: Any) -> None:
    fused.ui.opacitySlider.value = 0.6
    fused.click("flickerButton")
    seen = []
    for _ in range(4):
        fused.widget.onFlicker()
        seen.append(layers(slicer)[2])
    assert seen == [1.0, 0.0, 1.0, 0.0]
    fused.click("flickerButton")
    assert layers(slicer)[2] == 0.6


def test_deleting_the_result_disables_the_comparison(fused: Panel, slicer: Any) -> None:
    fused.click("flickerButton")
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("T2 + CT fused"))
    fused.widget.onParametersChanged()
    assert not fused.ui.flickerButton.enabled
    assert not fused.ui.flickerButton.checked


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
