"""``ddfm fuse``: two files, or two folders whose files match by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddfm_monai.cli.options import PRIOR, with_settings
from ddfm_monai.errors import DDFMError, ExitCode, UsageError
from ddfm_monai.settings import FusionSettings

if TYPE_CHECKING:
    from ddfm_monai.fusion.many import Job
    from ddfm_monai.fusion.pipeline import FusionResult
    from ddfm_monai.progress import Progress
    from ddfm_monai.protocol import EventWriter
    from ddfm_monai.volumes import Source

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm fuse`` to the application."""
    app.command("fuse")(fuse)


@with_settings()
def fuse(
    reference: Path = typer.Argument(..., help="Reference volume (usually the MRI), a picture, or a folder of them."),
    second: Path = typer.Argument(..., help="The other volume (CT, PET, SPECT, ...), picture or folder."),
    output: Path = typer.Option(..., "-o", "--output", help="Fused file; for folders, a folder."),
    prior: str = PRIOR,
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace existing results."),
    check: bool = typer.Option(False, "--check", help="Also write a map of where to look at the sources."),
    html: bool = typer.Option(False, "--html", help="Also write an HTML page to compare result and sources."),
    json_lines: bool = typer.Option(False, "--json", help="Speak JSON lines on standard output (docs/protocol.md)."),
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Fuse two co-registered volumes or pictures of one patient. Not for diagnostic use.

    Writes the fused volume on the reference's grid, a JSON beside it that says how it was made, and a PNG to look at.
    """
    from ddfm_monai.fusion.pairs import check_folder

    with _host(json_lines) as host:
        check_folder(reference)
        check_folder(second)
        if _is_dicom_output(reference, output):
            if check:
                raise UsageError(f"{output}: --check writes a volume beside a volume. Name a file: fused.nii.gz.")
            if html:
                raise UsageError(f"{output}: --html writes a page beside a volume. Name a file: fused.nii.gz.")
            return _fuse_series(reference, second, output, prior, settings, overwrite, host)
        jobs, lonely = _find_jobs(reference, second, output)
        _say_what_is_left_out(lonely, (reference, second), len(jobs), host)
        if not jobs:
            host.say(f"{reference}, {second}: no file names in common; nothing to do.")
            return ExitCode.NOTHING_TO_DO
        _check_targets(jobs, settings, overwrite, check, html)
        with _index(output, jobs, lonely, host) as failures:
            return _fuse_jobs(jobs, prior, settings, host, check, html, failures)


# --- which files -----------------------------------------------------------------------------------------------------


def _find_jobs(reference: Path, second: Path, output: Path) -> tuple[list[Job], list[Path]]:
    """What is to be fused, and the files of two folders that have no partner."""
    from ddfm_monai.fusion.many import Job
    from ddfm_monai.fusion.pairs import find_pairs, target_in, volumes_in

    pairs, lonely = find_pairs(reference, second)
    are_folders = reference.is_dir() and bool(volumes_in(reference))
    jobs = [Job(pair.reference, pair.second, target_in(output, pair) if are_folders else output) for pair in pairs]
    return jobs, lonely


def _say_what_is_left_out(lonely: list[Path], folders: tuple[Path, Path], paired: int, host: _Host) -> None:
    """One sentence for each folder with files that have no partner."""
    for folder, other in (folders, folders[::-1]):
        names = [path.name for path in lonely if path.parent == folder]
        if names:
            count = f"{len(names)} of {paired + len(names)} files"
            reason = f"{other} has no file of the same name"
            host.say(f"{folder}: {count} left out, because {reason}: {', '.join(names)}", "warning")


def _is_dicom_output(reference: Path, output: Path) -> bool:
    """DICOM in and no volume file named as output: DICOM out."""
    from ddfm_monai.fusion.pairs import volumes_in
    from ddfm_monai.volumes import WRITABLE_SUFFIXES, suffix_of

    return reference.is_dir() and not volumes_in(reference) and suffix_of(output) not in WRITABLE_SUFFIXES


def _check_targets(jobs: list[Job], settings: FusionSettings, overwrite: bool, check: bool, html: bool) -> None:
    from ddfm_monai.files import check_writable_target
    from ddfm_monai.fusion.outputs import check_target, output_names

    for job in jobs:
        check_target(job.target)
        for path in output_names(job.target, settings, check, html).values():
            if path.resolve() in (job.reference.resolve(), job.second.resolve()):
                raise UsageError(f"{path}: is a source; sources are never written to. Choose another output.")
            check_writable_target(path, overwrite)


# --- the work --------------------------------------------------------------------------------------------------------


@contextmanager
def _index(output: Path, jobs: list[Job], lonely: list[Path], host: _Host) -> Iterator[dict[Path, str]]:
    """For folders, write the index page whatever ends the work; yields where failures are noted: target to reason."""
    from ddfm_monai.fusion.index import INDEX, write_index

    failures: dict[Path, str] = {}
    try:
        yield failures
    finally:
        if output.is_dir() and any(job.target.exists() or job.target in failures for job in jobs):
            page = write_index(output, jobs, failures, lonely)
            if page is None:
                host.say(f"{output / INDEX}: is no page of ddfm's and was left as it is; the overview was not written.")
            elif not host.events:
                host.say(f"overview: {page}")


def _fuse_jobs(
    jobs: list[Job],
    prior: str,
    settings: FusionSettings,
    host: _Host,
    check: bool,
    html: bool,
    failures: dict[Path, str],
) -> int:
    from ddfm_monai.fusion.many import fuse_many
    from ddfm_monai.priors import load_prior

    begun = count(1)

    def begin(job: Job) -> None:
        number = next(begun)
        host.begin(job.reference.name + (f" ({number} of {len(jobs)})" if len(jobs) > 1 else ""))

    def inspect(result: FusionResult) -> FusionResult:
        return _checked(result, host) if check else result

    for done in fuse_many(
        jobs,
        load_prior(prior),
        settings,
        begin=begin,
        taken=host.taken,
        inspect=inspect,
        page=html,
        progress=host.progress,
    ):
        if done.error is None:
            if done.provenance["registration"]:
                host.say(f"registration: {done.provenance['registration']['sentence']}")
            for warning in done.provenance["warnings"]:
                if not warning.startswith(("reference: ", "second: ")):  # those were told before the work
                    host.say(f"warning: {warning}", "warning")
            host.values(done.provenance.get("values", {}))
            host.result(done.outputs, done.provenance, {"total": done.seconds})
        elif len(jobs) == 1:
            raise done.error
        else:
            failures[done.job.target] = str(done.error)
            host.failed(done.error)
    if failures:
        return ExitCode.ALL_FAILED if len(failures) == len(jobs) else ExitCode.SOME_FAILED
    return ExitCode.DONE


def _checked(result: FusionResult, host: _Host) -> FusionResult:
    """The result with the map of its check; what was found is told and goes into its provenance."""
    from dataclasses import replace

    from ddfm_monai.metrics.files import check_result
    from ddfm_monai.metrics.tables import check_sentence

    flags, shares = check_result(result.fused, result.reference01, result.second01, result.provenance["slices"]["axis"])
    host.say(check_sentence(shares))
    return replace(result, check=flags, provenance={**result.provenance, "check": shares})


def _fuse_series(
    reference: Path, second: Path, output: Path, prior: str, settings: FusionSettings, overwrite: bool, host: _Host
) -> int:
    from ddfm_monai.batch.two_series import fuse_folders

    host.begin("DICOM series")
    result = fuse_folders(
        reference, second, output, prior=prior, settings=settings, overwrite=overwrite, progress=host.progress
    )
    for warning in result.warnings:
        host.say(f"warning: {warning}", "warning")
    host.result({"fused": output}, result.provenance, {})
    return ExitCode.DONE


# --- who is told -----------------------------------------------------------------------------------------------------


class _Host:
    """Tells a person (progress bar, sentences) or, with ``--json``, a program (JSON lines) what happens."""

    def __init__(self, events: EventWriter | None) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bar
        from rich.progress import TimeRemainingColumn

        self.events = events
        self.console = Console(stderr=True, highlight=False, markup=False)  # file names may look like markup
        self.bar = Bar(*Bar.get_default_columns()[:-1], TimeRemainingColumn(), console=self.console, transient=True,
                       disable=events is not None)  # fmt: skip
        self.task = self.bar.add_task("", total=None)

    def begin(self, title: str) -> None:
        from rich.markup import escape

        self.bar.reset(self.task, description=escape(title), total=None)

    def progress(self, progress: Progress) -> None:
        if self.events:
            self.events(progress)
        else:
            self.bar.update(self.task, completed=progress.done, total=progress.total)

    def say(self, text: str, level: str = "info") -> None:
        if self.events:
            self.events.log(text, level)
        else:
            self.console.print(text, soft_wrap=True)

    def taken(self, reference: Source, second: Source) -> None:
        """What the sources were taken for; a program finds that in the provenance, and hears of doubts alone."""
        for role, source in (("reference", reference), ("second", second)):
            if not self.events:
                self.say(f"{role}: {source.decision}")
            for warning in source.warnings:
                self.say(f"warning: {role}: {warning}", "warning")

    def values(self, values: dict[str, Any]) -> None:
        """What black and white of the sources are in their own units, if that was asked for."""
        for role, found in values.items():
            if not self.events:
                self.say(f"{role}: black is {found['black']:.4g} and white {found['white']:.4g}, {found['unit']}")

    def failed(self, error: DDFMError) -> None:
        if self.events:
            self.events.error(error.code, str(error), ExitCode.ALL_FAILED)
        else:
            from rich.text import Text

            self.console.print(Text.assemble(("failed ", "red"), str(error)), soft_wrap=True)

    def result(self, outputs: dict[str, Path], provenance: dict[str, Any], seconds: dict[str, float]) -> None:
        if self.events:
            self.events.result(outputs, provenance, seconds)
        else:
            for role, path in outputs.items():
                typer.echo(f"{role}: {path}")


@contextmanager
def _host(json_lines: bool) -> Iterator[_Host]:
    if json_lines:
        from ddfm_monai._version import __version__
        from ddfm_monai.protocol import events_on_stdout, quiet_libraries

        with events_on_stdout(__version__) as events, quiet_libraries():
            yield _Host(events)
    else:
        from ddfm_monai.protocol import quiet_libraries, sigterm_as_interrupt

        host = _Host(None)
        with sigterm_as_interrupt(), quiet_libraries(), host.bar:
            yield host
