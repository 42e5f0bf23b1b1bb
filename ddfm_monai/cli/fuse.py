"""``ddfm fuse``: two files, or two folders whose files match by name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ddfm_monai.errors import Cancelled, DDFMError, ExitCode, UsageError

if TYPE_CHECKING:
    from ddfm_monai.fusion.pipeline import FusionResult
    from ddfm_monai.priors import Prior
    from ddfm_monai.progress import Progress, ProgressCallback
    from ddfm_monai.protocol import EventWriter
    from ddfm_monai.volumes import Source

    _Written = tuple[dict[str, Path], dict[str, Any], dict[str, float]]

__all__ = ["register"]

_STOPS_ALL = (Cancelled, UsageError)  # what would be wrong with every other pair as well


class Kind(str, Enum):
    """What a source is."""

    auto = "auto"
    mr = "mr"
    ct = "ct"
    pet = "pet"
    spect = "spect"
    picture = "picture"


class Precision(str, Enum):
    """Arithmetic of the network; auto is bfloat16 where that is quicker."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Register(str, Enum):
    """How the second source is aligned first."""

    none = "none"
    rigid = "rigid"


class LikelihoodName(str, Enum):
    """Which EM step corrects the sampling."""

    default = "default"
    paper = "paper"
    published = "published"


def register(app: typer.Typer) -> None:
    """Add ``ddfm fuse`` to the application."""
    app.command("fuse")(fuse)


def fuse(
    reference: Path = typer.Argument(..., help="Reference volume (usually the MRI), a picture, or a folder of them."),
    second: Path = typer.Argument(..., help="The other volume (CT, PET, SPECT, ...), picture or folder."),
    output: Path = typer.Option(..., "-o", "--output", help="Fused file; for folders, a folder."),
    steps: int = typer.Option(None, help="Network evaluations per slice.  [default: the likelihood's]", min=1),
    prior: str = typer.Option("medical", help="A known prior (ddfm prior list) or a weight file."),
    device: str = typer.Option(None, help="cpu, cuda, cuda:1, ...  [default: CUDA if there is one]"),
    precision: Precision = typer.Option(Precision.auto, help="Arithmetic of the network."),
    seed: int = typer.Option(3407, help="Seed of the start noise."),
    likelihood: LikelihoodName = typer.Option(LikelihoodName.default, help="The EM step."),
    reference_kind: Kind = typer.Option(Kind.auto, help="What the reference is."),
    second_kind: Kind = typer.Option(Kind.auto, help="What the second source is."),
    window: str = typer.Option(None, help="CT window: brain, soft, bone, or LEVEL,WIDTH in HU."),
    register: Register = typer.Option(Register.none, help="Align the second source first."),
    colour: bool = typer.Option(False, "--colour", help="RGB result: hue of the source, or a PET/SPECT colour map."),
    samples: int = typer.Option(1, help="Chains to draw; several give mean and uncertainty.", min=1),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace existing results."),
    json_lines: bool = typer.Option(False, "--json", help="Speak JSON lines on standard output (docs/protocol.md)."),
) -> int:
    """Fuse two co-registered volumes or pictures of one patient. Not for diagnostic use.

    Writes the fused volume on the reference's grid, a JSON beside it that says how it was made, and a PNG to look at.
    """
    settings: dict[str, Any] = {
        "steps": steps,
        "device": device,
        "precision": precision.value,
        "seed": seed,
        "likelihood": likelihood.value,
        "reference_kind": reference_kind.value,
        "second_kind": second_kind.value,
        "window": window,
        "register": register.value,
        "colour": colour,
        "samples": samples,
    }
    with _host(json_lines) as host:
        if _is_dicom_output(reference, output):
            return _fuse_series(reference, second, output, prior, settings, overwrite, host)
        pairs, lonely = _find_jobs(reference, second, output)
        _say_what_is_left_out(lonely, (reference, second), len(pairs), host)
        if not pairs:
            host.say(f"{reference}, {second}: no file names in common; nothing to do.")
            return ExitCode.NOTHING_TO_DO
        _check_targets(pairs, samples, register.value, overwrite)
        return _fuse_pairs(pairs, prior, settings, host)


# --- which files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    reference: Path
    second: Path
    target: Path


