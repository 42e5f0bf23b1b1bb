"""Stand-ins for the parts of 3D Slicer that slicer-core does not bring: the application, PythonQt, CTK, qMRML.

They were written from Slicer's documented behaviour, for the module DDFMFusion only. With SLICER_PYTHON_DIR set to a
folder that holds Slicer's own ``slicer/*.py`` files, those take the place of `modules` and `parameter_node`.
"""

from __future__ import annotations

from .install import application, install

__all__ = ["application", "install"]
