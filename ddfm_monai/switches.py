"""Switches of MONAI and torch that hold for a whole process, as the work needs them and only while it lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from monai.data.meta_obj import get_track_meta, set_track_meta

__all__ = ["META_TRACKED", "SINGLE_PRECISION", "Switch"]

_State = TypeVar("_State")


class Switch(Generic[_State]):
    """A switch that stands as needed while anybody holds it; the last who lets go sets it back.

    Threads that each set it and set it back would take each other's setting for the user's, and leave that behind.

    Args:
        get, set: how it stands, and how it is set.
        needed: how it has to stand.
    """

    def __init__(self, get: Callable[[], _State], set: Callable[[_State], object], needed: _State) -> None:
        self._get, self._set, self._needed = get, set, needed
        self._lock = threading.Lock()
        self._holders = 0
        self._users = needed

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let it stand as needed for the length of the block."""
        with self._lock:
            if self._holders == 0:
                self._users = self._get()
                self._set(self._needed)
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._set(self._users)

    def users(self) -> _State:
        """How the user has set it, whoever holds it at the moment."""
        with self._lock:
            return self._users if self._holders else self._get()


META_TRACKED = Switch(get_track_meta, set_track_meta, True)
"""MONAI's meta data of tensors: without them no volume has a place in space."""

SINGLE_PRECISION = Switch(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
"""The type of the tensors that torch makes: weights and slices are float32, and do not mix with others."""
