"""``slicer.app`` and the DICOM database, as far as the module uses them."""

from __future__ import annotations

import tempfile
import types
from collections.abc import Callable
from typing import Any

__all__ = ["Application", "DicomDatabase", "LayoutManager", "SliceWidget"]


class Application:
    """The application object. A test can set `temporaryPath`, and `testing` to False."""

    applicationName = "Slicer stand-in"
    documentationBaseUrl = ""

    def __init__(self) -> None:
        self.temporaryPath = tempfile.gettempdir()
        self.testing = True
        self.started: list[Callable[[], None]] = []
        self.cursors: list[Any] = []
        self.layouts: LayoutManager | None = None

    def testingEnabled(self) -> bool:
        return self.testing

    def connect(self, signal: str, slot: Callable[[], None]) -> None:
        assert signal == "startupCompleted()"
        self.started.append(slot)

    def translate(self, context: str, text: str) -> str:
        return text

    def layoutManager(self) -> LayoutManager | None:
        return self.layouts

    def processEvents(self) -> None:
        try:
            from PySide6 import QtWidgets
        except ImportError:
            return
        QtWidgets.QApplication.processEvents()

    def setOverrideCursor(self, cursor: Any) -> None:
        self.cursors.append(cursor)

    def restoreOverrideCursor(self) -> None:
        self.cursors.pop()

    def moduleManager(self) -> Any:
        return types.SimpleNamespace(connect=lambda *_: None, disconnect=lambda *_: None)


class SliceView:
    """A view without a screen: a render window that is never shown, and an interactor for a mouse that a test moves."""

    def __init__(self) -> None:
        import vtk

        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(True)
        self._window.AddRenderer(vtk.vtkRenderer())
        self._interactor = vtk.vtkRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self.renders = 0

    def renderWindow(self) -> Any:
        return self._window

    def interactor(self) -> Any:
        return self._interactor

    def scheduleRender(self) -> None:
        self.renders += 1


class SliceWidget:
    """A slice view's logic, as the application makes one for each slice node."""

    def __init__(self, slicer: Any, node: Any) -> None:
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._logic.SetSliceNode(node)
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(node.GetLayoutName())
        self._logic.SetSliceCompositeNode(slicer.mrmlScene.AddNode(composite))
        self._view = SliceView()

    def sliceLogic(self) -> Any:
        return self._logic

    def sliceView(self) -> SliceView:
        return self._view


class LayoutManager:
    """Slicer's own layout logic, which makes the nodes of a layout's views; and a slice widget for each."""

    def __init__(self, slicer: Any) -> None:
        self._slicer = slicer
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._widgets: dict[str, SliceWidget] = {}

    def layoutLogic(self) -> Any:
        return self._logic

    def sliceWidget(self, name: str) -> SliceWidget:
        if name not in self._widgets:
            nodes = self._slicer.util.getNodesByClass("vtkMRMLSliceNode")
            node = next(node for node in nodes if node.GetLayoutName() == name)
            self._widgets[name] = SliceWidget(self._slicer, node)
        return self._widgets[name]

    def close(self) -> None:
        """Let go of the scene, before it is cleared with its singletons."""
        for widget in self._widgets.values():
            widget.sliceLogic().SetMRMLScene(None)
        self._logic.SetMRMLScene(None)

    def sliceViewNames(self) -> list[str]:
        """The slice views of the present layout."""
        views = self._logic.GetViewNodes()
        nodes = [views.GetItemAsObject(number) for number in range(views.GetNumberOfItems())]
        return [node.GetLayoutName() for node in nodes if node.IsA("vtkMRMLSliceNode")]


class DicomDatabase:
    """Where the file of a SOP instance lies."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def fileForInstance(self, uid: str) -> str:
        return self.files.get(uid, "")
