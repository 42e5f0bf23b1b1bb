"""The command line that a fusion is."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .choices import Device, Modality

__all__ = ["FusionSettings", "fuse_arguments", "slicer_python", "worker_command"]

UNCERTAINTY_SAMPLES = 4


@dataclass(frozen=True)
class FusionSettings:
    """Everything but the two volumes.

    Args:
        reference_kind, second_kind: modality of each volume.
        window: CT window (level, width) in HU, or None for the command's own choice.
        align: move the second volume rigidly onto the reference first.
        colour: keep the second volume's colour map in an RGB result.
        uncertainty: draw several samples, and also return their spread.
        steps: sampling steps; 0 leaves it to the command.
        seed: of the noise.
        device: where the network runs.
        prior: a weights file; None for the shipped prior.
        trust: the user vouches for the coordinates; counts only without `align`.
        same_patient: the user knows that both are of one patient, whatever their shapes; counts only with `align`.
    """

    reference_kind: Modality = Modality.AUTOMATIC
    second_kind: Modality = Modality.AUTOMATIC
    window: tuple[float, float] | None = None
    align: bool = False
    colour: bool = False
    uncertainty: bool = False
    steps: int = 0
    seed: int = 3407
    device: Device = Device.AUTOMATIC
    prior: Path | None = None
    trust: bool = False
    same_patient: bool = False


def fuse_arguments(settings: FusionSettings, reference: Path, second: Path, output: Path) -> list[str]:
    """Arguments of ``ddfm`` for one fusion that reports in the JSON-lines protocol."""
    arguments = ["fuse", str(reference), str(second), "-o", str(output), "--json", "--seed", str(settings.seed)]
    options: list[tuple[str, object | None]] = [
        ("--reference-kind", _unless_automatic(settings.reference_kind)),
        ("--second-kind", _unless_automatic(settings.second_kind)),
        ("--window", ",".join(f"{value:g}" for value in settings.window) if settings.window else None),
        ("--register", _register(settings)),
        ("--samples", UNCERTAINTY_SAMPLES if settings.uncertainty else None),
        ("--steps", settings.steps or None),
        ("--device", settings.device.value),
        ("--prior", settings.prior),
    ]
    for name, value in options:
        if value is not None:
            arguments += [name, str(value)]
    return [*arguments, "--colour"] if settings.colour else arguments


def _register(settings: FusionSettings) -> str | None:
    if settings.align:
        return "same-patient" if settings.same_patient else "rigid"
    return "trust" if settings.trust else None


def slicer_python() -> str:
    """Slicer's Python, or this one where there is no Slicer."""
    return shutil.which("PythonSlicer") or sys.executable


def worker_command() -> list[str]:
    """How to start ``ddfm`` with Slicer's Python."""
    return [slicer_python(), "-m", "ddfm_monai"]


def _unless_automatic(kind: Modality) -> str | None:
    return None if kind is Modality.AUTOMATIC else kind.value
