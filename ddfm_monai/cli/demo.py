"""``ddfm demo``: a digital head phantom, fused through the MONAI bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ddfm_monai.fusion.pipeline import FusionResult

__all__ = ["register", "run_demo"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm demo`` to the application."""
    app.command("demo")(demo)


def demo(
    folder: Path = typer.Argument(..., help="Where the phantom and the results go."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an earlier demo."),
) -> None:
    """Write an MRI, a CT and a PET of a digital head and fuse MRI and CT through the MONAI bundle.

    The MRI shows an oedema that the CT does not show, the CT a calcification that the MRI does not show; the fused
    volume shows both. Ends with the paths of all files; the page opens in a web browser.

    Examples:

    \b
      ddfm demo demo_folder
    """
    from rich.console import Console
    from rich.progress import Progress as Bar

    from ddfm_monai.progress import Progress

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("phantom", total=None)

        def show(progress: Progress) -> None:
            bar.update(task, description=progress.stage, completed=progress.done, total=progress.total)

        files = run_demo(folder, overwrite=overwrite, progress=show)
    for role, path in files.items():
        typer.echo(f"{role}: {path}")


def run_demo(
    folder: Path, *, overwrite: bool = False, progress: Any = None, phantom: dict[str, Any] | None = None,
    **overrides: Any,
) -> dict[str, Path]:  # fmt: skip
    """What ``ddfm demo`` does.

    Args:
        folder: for the phantom and the results.
        overwrite: replace an earlier demo.
        progress: a :data:`~ddfm_monai.progress.ProgressCallback`.
        phantom: settings of :func:`ddfm_monai.phantom.write_phantom`.
        overrides: settings of the bundle.

    Returns:
        Role to path of every file, the sources first.

    Raises:
        UsageError: if there are files of these names already, and ``overwrite`` is not given.
    """
    from ddfm_monai.files import atomic_path, check_writable_file
    from ddfm_monai.fusion.outputs import output_names, write_preview
    from ddfm_monai.fusion.page import page_of
    from ddfm_monai.lock import target_locks
    from ddfm_monai.phantom import phantom_paths, write_phantom
    from ddfm_monai.volumes import read_source

    results = output_names(folder / "mri_fused.nii.gz", page=True)
    made = phantom_paths(folder)
    for path in (made.mri, made.ct, made.pet, *results.values()):  # a folder may hold an mri.nii.gz of one's own
        check_writable_file(path, overwrite)
    sources = write_phantom(folder, **(phantom or {}))
    settings = {
        "reference": str(sources.mri),
        "second": str(sources.ct),
        "output_dir": str(folder),
        "overwrite": overwrite,
        **overrides,
    }
    with target_locks([results["provenance"]]):
        result = _run_bundle(settings, progress)
    # once more, with planes through the lesions
    write_preview(result, results["preview"], point=_through_lesions())
    both = read_source(sources.mri, "reference"), read_source(sources.ct, "second")
    with atomic_path(results["page"]) as temporary:
        temporary.write_text(page_of(result, *both, _through_lesions()), encoding="utf-8")
    return {"mri": sources.mri, "ct": sources.ct, "pet": sources.pet, **results}


def _through_lesions() -> tuple[float, float, float]:
    """A point whose axial and coronal planes cut both lesions, and whose sagittal plane cuts the second."""
    from ddfm_monai.phantom import LESIONS

    (_, y1, z1), (x2, y2, z2) = (lesion.centre for lesion in LESIONS)
    return x2, (y1 + y2) / 2, (z1 + z2) / 2


def _run_bundle(settings: dict[str, Any], progress: Any) -> FusionResult:
    """The bundle `ddfm_fusion` as ``python -m monai.bundle run`` runs it, in this process and without its log."""
    import logging
    import warnings

    from monai.bundle import ConfigWorkflow

    from ddfm_monai.bundle import bundle_folder, reason_of

    root = bundle_folder("ddfm_fusion")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI warns that configs run code; this one is ours
        logging.disable(logging.WARNING)
        try:
            workflow = ConfigWorkflow(
                str(root / "configs" / "inference.json"),
                workflow_type="infer",
                logging_file=False,
                **settings,
            )
            workflow.initialize()
            if progress is not None:
                workflow.inferer.progress = progress
            workflow.run()
            workflow.finalize()
            return workflow.evaluator.state.output["result"]
        except RuntimeError as error:
            raise reason_of(error) or error from None
        finally:
            logging.disable(logging.NOTSET)
