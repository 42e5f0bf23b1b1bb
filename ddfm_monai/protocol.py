"""The line protocol with which ``ddfm ... --json`` tells a host program what it is doing.

The worker writes one JSON object per line on its standard output; a host such as the 3D Slicer module reads
them. `docs/protocol.md` describes every event. This file needs the standard library only.

**The command's side**::

    with events_on_stdout(__version__) as events:
        result = fuse_volumes(a, b, progress=events)
        events.result({"fused": out}, result.provenance, {"total": seconds})

``events_on_stdout`` says hello, keeps stray prints of other libraries off the channel, turns SIGTERM into
:class:`KeyboardInterrupt`, and reports whatever leaves the block as an ``error`` event before it lets it pass on
to the caller, who turns it into the exit code as always.

**The host's side**: give each line to :func:`parse_line`; it never raises.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

from ddfm_monai.errors import Cancelled, DDFMError, ExitCode, UsageError, of_system
from ddfm_monai.progress import Progress

__all__ = [
    "PROTOCOL",
    "Event",
    "EventWriter",
    "events_on_stdout",
    "parse_line",
    "quiet_libraries",
    "sigterm_as_interrupt",
]

PROTOCOL = 1
"""The protocol's version. It grows only when an old host would misunderstand a line; new fields do not count."""

_PROGRESS_LINES_PER_STAGE = 200
_LONGEST_FOREIGN_LINE = 2000


@dataclass(frozen=True)
class Event:
    """One line, read.

    Args:
        name: ``"hello"``, ``"progress"``, ``"log"``, ``"result"``, ``"error"``, or a name of a later version.
        fields: the other members of the JSON object, without ``protocol`` and ``event``.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)


class EventWriter:
    """Writes events to a text stream, one flushed line each. It is also a `ProgressCallback`.

    A progress line is written only when its stage changes, it is the first or last of its stage, or at least
    1/200 of the stage has gone by since the last one, so that a long run stays a short log.

    Args:
        stream: where the lines go.
        clock: returns seconds; used for ``seconds_left`` only.

    Raises:
        Cancelled: from any method, when the host has closed its end of the stream.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._stage: str | None = None
        self._started = 0.0
        self._started_done = 0
        self._written_share = -1

    def hello(self, version: str) -> None:
        """The first line: which ``ddfm-monai`` this is and its process id."""
        self._write("hello", program="ddfm-monai", version=version, pid=os.getpid())

    def __call__(self, progress: Progress) -> None:
        """Write a ``progress`` line, unless it says nothing new."""
        if progress.stage != self._stage:
            self._stage, self._started, self._started_done = progress.stage, self._clock(), progress.done
            self._written_share = -1
        share = _PROGRESS_LINES_PER_STAGE * progress.done // max(progress.total, 1)
        if share == self._written_share:
            return
        self._written_share = share
        self._write(
            "progress",
            stage=progress.stage,
            done=progress.done,
            total=progress.total,
            detail=progress.detail,
            seconds_left=self._seconds_left(progress),
        )

    def log(self, message: str, level: str = "info") -> None:
        """A sentence for people; ``level`` is ``"info"``, ``"warning"`` or ``"error"``."""
        self._write("log", level=level, message=message)

    def result(
        self,
        outputs: Mapping[str, str | os.PathLike[str]],
        provenance: Mapping[str, Any] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> None:
        """One fused pair is finished and its files are in place.

        Args:
            outputs: role to path, as :func:`ddfm_monai.fusion.outputs.output_names`; ``"fused"`` always.
            provenance: how the result was made.
            seconds: stage to seconds it took.
        """
        self._write("result", outputs=dict(outputs), provenance=dict(provenance or {}), seconds=dict(seconds or {}))

    def error(self, code: str, message: str, exit_code: int) -> None:
        """A pair, or the whole run, failed; ``exit_code`` as in :class:`ddfm_monai.errors.ExitCode`."""
        self._write("error", code=code, message=message, exit_code=int(exit_code))

    def _seconds_left(self, progress: Progress) -> float | None:
        gone = progress.done - self._started_done
        if gone <= 0:
            return None
        return round((self._clock() - self._started) / gone * (progress.total - progress.done), 1)

    def _write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"protocol": PROTOCOL, "event": event, **_plain(fields)}, allow_nan=False)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except OSError as error:
                raise Cancelled(f"The host program no longer listens ({error}); the work was stopped.") from error


