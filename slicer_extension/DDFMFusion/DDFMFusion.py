"""3D Slicer module: fuse two co-registered volumes into one with DDFM."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import qt
import slicer
import vtk
from DDFMFusionLib import dependencies, scene
from DDFMFusionLib.choices import CompareMode, CompareWith, CTWindow
from DDFMFusionLib.command import FusionSettings
from DDFMFusionLib.comparison import Comparison
from DDFMFusionLib.display import duration_text, progress_text
from DDFMFusionLib.export import Export, start_export, why_not_export
from DDFMFusionLib.handover import open_slicer_registration
from DDFMFusionLib.job import State
from DDFMFusionLib.logic import (
    Fusion,
    colour_is_possible,
    kinds_of,
    load_sample_pair,
    remarks,
    start_fusion,
    to_start,
    why_not,
)
from DDFMFusionLib.parameters import DDFMFusionParameterNode
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
PICTURE_WIDTH = 380  # pixels
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
    """The panel: it follows the parameter node and a running worker, and decides nothing itself."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: DDFMFusionLogic | None = None
        self.work: Fusion | Export | None = None
        self.comparison: Comparison | None = None
        self._parameters: DDFMFusionParameterNode | None = None
        self._gui_tag: Any = None
        self._observed_volumes: set = set()
        self._compared: tuple = ()

    # -- Life of the panel -----------------------------------------------------------------------------

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        self._panel = slicer.util.loadUI(self.resourcePath("UI/DDFMFusion.ui"))
        self.layout.addWidget(self._panel)
        self.ui = slicer.util.childWidgetVariables(self._panel)
        self._panel.setMRMLScene(slicer.mrmlScene)
        self.ui.fusedSelector.addAttribute("vtkMRMLScalarVolumeNode", scene.PROVENANCE_ATTRIBUTE)
        self.logic = DDFMFusionLogic()
        self._poll_timer = self._timer(POLL_MILLISECONDS, self.onPoll)
        self._flicker_timer = self._timer(FLICKER_MILLISECONDS, self.onFlicker)
        self._connect()
        self.ui.wheelsEdit.text = slicer.util.settingsValue(WHEELS_SETTING, "")
        self._show_idle()
        self._show_alignment("", b"")
        self.initializeParameterNode()

    def _connect(self) -> None:
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.ui.fuseButton.connect("clicked(bool)", self.onFuseButton)
        self.ui.sampleButton.connect("clicked(bool)", self.onSampleButton)
        self.ui.registerElsewhereButton.connect("clicked(bool)", self.onRegisterElsewhere)
        self.ui.priorBrowseButton.connect("clicked(bool)", self.onBrowsePrior)
        self.ui.wheelsBrowseButton.connect("clicked(bool)", self.onBrowseWheels)
        self.ui.wheelsEdit.connect("textChanged(QString)", self.onWheelsChanged)
        self.ui.installButton.connect("clicked(bool)", self.onInstallButton)
        self.ui.compareToggle.connect("toggled(bool)", self.onCompareToggled)
        self.ui.saveDicomButton.connect("clicked(bool)", self.onSaveDicom)

    def _timer(self, milliseconds: int, slot: Any) -> Any:
        timer = qt.QTimer()
        timer.setInterval(milliseconds)
        timer.connect("timeout()", slot)
        return timer

    def cleanup(self) -> None:
        """The module is unloaded or Slicer ends: nothing of ours may go on running."""
        self._abandon()
        self._leave_comparison()
        self.removeObservers()

    def enter(self) -> None:
        """The user opens the module."""
        self.initializeParameterNode()
        self._show_installation()

    def exit(self) -> None:
        """The user leaves the module: the slice views are as before. What runs goes on."""
        self._leave_comparison()
        self._set_parameters(None)

    def onSceneStartClose(self, caller: Any = None, event: Any = None) -> None:
        self._abandon()
        self._leave_comparison()
        self._show_alignment("", b"")
        self._set_parameters(None)

    def onSceneEndClose(self, caller: Any = None, event: Any = None) -> None:
        # In another module, the parameter node is made when the user comes back.
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        self._set_parameters(self.logic.getParameterNode())

    def _set_parameters(self, parameters: DDFMFusionParameterNode | None) -> None:
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
        self._parameters = parameters
        if parameters is not None:
            # connectGui would do, but in some versions of Slicer it keeps the tag that disconnectGui needs.
            named = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
            self._gui_tag = parameters.connectParametersToGui({name: named[name] for name in named if name})
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParametersChanged)
            self.onParametersChanged()

    # -- What the panel shows --------------------------------------------------------------------------

    def onParametersChanged(self, caller: Any = None, event: Any = None) -> None:
        parameters = self._parameters
        self._observe_volumes(parameters)
        custom = parameters.ctWindow is CTWindow.CUSTOM
        self.ui.levelSpinBox.enabled = custom
        self.ui.widthSpinBox.enabled = custom
        self._show_pair(parameters)
        self._update_buttons()
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
            self._show_pair(self._parameters)
            self._update_buttons()

    def _show_pair(self, parameters: DDFMFusionParameterNode) -> None:
        """What will be assumed of the chosen volumes, and what their kinds allow."""
        self.ui.hintLabel.text = self._hint(parameters)
        possible = colour_is_possible(parameters)
        self.ui.colourCheckBox.enabled = possible
        self.ui.colourCheckBox.toolTip = (
            _("The result becomes an RGB volume: brightness is fused, hue comes from the PET's or SPECT's colour map.")
            if possible
            else _("Only for PET and SPECT. If one of the volumes is one, choose its modality above.")
        )

    def _hint(self, parameters: DDFMFusionParameterNode) -> str:
        reference, second = parameters.referenceVolume, parameters.secondVolume
        if reference is None or second is None or why_not(parameters):
            return ""
        kinds = [kind.label() for kind in kinds_of(parameters)]
        grids = _("same grid") if scene.on_same_grid(reference, second) else _("second volume will be resampled")
        assumed = _("{reference} with {second}, {grids}").format(reference=kinds[0], second=kinds[1], grids=grids)
        return "\n".join([assumed, *remarks(parameters)])

    def _update_buttons(self) -> None:
        running = self.work is not None
        cancelling = running and self.work.job.state is State.CANCELLING
        impossible = dependencies.why_impossible()
        reason = "" if running or self._parameters is None else impossible or why_not(self._parameters)
        self.ui.fuseButton.text = _("Cancelling...") if cancelling else _("Cancel") if running else _("Fuse")
        self.ui.fuseButton.enabled = not cancelling and not reason
        self.ui.fuseButton.toolTip = reason
        if not running:
            self.ui.reasonLabel.text = reason
        if self._parameters is None:
            return
        self.ui.samePatientCheckBox.enabled = self._parameters.alignFirst
        self.ui.trustCheckBox.enabled = not self._parameters.alignFirst
        pair = (self._parameters.referenceVolume, self._parameters.secondVolume)
        self.ui.registerElsewhereButton.enabled = None not in pair and pair[0] is not pair[1]
        fused = self._parameters.fusedVolume
        no_dicom = why_not_export(fused)
        self.ui.saveDicomButton.enabled = not running and not no_dicom
        self.ui.dicomReasonLabel.text = no_dicom if fused is not None else ""

    def _show_idle(self) -> None:
        self.ui.progressBar.visible = False
        self.ui.timeLabel.text = ""

    def _show_busy(self, text: str) -> None:
        self.ui.progressBar.visible = True
        self.ui.progressBar.maximum = 0
        self.ui.timeLabel.text = text

    def _show_progress(self) -> None:
        job = self.work.job
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

    def _show_alignment(self, sentence: str, picture: bytes) -> None:
        """What *Align first* found; nothing if it found nothing or was not asked."""
        self.ui.alignmentButton.visible = bool(sentence or picture)
        self.ui.alignmentLabel.text = sentence[:1].upper() + sentence[1:]
        pixmap = qt.QPixmap()
        if picture:
            pixmap.loadFromData(picture)
        if pixmap.width() > PICTURE_WIDTH:
            pixmap = pixmap.scaledToWidth(PICTURE_WIDTH, qt.Qt.SmoothTransformation)
        self.ui.alignmentPicture.visible = bool(picture)
        self.ui.alignmentPicture.setPixmap(pixmap)

    def _log(self, text: str) -> None:
        self.ui.logBox.appendPlainText(text)

    def _show_installation(self) -> None:
        self.ui.installedLabel.text = self.logic.installationText(self._wheels())
        installed = dependencies.installed_version() is not None
        self.ui.installButton.text = _("Reinstall or upgrade") if installed else _("Install")
        self._update_buttons()

    @contextlib.contextmanager
    def _busy(self, text: str) -> Iterator[None]:
        """A wait cursor and a moving bar; the panel takes no clicks meanwhile, the rest of Slicer does."""
        slicer.app.setOverrideCursor(qt.Qt.BusyCursor)
        self._panel.enabled = False
        self._show_busy(text)
        try:
            yield
        finally:
            self._panel.enabled = True
            self._show_idle()
            slicer.app.restoreOverrideCursor()

    # -- What the user does ----------------------------------------------------------------------------

    def onFuseButton(self, checked: bool = False) -> None:
        if self.work is not None:
            self.work.job.cancel()
            self._update_buttons()
            return
        parameters = self._parameters
        if scene.patients_differ(parameters.referenceVolume, parameters.secondVolume) and not (
            slicer.util.confirmYesNoDisplay(
                _(
                    "The two volumes carry different patient IDs. Fuse them only if you know that they are of one "
                    "patient. Fuse them?"
                )
            )
        ):
            self.ui.reasonLabel.text = _("Not fused: the two volumes carry different patient IDs.")
            return
        try:
            self._install()
            self.work = self.logic.start(parameters)
        except FusionProblem as problem:
            self._show_problem(problem)
            return
        self._show_alignment("", b"")  # what an earlier fusion found is not of this pair
        self._follow_work()

    def _follow_work(self) -> None:
        self.ui.reasonLabel.text = ""
        self._update_buttons()
        self._show_progress()
        self._poll_timer.start()

    def onPoll(self) -> None:
        """Called by the timer while a worker runs."""
        job = self.work.job
        for line in job.poll():
            self._log(line)
        if not job.is_over:
            self._show_progress()
            return
        self._poll_timer.stop()
        work, self.work = self.work, None
        self._show_idle()
        self._update_buttons()
        try:
            if isinstance(work, Export):
                work.finish()
                self._say_done(_("Saved as DICOM: {folder}").format(folder=work.target))
            else:
                self._take(work)
        except FusionProblem as problem:
            if job.state is State.CANCELLED:
                self.ui.reasonLabel.text = str(problem)
                self._log(str(problem))
            else:
                self._show_problem(problem)

    def _take(self, fusion: Fusion) -> None:
        nodes = fusion.take_results()
        self._show_alignment(nodes.sentence, nodes.picture)
        if self._parameters is None:  # the user has gone to another module: nothing is changed there
            self.logic.getParameterNode().fusedVolume = nodes.fused
        else:
            self._parameters.fusedVolume = nodes.fused
            self.ui.compareToggle.checked = False
            self.ui.compareToggle.checked = True
        self._say_done("\n".join([_("Done: {name}").format(name=nodes.fused.GetName()), *nodes.warnings]))

    def _say_done(self, text: str) -> None:
        self.ui.reasonLabel.text = text
        self._log(text)

    def onSampleButton(self, checked: bool = False) -> None:
        try:
            self._install()
            with self._busy(_("Making the phantom...")):
                reference, second = self.logic.loadSamplePair()
        except FusionProblem as problem:
            self._show_problem(problem)
            return
        self._parameters.referenceVolume, self._parameters.secondVolume = reference, second

    def onRegisterElsewhere(self, checked: bool = False) -> None:
        second = self._parameters.secondVolume
        try:
            transform = open_slicer_registration(self._parameters.referenceVolume, second)
        except FusionProblem as problem:
            self._show_problem(problem)
            return
        self._say_done(
            _(
                "Press Apply there, look at the result, put {second} under the transform {transform} (module Data or "
                "Transforms), and come back to fuse."
            ).format(second=second.GetName(), transform=transform.GetName())
        )

    def onInstallButton(self, checked: bool = False) -> None:
        try:
            self._install(again=dependencies.installed_version() is not None)
        except FusionProblem as problem:
            self._show_problem(problem)
        self._show_installation()

    def _install(self, again: bool = False) -> None:
        def show(line: str) -> None:
            self._log(line)
            self.ui.timeLabel.text = line

        with self._busy(_("Checking the installation...")):
            self.logic.ensureInstalled(self._wheels(), again=again, onLine=show)

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
        self._show_installation()

    def onSaveDicom(self, checked: bool = False) -> None:
        parent = qt.QFileDialog.getExistingDirectory(self.parent, _("Choose a folder for the series"), "")
        if not parent:
            return
        try:
            self.work = self.logic.saveDicom(self._parameters.fusedVolume, Path(parent))
        except FusionProblem as problem:
            self._show_problem(problem)
            return
        self._follow_work()

    def _wheels(self) -> Path | None:
        return Path(self.ui.wheelsEdit.text) if self.ui.wheelsEdit.text else None

    def _abandon(self) -> None:
        """End a running worker at once, without a result."""
        self._poll_timer.stop()
        if self.work is not None:
            self.work.job.close()
            self.work = None
        self._show_idle()
        self._update_buttons()

    # -- Comparing -------------------------------------------------------------------------------------

    def onCompareToggled(self, checked: bool) -> None:
        if checked and self._parameters is not None:
            self._update_comparison(self._parameters)
        elif not checked:
            self._leave_comparison()

    def _update_comparison(self, parameters: DDFMFusionParameterNode) -> None:
        """Show what is chosen, as long as the comparison is on and the slice views are still its own."""
        possible = scene.is_result(parameters.fusedVolume)
        self.ui.compareToggle.enabled = possible
        self.ui.opacitySlider.enabled = possible and parameters.compareMode is CompareMode.BLEND
        self.ui.compareComboBox.enabled = possible and parameters.compareMode is not CompareMode.SIDE_BY_SIDE
        gone = self.comparison is not None and not self.comparison.is_shown
        if not possible or gone:
            self._leave_comparison()
        if not self.ui.compareToggle.checked:
            return
        reference = parameters.compareWith is CompareWith.REFERENCE
        under = parameters.fusedVolume.GetNodeReference(scene.REFERENCE_ROLE if reference else scene.SECOND_ROLE)
        wanted = (parameters.fusedVolume, under, parameters.compareMode)
        opacity = parameters.fusedShown / 100.0
        if self.comparison is None or wanted != self._compared:
            if self.comparison is not None:
                self.comparison.leave()
            self.comparison, self._compared = Comparison(*wanted, opacity), wanted
            flickers = parameters.compareMode is CompareMode.FLICKER
            self._flicker_timer.start() if flickers else self._flicker_timer.stop()
        elif parameters.compareMode is CompareMode.BLEND:
            self.comparison.set_opacity(opacity)

    def _leave_comparison(self) -> None:
        self._flicker_timer.stop()
        if self.comparison is not None:
            comparison, self.comparison = self.comparison, None
            comparison.leave()
        self.ui.compareToggle.checked = False

    def onFlicker(self) -> None:
        """Called by the timer."""
        if self.comparison is not None and self.comparison.is_shown:
            self.comparison.flicker()
        else:
            self._leave_comparison()


