"""Slicer's translation function, or the text itself where there is no Slicer."""

from __future__ import annotations

__all__ = ["_"]

try:
    from slicer.i18n import tr as _
except ImportError:

    def _(text: str) -> str:
        return text
