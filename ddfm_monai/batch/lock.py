"""One batch at a time per output folder."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddfm_monai.errors import UsageError

__all__ = ["output_lock"]


@contextmanager
def output_lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold a lock file in ``folder`` while the block runs.

    The lock of a process of this machine that no longer lives is taken over.

    Raises:
        UsageError: code ``E_LOCKED``; another batch works in the folder, or a batch of another machine may.
    """
    path = folder / name
    _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _acquire(path: Path) -> None:
    for _ in range(2):
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            _take_over_if_stale(path)
            continue
        with os.fdopen(handle, "w") as file:
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        return
    raise UsageError(f"{path}: another batch has just begun to work in this folder.", "E_LOCKED")


def _take_over_if_stale(path: Path) -> None:
    try:
        owner = json.loads(path.read_text())
        pid, host = int(owner["pid"]), str(owner["host"])
    except FileNotFoundError:
        return  # released in the meantime
    except (ValueError, KeyError, TypeError):
        pid, host = 0, "unknown"
    if host != socket.gethostname() or _alive(pid):
        raise UsageError(
            f"{path}: another batch (process {pid} on {host}) works in this folder. Wait for it, choose another output "
            "folder, or delete the lock file if that process is gone.",
            "E_LOCKED",
        )
    # Of several processes that find the lock stale, one wins the rename; the others then meet its new lock.
    claimed = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    try:
        path.rename(claimed)
    except FileNotFoundError:
        return
    claimed.unlink()


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # signal 0 would end the process there; the operator decides
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
