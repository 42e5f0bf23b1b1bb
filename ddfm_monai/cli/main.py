"""The command ``ddfm``: its sub-commands, and how errors become messages and exit codes.

Nothing heavy is imported here: each command imports torch, MONAI and the rest inside its function, so that
``ddfm --help`` answers at once.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from collections.abc import Sequence

import typer

from ddfm_monai._version import __version__
from ddfm_monai.cli.host import in_lines
from ddfm_monai.errors import Cancelled, DDFMError, ExitCode, UsageError, of_system, traceback_without_values

app = typer.Typer(
    name="ddfm",
    help="Fuse two co-registered volumes of one patient (MRI with CT, PET or SPECT). Not for diagnostic use.",
    epilog="Begin with: ddfm demo demo_folder. Each command has examples: ddfm fuse --help",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: flags without a value are shown without one, and nothing is broken in a word
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ddfm-monai {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", "-V", "-v", callback=_version, is_eager=True, help="Print the version."
    ),
    show_phi: bool = typer.Option(False, "--show-phi", help="Let a fault of the program quote file headers."),
) -> None:
    pass


# Each command module has `register(app)`.
for _module in ("fuse", "view", "demo", "evaluate", "dicom", "prior", "bundle"):
    importlib.import_module(f"ddfm_monai.cli.{_module}").register(app)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal or a pipe has no letters for is no fault
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command, for example ``run(["fuse", "a.nii.gz", "b.nii.gz", "-o", "f.nii.gz"])``.

    Returns:
        What the shell gets, see :class:`ddfm_monai.errors.ExitCode`.
    """
    try:
        code = app(args=list(arguments), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as "| head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.INTERRUPTED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # click's own usage errors
            error.show()
            return int(error.exit_code)
        known = error if isinstance(error, DDFMError) else of_system(error)
        if known is None:
            typer.echo(_unforeseen(error, "--show-phi" in arguments), err=True)
            return ExitCode.INTERNAL
        typer.echo(in_lines(f"ddfm: {known}", sys.stderr), err=True)
        return ExitCode.USAGE if isinstance(known, UsageError) else ExitCode.ALL_FAILED
    if code == ExitCode.INTERRUPTED:  # which newer versions of typer give for Ctrl-C, where older ones raise Abort
        typer.echo("Interrupted: nothing half-written was left behind.", err=True)
    return int(code or 0)


def _unforeseen(error: Exception, show_phi: bool) -> str:
    """A fault of the program for whoever mends it: where it happened. Its text may quote a header, and so a patient."""
    if show_phi:
        return "".join(traceback.format_exception(error))
    return (
        f"{traceback_without_values(error)}ddfm: a fault of the program: {type(error).__name__}, at the place above. "
        "To see all that it says, put --show-phi before the command: ddfm --show-phi fuse ..."
    )
