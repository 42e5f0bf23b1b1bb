"""Rigid registration of two scaled volumes: found from several starts, then accepted, found needless, or refused."""

from __future__ import annotations

from ddfm_monai.volumes.registration.alignment import Alignment, look_at_alignment
from ddfm_monai.volumes.registration.result import Registration
from ddfm_monai.volumes.registration.rigid import register_rigid

__all__ = ["Alignment", "Registration", "look_at_alignment", "register_rigid"]
