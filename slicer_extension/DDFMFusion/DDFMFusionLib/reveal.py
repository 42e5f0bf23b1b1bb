"""A square around the mouse in which a slice view shows its foreground."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

__all__ = ["Reveal", "patch_around"]

HALF_WIDTH = 80  # pixels
FRAME = (255, 200, 0)


def patch_around(image: vtk.vtkImageData, x: int, y: int) -> tuple[np.ndarray, tuple[int, int]] | None:
    """The part of a slice image around a pixel, with a frame; None where there is none.

    Args:
        image: one slice, RGB or RGBA, uint8.
        x, y: pixel, counted from the lower left.

    Returns:
        ``(height, width, 3)`` uint8, lowest row first; and its lower left pixel ``(x, y)``.
    """
    width, height, _depth = image.GetDimensions()
    scalars = image.GetPointData().GetScalars()
    if scalars is None or not (0 <= x < width and 0 <= y < height):
        return None
    pixels = vtk_to_numpy(scalars).reshape(height, width, -1)[..., :3]
    left, low = max(x - HALF_WIDTH, 0), max(y - HALF_WIDTH, 0)
    patch = pixels[low : y + HALF_WIDTH + 1, left : x + HALF_WIDTH + 1].copy()
    patch[[0, -1]] = FRAME
    patch[:, [0, -1]] = FRAME
    return patch, (left, low)


class Reveal:
    """Follows the mouse in one slice view.

    Args:
        widget: a ``qMRMLSliceWidget``.
    """

    def __init__(self, widget: Any) -> None:
        self._logic, self._view = widget.sliceLogic(), widget.sliceView()
        self._image = vtk.vtkImageData()
        mapper = vtk.vtkImageMapper()
        mapper.SetInputData(self._image)
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(mapper)
        self._actor.VisibilityOff()
        self._view.renderWindow().GetRenderers().GetItemAsObject(0).AddActor2D(self._actor)
        self._interactor = self._view.interactor()
        self._tags = [self._interactor.AddObserver(event, self._on_move) for event in ("MouseMoveEvent", "EnterEvent")]
        self._tags.append(self._interactor.AddObserver("LeaveEvent", self._on_leave))

    def remove(self) -> None:
        """Take it out of the view."""
        for tag in self._tags:
            self._interactor.RemoveObserver(tag)
        self._view.renderWindow().GetRenderers().GetItemAsObject(0).RemoveActor2D(self._actor)
        self._view.scheduleRender()

    def _on_move(self, caller: Any, event: str) -> None:
        source = self._logic.GetForegroundLayer().GetImageDataConnection()
        found = None
        if source is not None:
            source.GetProducer().Update()
            found = patch_around(source.GetProducer().GetOutputDataObject(0), *caller.GetEventPosition())
        if found is None:
            self._on_leave()
            return
        patch, corner = found
        height, width, _channels = patch.shape
        self._image.SetDimensions(width, height, 1)
        self._image.GetPointData().SetScalars(numpy_to_vtk(patch.reshape(-1, 3), deep=True))
        self._image.Modified()
        self._actor.SetPosition(*corner)
        self._actor.VisibilityOn()
        self._view.scheduleRender()

    def _on_leave(self, caller: Any = None, event: str = "") -> None:
        self._actor.VisibilityOff()
        self._view.scheduleRender()
