"""``ddfm dicom``: find the pairs in a folder of DICOM files, and fuse them all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ddfm_monai.cli.options import PRIOR, with_settings
from ddfm_monai.cli.wrap import wrap
from ddfm_monai.errors import ExitCode, UsageError
from ddfm_monai.settings import FusionSettings

if TYPE_CHECKING:
    from rich.console import Console

    from ddfm_monai.batch.case import CaseJob, CaseOutcome
    from ddfm_monai.batch.pair import Pair, PairingOptions
    from ddfm_monai.batch.pairing import Missing, PairingResult
    from ddfm_monai.batch.report import BatchReport
    from ddfm_monai.batch.run import Runner
    from ddfm_monai.dicom.errors import Problem
    from ddfm_monai.dicom.scan import ScanResult
    from ddfm_monai.progress import Progress, ProgressCallback

__all__ = ["register"]


class Select(str, Enum):
    """What to do with several candidates."""

    error = "error"
    best = "best"
    all = "all"


class SopClass(str, Enum):
    """What grey results are stored as."""

    mr = "mr"
    sc = "sc"


_INPUT = typer.Argument(..., help="Folder with DICOM files, in any order and depth. Never written to.")
_SELECT = typer.Option(Select.error, help="Several candidates: leave them to you, take the best, or take all.")
_MAX_DAYS = typer.Option(30.0, min=0, help="With --register: days that may lie between series of different studies.")
_SHOW_PHI = typer.Option(False, "--show-phi", help="Show patients and file names in messages and logs.")


def register(app: typer.Typer) -> None:
    """Add ``ddfm dicom`` to the application."""
    dicom = typer.Typer(help="Fuse whole folders of DICOM series.", no_args_is_help=True)
    dicom.command("scan")(scan)
    dicom.command("run")(run)
    dicom.command("wrap")(wrap)
    app.add_typer(dicom, name="dicom")


@with_settings(only=("reference_kind", "second_kind", "register", "colour"))
def scan(
    source: Path = _INPUT,
    output: Path = typer.Option(None, "-o", "--output", help="Manifest to write: .csv or .json."),
    select: Select = _SELECT,
    max_days: float = _MAX_DAYS,
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace an existing manifest."),
    show_phi: bool = _SHOW_PHI,
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Say what can be fused in a folder, and why the rest cannot. Reads headers only; fuses nothing.

    The manifest lists all pairs. Edit its column "status" and give it to: ddfm dicom run --pairs

    Examples:

    \b
      ddfm dicom scan export
      ddfm dicom scan export -o pairs.csv --register rigid
    """
    from ddfm_monai.batch.manifest import write_manifest
    from ddfm_monai.batch.pairing import missing_options
    from ddfm_monai.files import check_writable_file
    from ddfm_monai.protocol import quiet_libraries

    screen = _Screen(show_phi)
    if output is not None:
        check_writable_file(output, overwrite)
        if output.resolve().is_relative_to(source.resolve()):
            raise UsageError(f"{output}: lies inside the input folder, which is never written to.", "E_INSIDE_INPUT")
    options = _pairing_options(settings, select, max_days)
    with quiet_libraries(show_phi):
        found, pairing = _find(source, options, screen)
        missing = missing_options(found, options, pairing)
        screen.show_scan(found, pairing, missing)
        if output is not None:
            write_manifest(pairing, output, overwrite, missing)
            typer.echo(str(output))
    return ExitCode.DONE if pairing.pairs or pairing.ambiguous else ExitCode.NOTHING_TO_DO


