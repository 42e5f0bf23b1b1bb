"""Put the stand-ins where the module looks for them. The order matters: first ``import slicer``, then attributes."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

from .app import Application, DicomDatabase
from .modules import MODULE_FOLDER

__all__ = ["application", "install"]


def application() -> Application:
    """The running stand-in application."""
    import slicer

    return slicer.app


def install(with_qt: bool) -> Any:
    """Make ``slicer`` look like Slicer's Python, once per process.

    Args:
        with_qt: also give it ``qt``, ``ctk`` and the qMRML widgets; needs PySide6.

    Returns:
        The module ``slicer``.
    """
    import slicer
    import slicer.util

    if not hasattr(slicer, "app"):
        slicer.app = Application()
        slicer.mrmlScene = _new_scene(slicer)
        slicer.modules = types.SimpleNamespace(
            volumes=_volumes_module(slicer), ddfmfusion=types.SimpleNamespace(path=str(MODULE_FOLDER / "DDFMFusion.py"))
        )
        slicer.dicomDatabase = DicomDatabase()
    if "qt" not in sys.modules:
        _install_qt(slicer, with_qt)
    if "slicer.i18n" not in sys.modules:
        _install_python_modules(slicer)
    return slicer


def _new_scene(slicer: Any) -> Any:
    scene = slicer.vtkMRMLScene()
    colours = slicer.vtkMRMLColorLogic()
    colours.SetMRMLScene(scene)
    scene.standin_colours = colours  # without its logic, the colour nodes go away
    return scene


def _volumes_module(slicer: Any) -> Any:
    application_logic = slicer.vtkMRMLApplicationLogic()
    application_logic.SetMRMLScene(slicer.mrmlScene)
    application_logic.SetModuleLogic("Colors", slicer.mrmlScene.standin_colours)
    logic = slicer.vtkSlicerVolumesLogic()
    logic.SetMRMLApplicationLogic(application_logic)
    logic.SetMRMLScene(slicer.mrmlScene)
    return types.SimpleNamespace(logic=lambda: logic, application_logic=application_logic)


def _install_qt(slicer: Any, with_qt: bool) -> None:
    if with_qt:
        from . import qt_modules

        sys.modules["qt"], sys.modules["ctk"] = qt_modules.make_qt(), qt_modules.make_ctk()
        slicer.qMRMLWidget, slicer.qMRMLNodeComboBox = qt_modules.qMRMLWidget, qt_modules.qMRMLNodeComboBox
        # Slicer's own Python files name many widgets that this module has none of.
        slicer.__getattr__ = qt_modules.placeholder("slicer", ("qMRML", "qSlicer"))
    else:
        sys.modules["qt"], sys.modules["ctk"] = types.ModuleType("qt"), types.ModuleType("ctk")


def _install_python_modules(slicer: Any) -> None:
    own_files = os.environ.get("SLICER_PYTHON_DIR")
    if own_files:
        subject_hierarchy = types.ModuleType("qSlicerSubjectHierarchyModuleWidgetsPythonQt")
        subject_hierarchy.qMRMLSubjectHierarchyTreeView = type("qMRMLSubjectHierarchyTreeView", (), {})
        sys.modules[subject_hierarchy.__name__] = subject_hierarchy
        slicer.__path__.append(str(Path(own_files) / "slicer"))
        return
    from . import modules, parameter_node

    for name, module in {
        "i18n": modules.i18n(),
        "ScriptedLoadableModule": modules.scripted_loadable_module(),
        "parameterNodeWrapper": parameter_node.module(),
    }.items():
        sys.modules[f"slicer.{name}"] = module
        setattr(slicer, name, module)
