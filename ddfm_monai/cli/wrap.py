"""``ddfm dicom wrap``: a fused volume file to a derived DICOM series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ddfm_monai.errors import ExitCode

if TYPE_CHECKING:
    from ddfm_monai.batch.two_series import FolderResult
    from ddfm_monai.progress import ProgressCallback

__all__ = ["wrap"]


def wrap(
    fused: Path = typer.Argument(..., help="Fused volume, as ddfm fuse writes it (NRRD, NIfTI, MHA)."),
    reference: Path = typer.Option(..., help="Folder with the reference's DICOM series. Never written to."),
    second: Path = typer.Option(None, help="Folder with the other source's DICOM series, if it has one."),
    reference_volume: Path = typer.Option(
        None, help="The reference as it was fused: refuse if its voxels are no longer the series'."
    ),
    second_volume: Path = typer.Option(
        None, help="The second as it was fused, in the reference's coordinates, if a transform had moved it there."
    ),
    provenance: Path = typer.Option(None, help="How it was made.  [default: the JSON file beside the fused volume]"),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the series."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an earlier result."),
    json_lines: bool = typer.Option(False, "--json", help="Speak JSON lines on standard output (docs/protocol.md)."),
) -> int:
    """Write a fused volume as a DICOM series of the reference's patient and study. Not for diagnostic use.

    For a volume that was fused from files of the same series in another format, as 3D Slicer does.

    Examples:

    \b
      ddfm dicom wrap fused.nrrd --reference dicom_mr --second dicom_ct -o series
    """
    from ddfm_monai._version import __version__
    from ddfm_monai.protocol import events_on_stdout, sigterm_as_interrupt

    def work(progress: ProgressCallback) -> FolderResult:
        from ddfm_monai.batch.wrap import wrap_fused

        return wrap_fused(
            fused,
            reference,
            output,
            second=second,
            reference_volume=reference_volume,
            second_volume=second_volume,
            provenance=provenance,
            overwrite=overwrite,
            progress=progress,
        )

    if json_lines:
        with events_on_stdout(__version__) as events:
            result = work(events)
            for warning in result.record["warnings"]:
                events.log(warning, "warning")
            events.result({"fused": output}, result.provenance)
    else:
        with sigterm_as_interrupt():
            result = work(lambda step: None)
        for warning in result.record["warnings"]:
            typer.echo(warning, err=True)
        typer.echo(f"fused: {output}")
    return ExitCode.DONE
