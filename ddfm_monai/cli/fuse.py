"""``ddfm fuse``: two files, two folders, or a folder of cases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddfm_monai.cli.host import Host, host
from ddfm_monai.cli.options import PICTURE, PRIOR, Picture, with_settings
from ddfm_monai.errors import ExitCode, UsageError
from ddfm_monai.settings import FusionSettings

if TYPE_CHECKING:
    from ddfm_monai.fusion.many import Job
    from ddfm_monai.fusion.pairs import Pair
    from ddfm_monai.fusion.pipeline import FusionResult

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add ``ddfm fuse`` to the application."""
    app.command("fuse")(fuse)


@with_settings()
def fuse(
    reference: Path = typer.Argument(..., help="Reference volume (usually the MRI), a picture, or a folder of them."),
    second: Path = typer.Argument(
        None, help="The other volume (CT, PET, SPECT, ...), picture or folder. Leave it out for a folder of cases."
    ),
    output: Path = typer.Option(..., "-o", "--output", help="Fused file; for folders, a folder."),
    prior: str = PRIOR,
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace existing results."),
    check: bool = typer.Option(False, "--check", help="Also write a map of where to look at the sources."),
    html: bool = typer.Option(False, "--html", help="Also write an HTML page to compare result and sources."),
    picture: Picture = PICTURE,
    dry_run: bool = typer.Option(False, "--dry-run", help="Say what would be fused and how; write nothing."),
    quiet: bool = typer.Option(False, "-q", "--quiet", help="Say nothing but warnings and errors."),
    verbose: bool = typer.Option(False, "-v", "--verbose", help="Say more of each result: model, noise, time."),
    json_lines: bool = typer.Option(False, "--json", help="Speak JSON lines on standard output (docs/protocol.md)."),
    settings: FusionSettings = typer.Option(None),
) -> int:
    """Fuse two co-registered volumes or pictures of one patient. Not for diagnostic use.

    Writes the fused volume on the reference's grid, a JSON beside it that says how it was made, and a PNG to look at.
    In folders, files belong together whose names are equal, or equal but for the modality (sub01_mri, sub01_ct; one
    folder per case; BIDS). Given again, a folder's finished results are kept.

    Examples:

    \b
      ddfm fuse mri.nii.gz ct.nii.gz -o fused.nii.gz
      ddfm fuse mri.nii.gz ct.nii.gz -o fused.nii.gz --register rigid
      ddfm fuse mri.nii.gz pet.nii.gz -o fused.nii.gz --colour
      ddfm fuse mri_folder ct_folder -o results
      ddfm fuse folder_of_cases -o results --second-kind ct --dry-run
      ddfm fuse dicom_mr dicom_ct -o fused_series
    """
    from ddfm_monai.fusion.pairs import check_folder

    with host(json_lines, quiet, verbose) as person:
        if second is not None and _is_dicom_output(reference, output):
            check_folder(second)
            if check:
                raise UsageError(f"{output}: --check writes a volume beside a volume. Name a file: fused.nii.gz.")
            if dry_run:
                raise UsageError(f"{output}: --dry-run is for files. For DICOM: ddfm dicom run FOLDER --dry-run.")
            return _fuse_series(reference, second, output, prior, settings, overwrite, html, person)
        found = _find_pairs(reference, second, output, settings, person)
        if not found.jobs:
            why = f"{reference}: no two files make a pair"
            why = why if second is None else f"{reference}, {second}: no file names in common"
            person.nothing_to_do(f"{why}; nothing to do.")
            return ExitCode.NOTHING_TO_DO
        plan = _Plan(found.jobs, found.is_folder, found.lonely, prior, settings, overwrite, check, html, picture.value)
        return _rehearse(plan, person) if dry_run else _fuse_jobs(plan, person)


# --- which files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What is to be fused; a folder's finished results are kept, a single one that is in the way is not."""

    jobs: list[Job]
    is_folder: bool
    lonely: Sequence[Path] = ()


def _find_pairs(reference: Path, second: Path | None, output: Path, settings: FusionSettings, person: Host) -> _Found:
    """What is to be fused, after it was said what is left out."""
    from ddfm_monai.fusion.pairs import check_folder, find_pairs, holds_cases, pairs_of_cases

    is_folder = _holds_volumes(reference)
    if is_folder and (second is None or (second.is_dir() and second.samefile(reference))):
        pairs, left_out = pairs_of_cases(reference, settings.reference_kind, settings.second_kind)
        if not pairs:
            check_folder(reference)
        for item in left_out:
            person.tally.left_out += len(item.files)
            names = ", ".join(str(path.relative_to(reference)) for path in item.files)
            person.say(f"{reference}: left out, because {item.reason}: {names}", "warning")
        lonely = [path for item in left_out for path in item.files]
        return _Found(_jobs(pairs, output, (reference,)), True, lonely)
    if second is None:
        raise UsageError(
            f"{reference}: the second volume is missing: ddfm fuse {reference.name} SECOND -o {output}. (For a folder "
            "of DICOM files: ddfm dicom run.)"
        )
    pairs, lonely = find_pairs(reference, second)
    person.tally.left_out += len(lonely)
    _say_what_is_left_out(lonely, (reference, second), len(pairs), person)
    if is_folder:
        return _Found(_jobs(pairs, output, [x for x in (reference, second) if holds_cases(x)]), True, lonely)
    return _Found([_job(pairs[0], output)], False)


