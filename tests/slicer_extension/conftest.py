"""Fixtures for the 3D Slicer extension: MRML by slicer-core, the application and Qt widgets by stand-ins."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
EXTENSION = HERE.parents[1] / "slicer_extension"
FAKE_WORKER = HERE / "fake_worker.py"
sys.path[:0] = [str(EXTENSION / "DDFMFusion"), str(HERE)]


@pytest.fixture(autouse=True)
def package_stays_imported() -> Iterator[None]:
    """The panel forgets the package after installing it; the other tests of this process need theirs back."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "ddfm_monai"}
    yield
    sys.modules.update(kept)


@pytest.fixture(scope="session")
def slicer_session() -> Any:
    """slicer-core dressed up as Slicer's Python; with Qt where PySide6 is installed."""
    pytest.importorskip("slicer", reason="slicer-core is not installed (pip install ddfm-monai[slicer-test])")
    from standins import install

    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    try:
        from PySide6 import QtWidgets
    except ImportError:
        return install(with_qt=False)
    QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    return install(with_qt=True)


@pytest.fixture
def slicer(slicer_session: Any, tmp_path: Path) -> Iterator[Any]:
    """An empty scene, and a temporary folder of the application's that must be empty again after the test."""
    scene = slicer_session.mrmlScene
    scene.Clear(1)
    slicer_session.app.temporaryPath = str(tmp_path / "slicer-temporary")
    Path(slicer_session.app.temporaryPath).mkdir()
    slicer_session.dicomDatabase.files.clear()
    # In Slicer, the application adds an item to the subject hierarchy for every new volume.
    hierarchy = slicer_session.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)

    def add_item(caller: Any, event: str, node: Any) -> None:
        if node.IsA("vtkMRMLVolumeNode"):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    add_item.CallDataType = _vtk_object()
    tag = scene.AddObserver(scene.NodeAddedEvent, add_item)
    yield slicer_session
    slicer_session.app.layouts = None
    slicer_session.app.testing = True
    scene.RemoveObserver(tag)
    scene.Clear(1)
    assert list(Path(slicer_session.app.temporaryPath).iterdir()) == []


@pytest.fixture
def add_volume(slicer: Any) -> Callable[..., Any]:
    """Makes a volume node from an array (K, J, I) and a matrix (4, 4) from IJK to RAS."""

    def add(name: str, array: np.ndarray | None = None, affine: np.ndarray | None = None) -> Any:
        if array is None:
            array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
        affine = np.eye(4) if affine is None else affine
        return slicer.util.addVolumeFromArray(array, ijkToRAS=affine, name=name)

    return add


@pytest.fixture
def fake_worker() -> Callable[[str], list[str]]:
    """The command of a small program that speaks the protocol and behaves as asked; see fake_worker.py."""
    return lambda behaviour: [sys.executable, str(FAKE_WORKER), behaviour]


def _vtk_object() -> Any:
    import vtk

    return vtk.VTK_OBJECT