class DDFMFusionLogic(ScriptedLoadableModuleLogic):
    """Fusion for scripts and for the panel. None of it needs the panel.

    Attributes:
        workerCommand: what runs ``ddfm`` instead of Slicer's Python with ``-m ddfm_monai``; for tests.
        requirements: what the module needs, as pip reads it.
    """

    requirements = Path(__file__).parent / "Resources" / "requirements.txt"

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.workerCommand: list[str] | None = None

    def getParameterNode(self) -> DDFMFusionParameterNode:
        return DDFMFusionParameterNode(super().getParameterNode())

    def ensureInstalled(
        self, wheels: Path | None = None, *, again: bool = False, onLine: Any = lambda line: None
    ) -> None:
        """Install ddfm-monai if it is missing (with ``again``: in any case); see `DDFMFusionLib.dependencies`.

        Raises:
            FusionProblem: it could not be installed; the message says what to do.
        """
        if self.workerCommand is None or again:
            dependencies.ensure_installed(self.requirements, wheels, again=again, on_line=onLine)

    def installationText(self, wheels: Path | None = None) -> str:
        """What is installed, and what would be installed from where."""
        return dependencies.state_text(self.requirements, wheels)

    def start(self, parameters: DDFMFusionParameterNode) -> Fusion:
        """Start a fusion of the volumes in ``parameters`` and return at once.

        Raises:
            FusionProblem: the volumes or settings cannot be used, there is no disk space, the worker does not start.
        """
        reason = why_not(parameters)
        if reason:
            raise FusionProblem(reason)
        return start_fusion(
            parameters.referenceVolume, parameters.secondVolume, to_start(parameters), self.workerCommand
        )

    def saveDicom(self, fused: Any, parent: Path) -> Export:
        """Start writing a fused volume as a DICOM series into a new folder inside ``parent``, and return at once.

        Raises:
            FusionProblem: it cannot be saved; the message says why.
        """
        numbered = (parent / (f"fused-{number}" if number > 1 else "fused") for number in itertools.count(1))
        target = next(folder for folder in numbered if not folder.exists())
        return start_export(fused, target, self.workerCommand)

    def fuse(self, reference: Any, second: Any, settings: FusionSettings | None = None) -> scene.FusedNodes:
        """Fuse two volume nodes and wait for the result.

        Raises:
            FusionProblem: it failed; the message says why.
        """
        fusion = start_fusion(reference, second, settings or FusionSettings(), self.workerCommand)
        fusion.job.wait()
        return fusion.take_results()

    def loadSamplePair(self) -> list[Any]:
        """Make the phantom and load its MRI and its CT; Slicer stays alive meanwhile. Returns the two nodes.

        Raises:
            FusionProblem: it could not be made.
        """
        with tempfile.TemporaryDirectory(prefix="DDFM-", dir=slicer.app.temporaryPath) as folder:
            return load_sample_pair(Path(folder), meanwhile=slicer.app.processEvents)


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
        self.assertEqual(values.dtype.name, "int16")
        self.assertGreaterEqual(values.min(), 0)
        self.assertGreater(values.max(), scene.GREY_MAXIMUM // 2)
