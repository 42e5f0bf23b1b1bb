"""``ddfm evaluate``: the field's metrics of fused files, as a table, CSV, JSON or an HTML report."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddfm_monai.cli.options import with_settings
from ddfm_monai.errors import Cancelled, DDFMError, ExitCode, UsageError
from ddfm_monai.settings import FusionSettings

if TYPE_CHECKING:
    from rich.console import Console

    from ddfm_monai.metrics.files import Evaluation, PairFiles
    from ddfm_monai.metrics.lesions import Fuse
    from ddfm_monai.priors import Prior

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm evaluate`` to the application."""
    app.command("evaluate")(evaluate)


@with_settings(only=("reference_kind", "second_kind", "window", "register"))
def evaluate(
    fused: Path = typer.Argument(..., help="Fused volume or picture, or a folder of them."),
    a: Path = typer.Argument(..., help="First source (the reference), or a folder."),
    b: Path = typer.Argument(..., help="Second source, or a folder; files match by name."),
    csv: Path = typer.Option(None, help="Write one line per pair to this CSV file."),
    json: Path = typer.Option(None, help="Write everything, slice by slice, to this JSON file."),
    html: Path = typer.Option(None, help="Write a report with pictures and explanations to this HTML file."),
    lesions: bool = typer.Option(
        False,
        "--lesions",
        help="Also fuse slices again with lesions put in, and say what is kept of them; for results of ddfm. "
        "Takes minutes.",
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace existing output files."),
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Measure how good a fusion is.

    Prints the field's metrics beside those of the pixelwise maximum and mean of the same sources, without which the
    figures say little. The sources are brought to 0..255 and onto the first one's grid as `ddfm fuse` does it.

    Examples:

    \b
      ddfm evaluate fused.nii.gz mri.nii.gz ct.nii.gz
      ddfm evaluate fused_folder mri_folder ct_folder --html report.html
    """
    from ddfm_monai.files import check_writable_file

    for path in filter(None, (csv, json, html)):
        check_writable_file(path, overwrite)

    from rich.console import Console

    from ddfm_monai.metrics.files import match_files
    from ddfm_monai.metrics.html import html_report
    from ddfm_monai.metrics.tables import check_sentence, csv_text, json_text, terminal_table

    pairs, lonely = match_files(fused, a, b)
    messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if lonely:
        messages.print(f"Left out, because not in all three folders: {', '.join(lonely)}")
    if not pairs:
        messages.print(
            "Nothing to evaluate: no file name is in all three folders. Endings aside, names must be the same."
        )
        return ExitCode.NOTHING_TO_DO
    methods = {pair.name: _method_of(pair.fused) for pair in pairs} if lesions else {}
    how = {"settings": settings, "pictures": 3 if len(pairs) == 1 else 1}
    evaluations = _evaluate_all(pairs, how, methods, messages)
    if evaluations:
        Console().print(terminal_table(evaluations))
        for evaluation in evaluations:
            typer.echo(f"{evaluation.name}: {check_sentence(evaluation.check)}")
        typer.echo("maximum, mean: of the same sources, pixel by pixel. Not for diagnostic use.")
        for path, text in ((csv, csv_text), (json, json_text)):
            if path:
                _write(path, text(evaluations))
        if html:
            _write(html, html_report(evaluations, _how(pairs, settings)))
    if len(evaluations) == len(pairs):
        return ExitCode.DONE
    return ExitCode.SOME_FAILED if evaluations else ExitCode.ALL_FAILED


def _how(pairs: list[PairFiles], settings: FusionSettings) -> dict[str, str]:
    """Date, settings, and how the first result was made, for the report."""
    from dataclasses import fields
    from datetime import datetime

    plain = FusionSettings()
    changed = [
        f"{item.name.replace('_', '-')} {getattr(settings, item.name)}"
        for item in fields(FusionSettings)
        if getattr(settings, item.name) != getattr(plain, item.name)
    ]
    said = {
        "Date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "Pairs": str(len(pairs)),
        "Settings": ", ".join(changed) or "the defaults",
    }
    made = _provenance(pairs[0].fused)
    if made:
        sampling = made.get("sampling", {})
        said["Fused by"] = (
            f"ddfm-monai {made['software'].get('ddfm_monai', '?')}, prior {made['prior']['name']}, "
            f"likelihood {made['likelihood']['name']}, {sampling.get('steps')} steps, seed {sampling.get('seed')}"
        ) + (" (the first pair)" if len(pairs) > 1 else "")
    return said


def _provenance(fused: Path) -> dict[str, Any]:
    """What lies beside a result of ours; empty for others'."""
    from ddfm_monai.fusion.outputs import output_names
    from ddfm_monai.fusion.resume import read_record

    made = read_record(output_names(fused)["provenance"])
    return made if {"software", "prior", "likelihood", "sampling"} <= made.keys() else {}


@lru_cache(maxsize=1)
def _prior(name: str) -> Prior:
    """The weights, loaded once for all pairs."""
    from ddfm_monai.priors import load_prior

    return load_prior(name)


def _method_of(fused: Path) -> Fuse:
    """The fusion that made a file, by the JSON beside it: of upright slices ``(H, W, N)``, grey levels 0..255.

    Raises:
        UsageError: the file is none of ours.
    """
    import numpy as np

    from ddfm_monai.fusion.pipeline import fuse_volumes
    from ddfm_monai.volumes import make_volume

    made = _provenance(fused)
    if not made:
        raise UsageError(
            f"{fused}: --lesions fuses again, and no JSON of ddfm that says how lies beside this file. For another "
            "method's results use ddfm_monai.metrics.lesion_transfer in Python."
        )
    name = made["likelihood"]["name"]
    prior = _prior(made["prior"]["name"])
    settings = FusionSettings(
        likelihood="default" if name == "two-scale" else name,
        steps=made["sampling"]["steps"],
        seed=made["sampling"]["seed"],
        reference_kind="picture",
        second_kind="picture",
    )

    def fuse(a: Any, b: Any) -> Any:
        upright = np.diag([-1.0, -1.0, 1.0, 1.0])  # x is the column, y the row of a slice with the front on top
        sources = (make_volume(np.ascontiguousarray(x.swapaxes(0, 1)[None]), upright) for x in (a, b))
        fused01 = fuse_volumes(*sources, prior=prior, settings=settings).fused[0].cpu().numpy().swapaxes(0, 1)
        return np.clip(np.rint(255 * fused01), 0, 255).astype(np.uint8)

    return fuse


def _evaluate_all(
    pairs: list[PairFiles], how: dict[str, Any], methods: dict[str, Fuse], messages: Console
) -> list[Evaluation]:
    """Evaluate pair by pair; a pair that cannot be measured is named and left out."""
    from rich.progress import Progress

    from ddfm_monai.fusion.page import doubts_of_sources
    from ddfm_monai.metrics.files import evaluate_files

    evaluations = []
    with Progress(console=messages, transient=True) as bar:
        task = bar.add_task("", total=None)
        for number, pair in enumerate(pairs, 1):
            bar.reset(task, description=f"{number} of {len(pairs)}", total=None)
            try:
                evaluation = evaluate_files(
                    pair,
                    **how,
                    methods={"this fusion": methods[pair.name]} if methods else None,
                    on_slice=lambda done, total: bar.update(task, completed=done, total=total),
                )
            except (Cancelled, UsageError):
                raise
            except DDFMError as error:
                messages.print(f"{pair.name}: {error}")
                continue
            evaluation.notes.extend(doubts_of_sources(pair.fused, (pair.a, pair.b)))
            for note in evaluation.notes:
                messages.print(f"{pair.name}: {note}")
            evaluations.append(evaluation)
    return evaluations


def _write(path: Path, text: str) -> None:
    from ddfm_monai.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"{path}")
