"""A worker process that can be listened to without waiting, and ended with everything it started."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

__all__ = ["Worker", "run"]

WINDOWS = os.name == "nt"
_CREATE_NO_WINDOW = 0x08000000  # the subprocess module has the names on Windows only
_CREATE_NEW_PROCESS_GROUP = 0x00000200
_LONGEST_LINE = 2**20
_WAITING_LINES = 5000
_ERROR_TAIL_LINES = 30


class Worker:
    """Starts a command as the head of its own process tree; two threads collect what it prints.

    Args:
        command: program and arguments.
        environment: added to this process's environment.

    Attributes:
        error_tail: the last lines of standard error.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", **(environment or {})},
            **_own_process_tree(),
        )
        self._tree_is_gone = False
        self.error_tail: deque[str] = deque(maxlen=_ERROR_TAIL_LINES)
        # Bounded: a worker that floods its output is held up by its pipe instead of filling our memory.
        self._lines: queue.Queue[tuple[str, bytes]] = queue.Queue(_WAITING_LINES)
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self, wait: float = 0.0, most: int = 500) -> list[tuple[str, bytes]]:
        """Lines that have come in since the last call, as ("stdout" | "stderr", line).

        Args:
            wait: how many seconds to wait for the first line.
            most: at most so many lines, so that a flood cannot hold up the caller.
        """
        lines: list[tuple[str, bytes]] = []
        with contextlib.suppress(queue.Empty):
            lines.append(self._lines.get(timeout=wait) if wait > 0 else self._lines.get_nowait())
            while len(lines) < most:
                lines.append(self._lines.get_nowait())
        return lines

    def exit_code(self) -> int | None:
        """The exit code once the process has ended and all it printed has been read; before that, None."""
        code = self._process.poll()
        if code is None:
            return None
        if not self._tree_is_gone:
            self._kill_tree()  # children left behind would keep the pipes, and the GPU, to themselves
            self._tree_is_gone = True
        if any(reader.is_alive() for reader in self._readers) or not self._lines.empty():
            return None
        return code

    def terminate(self) -> None:
        """Ask the process tree to end (on Windows, where nobody can be asked: end it)."""
        if WINDOWS:
            self._kill_tree()
        else:
            self._signal_tree(signal.SIGTERM)

    def kill(self) -> None:
        """End the process tree now and wait until it is gone. What it printed is forgotten."""
        self._kill_tree()
        self._process.wait()
        while any(reader.is_alive() for reader in self._readers):
            self.read(wait=0.05)
        while self.read():
            pass

    def _read(self, name: str, stream: IO[bytes]) -> None:
        with stream:
            for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
                if name == "stderr":
                    self.error_tail.append(line.decode("utf-8", errors="replace").rstrip())
                self._lines.put((name, line))

    def _kill_tree(self) -> None:
        if WINDOWS:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(self._process.pid)],
                capture_output=True,
                check=False,
                creationflags=_CREATE_NO_WINDOW,
            )
        else:
            self._signal_tree(signal.SIGKILL)

    def _signal_tree(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _own_process_tree() -> dict[str, Any]:
    if WINDOWS:
        return {"creationflags": _CREATE_NEW_PROCESS_GROUP | _CREATE_NO_WINDOW}
    return {"start_new_session": True}


def run(
    command: Sequence[str],
    on_line: Callable[[str], None] = lambda line: None,
    meanwhile: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a command to its end in a process of its own, while the caller stays alive.

    Args:
        command: program and arguments.
        on_line: is given every line that it prints.
        meanwhile: is called about ten times a second, for example to let the application handle its events.
        environment: added to this process's environment.

    Returns:
        Exit code, and all that it printed.

    Raises:
        OSError: the program cannot be started.
    """
    worker = Worker(command, environment)
    printed: list[str] = []
    try:
        while (code := worker.exit_code()) is None:
            for _, line in worker.read(wait=0.1):
                printed.append(line.decode("utf-8", errors="replace").rstrip())
                on_line(printed[-1])
            meanwhile()
    except BaseException:
        worker.kill()
        raise
    return code, "\n".join(printed)
