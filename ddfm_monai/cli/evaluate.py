"""``ddfm evaluate``: the field's metrics of fused files, as a table, CSV, JSON or an HTML report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddfm_monai.cli.options import with_settings
from ddfm_monai.errors import Cancelled, DDFMError, ExitCode, UsageError
from ddfm_monai.settings import FusionSettings

if TYPE_CHECKING:
    from rich.console import Console

    from ddfm_monai.metrics.files import Evaluation, PairFiles

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
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace existing output files."),
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Measure how good a fusion is.

    Prints the field's metrics beside those of the pixelwise maximum and mean of the same sources, without which the
    figures say little. The sources are brought to 0..255 and onto the first one's grid as `ddfm fuse` does it.
    """
    from ddfm_monai.files import check_writable_target

    for path in filter(None, (csv, json, html)):
        check_writable_target(path, overwrite)

    from rich.console import Console

    from ddfm_monai.metrics.files import match_files
    from ddfm_monai.metrics.html import html_report
    from ddfm_monai.metrics.tables import check_sentence, csv_text, json_text, terminal_table

    pairs, lonely = match_files(fused, a, b)
    messages = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if lonely:
        messages.print(f"Left out, because not in all three folders: {', '.join(lonely)}")
    if not pairs:
        messages.print("Nothing to evaluate: no file name is in all three folders.")
        return ExitCode.NOTHING_TO_DO
    how = {"settings": settings, "pictures": 3 if len(pairs) == 1 else 1}
    evaluations = _evaluate_all(pairs, how, messages)
    if evaluations:
        Console().print(terminal_table(evaluations))
        for evaluation in evaluations:
            typer.echo(f"{evaluation.name}: {check_sentence(evaluation.check)}")
        typer.echo("maximum, mean: of the same sources, pixel by pixel. Not for diagnostic use.")
        for path, text in ((csv, csv_text), (json, json_text), (html, html_report)):
            if path:
                _write(path, text(evaluations))
    if len(evaluations) == len(pairs):
        return ExitCode.DONE
    return ExitCode.SOME_FAILED if evaluations else ExitCode.ALL_FAILED


def _evaluate_all(pairs: list[PairFiles], how: dict[str, Any], messages: Console) -> list[Evaluation]:
    """Evaluate pair by pair; a pair that cannot be measured is named and left out."""
    from rich.progress import Progress

    from ddfm_monai.metrics.files import evaluate_files

    evaluations = []
    with Progress(console=messages, transient=True) as bar:
        task = bar.add_task("", total=None)
        for number, pair in enumerate(pairs, 1):
            bar.reset(task, description=f"{number} of {len(pairs)}", total=None)
            try:
                evaluation = evaluate_files(
                    pair, **how, on_slice=lambda done, total: bar.update(task, completed=done, total=total)
                )
            except (Cancelled, UsageError):
                raise
            except DDFMError as error:
                messages.print(f"{pair.name}: {error}")
                continue
            for note in evaluation.notes:
                messages.print(f"{pair.name}: {note}")
            evaluations.append(evaluation)
    return evaluations


def _write(path: Path, text: str) -> None:
    from ddfm_monai.files import atomic_path

    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"{path}")