def _job(pair: Pair, target: Path) -> Job:
    from ddfm_monai.fusion.many import Job

    return Job(pair.reference, pair.second, target)


def _jobs(pairs: Sequence[Pair], output: Path, searched: Sequence[Path]) -> list[Job]:
    """One job a pair, its result in the output folder; that lies in no folder that is searched to its depths."""
    from ddfm_monai.fusion.pairs import target_in

    _check_output_folder(output)
    for folder in searched:
        if output.resolve().is_relative_to(folder.resolve()):
            raise UsageError(
                f"{output}: lies inside {folder}, where the results would be taken for sources the next time. "
                "Choose another output.",
                "E_INSIDE_INPUT",
            )
    targets = [target_in(output, pair) for pair in pairs]
    for target, pair in zip(targets, pairs, strict=True):
        if targets.count(target) > 1:
            raise UsageError(f"{target}: two pairs would be called {pair.stem!r}. Rename one, or fuse them apart.")
    return [_job(pair, target) for pair, target in zip(pairs, targets, strict=True)]


def _check_output_folder(output: Path) -> None:
    """Two folders of files give a folder of files."""
    from ddfm_monai.volumes import WRITABLE_SUFFIXES, suffix_of

    if suffix_of(output) in WRITABLE_SUFFIXES and not output.is_dir():
        raise UsageError(
            f"{output}: names a file, but folders give a folder of results. Name a folder, or give two files.",
            "E_OUTPUT_FOLDER",
        )


def _say_what_is_left_out(lonely: list[Path], folders: tuple[Path, Path], paired: int, person: Host) -> None:
    """One sentence for each folder with files that have no partner."""
    for folder, other in (folders, folders[::-1]):
        names = [str(path.relative_to(folder)) for path in lonely if path.is_relative_to(folder)]
        if names:
            count = f"{len(names)} of {paired + len(names)} files"
            reason = f"{other} has no file of the same name"
            person.say(f"{folder}: {count} left out, because {reason}: {', '.join(names)}", "warning")


def _is_dicom_output(reference: Path, output: Path) -> bool:
    """DICOM in and no volume file named as output: DICOM out."""
    from ddfm_monai.volumes import WRITABLE_SUFFIXES, suffix_of

    is_series = reference.is_dir() and not _holds_volumes(reference)
    return is_series and suffix_of(output) not in WRITABLE_SUFFIXES


def _holds_volumes(folder: Path) -> bool:
    from ddfm_monai.fusion.pairs import holds_cases, volumes_in

    return folder.is_dir() and (bool(volumes_in(folder)) or holds_cases(folder))


# --- the work --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is fused, and how."""

    jobs: list[Job]
    is_folder: bool
    lonely: Sequence[Path]
    prior: str
    settings: FusionSettings
    overwrite: bool
    check: bool
    html: bool
    picture: str

    def names(self, job: Job) -> dict[str, Path]:
        """Role to path of all files of a job's result."""
        from ddfm_monai.fusion.outputs import output_names

        return output_names(job.target, self.settings, self.check, self.html)

    def split(self) -> tuple[list[Job], list[tuple[Job, dict[str, Any]]]]:
        """What is to be done, and what was done before with its provenance.

        Raises:
            UsageError: an output is a source, cannot be made, or is there already and something else.
        """
        from ddfm_monai.files import check_name, check_writable_file
        from ddfm_monai.fusion.outputs import check_target
        from ddfm_monai.volumes.sidecar import sidecar_of

        sources = {path.resolve(): path for job in self.jobs for path in (job.reference, job.second)}
        kept = sources | {sidecar_of(path).resolve(): path for path in sources.values()}
        to_do, done = [], []
        for job in self.jobs:
            check_name(job.target)
            check_target(job.target)
            names = self.names(job)
            for path in names.values():
                check_name(path)
            for path in names.values():
                if path.resolve() in kept and path.exists():
                    what = "a source" if path.resolve() in sources else f"the JSON of {kept[path.resolve()].name}"
                    raise UsageError(f"{path}: is {what}; sources are never written to. Choose another output.")
            standing = [path for path in names.values() if path.exists()]
            if standing and not self.overwrite:
                record, reasons = self._earlier(job, names)
                if reasons or not self.is_folder:
                    raise UsageError(_in_the_way(standing[0], reasons), "E_OUTPUT_EXISTS")
                done.append((job, record))
                continue
            for path in names.values():
                check_writable_file(path, self.overwrite)
            to_do.append(job)
        return to_do, done

    @cached_property
    def _prior_sha256(self) -> str:
        from ddfm_monai.priors import sha256_of_prior

        return sha256_of_prior(self.prior)

    def _earlier(self, job: Job, names: dict[str, Path]) -> tuple[dict[str, Any], list[str]]:
        """The record of what is there, and why it is not what is asked for."""
        from ddfm_monai.fusion.resume import differences, read_record

        record = read_record(names["provenance"])
        sources = {"reference": job.reference, "second": job.second}
        return record, differences(record, names, sources, self.settings, self._prior_sha256)


