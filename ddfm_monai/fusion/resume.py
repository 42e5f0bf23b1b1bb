"""Whether a result is there already, made from the same files in the same way: judged by the provenance beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddfm_monai.files import sha256_of
from ddfm_monai.settings import FusionSettings

__all__ = ["differences", "read_record", "sizes_of"]

_NUMBER, _NOTHING = (int, float), type(None)
_SCALING = {"kind": str, "low": _NUMBER, "high": _NUMBER, "source": str, "air": _NUMBER, "decided": str}
_SCALING |= {"background": (*_NUMBER, _NOTHING), "zero": (*_NUMBER, _NOTHING)}
_SOURCE = {"sha256": (str, _NOTHING), "scaling": _SCALING}
_WRITTEN: dict[str, Any] = {  # what is read again of a record, and its types
    "software": dict,
    "prior": {"name": str, "sha256": str},
    "likelihood": {"name": str},
    "sampling": {"steps": int, "samples": int},
    "settings": dict,
    "reference": _SOURCE,
    "second": _SOURCE,
    "registration": (dict, _NOTHING),
    "warnings": list,
    "files": dict,
}


def read_record(provenance: Path) -> dict[str, Any]:
    """What an earlier run wrote about its result; empty where nothing is there that such a run writes."""
    try:
        record = json.loads(provenance.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if _is_as(record, _WRITTEN) else {}


def _is_as(record: Any, written: Any) -> bool:
    """Whether a record has the types that are written; what is missing is for the reader to miss."""
    if not isinstance(written, dict):
        return isinstance(record, written)
    return isinstance(record, dict) and all(_is_as(record[key], written[key]) for key in written.keys() & record.keys())


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of every file in a folder by its name: by them a result is recognised as whole and untouched."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def differences(
    record: Mapping[str, Any],
    names: Mapping[str, Path],
    sources: Mapping[str, Path],
    settings: FusionSettings,
    prior_sha256: str,
) -> list[str]:
    """What keeps an earlier result from being the one that is asked for now, in words; nothing if it is.

    Args:
        record: of :func:`read_record`.
        names: role to path of all files that are asked for.
        sources: ``"reference"`` and ``"second"`` to their files.
        settings: of the fusion that is asked for.
        prior_sha256: of the weights that are asked for.
    """
    if not {"settings", "files"} <= record.keys():
        return ["no record of how it was made lies beside it"]
    wanted = json.loads(json.dumps(settings.identity()))
    made = record["settings"]
    found = [
        f"{name.replace('_', '-')} was {made.get(name)!r}, now {value!r}"
        for name, value in wanted.items()
        if made.get(name) != value
    ]
    if record.get("prior", {}).get("sha256") != prior_sha256:
        found.append("it was made with other weights")
    for role, path in sources.items():
        if record.get(role, {}).get("sha256") != sha256_of(path):
            found.append(f"the {role} was another file")
    for path in names.values():
        if not path.is_file():
            found.append(f"{path.name} is missing")
        elif path != names["provenance"] and record["files"].get(path.name) != path.stat().st_size:
            found.append(f"{path.name} has been changed")
    return found
