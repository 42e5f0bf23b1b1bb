"""What a failure may tell: messages and logs without patient data.

File names, folder names and header values can name a patient. Errors that this package raises keep paths apart from the
rest, so their text is shown without the path, with the place of the slice instead. Other exceptions may quote anything:
of them only the type and the lines of code are shown. With ``show_phi`` everything is.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from ddfm_monai.batch.pair import Pair
from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.errors import DDFMError, is_out_of_memory, traceback_without_values

__all__ = ["Failure", "describe_failure", "write_log"]


@dataclass(frozen=True)
class Failure:
    """A failure as it may be shown.

    Args:
        code: a key of ``EXPLANATIONS`` or the code of the error.
        message: one paragraph for people.
        details: lines for the log.
    """

    code: str
    message: str
    details: str


def describe_failure(error: BaseException, pair: Pair, show_phi: bool) -> Failure:
    """Put an exception into words that may be shown."""
    known = _as_known(error)
    if isinstance(known, DicomError):
        where = _place(known.problem, pair)
        message = known.problem.text() if show_phi else where + known.problem.text(show_path=False)
    else:
        message = str(known) if show_phi else _without_paths(str(known), pair)
    return Failure(known.code, message, _details(error, show_phi))


def write_log(path: Path, failure: Failure) -> None:
    """Write the log of a failed case, replacing that of an earlier run."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(f"{failure.code}: {failure.message}\n\n{failure.details}", encoding="utf-8")


def _as_known(error: BaseException) -> DDFMError:
    """An error of this package that says the same as ``error``."""
    if isinstance(error, DDFMError):
        return error
    if is_out_of_memory(error):
        return Problem("E_OUT_OF_MEMORY", "the memory did not suffice for one slice or the volumes").error()
    if isinstance(error, OSError):
        return Problem("E_DISK", f"reading or writing failed: {error.strerror or type(error).__name__}").error()
    return Problem("E_INTERNAL", f"an error that was not foreseen: {type(error).__name__}").error()


def _place(problem: Problem, pair: Pair) -> str:
    """Which slice a problem's file is, in words that name nobody."""
    for role, source in (("reference", pair.reference), ("second", pair.second)):
        for number, item in enumerate(source.slices, start=1):
            if problem.path is not None and problem.path in (item.path, *item.copies):
                return f"{role} {source.key.short()}, slice {number}, SOP Instance UID {item.sop_instance_uid}: "
    return ""


def _without_paths(message: str, pair: Pair) -> str:
    paths = {parent for path in (*pair.reference.paths, *pair.second.paths) for parent in (path, *path.parents[:-1])}
    for path in sorted(paths, key=lambda path: -len(str(path))):
        message = message.replace(str(path), "<path>")
    return message


def _details(error: BaseException, show_phi: bool) -> str:
    if show_phi:
        return "".join(traceback.format_exception(error))
    return traceback_without_values(error)