def _in_the_way(path: Path, reasons: Sequence[str]) -> str:
    what = f", and is not this result ({'; '.join(reasons[:3])})" if reasons else ": the very result that is asked for"
    return f"{path}: already exists{what}. Choose another output or pass --overwrite."


@contextmanager
def _index(plan: _Plan, person: Host) -> Iterator[dict[Path, str]]:
    """For folders, write the index page whatever ends the work; yields where failures are noted: target to reason."""
    from ddfm_monai.fusion.index import INDEX, write_index

    failures: dict[Path, str] = {}
    try:
        yield failures
    finally:
        jobs, output = plan.jobs, plan.jobs[0].target.parent
        if plan.is_folder and any(job.target.exists() or job.target in failures for job in jobs):
            page = write_index(output, jobs, failures, plan.lonely)
            if page is None:
                person.say(f"{output / INDEX}: is no page of ddfm's and was left as it is; no overview was written.")
            elif not person.events:
                person.say(f"overview: {page}")


def _fuse_jobs(plan: _Plan, person: Host) -> int:
    from ddfm_monai.fusion.many import fuse_many
    from ddfm_monai.lock import target_locks
    from ddfm_monai.priors import load_prior

    begun = count(1)

    def begin(job: Job) -> None:
        both = f"{job.reference} with {job.second}"
        person.begin(job.reference.name, job.target, next(begun), len(to_do), both)

    def inspect(result: FusionResult) -> FusionResult:
        return _checked(result, person) if plan.check else result

    plan.split()  # refused before anything is made
    with target_locks(plan.names(job)["provenance"] for job in plan.jobs), _index(plan, person) as failures:
        to_do, done = plan.split()  # another run may have been first
        for job, record in done:
            person.kept(plan.names(job), record)
        for outcome in fuse_many(
            to_do,
            load_prior(plan.prior),
            plan.settings,
            begin=begin,
            taken=person.taken,
            met=person.met,
            inspect=inspect,
            page=plan.html,
            picture=plan.picture,
            progress=person.progress,
        ):
            if outcome.error is None:
                person.result(outcome.outputs, outcome.provenance, {"total": outcome.seconds})
            elif not plan.is_folder:
                raise outcome.error
            else:
                failures[outcome.job.target] = str(outcome.error)
                person.failed(outcome.error)
    person.summary()
    return _exit_code(person.tally.failed, len(plan.jobs))


def _rehearse(plan: _Plan, person: Host) -> int:
    """Everything but the fusion: pairs, kinds, windows, grids, registration, and what would be written."""
    from ddfm_monai.fusion.many import rehearse
    from ddfm_monai.priors import load_prior

    to_do, done = plan.split()
    for job, record in done:
        person.kept(plan.names(job), record)
    prior = load_prior(plan.prior)
    for job, error in rehearse(to_do, prior, plan.settings, person.taken, person.met, person.progress):
        if error is not None and not plan.is_folder:
            raise error
        if error is not None:
            person.failed(error)
        else:
            person.say(f"would fuse: {job.reference} with {job.second} to {job.target}")
    return _exit_code(person.tally.failed, len(plan.jobs))


def _exit_code(failed: int, of: int) -> int:
    if failed:
        return ExitCode.ALL_FAILED if failed == of else ExitCode.SOME_FAILED
    return ExitCode.DONE


def _checked(result: FusionResult, person: Host) -> FusionResult:
    """The result with the map of its check; what was found is told and goes into its provenance."""
    from dataclasses import replace

    from ddfm_monai.metrics.files import check_result
    from ddfm_monai.metrics.tables import check_sentence

    flags, shares = check_result(result.fused, result.reference01, result.second01, result.provenance["slices"]["axis"])
    person.say(check_sentence(shares))
    return replace(result, check=flags, provenance={**result.provenance, "check": shares})


def _fuse_series(
    reference: Path,
    second: Path,
    output: Path,
    prior: str,
    settings: FusionSettings,
    overwrite: bool,
    html: bool,
    person: Host,
) -> int:
    from ddfm_monai.batch.two_series import fuse_folders

    person.begin("DICOM series", output)
    result = fuse_folders(
        reference,
        second,
        output,
        prior=prior,
        settings=settings,
        overwrite=overwrite,
        page=html,
        progress=person.progress,
    )
    for warning in result.warnings:
        person.warn(warning)
    person.result({"fused": output}, result.provenance, {})
    person.summary()
    return ExitCode.DONE