@with_settings()
def run(
    source: Path = _INPUT,
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the results and the report."),
    pairs: Path = typer.Option(None, help="Manifest (ddfm dicom scan): run exactly its rows with status run."),
    select: Select = _SELECT,
    max_days: float = _MAX_DAYS,
    prior: str = PRIOR,
    sop_class: SopClass = typer.Option(SopClass.mr, help="Grey results as MR Image or as Secondary Capture."),
    html: bool = typer.Option(False, "--html", help="Also write an HTML page a case to compare result and sources."),
    scheduler: str = typer.Option(None, help="Dask: tcp://HOST:PORT of a scheduler, or local:N for N processes."),
    worker_resource: str = typer.Option(None, help="With --scheduler: what a worker must offer, such as GPU=1."),
    num_parts: int = typer.Option(1, min=1, help="Split the cases into so many parts, one command each."),
    part_id: int = typer.Option(0, min=0, help="Which part this command runs, from 0."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace results of other inputs or settings."),
    strict: bool = typer.Option(False, "--strict", help="What a rule skips counts as failed."),
    fail_fast: bool = typer.Option(False, "--fail-fast", help="Stop at the first case that fails."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be run; write nothing."),
    show_phi: bool = _SHOW_PHI,
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Fuse every pair of a folder and write derived DICOM series. Not for diagnostic use.

    Finished cases are kept when the command is given again. Exit codes: 0 all done, 3 nothing to do, 4 some cases
    failed, 5 all failed.

    Examples:

    \b
      ddfm dicom run export -o fused --dry-run
      ddfm dicom run export -o fused --register rigid --html
      ddfm dicom run export -o fused --pairs pairs.csv
    """
    from ddfm_monai.batch import case
    from ddfm_monai.batch import run as batch
    from ddfm_monai.batch.manifest import why_nothing_runs
    from ddfm_monai.batch.pairing import missing_options
    from ddfm_monai.protocol import quiet_libraries

    if part_id >= num_parts:
        raise UsageError(f"--part-id is {part_id}; it runs from 0 to --num-parts - 1, that is {num_parts - 1}.")
    if worker_resource is not None and scheduler is None:
        raise UsageError("--worker-resource is for clusters; give --scheduler too.")
    batch.check_folders(source, output)
    how = case.CaseSettings.of(settings, prior, sop_class.value, html)
    batch.check_settings(how, here=scheduler is None)
    screen = _Screen(show_phi)
    options = _pairing_options(settings, select, max_days)
    with quiet_libraries(show_phi):
        found, pairing = _find(source, options, screen, pairs)
        screen.show_scan(found, pairing, missing_options(found, options, pairing) if pairs is None else None)
    if pairs is not None and not pairing.pairs:
        typer.echo(why_nothing_runs(pairs), err=True)
        return ExitCode.NOTHING_TO_DO
    jobs = batch.plan_jobs(pairing.pairs, found, how, output, overwrite=overwrite, show_phi=show_phi)
    mine = jobs[part_id::num_parts]
    if dry_run:
        return ExitCode.DONE if mine else ExitCode.NOTHING_TO_DO
    part = "" if num_parts == 1 else f"-{part_id}-of-{num_parts}"
    with screen.batch(len(mine)), _runner(scheduler, worker_resource, screen, fail_fast) as runner:
        report = batch.run_batch(
            mine,
            batch.left_out(pairing, found) if part_id == 0 else [],
            output,
            runner,
            on_outcome=screen.tell,
            report_name=f"report{part}",
        )
    screen.show_report(report, output / f"report{part}.csv")
    return report.exit_code(strict)


def _pairing_options(settings: FusionSettings, select: Select, max_days: float) -> PairingOptions:
    from ddfm_monai.batch.pair import PairingOptions

    return PairingOptions(
        register=settings.register,  # type: ignore[arg-type]
        max_days=max_days,
        select=select.value,
        reference_kind=settings.reference_kind,
        second_kind=settings.second_kind,
        output_kind="both" if settings.colour else "gray",
    )


def _find(
    source: Path, options: PairingOptions, screen: _Screen, manifest: Path | None = None
) -> tuple[ScanResult, PairingResult]:
    """Scan a folder and pair what is in it, by the rules or by a manifest."""
    from ddfm_monai.batch.manifest import read_manifest
    from ddfm_monai.batch.pairing import PairingResult, find_pairs
    from ddfm_monai.dicom import scan_folder

    with screen.scanning() as progress:
        found = scan_folder(source, progress)
    if manifest is None:
        return found, find_pairs(found, options)
    return found, PairingResult(read_manifest(manifest, found), (), ())


@contextmanager
def _runner(scheduler: str | None, resource: str | None, screen: _Screen, fail_fast: bool) -> Iterator[Runner]:
    from ddfm_monai.batch.run import one_after_the_other

    if scheduler is None:
        yield one_after_the_other(screen.case, fail_fast)
        return
    from ddfm_monai.batch.cluster import cluster_runner, parse_resources

    with cluster_runner(scheduler, parse_resources(resource or ""), fail_fast) as runner:
        yield runner


@dataclass
class _Screen:
    """What the person at the terminal sees: tables on standard output, progress on standard error."""

    show_phi: bool

    def __post_init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.out: Console = Console(highlight=False, soft_wrap=True, markup=False)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns, console=Console(stderr=True), transient=True)

    @contextmanager
    def scanning(self) -> Iterator[ProgressCallback]:
        with self.bar:
            task = self.bar.add_task("reading headers", total=None)
            yield lambda step: self.bar.update(task, completed=step.done, total=step.total or None)
            self.bar.remove_task(task)

    @contextmanager
    def batch(self, cases: int) -> Iterator[None]:
        from ddfm_monai.protocol import sigterm_as_interrupt

        with sigterm_as_interrupt(), self.bar:
            self.cases = self.bar.add_task("cases", total=cases)
            self.step = self.bar.add_task("", total=None, visible=False)
            yield

    def case(self, job: CaseJob) -> ProgressCallback:
        """The progress of one case."""

        def update(step: Progress) -> None:
            self.bar.update(
                self.step,
                description=f"{job.pair.case_id} {step.stage}",
                completed=step.done,
                total=step.total or None,
                visible=True,
            )

        return update

    def tell(self, outcome: CaseOutcome) -> None:
        """One line per finished case, above the progress bars."""
        from rich.text import Text

        style = "green" if outcome.status in ("ok", "resumed") else "red"
        detail = f"{outcome.code} {outcome.message}" if outcome.code else f"{outcome.seconds:.1f} s"
        detail = " ".join([detail, *outcome.warnings])
        self.bar.console.print(Text(outcome.status, style), outcome.case_id, Text(detail), soft_wrap=True)
        for remark in outcome.remarks:
            self.bar.console.print(Text(f"  {remark}", "yellow"), soft_wrap=True)
        self.bar.advance(self.cases)

    def show_scan(self, found: ScanResult, pairing: PairingResult, missing: Missing | None) -> None:
        """What was found: one table, what its codes mean, and the options that would make more of it run."""
        from ddfm_monai.batch.table import series_table
        from ddfm_monai.dicom import EXPLANATIONS

        self.out.print(
            f"{found.files} files, {len(found.subseries)} volumes, {len(pairing.pairs)} pairs to run, "
            f"{len(pairing.ambiguous)} ambiguous"
        )
        if found.subseries:
            for line in series_table(found, pairing, missing, self.show_phi):
                self.out.print(line)
        for code, count in sorted(found.counts().items()):
            self.out.print(f"{count} files: {code}")
        if self.show_phi:
            for problem in found.problems:
                self.out.print(f"{problem.path}: {problem.code} {problem.found}")
        entries = (*pairing.ambiguous, *pairing.skipped)
        codes = {problem.code for entry in entries for problem in (entry.problem, *_of_pair(entry.pair))}
        codes |= {code for pair in pairing.pairs for code in pair.remarks}
        for code in sorted(codes | set(found.counts())):
            self.out.print(f"{code}: {EXPLANATIONS[code].what} {EXPLANATIONS[code].remedy}")
        if missing is not None:
            count, options = len(missing.result.pairs), " ".join(missing.options)
            pairs = "1 pair" if count == 1 else f"{count} pairs"
            self.out.print(f"{pairs} would run with: ddfm dicom run {found.root.name} -o OUTPUT {options}")

    def show_report(self, report: BatchReport, path: Path) -> None:
        """What the remarks mean, how many cases ended how, and where the report is."""
        from ddfm_monai.dicom import EXPLANATIONS

        for code in sorted({code for outcome in report.outcomes for code in outcome.warnings} & EXPLANATIONS.keys()):
            self.out.print(f"{code}: {EXPLANATIONS[code].what} {EXPLANATIONS[code].remedy}")
        self.out.print(f"{report.summary()}. Report: {path}")


def _of_pair(pair: Pair | None) -> tuple[Problem, ...]:
    return () if pair is None else (*pair.obstacles, *pair.warnings)
