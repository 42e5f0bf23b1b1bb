"""Outputs appear whole or not at all: write beside the target under a temporary name, then rename."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddfm_monai.errors import UsageError

__all__ = ["atomic_group", "atomic_path", "check_writable_target", "sha256_of"]


def check_writable_target(path: Path, overwrite: bool) -> None:
    """Raise UsageError if ``path`` exists and may not be replaced."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: already exists. Choose another output or pass --overwrite.", "E_OUTPUT_EXISTS")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` (same suffixes) and rename it onto ``target`` when the block succeeds.

    Whatever the block raises (Ctrl-C included), nothing is left behind. Works for a file and for a folder
    that the block creates.
    """
    with _beside(target.parent) as holder:
        temporary = holder / target.name
        yield temporary
        temporary.replace(target)


@contextmanager
def atomic_group(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; when the block succeeds, the files that it made there are moved into ``folder``.

    Whatever the block raises (Ctrl-C included), none of them appears.
    """
    with _beside(folder) as holder:
        yield holder
        for made in sorted(holder.iterdir()):
            made.replace(folder / made.name)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, on the same file system, that is gone after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=".ddfm-", dir=folder))
    try:
        yield holder
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
