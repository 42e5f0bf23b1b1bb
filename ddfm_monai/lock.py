"""One batch at a time per output folder, one fusion at a time per result."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ddfm_monai.errors import UsageError

__all__ = ["output_lock", "target_locks"]


@contextmanager
def output_lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold a lock file in ``folder`` while the block runs.

    The folder is made if need be, and goes again if nothing came into it. The lock of a process of this machine that no
    longer lives is taken over.

    Raises:
        UsageError: code ``E_LOCKED``; another batch works in the folder, or a batch of another machine may.
    """
    path = folder / name
    made = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _acquire(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        for place in made:
            with suppress(OSError):  # something is in it
                place.rmdir()


@contextmanager
def target_locks(targets: Iterable[Path]) -> Iterator[None]:
    """Hold a lock beside each of these outputs while the block runs: of two runs with one output, one is refused.

    Args:
        targets: files or folders to be made; of a result of several files that by which it is known, its JSON.

    Raises:
        UsageError: code ``E_LOCKED``; another process makes one of them.
    """
    with ExitStack() as locks:
        for path in sorted(set(targets)):
            locks.enter_context(output_lock(path.parent, f".{path.name}.lock"))
        yield


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
    raise UsageError(
        f"{path}: another batch or fusion has just begun to write here. Wait for it, or choose another output.",
        "E_LOCKED",
    )


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
            f"{path}: another batch or fusion (process {pid} on {host}) writes here. Wait for it, choose another "
            "output, or delete the lock file if that process is gone.",
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
