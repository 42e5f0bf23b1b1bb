"""The command ``ddfm``: its sub-commands, and how errors become messages and exit codes.

Nothing heavy is imported here: each command imports torch, MONAI and the rest inside its function, so that
``ddfm --help`` answers at once.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

import typer

from ddfm_monai._version import __version__
from ddfm_monai.errors import Cancelled, DDFMError, ExitCode, UsageError

app = typer.Typer(
    name="ddfm",
    help="Fuse two co-registered volumes of one patient (MRI with CT, PET or SPECT). Not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"ddfm-monai {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


# Each command module has `register(app)`.
for _module in ("fuse", "demo", "evaluate", "dicom", "prior", "bundle"):
    importlib.import_module(f"ddfm_monai.cli.{_module}").register(app)


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command, for example ``run(["fuse", "a.nii.gz", "b.nii.gz", "-o", "f.nii.gz"])``.

    Returns:
        What the shell gets, see :class:`ddfm_monai.errors.ExitCode`.
    """
    try:
        code = app(args=list(arguments), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort, Cancelled):
        typer.echo("Interrupted: nothing half-written was left behind.", err=True)
        return ExitCode.INTERRUPTED
    except DDFMError as error:
        typer.echo(f"ddfm: {error}", err=True)
        return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.ALL_FAILED
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # click's own usage errors
            error.show()
            return int(error.exit_code)
        traceback.print_exc()
        return ExitCode.INTERNAL
    return int(code or 0)
