"""Errors written for the person who meets them, and the exit codes that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

__all__ = ["Cancelled", "DDFMError", "ExitCode", "Explanation", "InputError", "UsageError"]


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
