"""One run of the worker: what it says, how far it is, how it ended."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from .i18n import _
from .problem import FusionProblem
from .process import Worker

__all__ = ["Job", "State", "start_job"]

FOLDER_PREFIX = "DDFM-"
SECONDS_UNTIL_LEFT_OVER = 24 * 3600.0
SECONDS_UNTIL_KILLED = 5.0
EXIT_WRONG_USE = 2
SECONDS_UNTIL_SILENCE_IS_STRANGE = 120.0


class State(Enum):
    """A job's life."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Job:
    """Follows a worker that speaks ddfm-monai's JSON-lines protocol.

    Call :meth:`poll` from a timer; it never blocks. When :attr:`is_over`, take the outputs and :meth:`close`.

    Args:
        worker: the started process.
        folder: its temporary folder; :meth:`close` removes it.
        parse_line: ``ddfm_monai.protocol.parse_line``.
        clock: seconds, for telling silence and for how long to be patient when cancelling.
        cancelled: what is said after a cancel.

    Attributes:
        state: where the job is.
        progress: fields of the last ``progress`` event, or an empty dict.
        outputs: role to file, once a ``result`` has come.
        provenance: how the result was made.
        problem: why it failed, for people.
        code: the stable name of why it failed, such as ``"E_REGISTRATION_UNSURE"``.
        details: what else is known about the failure.
    """

    def __init__(
        self,
        worker: Worker,
        folder: Path,
        parse_line: Callable,
        clock: Callable[[], float] = time.monotonic,
        cancelled: str = "",
    ) -> None:
        self.state = State.RUNNING
        self.progress: dict = {}
        self.outputs: dict[str, Path] = {}
        self.provenance: dict = {}
        self.problem = ""
        self.code = ""
        self.details = ""
        self._worker = worker
        self._folder = folder
        self._parse_line = parse_line
        self._clock = clock
        self._cancelled = cancelled
        self._last_sign = clock()
        self._cancelled_at = 0.0

    @property
    def is_over(self) -> bool:
        """Whether the worker is gone."""
        return self.state in (State.FINISHED, State.FAILED, State.CANCELLED)

    @property
    def silent_seconds(self) -> float:
        """Time since the worker's last line if that is strangely long, else 0."""
        silence = self._clock() - self._last_sign
        return silence if not self.is_over and silence > SECONDS_UNTIL_SILENCE_IS_STRANGE else 0.0

    def poll(self, wait: float = 0.0) -> list[str]:
        """Take in what the worker has said, and find out if it has ended.

        Returns:
            Lines for the log, in order.
        """
        if self.is_over:
            return []
        log = []
        for source, line in self._worker.read(wait):
            self._last_sign = self._clock()
            log += self._take_event(line) if source == "stdout" else [line.decode("utf-8", "replace").rstrip()]
        if self.state is State.CANCELLING and self._clock() - self._cancelled_at > SECONDS_UNTIL_KILLED:
            self._worker.kill()
        code = self._worker.exit_code()
        if code is not None:
            self._settle(code)
        return log

    def wait(self) -> list[str]:
        """Block until the job is over, for tests and batch scripts. Returns the log."""
        log: list[str] = []
        while not self.is_over:
            log += self.poll(wait=0.1)
        return log

    def cancel(self) -> None:
        """Begin to end the worker; :meth:`poll` notices when it has."""
        if self.state is State.RUNNING:
            self.state = State.CANCELLING
            self._cancelled_at = self._clock()
            self._worker.terminate()

    def close(self) -> None:
        """End the worker if it still runs and remove the temporary folder."""
        if not self.is_over:
            self._worker.kill()
            self.state = State.CANCELLED
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take_event(self, line: bytes) -> list[str]:
        event = self._parse_line(line)
        if event is None:
            return []
        fields = event.fields
        if event.name == "progress":
            self.progress = fields
        elif event.name == "log":
            return [fields["message"]]
        elif event.name == "result":
            self.outputs = {role: Path(path) for role, path in fields["outputs"].items()}
            self.provenance = fields.get("provenance") or {}
        elif event.name == "error":
            self.problem, self.code = fields["message"], fields["code"]
            if fields["code"] == "E_PROTOCOL":
                self._worker.terminate()
            return [self.problem]
        elif event.name == "hello":
            return [_("ddfm-monai {version}").format(version=fields["version"])]
        return []

    def _settle(self, code: int) -> None:
        if self.state is State.CANCELLING:
            self.state = State.CANCELLED
            self.problem = self._cancelled
            return
        fused = self.outputs.get("fused")
        if code == 0 and not self.problem and fused is not None and fused.exists():
            self.state = State.FINISHED
            return
        self.state = State.FAILED
        self.details = "\n".join(self._worker.error_tail)
        self.problem = self.problem or self._unexplained(code)

    def _unexplained(self, code: int) -> str:
        if self.outputs:
            return _("The worker reported a result, but its file is missing. Is the disk full?")
        if code < 0:
            return _(
                "The worker was ended by the system (signal {number}). "
                "Most often there was too little memory: close other programs or take a smaller volume."
            ).format(number=-code)
        if code == EXIT_WRONG_USE and any("No such option" in line for line in self._worker.error_tail):
            return _(
                "The installed ddfm-monai and this panel are of different versions. Press Reinstall or upgrade in the "
                "section Installation; if that does not help, update this extension."
            )
        if code == 0:
            return _("The worker ended without a result. The log shows what it printed.")
        return _("The worker ended with exit code {code}. The log shows what it printed.").format(code=code)


def start_job(
    parent: Path,
    command: list[str],
    make_arguments: Callable[[Path], list[str]],
    cancelled: str,
) -> Job:
    """Make a private folder, let it be filled, and start the worker on it.

    Args:
        parent: where the folder is made.
        command: what runs ``ddfm``.
        make_arguments: writes the worker's inputs into the folder and returns its arguments.
        cancelled: what is said after a cancel.

    Raises:
        FusionProblem: the worker cannot be started, or as ``make_arguments`` raises.
    """
    # ddfm-monai is installed on first use, so it cannot be imported earlier.
    from ddfm_monai.protocol import parse_line

    _remove_left_over(parent)
    # Private to this user, for the volumes are patient data.
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    try:
        worker = Worker([*command, *make_arguments(folder)])
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise FusionProblem(_("The worker could not be started: {error}").format(error=error)) from error
        raise
    return Job(worker, folder, parse_line, cancelled=cancelled)


def _remove_left_over(parent: Path) -> None:
    """Remove what a Slicer that crashed in the middle of its work has left behind."""
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        if time.time() - folder.stat().st_mtime > SECONDS_UNTIL_LEFT_OVER:
            shutil.rmtree(folder, ignore_errors=True)
