"""Many pairs one after the other: while one is fused, the next is read and the last is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ddfm_monai.errors import Cancelled, DDFMError, UsageError, of_system
from ddfm_monai.fusion.outputs import check_fits, write_outputs
from ddfm_monai.fusion.page import page_of
from ddfm_monai.fusion.pipeline import FusionResult, Meeting, fuse_volumes, prepare
from ddfm_monai.priors import Prior
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.settings import FusionSettings
from ddfm_monai.volumes import Source, read_source

__all__ = ["Done", "Job", "fuse_many", "read_ahead", "rehearse"]

_STOPS_ALL = (Cancelled, UsageError)  # what would be wrong with every other pair as well
_Item = TypeVar("_Item")
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Job:
    """A pair of files (or DICOM folders) and where the fused volume goes."""

    reference: Path
    second: Path
    target: Path


@dataclass(frozen=True)
class Done:
    """What became of a job.

    Args:
        job: the pair.
        outputs: role to path of what was written.
        provenance: how it was made.
        seconds: from its reading to its last file.
        error: why there are no outputs, or None.
    """

    job: Job
    outputs: dict[str, Path] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    error: DDFMError | None = None


def read_ahead(items: Iterable[_Item], read: Callable[[_Item], _Read]) -> Iterator[tuple[_Item, Callable[[], _Read]]]:
    """Each item with a function that gives what was read of it, or raises what reading raised.

    The next item is read while the caller works on this one.
    """
    with ThreadPoolExecutor(1) as reader:
        pending: tuple[_Item, Future[_Read]] | None = None
        for item in items:
            following = (item, reader.submit(read, item))
            if pending is not None:
                yield pending[0], pending[1].result
            pending = following
        if pending is not None:
            yield pending[0], pending[1].result


def fuse_many(
    jobs: Iterable[Job],
    prior: Prior,
    settings: FusionSettings,
    *,
    begin: Callable[[Job], None] = lambda job: None,
    taken: Callable[[Source, Source], None] = lambda reference, second: None,
    met: Callable[[Meeting], None] = lambda meeting: None,
    inspect: Callable[[FusionResult], FusionResult] = lambda result: result,
    page: bool = False,
    picture: str = "planes",
    progress: ProgressCallback = silent,
) -> Iterator[Done]:
    """Fuse pair after pair and write each result whole.

    Args:
        jobs: in the order in which they are fused.
        prior, settings: as of :func:`~ddfm_monai.fuse_volumes`.
        begin: told which job is fused now.
        taken: told what its sources were taken for, before they are fused.
        met: told how the two lie, before they are fused.
        inspect: given each result before it is written; gives what is to be written.
        page: also make an HTML page to look at each.
        picture: what the picture beside each shows, one of :data:`~ddfm_monai.settings.PICTURES`.
        progress: of the job that is fused now.

    Yields:
        One :class:`Done` per job; what is wrong with one pair alone (its files, their values) is its ``error``.

    Raises:
        UsageError, Cancelled: what would be wrong with every other pair as well; what was fused is still written.
    """

    def fuse(job: Job, sources: Callable[[], tuple[Source, Source]]) -> FusionResult:
        progress(Progress("read", 0, 1))
        both = sources()
        progress(Progress("read", 1, 1))
        check_fits(job.target, both[0])
        taken(*both)
        result = inspect(fuse_volumes(*both, prior=prior, settings=settings, progress=progress, begin=met))
        return replace(result, page=page_of(result, *both)) if page else result

    with ThreadPoolExecutor(1) as writer:
        pending: Future[Done] | None = None
        try:
            for job, sources in read_ahead(jobs, lambda job: _read(job, settings)):
                begin(job)
                started = time.monotonic()
                result = _outcome(fuse, job, sources)
                if pending is not None:
                    yield pending.result()
                # Not before the caller has heard of the last one.
                pending = writer.submit(_write, job, result, started, picture)
        except (Exception, KeyboardInterrupt):
            if pending is not None:
                yield pending.result()  # is written all the same, so the caller hears of it before the error
            raise
        if pending is not None:
            yield pending.result()


def rehearse(
    jobs: Iterable[Job],
    prior: Prior,
    settings: FusionSettings,
    taken: Callable[[Source, Source], None],
    met: Callable[[Meeting], None],
    progress: ProgressCallback = silent,
) -> Iterator[tuple[Job, DDFMError | None]]:
    """Everything but the fusion of pair after pair: read, judge, register if asked for.

    Args:
        jobs, prior, settings, taken, met, progress: as of :func:`fuse_many`.

    Yields:
        Each job, and what would keep it from being fused.
    """
    for job in jobs:
        try:
            both = _read(job, settings)
            check_fits(job.target, both[0])
            taken(*both)
            prepare(*both, prior, settings, progress, met)
        except _STOPS_ALL:
            raise
        except Exception as error:
            yield job, _of_pair(error)
        else:
            yield job, None


def _read(job: Job, settings: FusionSettings) -> tuple[Source, Source]:
    return (
        read_source(job.reference, "reference", settings.reference_kind, settings.window),
        read_source(job.second, "second", settings.second_kind, settings.window),
    )


def _outcome(work: Callable[..., FusionResult], *arguments: Any) -> FusionResult | DDFMError:
    """The result, or the error that concerns this pair alone."""
    try:
        return work(*arguments)
    except _STOPS_ALL:
        raise
    except Exception as error:
        return _of_pair(error)


def _of_pair(error: Exception) -> DDFMError:
    """An error of ours or of the system; what nobody foresaw is raised again."""
    known = error if isinstance(error, DDFMError) else of_system(error)
    if known is None:
        raise error
    return known


def _write(job: Job, result: FusionResult | DDFMError, started: float, picture: str) -> Done:
    if isinstance(result, DDFMError):
        return Done(job, error=result)
    try:
        outputs = write_outputs(result, job.target, picture)
    except _STOPS_ALL:
        raise
    except Exception as error:
        return Done(job, error=_of_pair(error))
    return Done(job, outputs, result.provenance, round(time.monotonic() - started, 2))
