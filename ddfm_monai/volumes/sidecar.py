"""The JSON beside an image, as dcm2niix and BIDS leave it: what a NIfTI header cannot say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["read_sidecar", "sidecar_of"]


def sidecar_of(path: Path) -> Path:
    """Where dcm2niix and BIDS put what they know of an image: the JSON of the same name."""
    return path.with_name(re.sub(r"(\.nii)?\.[^.]+$", "", path.name) + ".json")


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the JSON of the same name says (``pet.json`` of ``pet.nii.gz``); empty where there is none to be read."""
    if not path.name:
        return {}
    beside = sidecar_of(path)
    try:
        said = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
