"""3D Slicer module: fuse two co-registered volumes into one with DDFM."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from DDFMFusionLib import dependencies, scene
from DDFMFusionLib.choices import CompareWith, CTWindow, Modality
from DDFMFusionLib.command import FusionSettings
from DDFMFusionLib.display import duration_text, progress_text
from DDFMFusionLib.job import State
from DDFMFusionLib.logic import Fusion, load_sample_pair, start_fusion, why_not
from DDFMFusionLib.parameters import DDFMFusionParameterNode, settings_of
from DDFMFusionLib.problem import FusionProblem
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

POLL_MILLISECONDS = 100
FLICKER_MILLISECONDS = 500
WHEELS_SETTING = "DDFM/WheelsFolder"


class DDFMFusion(ScriptedLoadableModule):
    """The module's entry in Slicer's menus."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("DDFM Fusion")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Filtering")]
        self.parent.dependencies = []
        self.parent.contributors = ["The ddfm-monai authors"]
        self.parent.helpText = _(
            "Fuses two co-registered volumes of one patient (MRI with CT, PET or SPECT) into one volume. "
            "For display, not for diagnosis or measurement."
        )
        self.parent.acknowledgementText = _(
            "The method is DDFM: Zhao et al., Denoising Diffusion Model for Multi-Modality Image Fusion, ICCV 2023."
        )
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data() -> None:
    """Offer the phantom in the module Sample Data. It is computed on this machine, nothing is downloaded."""
    import SampleData

    icon = Path(__file__).parent / "Resources" / "Icons" / "DDFMFusion.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="DDFM",
        sampleName="DDFMPhantom",
        thumbnailFileName=str(icon),
        uris=["ddfm-monai:phantom/mri", "ddfm-monai:phantom/ct"],
        fileNames=["mri.nii.gz", "ct.nii.gz"],
        nodeNames=["Phantom MRI", "Phantom CT"],
        customDownloader=load_sample_data,
    )


def load_sample_data(source: Any = None) -> list[Any]:
    """Load the phantom from the module Sample Data, installing ddfm-monai first if need be."""
    with slicer.util.tryWithErrorDisplay(_("The phantom could not be made."), waitCursor=True):
        logic = DDFMFusionLogic()
        logic.ensureInstalled()
        return logic.loadSamplePair()


class DDFMFusionWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: it follows the parameter node and a running fusion, and decides nothing itself."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: DDFMFusionLogic | None = None
        self.fusion: Fusion | None = None
        self._parameters: DDFMFusionParameterNode | None = None
        self._gui_tag: Any = None
        self._observed_volumes: set = set()
        self._shown: tuple = (None, None)
        self._flicker_on = False

    # -- Life of the panel -----------------------------------------------------------------------------

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        panel = slicer.util.loadUI(self.resourcePath("UI/DDFMFusion.ui"))
        self.layout.addWidget(panel)
        self.ui = slicer.util.childWidgetVariables(panel)
        panel.setMRMLScene(slicer.mrmlScene)
        self.logic = DDFMFusionLogic()
        self._poll_timer = self._timer(POLL_MILLISECONDS, self.onPoll)
        self._flicker_timer = self._timer(FLICKER_MILLISECONDS, self.onFlicker)
        self._connect()
        self.ui.wheelsEdit.text = slicer.util.settingsValue(WHEELS_SETTING, "")
        self._show_idle()
        self.initializeParameterNode()

    def _connect(self) -> None:
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.fuseButton.connect("clicked(bool)", self.onFuseButton)
        self.ui.sampleButton.connect("clicked(bool)", self.onSampleButton)
        self.ui.priorBrowseButton.connect("clicked(bool)", self.onBrowsePrior)
        self.ui.wheelsBrowseButton.connect("clicked(bool)", self.onBrowseWheels)
        self.ui.wheelsEdit.connect("textChanged(QString)", self.onWheelsChanged)
        self.ui.installButton.connect("clicked(bool)", self.onInstallButton)
        self.ui.flickerButton.connect("toggled(bool)", self.onFlickerToggled)

    def _timer(self, milliseconds: int, slot: Any) -> Any:
        timer = qt.QTimer()
        timer.setInterval(milliseconds)
        timer.connect("timeout()", slot)
        return timer

    def cleanup(self) -> None:
        """The module is unloaded or Slicer ends: nothing of ours may go on running."""
        self._abandon()
        self._flicker_timer.stop()
        self.removeObservers()

    def enter(self) -> None:
        """The user opens the module."""
        self.initializeParameterNode()
        self._show_installation()

    def exit(self) -> None:
        """The user leaves the module. A running fusion goes on."""
        self.ui.flickerButton.checked = False
        self._set_parameters(None)

    def onSceneStartClose(self, caller: Any = None, event: Any = None) -> None:
        self._abandon()
        self.ui.flickerButton.checked = False
        self._set_parameters(None)

    def onSceneEndClose(self, caller: Any = None, event: Any = None) -> None:
        self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        self._set_parameters(self.logic.getParameterNode())

    def _set_parameters(self, parameters: DDFMFusionParameterNode | None) -> None:
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameters = parameters
        if parameters is not None:
            self._gui_tag = parameters.connectGui(self.ui)
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
            self.onParametersChanged()

    # -- What the panel shows --------------------------------------------------------------------------

    def onParametersChanged(self, caller: Any = None, event: Any = None) -> None:
        parameters = self._parameters
        self._observe_volumes(parameters)
        custom = parameters.ctWindow is CTWindow.CUSTOM
        self.ui.levelSpinBox.enabled = custom
        self.ui.widthSpinBox.enabled = custom
        self.ui.hintLabel.text = self._hint(parameters)
        self._update_button()
        self._update_comparison(parameters)

    def _observe_volumes(self, parameters: DDFMFusionParameterNode) -> None:
        """A transform or new voxels can make a pair usable, or useless."""
        volumes = {parameters.referenceVolume, parameters.secondVolume} - {None}
        if volumes == self._observed_volumes:
            return
        events = (
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
            slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
        )
        for event in events:
            for node in self._observed_volumes:
                self.removeObserver(node, event, self.onVolumeChanged)
            for node in volumes:
                self.addObserver(node, event, self.onVolumeChanged)
        self._observed_volumes = volumes

    def onVolumeChanged(self, caller: Any = None, event: Any = None) -> None:
        if self._parameters is not None:
            self.ui.hintLabel.text = self._hint(self._parameters)
            self._update_button()

    def _update_button(self) -> None:
        running = self.fusion is not None
        cancelling = running and self.fusion.job.state is State.CANCELLING
        reason = "" if running or self._parameters is None else why_not(self._parameters)
        self.ui.fuseButton.text = _("Cancelling...") if cancelling else _("Cancel") if running else _("Fuse")
        self.ui.fuseButton.enabled = not cancelling and not reason
        self.ui.fuseButton.toolTip = reason
        if not running:
            self.ui.reasonLabel.text = reason

    def _hint(self, parameters: DDFMFusionParameterNode) -> str:
        """What will be assumed of the chosen volumes."""
        reference, second = parameters.referenceVolume, parameters.secondVolume
        if reference is None or second is None or why_not(parameters):
            return ""
        kinds = [
            (scene.modality_of(node) if kind is Modality.AUTOMATIC else kind).label()
            for node, kind in ((reference, parameters.referenceKind), (second, parameters.secondKind))
        ]
        grids = _("same grid") if scene.on_same_grid(reference, second) else _("second volume will be resampled")
        return _("{reference} with {second}, {grids}").format(reference=kinds[0], second=kinds[1], grids=grids)

    def _update_comparison(self, parameters: DDFMFusionParameterNode) -> None:
        fused = parameters.fusedVolume
        for widget in (self.ui.compareComboBox, self.ui.opacitySlider, self.ui.flickerButton):
            widget.enabled = fused is not None
        if fused is None:
            self.ui.flickerButton.checked = False
            self._shown = (None, None)
            return
        shown = (self._under(parameters), fused)
        if shown != self._shown:
            self._shown = shown
            scene.show_layers(*shown, parameters.fusedOpacity)
        elif not self.ui.flickerButton.checked:
            scene.set_opacity(parameters.fusedOpacity)

    def _under(self, parameters: DDFMFusionParameterNode) -> Any:
        reference = parameters.compareWith is CompareWith.REFERENCE
        role = scene.REFERENCE_ROLE if reference else scene.SECOND_ROLE
        return parameters.fusedVolume.GetNodeReference(role)

    def _show_idle(self) -> None:
        self.ui.progressBar.visible = False
        self.ui.timeLabel.text = ""

    def _show_progress(self) -> None:
        job = self.fusion.job
        progress = job.progress
        done, total = progress.get("done", 0), progress.get("total", 0)
        self.ui.progressBar.visible = True
        self.ui.progressBar.maximum = total if done < total else 0  # 0: busy, between two stages
        self.ui.progressBar.value = done
        if job.silent_seconds:
            self.ui.timeLabel.text = _(
                "No sign of life from the worker for {time}. Wait, or press Cancel and look at the log."
            ).format(time=duration_text(job.silent_seconds))
        else:
            self.ui.timeLabel.text = progress_text(progress) or _("Starting...")

    def _show_problem(self, problem: FusionProblem) -> None:
        self.ui.reasonLabel.text = str(problem)
        self._log(str(problem))
        slicer.util.errorDisplay(str(problem), detailedText=problem.details)

    def _log(self, text: str) -> None:
        self.ui.logBox.appendPlainText(text)

    def _show_installation(self) -> None:
        version = dependencies.installed_version()
        self.ui.installedLabel.text = (
            _("ddfm-monai {version} is installed.").format(version=version)
            if version
            else _("ddfm-monai is not installed yet; the first fusion asks for it.")
        )

    # -- What the user does ----------------------------------------------------------------------------

    def onFuseButton(self, checked: bool = False) -> None:
        if self.fusion is not None:
            self.fusion.job.cancel()
            self._update_button()
            return
        try:
            self.logic.ensureInstalled(self._wheels())
            self.fusion = self.logic.start(self._parameters)
        except FusionProblem as problem:
            self._show_problem(problem)
            return
        self.ui.reasonLabel.text = ""
        self._update_button()
        self._show_progress()
        self._poll_timer.start()

    def onPoll(self) -> None:
        """Called by the timer while a fusion runs."""
        job = self.fusion.job
        for line in job.poll():
            self._log(line)
        if not job.is_over:
            self._show_progress()
            return
        self._poll_timer.stop()
        fusion, self.fusion = self.fusion, None
        self._show_idle()
        self._update_button()
        self._finish(fusion)

    def _finish(self, fusion: Fusion) -> None:
        try:
            nodes = fusion.take_results()
        except FusionProblem as problem:
            if fusion.job.state is State.CANCELLED:
                self.ui.reasonLabel.text = str(problem)
                self._log(str(problem))
            else:
                self._show_problem(problem)
            return
        self._log(_("Done: {name}").format(name=nodes.fused.GetName()))
        if self._parameters is None:  # the user has gone to another module
            self.logic.getParameterNode().fusedVolume = nodes.fused
        else:
            self._parameters.fusedVolume = nodes.fused

    def onSampleButton(self, checked: bool = False) -> None:
        try:
            self.logic.ensureInstalled(self._wheels())
            reference, second = self.logic.loadSamplePair()
        except FusionProblem as problem:
            self._show_problem(problem)
            return
        self._parameters.referenceVolume, self._parameters.secondVolume = reference, second

    def onInstallButton(self, checked: bool = False) -> None:
        try:
            self.logic.ensureInstalled(self._wheels())
        except FusionProblem as problem:
            self._show_problem(problem)
        self._show_installation()

    def onBrowsePrior(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getOpenFileName(
            self.parent, _("Choose a prior"), "", _("Weights") + " (*.safetensors *.pt)"
        )
        if path:
            self.ui.priorEdit.text = path

    def onBrowseWheels(self, checked: bool = False) -> None:
        path = qt.QFileDialog.getExistingDirectory(self.parent, _("Choose a folder of wheels"), self.ui.wheelsEdit.text)
        if path:
            self.ui.wheelsEdit.text = path

    def onWheelsChanged(self, text: str = "") -> None:
        qt.QSettings().setValue(WHEELS_SETTING, self.ui.wheelsEdit.text)

    def onFlickerToggled(self, checked: bool) -> None:
        if checked:
            self._flicker_timer.start()
            return
        self._flicker_timer.stop()
        if self._parameters is not None and self._parameters.fusedVolume is not None:
            scene.set_opacity(self._parameters.fusedOpacity)

    def onFlicker(self) -> None:
        """Called by the timer: now the fused volume, now what lies under it."""
        self._flicker_on = not self._flicker_on
        scene.set_opacity(1.0 if self._flicker_on else 0.0)

    def _wheels(self) -> Path | None:
        return Path(self.ui.wheelsEdit.text) if self.ui.wheelsEdit.text else None

    def _abandon(self) -> None:
        """End a running fusion at once, without a result."""
        self._poll_timer.stop()
        if self.fusion is not None:
            self.fusion.job.close()
            self.fusion = None
        self._show_idle()
        self._update_button()


class DDFMFusionLogic(ScriptedLoadableModuleLogic):
    """Fusion for scripts and for the panel. None of it needs the panel.

    Attributes:
        workerCommand: what runs ``ddfm`` instead of Slicer's Python with ``-m ddfm_monai``; for tests.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.workerCommand: list[str] | None = None

    def getParameterNode(self) -> DDFMFusionParameterNode:
        return DDFMFusionParameterNode(super().getParameterNode())

    def ensureInstalled(self, wheels: Path | None = None) -> None:
        """Install ddfm-monai if it is missing; see `DDFMFusionLib.dependencies`."""
        if self.workerCommand is None or importlib.util.find_spec("ddfm_monai") is None:
            requirements = Path(__file__).parent / "Resources" / "requirements.txt"
            dependencies.ensure_installed(requirements, wheels)

    def start(self, parameters: DDFMFusionParameterNode) -> Fusion:
        """Start a fusion of the volumes in ``parameters`` and return at once.

        Raises:
            FusionProblem: the volumes or settings cannot be used, there is no disk space, the worker does not start.
        """
        reason = why_not(parameters)
        if reason:
            raise FusionProblem(reason)
        settings = settings_of(parameters)
        return start_fusion(parameters.referenceVolume, parameters.secondVolume, settings, self.workerCommand)

    def fuse(self, reference: Any, second: Any, settings: FusionSettings | None = None) -> scene.FusedNodes:
        """Fuse two volume nodes and wait for the result.

        Raises:
            FusionProblem: it failed; the message says why.
        """
        fusion = start_fusion(reference, second, settings or FusionSettings(), self.workerCommand)
        fusion.job.wait()
        return fusion.take_results()

    def loadSamplePair(self) -> list[Any]:
        """Make the phantom and load its MRI and its CT. Returns the two nodes."""
        with tempfile.TemporaryDirectory(prefix="DDFM-", dir=slicer.app.temporaryPath) as folder:
            return load_sample_pair(Path(folder))


class DDFMFusionTest(ScriptedLoadableModuleTest):
    """A self-test inside Slicer: the phantom fused with few steps. Needs ddfm-monai to be installed."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        self.setUp()
        self.test_fuse_phantom()

    def test_fuse_phantom(self) -> None:
        logic = DDFMFusionLogic()
        reference, second = logic.loadSamplePair()
        nodes = logic.fuse(reference, second, FusionSettings(steps=2))
        self.assertEqual(nodes.fused.GetImageData().GetDimensions(), reference.GetImageData().GetDimensions())
        self.assertTrue(scene.on_same_grid(reference, nodes.fused))
        values = slicer.util.arrayFromVolume(nodes.fused)
        self.assertGreaterEqual(values.min(), 0.0)
        self.assertLessEqual(values.max(), 1.0)
        self.assertGreater(values.std(), 0.0)
