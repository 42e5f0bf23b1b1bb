"""Draw the extension's pictures: icon, slices of the phantom's fusion, the panel in its states.

``python tests/slicer_extension/make_pictures.py [WEIGHTS]``; without weights the shipped prior is used.
The slices are rendered by slicer-core, the panel by PySide6 with the tests' stand-ins for CTK and qMRML.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

HERE = Path(__file__).parent
EXTENSION = HERE.parents[1] / "slicer_extension"
VIEW = 300
HEIGHT_MM = 25.0


def draw_icon(size: int = 128) -> Image.Image:
    """Two discs, a grey and a warm one; where they overlap, both."""
    scale = 4
    layers = []
    for left, colour in ((4, (150, 165, 185)), (44, (230, 130, 40))):
        layer = Image.new("RGBA", (size * scale, size * scale))
        box = [value * scale for value in (left, 24, left + 80, 104)]
        ImageDraw.Draw(layer).ellipse(box, fill=(*colour, 190))
        layers.append(layer)
    return Image.alpha_composite(*layers).resize((size, size), Image.Resampling.LANCZOS)


def render_slice(slicer: Any, node: Any, name: str) -> np.ndarray:
    """An axial slice as Slicer's slice view shows it, (VIEW, VIEW, 3) uint8."""
    from vtk.util.numpy_support import vtk_to_numpy

    logic = slicer.vtkMRMLSliceLogic()
    logic.SetMRMLScene(slicer.mrmlScene)
    logic.AddSliceNode(name)
    logic.GetSliceCompositeNode().SetBackgroundVolumeID(node.GetID())
    view = logic.GetSliceNode()
    view.SetOrientationToAxial()
    view.SetDimensions(VIEW, VIEW, 1)
    view.SetFieldOfView(240, 240, 1)
    view.SetSliceOffset(HEIGHT_MM)
    view.UpdateMatrices()
    source = logic.GetImageDataConnection().GetProducer()
    source.Update()
    image = source.GetOutput()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(VIEW, VIEW, -1)
    return pixels[::-1, :, :3]


def draw_slices(slicer: Any, nodes: dict[str, Any]) -> Image.Image:
    """The nodes side by side with their titles."""
    band = 24
    picture = Image.new("RGB", (VIEW * len(nodes), VIEW + band))
    for column, (title, node) in enumerate(nodes.items()):
        picture.paste(Image.fromarray(render_slice(slicer, node, f"view{column}")), (column * VIEW, band))
        ImageDraw.Draw(picture).text((column * VIEW + 8, 4), title, fill="white", font_size=15)
    return picture


def set_window(node: Any, low: float, high: float) -> None:
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(low, high)


def main() -> None:
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    sys.path[:0] = [str(EXTENSION / "DDFMFusion"), str(HERE)]
    from PySide6 import QtWidgets
    from standins import install
    from standins.app import LayoutManager

    application = QtWidgets.QApplication(["pictures"])
    application.setStyle("Fusion")
    slicer = install(with_qt=True)
    icon = draw_icon()
    for path in (EXTENSION / "DDFM.png", EXTENSION / "DDFMFusion" / "Resources" / "Icons" / "DDFMFusion.png"):
        icon.save(path, optimize=True)
    screenshots = EXTENSION / "Screenshots"
    screenshots.mkdir(exist_ok=True)
    slicer.app.layouts = LayoutManager(slicer)
    slicer.util.errorDisplay = lambda *_, **__: None
    widget, window = open_panel(slicer)
    photograph(window, screenshots / "panel-empty.png")
    widget.onSampleButton()
    parameters = widget.logic.getParameterNode()
    parameters.priorFile = sys.argv[1] if len(sys.argv) > 1 else ""
    fuse_and_photograph(widget, window, screenshots)
    reference, second = parameters.referenceVolume, parameters.secondVolume
    set_window(reference, 0, float(np.percentile(slicer.util.arrayFromVolume(reference), 99.5)))
    set_window(second, 0, 80)
    nodes = {"MRI": reference, "CT (brain window)": second, "Fused": parameters.fusedVolume}
    draw_slices(slicer, nodes).convert("L").save(screenshots / "slices.png", optimize=True)
    widget.cleanup()


def open_panel(slicer: Any) -> tuple[Any, Any]:
    """The module's panel in a window of its own."""
    from DDFMFusion import DDFMFusionWidget
    from PySide6 import QtWidgets

    window = QtWidgets.QWidget()
    window.setLayout(QtWidgets.QVBoxLayout())
    window.isEntered = True
    widget = DDFMFusionWidget(window)
    widget.setup()
    widget.enter()
    window.show()
    return widget, window


def photograph(window: Any, path: Path) -> None:
    """The panel as high as it needs to be."""
    from PySide6 import QtWidgets

    for _ in range(3):  # layouts settle in steps
        QtWidgets.QApplication.processEvents()
        window.resize(430, window.layout().totalHeightForWidth(430))
    window.grab().save(str(path))


def fuse_and_photograph(widget: Any, window: Any, folder: Path) -> None:
    """A fusion with alignment, which finds the pair aligned; then one without, a third of the way and at the end."""
    from standins.qt_modules import run_event_loop_until

    widget.ui.alignCheckBox.checked = True
    widget.onFuseButton()
    run_event_loop_until(lambda: widget.work is None, 3600)
    photograph(window, folder / "panel-aligned.png")
    widget.ui.alignCheckBox.checked = False
    widget.onFuseButton()

    def a_third_is_done() -> bool:
        bar = widget.ui.progressBar
        return widget.work is None or ("step" in widget.ui.timeLabel.text and bar.maximum / 3 < bar.value)

    run_event_loop_until(a_third_is_done, 3600)
    photograph(window, folder / "panel.png")
    run_event_loop_until(lambda: widget.work is None, 3600)
    if not widget.ui.reasonLabel.text.startswith("Done"):
        raise SystemExit(widget.ui.reasonLabel.text)
    for section in (widget.ui.volumesButton, widget.ui.settingsButton):
        section.collapsed = True
    widget.ui.installationButton.collapsed = False
    photograph(window, folder / "panel-result.png")


if __name__ == "__main__":
    main()
