"""The error whose text is meant for the person at the panel."""

from __future__ import annotations

__all__ = ["FusionProblem"]


class FusionProblem(Exception):
    """Something the user can understand and mostly do something about.

    Args:
        message: whole sentences, translated.
        details: more for those who look closer: output of the worker, a traceback.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
