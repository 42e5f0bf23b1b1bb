"""``ddfm view``: an HTML page in which a result and its sources are compared."""

from __future__ import annotations

from pathlib import Path

import typer

from ddfm_monai.cli.options import with_settings
from ddfm_monai.errors import ExitCode, UsageError
from ddfm_monai.settings import FusionSettings

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm view`` to the application."""
    app.command("view")(view)


@with_settings(only=("reference_kind", "second_kind", "window"))
def view(
    result: Path = typer.Argument(..., help="Fused volume or picture."),
    sources: list[Path] = typer.Argument(
        None, help="Reference and second source; left out where they lie beside the result.", show_default=False
    ),
    output: Path = typer.Option(None, "-o", "--output", help="The page; by default beside the result."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing page."),
    show: bool = typer.Option(False, "--open", help="Show the page in the web browser."),
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Write an HTML page to compare a fusion with its sources. Not for diagnostic use.

    One file with everything in it: it opens from disk, without a network. It holds the images, and no names.

    Examples:

    \b
      ddfm view fused.nii.gz
      ddfm view fused.nii.gz mri.nii.gz ct.nii.gz -o page.html --open
    """
    from ddfm_monai.files import atomic_path, check_writable_file
    from ddfm_monai.fusion.outputs import output_names
    from ddfm_monai.fusion.page import page_of_files
    from ddfm_monai.protocol import quiet_libraries

    given = sources or []
    if len(given) not in (0, 2):
        raise UsageError(f"{len(given)} sources were given; expected reference and second source, or none.")
    page = output or output_names(result, page=True)["page"]
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{page}: the page is an HTML file. Name one: {page.stem}.html.")
    check_writable_file(page, overwrite)
    with quiet_libraries():
        document = page_of_files(result, given, settings)
    with atomic_path(page) as temporary:
        temporary.write_text(document, encoding="utf-8")
    typer.echo(f"page: {page}")
    if show:
        typer.launch(page.resolve().as_uri())
    return ExitCode.DONE
