"""Outputs appear whole or not at all: write beside the target under a temporary name, then rename."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddfm_monai.errors import UsageError, of_system

__all__ = [
    "atomic_group",
    "atomic_path",
    "check_folder_takes_files",
    "check_name",
    "check_writable_file",
    "check_writable_target",
    "sha256_of",
]

_LONGEST_NAME = 255 - len("..lock")  # bytes that file systems allow, less what the lock beside a result adds
_LEAST_FREE = 1_000_000  # bytes; no result is so small that it is worth beginning with less


def check_writable_target(path: Path, overwrite: bool) -> None:
    """Raise UsageError if ``path`` exists and may not be replaced, or cannot be made where it shall be."""
    check_name(path)
    if path.exists() and not overwrite:
        raise UsageError(f"{path}: already exists. Choose another output or pass --overwrite.", "E_OUTPUT_EXISTS")
    check_folder_takes_files(path.parent)


def check_writable_file(path: Path, overwrite: bool) -> None:
    """As :func:`check_writable_target`, for what is to be a file: no folder may stand there."""
    check_name(path)
    if path.is_dir():
        raise UsageError(
            f"{path}: is a folder, and a file is to be written there. Name the file, or choose another output.",
            "E_OUTPUT_FOLDER",
        )
    check_writable_target(path, overwrite)


def check_name(path: Path) -> None:
    """Raise UsageError for a name that is longer than file systems take: even to ask whether it exists would fail."""
    length = len(os.fsencode(path.name))
    if length > _LONGEST_NAME:
        raise UsageError(
            f"{path}: the name is {length} bytes long; expected {_LONGEST_NAME} at most. Choose a shorter output.",
            "E_OUTPUT_NAME",
        )


def check_folder_takes_files(folder: Path, needed: int = _LEAST_FREE) -> None:
    """Raise UsageError if the system will not let files be made in a folder, which need not exist yet.

    What can be known before the work: that a file stands in the way, that there is no permission, that the disk is
    read-only or full.

    Args:
        folder: where files shall be made.
        needed: bytes that must be free.
    """
    standing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not standing.is_dir():
        raise UsageError(
            f"{folder}: {standing.name} is a file, and a folder is needed there. Choose another output.",
            "E_OUTPUT_FOLDER",
        )
    reason = None
    if hasattr(os, "statvfs") and os.statvfs(standing).f_flag & os.ST_RDONLY:
        reason = errno.EROFS
    elif not os.access(standing, os.W_OK | os.X_OK):
        reason = errno.EACCES
    elif shutil.disk_usage(standing).free < needed:
        reason = errno.ENOSPC
    if reason is not None:
        raise UsageError(f"nothing can be written in {of_system(OSError(reason, ''), folder)}", "E_OUTPUT_FOLDER")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` (same suffixes) and rename it onto ``target`` when the block succeeds.

    Whatever the block raises (Ctrl-C included), nothing is left behind. Works for a file and for a folder
    that the block creates.

    Raises:
        SystemFailure: the system does not let it be written (``E_DISK``).
    """
    with _beside(target.parent, target) as holder:
        temporary = holder / target.name
        yield temporary
        temporary.replace(target)


@contextmanager
def atomic_group(folder: Path, shown: Path | None = None) -> Iterator[Path]:
    """Yield a temporary folder; when the block succeeds, the files that it made there are moved into ``folder``.

    Whatever the block raises (Ctrl-C included), none of them appears.

    Args:
        folder: where the files go.
        shown: what an error calls them, by default the folder.

    Raises:
        SystemFailure: the system does not let them be written (``E_DISK``).
    """
    with _beside(folder, shown or folder) as holder:
        yield holder
        for made in sorted(holder.iterdir()):
            made.replace(folder / made.name)


@contextmanager
def _beside(folder: Path, shown: Path) -> Iterator[Path]:
    """A temporary folder inside ``folder``, on the same file system, that is gone after the block.

    What the system refuses is said of ``shown``: temporary names tell nobody anything.
    """
    holder = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".ddfm-", dir=folder))
        yield holder
    except OSError as error:
        named = Path(error.filename) if error.filename else shown
        place = folder / named.relative_to(holder) if holder and named.is_relative_to(holder) else named
        raise of_system(error, place if holder else shown) or error from error
    finally:
        if holder is not None:
            shutil.rmtree(holder, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
