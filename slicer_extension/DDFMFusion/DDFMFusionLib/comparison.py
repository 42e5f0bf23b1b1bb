"""Fused volume and source in the slice views, until the comparison is left; then the views are as they were."""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from . import scene
from .choices import CompareMode
from .reveal import Reveal

__all__ = ["Comparison"]

LAYOUT_ID = 54170  # any number that no other layout has
VIEWS = ("DDFMReference", "DDFMSecond", "DDFMFused")
VIEW_GROUP = 5417  # linking stays among these views
TITLES = {"DDFMReference": "R", "DDFMSecond": "S", "DDFMFused": "F"}
COLOURS = {"DDFMReference": "#6E6E9E", "DDFMSecond": "#9E7A4A", "DDFMFused": "#4A9E6E"}


@dataclass(frozen=True)
class _Layers:
    """What one slice view showed before."""

    background: str | None
    foreground: str | None
    opacity: float


class Comparison:
    """One comparison under way. It changes nothing but what it has noted, and nothing that the user has changed since.

    A slice view belongs to the comparison as long as the fused volume is its foreground; a view in which the user has
    chosen something else is left alone, also at the end.

    Args:
        fused: a result of this module.
        under: the source under it.
        mode: how they are compared.
        opacity: of the fused volume in a blend, 0 to 1.
    """

    def __init__(
        self,
        fused: slicer.vtkMRMLScalarVolumeNode,
        under: slicer.vtkMRMLScalarVolumeNode | None,
        mode: CompareMode,
        opacity: float,
    ) -> None:
        self.fused, self.mode = fused, mode
        self._before: dict[str, _Layers] = {}
        self._layout_before: int | None = None
        self._reveals: list[Reveal] = []
        self._flicker_on = True
        if mode is CompareMode.SIDE_BY_SIDE:
            self._show_side_by_side()
            return
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            self._before[composite.GetID()] = _Layers(
                composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetForegroundOpacity()
            )
            with _not_linked(composite):
                composite.SetBackgroundVolumeID(under.GetID() if under is not None else None)
                composite.SetForegroundVolumeID(fused.GetID())
        self.set_opacity(0.0 if mode is CompareMode.REVEAL else opacity)
        if mode is CompareMode.REVEAL:
            manager = slicer.app.layoutManager()
            self._reveals = [Reveal(manager.sliceWidget(name)) for name in manager.sliceViewNames()]

    @property
    def is_shown(self) -> bool:
        """Whether anything of it is still in the views."""
        if self.mode is CompareMode.SIDE_BY_SIDE:
            return _layout_node().GetViewArrangement() == LAYOUT_ID
        return bool(self._own())

    def set_opacity(self, opacity: float) -> None:
        """How much of the fused volume is seen, 0 to 1, where it is the comparison's to say."""
        for composite in self._own():
            with _not_linked(composite):
                composite.SetForegroundOpacity(opacity)

    def flicker(self) -> None:
        """Now the fused volume, now what lies under it."""
        self._flicker_on = not self._flicker_on
        self.set_opacity(1.0 if self._flicker_on else 0.0)

    def leave(self) -> None:
        """Show again what was shown before. Volumes that are gone meanwhile are left out."""
        for reveal in self._reveals:
            reveal.remove()
        if self.mode is CompareMode.SIDE_BY_SIDE and self.is_shown:
            _layout_node().SetViewArrangement(self._layout_before)
        for composite in self._own():
            before = self._before[composite.GetID()]
            with _not_linked(composite):
                composite.SetBackgroundVolumeID(_if_there(before.background))
                composite.SetForegroundVolumeID(_if_there(before.foreground))
                composite.SetForegroundOpacity(before.opacity)
        self._before = {}

    def _own(self) -> list[slicer.vtkMRMLSliceCompositeNode]:
        nodes = [slicer.mrmlScene.GetNodeByID(node_id) for node_id in self._before]
        return [node for node in nodes if node is not None and node.GetForegroundVolumeID() == self.fused.GetID()]

    def _show_side_by_side(self) -> None:
        layout = _layout_node()
        self._layout_before = layout.GetViewArrangement()
        if layout.IsLayoutDescription(LAYOUT_ID):
            layout.SetLayoutDescription(LAYOUT_ID, _layout_description())
        else:
            layout.AddLayoutDescription(LAYOUT_ID, _layout_description())
        layout.SetViewArrangement(LAYOUT_ID)
        shown = [
            self.fused.GetNodeReference(scene.REFERENCE_ROLE),
            self.fused.GetNodeReference(scene.SECOND_ROLE),
            self.fused,
        ]
        manager = slicer.app.layoutManager()
        logics = [manager.sliceWidget(name).sliceLogic() for name in VIEWS]
        for logic, node in zip(logics, shown, strict=True):
            composite = logic.GetSliceCompositeNode()
            composite.SetLinkedControl(False)
            composite.SetBackgroundVolumeID(node.GetID() if node is not None else None)
            composite.SetForegroundVolumeID(None)
        first = logics[2].GetSliceNode()
        logics[2].FitSliceToBackground()
        for logic in logics[:2]:
            view = logic.GetSliceNode()
            view.GetSliceToRAS().DeepCopy(first.GetSliceToRAS())
            view.SetFieldOfView(*first.GetFieldOfView())
            view.UpdateMatrices()
        for logic in logics:
            logic.GetSliceNode().SetViewGroup(VIEW_GROUP)
            logic.GetSliceCompositeNode().SetLinkedControl(True)
            logic.GetSliceCompositeNode().SetHotLinkedControl(True)


class _not_linked:
    """For the time of the block, a change of one view is not passed on to the views that are linked with it."""

    def __init__(self, composite: slicer.vtkMRMLSliceCompositeNode) -> None:
        self._composite = composite

    def __enter__(self) -> None:
        self._linked = self._composite.GetLinkedControl()
        self._composite.SetLinkedControl(False)

    def __exit__(self, *_error: object) -> None:
        self._composite.SetLinkedControl(self._linked)


def _layout_node() -> slicer.vtkMRMLLayoutNode:
    return slicer.app.layoutManager().layoutLogic().GetLayoutNode()


def _layout_description() -> str:
    views = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{TITLES[name]}</property>'
        f'<property name="viewcolor" action="default">{COLOURS[name]}</property>'
        "</view></item>"
        for name in VIEWS
    )
    return f'<layout type="horizontal" split="true">{views}</layout>'


def _if_there(node_id: str | None) -> str | None:
    return node_id if node_id and slicer.mrmlScene.GetNodeByID(node_id) is not None else None
