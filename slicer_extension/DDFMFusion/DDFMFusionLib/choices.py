"""The choices in the panel. Their names are what a saved scene keeps; their labels are what people read."""

from __future__ import annotations

from enum import Enum

from .i18n import _

__all__ = ["CTWindow", "CompareMode", "CompareWith", "Device", "Modality"]


class Modality(Enum):
    """Kind of a volume; the value is the command line's word for it."""

    AUTOMATIC = "auto"
    MR = "mr"
    CT = "ct"
    PET = "pet"
    SPECT = "spect"

    def label(self) -> str:
        return _("Automatic") if self is Modality.AUTOMATIC else self.name


class CTWindow(Enum):
    """Which Hounsfield units of a CT become black and white; the value is (level, width), or None."""

    AUTOMATIC = None
    BRAIN = (40.0, 80.0)
    SOFT_TISSUE = (40.0, 400.0)
    BONE = (400.0, 1800.0)
    CUSTOM = ()

    def label(self) -> str:
        return {
            CTWindow.AUTOMATIC: _("Automatic"),
            CTWindow.BRAIN: _("Brain (40 / 80)"),
            CTWindow.SOFT_TISSUE: _("Soft tissue (40 / 400)"),
            CTWindow.BONE: _("Bone (400 / 1800)"),
            CTWindow.CUSTOM: _("Custom"),
        }[self]


class Device(Enum):
    """Where the network runs; the value is the command line's word for it, None leaves the choice to it."""

    AUTOMATIC = None
    CPU = "cpu"
    GPU = "cuda"
    APPLE_GPU = "mps"

    def label(self) -> str:
        return {
            Device.AUTOMATIC: _("Automatic (GPU if there is one)"),
            Device.CPU: _("CPU"),
            Device.GPU: _("NVIDIA GPU"),
            Device.APPLE_GPU: _("Apple GPU"),
        }[self]


class CompareWith(Enum):
    """What lies under the fused volume in the slice views."""

    REFERENCE = "reference"
    SECOND = "second"

    def label(self) -> str:
        return _("Reference") if self is CompareWith.REFERENCE else _("Second volume")


class CompareMode(Enum):
    """How the fused volume is compared with a source."""

    BLEND = "blend"
    REVEAL = "reveal"
    FLICKER = "flicker"
    SIDE_BY_SIDE = "side by side"

    def label(self) -> str:
        return {
            CompareMode.BLEND: _("Blend: the fused volume over the source"),
            CompareMode.REVEAL: _("Reveal: the fused volume around the mouse"),
            CompareMode.FLICKER: _("Flicker: both in turns"),
            CompareMode.SIDE_BY_SIDE: _("Side by side: reference, second, fused"),
        }[self]