def _find_jobs(reference: Path, second: Path, output: Path) -> tuple[list[_Job], list[Path]]:
    """What is to be fused, and the files of two folders that have no partner."""
    from ddfm_monai.fusion.pairs import find_pairs, target_in, volumes_in

    pairs, lonely = find_pairs(reference, second)
    are_folders = reference.is_dir() and bool(volumes_in(reference))
    jobs = [_Job(pair.reference, pair.second, target_in(output, pair) if are_folders else output) for pair in pairs]
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


def _check_targets(pairs: list[_Job], samples: int, register: str, overwrite: bool) -> None:
    from ddfm_monai.files import check_writable_target
    from ddfm_monai.fusion.outputs import check_target, output_names

    for pair in pairs:
        check_target(pair.target)
        for path in output_names(pair.target, samples=samples, register=register).values():
            if path.resolve() in (pair.reference.resolve(), pair.second.resolve()):
                raise UsageError(f"{path}: is a source; sources are never written to. Choose another output.")
            check_writable_target(path, overwrite)


# --- the work --------------------------------------------------------------------------------------------------------


def _fuse_pairs(pairs: list[_Job], prior: str, settings: dict[str, Any], host: _Host) -> int:
    """One pair after the other; while one is fused, the next is read and the last is written."""
    from ddfm_monai.priors import load_prior

    network = load_prior(prior)
    failed = 0

    def tell(written: Future[_Written]) -> None:
        nonlocal failed
        try:
            host.result(*written.result())
        except DDFMError as error:
            if len(pairs) == 1 or isinstance(error, _STOPS_ALL):
                raise
            failed += 1
            host.failed(error)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        read_next: Callable[[], tuple[Source, Source]] = partial(_read, pairs[0], settings)
        pending: list[Future[_Written]] = []
        try:
            for number, pair in enumerate(pairs, 1):
                host.begin(pair.reference.name + (f" ({number} of {len(pairs)})" if len(pairs) > 1 else ""))
                started, read = time.monotonic(), read_next
                if number < len(pairs):
                    read_next = reader.submit(_read, pairs[number], settings).result
                fused = _fuse(read, network, settings, host.progress)
                if pending:
                    tell(pending.pop())
                pending.append(writer.submit(_write, fused, pair.target, started))
        finally:
            if pending:
                tell(pending.pop())
    if failed:
        return ExitCode.ALL_FAILED if failed == len(pairs) else ExitCode.SOME_FAILED
    return ExitCode.DONE


def _read(pair: _Job, settings: dict[str, Any]) -> tuple[Source, Source]:
    from ddfm_monai.volumes import read_source

    return (
        read_source(pair.reference, "reference", settings["reference_kind"], settings["window"]),
        read_source(pair.second, "second", settings["second_kind"], settings["window"]),
    )


def _fuse(
    read: Callable[[], tuple[Source, Source]], network: Prior, settings: dict[str, Any], progress: ProgressCallback
) -> Future[FusionResult]:
    """The result, or the error that concerns this pair alone."""
    from ddfm_monai.fusion.pipeline import fuse_volumes
    from ddfm_monai.progress import Progress

    fused: Future[FusionResult] = Future()
    try:
        progress(Progress("read", 0, 1))
        sources = read()
        progress(Progress("read", 1, 1))
        fused.set_result(fuse_volumes(*sources, prior=network, progress=progress, **settings))
    except _STOPS_ALL:
        raise
    except DDFMError as error:
        fused.set_exception(error)
    return fused


def _write(fused: Future[FusionResult], target: Path, started: float) -> _Written:
    from ddfm_monai.fusion.outputs import write_outputs

    result = fused.result()
    return write_outputs(result, target), result.provenance, {"total": round(time.monotonic() - started, 2)}


def _fuse_series(
    reference: Path, second: Path, output: Path, prior: str, settings: dict[str, Any], overwrite: bool, host: _Host
) -> int:
    from ddfm_monai.batch.two_series import fuse_folders

    host.begin("DICOM series")
    result = fuse_folders(
        reference, second, output, prior=prior, overwrite=overwrite, progress=host.progress, **settings
    )
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
        from ddfm_monai.protocol import events_on_stdout

        with events_on_stdout(__version__) as events:
            yield _Host(events)
    else:
        from ddfm_monai.protocol import sigterm_as_interrupt

        host = _Host(None)
        with sigterm_as_interrupt(), host.bar:
            yield host
