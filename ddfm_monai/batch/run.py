"""All cases of a folder: one by one or on a cluster, each on its own, with a report that is always up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ddfm_monai.batch.case import CaseJob, CaseOutcome, CaseSettings, Status, run_case
from ddfm_monai.batch.pair import Pair
from ddfm_monai.batch.pairing import PairingResult, Skipped, patients_of
from ddfm_monai.batch.report import BatchReport, write_page, write_report
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.errors import UsageError, is_out_of_memory
from ddfm_monai.files import check_folder_takes_files
from ddfm_monai.lock import output_lock
from ddfm_monai.progress import ProgressCallback, silent

__all__ = [
    "Runner",
    "check_folders",
    "check_settings",
    "free_number",
    "left_out",
    "one_after_the_other",
    "plan_jobs",
    "run_batch",
]

Runner = Callable[[Sequence[CaseJob]], Iterator[CaseOutcome]]
"""Runs jobs and yields each outcome as soon as it is known, in any order."""


_DAMAGED = {
    *("E_HEADER", "E_PIXEL_DATA", "E_DECODER", "E_MISSING_SLICES", "E_IRREGULAR_SPACING"),
    *("E_DUPLICATE_POSITION", "E_DUPLICATE_INSTANCE", "E_RESCALE", "E_MODALITY_LUT"),
    *("E_PIECES", "E_FRAMES_OF_REFERENCE", "E_SERIES_PER_SLICE", "E_SEVERAL_OWNERS"),
}
"""Codes of series that are meant as volumes but came damaged, incomplete or in pieces, or cannot be decoded here."""


def run_batch(
    jobs: Sequence[CaseJob],
    left_out: Sequence[CaseOutcome],
    out: Path,
    runner: Runner | None = None,
    *,
    on_outcome: Callable[[CaseOutcome], None] = lambda outcome: None,
    report_name: str = "report",
) -> BatchReport:
    """Run all jobs; a case that fails is reported and the others go on.

    ``report.json`` and ``report.csv`` in ``out`` are written anew after every case, so that they are right whenever the
    batch is stopped, and ``report.html`` when it ends or is interrupted. Rows stand in the order of ``jobs``, then of
    ``left_out``, whoever ran them and whenever they were done.

    Args:
        jobs: from :func:`plan_jobs`.
        left_out: outcomes of what is not run, from :func:`left_out`; they are part of the report.
        out: the output folder; is made, readable for its owner only.
        runner: by default :func:`one_after_the_other`.
        on_outcome: told about every finished case.
        report_name: of the two report files; parts of one batch need different ones.

    Raises:
        UsageError: another batch works in ``out`` (``E_LOCKED``).
        Cancelled, KeyboardInterrupt: from a runner; the report holds what was done until then.
    """
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    done: dict[str, CaseOutcome] = {}

    def report() -> BatchReport:
        ran = [done[job.pair.case_id] for job in jobs if job.pair.case_id in done]
        return BatchReport((*ran, *left_out), pending=len(jobs) - len(ran))

    with output_lock(out, f".{report_name}.lock"):
        write_report(report(), out, report_name)
        try:
            for outcome in (runner or one_after_the_other())(jobs):
                done[outcome.case_id] = outcome
                write_report(report(), out, report_name)
                on_outcome(outcome)
        finally:
            write_page(report(), out, report_name)
    return report()


def one_after_the_other(
    progress: Callable[[CaseJob], ProgressCallback] = lambda job: silent, fail_fast: bool = False
) -> Runner:
    """The runner of this process.

    Args:
        progress: gives the callback for a job.
        fail_fast: stop after the first failed case.
    """

    def run(jobs: Sequence[CaseJob]) -> Iterator[CaseOutcome]:
        for job in jobs:
            outcome = run_case(job, progress(job))
            yield outcome
            if fail_fast and outcome.status == "failed":
                return

    return run


def plan_jobs(
    pairs: Iterable[Pair],
    scan: ScanResult,
    settings: CaseSettings,
    out: Path,
    *,
    overwrite: bool = False,
    show_phi: bool = False,
) -> list[CaseJob]:
    """One job per pair, with Series Numbers that are free in the study.

    A reference with Series Number n gives its results n * 100 + 1 and up, others 9001 and up.

    Args:
        pairs: what is to be fused.
        scan: of the input folder; its Series Numbers are taken.
        settings: of all cases.
        out: the output folder.
        overwrite, show_phi: as of :class:`~ddfm_monai.batch.case.CaseJob`.

    Raises:
        UsageError: a pair comes twice (``E_MANIFEST``).
    """
    used: dict[str, set[int]] = {}
    for source in scan.subseries:
        if source.series_number is not None:
            used.setdefault(source.key.study_uid, set()).add(source.series_number)
    jobs: list[CaseJob] = []
    for pair in pairs:
        if pair.case_id in (job.pair.case_id for job in jobs):
            raise UsageError(f"Case {pair.case_id} is listed twice; list each pair of series once.", "E_MANIFEST")
        taken = used.setdefault(pair.reference.key.study_uid, set())
        number = free_number(pair.reference.series_number, taken)
        taken.update(range(number, number + 3))
        jobs.append(CaseJob(pair, settings, out, number, overwrite, show_phi))
    return jobs


def left_out(pairing: PairingResult, scan: ScanResult) -> list[CaseOutcome]:
    """The rows of a report for what is not run.

    Pairs of which none was chosen are ``ambiguous``. A damaged or incomplete series of a patient who also has one of
    the other kind was to be fused and cannot be: it is ``failed``. Everything else is ``skipped``.
    """
    patients = patients_of(scan.subseries)
    kinds: dict[str, set[bool]] = {}
    for source in scan.subseries:
        kinds.setdefault(patients[source.key], set()).add(source.kind == "mr")
    rows = [_left_out(entry, "ambiguous") for entry in pairing.ambiguous]
    for entry in pairing.skipped:
        wanted = len(kinds[patients[entry.reference.key]]) == 2 and entry.reference.exclusion is None
        rows.append(_left_out(entry, "failed" if wanted and entry.problem.code in _DAMAGED else "skipped"))
    return rows


def check_folders(source: Path, out: Path) -> None:
    """Refuse an output folder that is, holds, or lies in the input folder (``E_INSIDE_INPUT``), or cannot be written.

    A scan would find the results again, and the input is never written into.
    """
    inner, outer = out.resolve(), source.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise UsageError(
            f"{out}: the output folder must lie neither inside the input folder nor around it. Choose another folder.",
            "E_INSIDE_INPUT",
        )
    check_folder_takes_files(out)


def check_settings(settings: CaseSettings, here: bool = True) -> None:
    """Refuse settings that no case could be run with, before any is.

    Args:
        settings: of all cases.
        here: cases run on this machine, so its devices count.

    Raises:
        UsageError: unknown prior, missing weights, or steps, likelihood or device that do not go.
    """
    import torch

    from ddfm_monai.method import DDFMInferer
    from ddfm_monai.priors import find_prior, weights_of

    weights_of(find_prior(settings.prior))
    try:
        DDFMInferer(settings.steps, likelihood=settings.likelihood)
        if here and settings.device is not None:
            torch.empty(1, device=settings.device)
    except ValueError as error:
        raise UsageError(str(error)) from None
    except (RuntimeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device {settings.device!r} cannot be used here ({reason}). Use --device cpu.") from None


def _left_out(entry: Skipped, status: Status) -> CaseOutcome:
    reference, second = entry.reference.key, entry.second.key if entry.second is not None else None
    case_id = Pair(entry.reference, entry.second, "for").case_id if entry.second is not None else ""
    return CaseOutcome(
        case_id,
        status,
        code=entry.problem.code,
        message=entry.problem.text(show_path=False),
        patient_key=reference.patient_key,
        study_uid=reference.study_uid,
        reference_series_uid=reference.series_uid,
        reference_subseries=reference.subseries,
        second_series_uid=second.series_uid if second else "",
        second_subseries=second.subseries if second else "",
    )


def free_number(reference: int | None, taken: set[int]) -> int:
    """The first of three Series Numbers that are free, below 2^31 as an Integer String must be."""
    start = reference * 100 + 1 if reference is not None and 0 < reference < 20_000_000 else 9001
    number = start
    while taken & set(range(number, number + 3)):
        number += 3
    return number