def _plain(value: Any) -> Any:
    """What JSON can say of ``value``: numpy scalars as numbers, paths as text, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


@contextlib.contextmanager
def events_on_stdout(version: str) -> Iterator[EventWriter]:
    """Speak the protocol on standard output for the length of the block; see the module's first lines.

    Inside the block ``print`` and native libraries that write to standard output reach standard error instead.
    An exception that leaves the block is written as an ``error`` event and raised again.
    """
    with _private_stdout() as stream, sigterm_as_interrupt():
        events = EventWriter(stream)
        events.hello(version)
        try:
            yield events
        except BaseException as error:
            # A host that has gone away is no reason to hide the error from the caller.
            with contextlib.suppress(Cancelled):
                events.error(*_describe(error))
            raise


def _describe(error: BaseException) -> tuple[str, str, int]:
    """Code, message and exit code of an exception, as the command reports it."""
    if isinstance(error, (KeyboardInterrupt, Cancelled)):
        return "E_CANCELLED", "The work was cancelled; nothing was written.", ExitCode.INTERRUPTED
    if isinstance(error, DDFMError):
        return error.code, str(error), ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.ALL_FAILED
    known = of_system(error)
    if known is not None:
        return known.code, str(known), ExitCode.ALL_FAILED
    # what its text says may be a patient's
    return "E_INTERNAL", f"a fault of the program: {type(error).__name__}; see its standard error", ExitCode.INTERNAL


@contextlib.contextmanager
def _private_stdout() -> Iterator[TextIO]:
    """Standard output for this block only; everybody else's standard output goes to standard error."""
    original = sys.stdout
    try:
        owns_descriptor = original.fileno() == 1
    except (AttributeError, OSError, io.UnsupportedOperation):
        owns_descriptor = False  # a test's or a notebook's substitute
    with contextlib.redirect_stdout(sys.stderr):
        if not owns_descriptor:
            yield original
            return
        original.flush()
        stream = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        os.dup2(2, 1)
        try:
            yield stream
        finally:
            os.dup2(stream.fileno(), 1)
            with contextlib.suppress(OSError):  # what a lost host did not take is still in the buffer
                stream.close()


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, with clean-up and exit code 130. In other threads: nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def quiet_libraries(show: bool = False) -> Iterator[None]:
    """Keep what libraries warn about, which may quote a DICOM header, off the screen and out of logs.

    Args:
        show: let it through (``--show-phi``).
    """
    if show:
        yield
        return
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _interrupt(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def parse_line(line: str | bytes) -> Event | None:
    """Read one line. Never raises, so that a host cannot be brought down by its worker.

    Returns:
        The event; None for a blank line. A line that is no event becomes a ``log`` event of level ``"output"``
        (print-outs of libraries, half a line of a process that was killed). A line of another protocol version
        becomes an ``error`` event with code ``"E_PROTOCOL"``. Events of unknown names are kept as they are.
    """
    text = (line.decode("utf-8", errors="replace") if isinstance(line, bytes) else line).strip()
    if not text:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return _foreign(text)
    if not isinstance(record, dict) or "protocol" not in record or not isinstance(record.get("event"), str):
        return _foreign(text)
    version, name = record.pop("protocol"), record.pop("event")
    if version != PROTOCOL:
        return Event("error", {"code": "E_PROTOCOL", "message": _mismatch(version), "exit_code": int(ExitCode.USAGE)})
    return Event(name, record) if _is_complete(name, record) else _foreign(text)


def _foreign(text: str) -> Event:
    return Event("log", {"level": "output", "message": text[:_LONGEST_FOREIGN_LINE]})


def _mismatch(version: object) -> str:
    return (
        f"The worker speaks version {version} of the protocol, this program version {PROTOCOL}. "
        "Update ddfm-monai and the host program to versions that belong together, then restart the host."
    )


_REQUIRED: dict[str, dict[str, type | tuple[type, ...]]] = {
    "hello": {"version": str},
    "progress": {"stage": str, "done": int, "total": int},
    "log": {"message": str},
    "result": {"outputs": dict},
    "error": {"code": str, "message": str, "exit_code": int},
}


def _is_complete(name: str, record: dict[str, Any]) -> bool:
    return all(isinstance(record.get(key), kind) for key, kind in _REQUIRED.get(name, {}).items())
