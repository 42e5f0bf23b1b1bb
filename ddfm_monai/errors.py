"""Errors written for the person who meets them, and the exit codes that go with them."""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

__all__ = [
    "Cancelled",
    "DDFMError",
    "ExitCode",
    "Explanation",
    "InputError",
    "SystemFailure",
    "UsageError",
    "is_out_of_memory",
    "of_system",
    "traceback_without_values",
]


class ExitCode(IntEnum):
    """What the command `ddfm` returns to the shell."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    NOTHING_TO_DO = 3
    SOME_FAILED = 4
    ALL_FAILED = 5
    INTERRUPTED = 130


class DDFMError(Exception):
    """Base of all errors that `ddfm_monai` raises on purpose.

    The message says which file or argument, what was found, what was expected and what to do next.

    Args:
        message: the whole sentence for the user.
        code: a short stable name for machines, such as ``"E_MISSING_SLICES"``.
    """

    default_code = "E_INTERNAL"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class UsageError(DDFMError):
    """The call itself is wrong: an unknown option, a missing file, an output that is in the way."""

    default_code = "E_USAGE"


class InputError(DDFMError):
    """The call is right but the data cannot be used: truncated, not finite, wrong dimensions, no overlap."""

    default_code = "E_INPUT"


class Cancelled(DDFMError):
    """The caller asked to stop; nothing was written."""

    default_code = "E_CANCELLED"


class SystemFailure(DDFMError):
    """The call and the data are right, but the machine refuses: no space, no permission, no memory."""

    default_code = "E_DISK"


_DISK = {
    errno.ENOSPC: ("there is no space left on the disk", "Make room, or choose an output on another disk"),
    errno.EDQUOT: ("your share of the disk (quota) is used up", "Make room, or choose an output on another disk"),
    errno.EFBIG: ("the file would be larger than is allowed here", "Raise the limit (ulimit -f), or use another disk"),
    errno.EROFS: ("the disk is read-only", "Choose an output on a disk that can be written"),
    errno.EACCES: ("you have no permission", "Ask for the permission, or choose another place"),
    errno.EPERM: ("you have no permission", "Ask for the permission, or choose another place"),
    errno.EMFILE: ("too many files are open at once", "Raise the limit (ulimit -n)"),
}
_WORDS_OF_MEMORY = (
    *("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc"),
    "could not create a primitive",  # what oneDNN says when it gets none
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, torch (on the CPU or a GPU) or ITK did not get the memory that it asked for."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS_OF_MEMORY)


def of_system(error: BaseException, path: str | os.PathLike[str] | None = None) -> SystemFailure | None:
    """The refusal of the operating system that an exception stands for, in words; None for any other exception.

    Args:
        error: anything that was raised; of an ``OSError`` the file that it names is told, nothing else of it.
        path: what was read or written, where the exception names no file or a temporary one.
    """
    if is_out_of_memory(error):
        return SystemFailure(
            "the memory of this computer (or of its GPU) is not enough. Close other programs; use --device cpu if it "
            "was the GPU's, --batch-size 1 if it was this computer's, or take a smaller volume.",
            "E_OUT_OF_MEMORY",
        )
    if not isinstance(error, OSError):
        return None
    place = path or error.filename
    found, remedy = _DISK.get(error.errno or 0, (error.strerror or type(error).__name__, "Check the file and the disk"))
    return SystemFailure(f"{f'{Path(place)}: ' if place else ''}{found}. {remedy}, and try again.", "E_DISK")


def traceback_without_values(error: BaseException) -> str:
    """Where an exception and its causes were raised: lines of code and types, but no text that could quote a header."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines.extend(traceback.format_tb(cause.__traceback__))
        lines.append(f"{type(cause).__name__} (its text may name the patient; run with --show-phi to see it)\n")
        cause = cause.__cause__ or cause.__context__
    return "".join(lines)


@dataclass(frozen=True)
class Explanation:
    """What a code means.

    Args:
        what: what was found, in one sentence.
        expected: what would have been accepted.
        remedy: what the operator can do.
    """

    what: str
    expected: str
    remedy: str
