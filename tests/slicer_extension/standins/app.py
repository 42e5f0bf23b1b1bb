"""``slicer.app`` and ``SampleData``, as far as the module uses them."""

from __future__ import annotations

import tempfile
import types
from collections.abc import Callable
from typing import Any

__all__ = ["Application"]


class Application:
    """The application object. `temporaryPath` can be set by a test."""

    applicationName = "Slicer stand-in"

    def __init__(self) -> None:
        self.temporaryPath = tempfile.gettempdir()
        self.started: list[Callable[[], None]] = []

    def testingEnabled(self) -> bool:
        return True

    def connect(self, signal: str, slot: Callable[[], None]) -> None:
        assert signal == "startupCompleted()"
        self.started.append(slot)

    def translate(self, context: str, text: str) -> str:
        return text

    def layoutManager(self) -> None:
        return None

    def setOverrideCursor(self, cursor: Any) -> None:
        pass

    def restoreOverrideCursor(self) -> None:
        pass

    def moduleManager(self) -> Any:
        return types.SimpleNamespace(connect=lambda *_: None, disconnect=lambda *_: None)
