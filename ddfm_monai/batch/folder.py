"""A case's folder: made whole or not at all, and recognised again by what it was made from."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddfm_monai.errors import UsageError

__all__ = ["finished_record", "new_case_folder", "remove_leftovers", "write_marker"]

_MARKER = "case.json"


@contextmanager
def new_case_folder(target: Path) -> Iterator[Path]:
    """Yield a new, private folder beside ``target`` and rename it onto ``target`` when the block succeeds.

    An earlier case folder is replaced. Whatever the block raises, nothing is left behind; what a killed process leaves,
    :func:`remove_leftovers` removes.

    Raises:
        UsageError: ``target`` is something else than an empty folder or a case folder (``E_OUTPUT_EXISTS``).
    """
    if target.exists() and not ((target / _MARKER).is_file() or (target.is_dir() and not any(target.iterdir()))):
        raise UsageError(
            f"{target}: holds other things than a result; it is not replaced. Choose another folder.", "E_OUTPUT_EXISTS"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{target.name}-{uuid.uuid4().hex}")
    temporary.mkdir(mode=0o700)
    try:
        yield temporary
        for folder in (*(path for path in temporary.iterdir() if path.is_dir()), temporary):
            _sync(folder)
        if target.exists():
            replaced = target.with_name(f".old-{target.name}-{uuid.uuid4().hex}")
            target.replace(replaced)
            temporary.replace(target)
            shutil.rmtree(replaced)
        else:
            temporary.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(target: Path) -> None:
    """Remove what killed runs of this case left. The caller makes sure that nobody else works on the case."""
    for kind in ("tmp", "old"):
        for leftover in target.parent.glob(f".{kind}-{target.name}-*"):
            shutil.rmtree(leftover)


def write_marker(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a case as the last file of its folder, with the sizes of all others."""
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*.*"))}
    with (folder / _MARKER).open("x", encoding="utf-8") as file:
        json.dump({**record, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def finished_record(target: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a finished case of the same inputs, parameters and weights with all its files; else None."""
    try:
        record = json.loads((target / _MARKER).read_text(encoding="utf-8"))
        same = all(record[key] == value for key, value in identity.items())
        whole = all((target / name).stat().st_size == size for name, size in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if same and whole else None


def _sync(folder: Path) -> None:
    """See a folder's entries onto the disk, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
