"""How long work tells its caller how far it is, and how the caller stops it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressCallback", "silent"]


@dataclass(frozen=True)
class Progress:
    """One step forward.

    Args:
        stage: what is being done, for example ``"read"``, ``"register"``, ``"fuse"``, ``"write"``.
        done: units finished so far, ``0 <= done <= total``.
        total: units in this stage (for ``"fuse"``: slices times steps).
        detail: a short text for people, for example ``"slice 3 of 20, step 12 of 25"``.
    """

    stage: str
    done: int
    total: int
    detail: str = ""


ProgressCallback = Callable[[Progress], None]
"""Called after each unit of work. Raising :class:`ddfm_monai.errors.Cancelled` in it stops the work."""


def silent(progress: Progress) -> None:
    """The callback that does nothing."""
