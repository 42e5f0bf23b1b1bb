"""The cases of a batch on a Dask cluster: one case is one task, run by the same function as on one machine.

Needs the optional extra ``cluster``. All workers must see input and output under the same paths. A worker that dies in
the middle of a case costs that case's time only: the scheduler gives it to another worker, which removes what the dead
one left under its temporary name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ddfm_monai.batch.case import CaseJob, CaseOutcome, run_case
from ddfm_monai.batch.run import Runner
from ddfm_monai.dicom.errors import Problem
from ddfm_monai.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

__all__ = ["cluster_runner", "parse_resources"]

_LOST_WORKERS = 2
"""How many workers a case may lose on a local cluster before it counts as failed; others have their own limit."""


@contextmanager
def cluster_runner(
    scheduler: str, resources: Mapping[str, float] | None = None, fail_fast: bool = False
) -> Iterator[Runner]:
    """A runner on a cluster, for as long as the block lasts.

    Args:
        scheduler: ``"tcp://host:port"`` of a running scheduler, or ``"local:N"`` for N worker processes here.
        resources: what a worker must offer to get a case, for example ``{"GPU": 1}`` for workers started with
            ``dask worker --resources GPU=1``; so each such worker runs one case at a time.
        fail_fast: start no further case after the first that failed.

    Raises:
        UsageError: Dask is not installed, the address is not understood, or nobody answers there.
    """
    with _connect(scheduler, resources or {}) as client:
        yield _runner(client, dict(resources or {}), fail_fast)


def parse_resources(text: str) -> dict[str, float]:
    """``"GPU=1"`` or ``"GPU=1,MEMORY=8"`` as a dictionary.

    Raises:
        UsageError: not of this form.
    """
    try:
        return {name.strip(): float(amount) for name, amount in (part.split("=") for part in text.split(",") if part)}
    except ValueError:
        raise UsageError(f"worker resource {text!r}: NAME=NUMBER is expected, for example GPU=1.") from None


def _runner(client: Client, resources: dict[str, float], fail_fast: bool) -> Runner:
    from distributed import as_completed

    def run(jobs: Sequence[CaseJob]) -> Iterator[CaseOutcome]:
        futures = {
            client.submit(
                run_case, job, key=f"ddfm-{job.pair.case_id}", pure=False, retries=0, resources=resources or None
            ): job
            for job in jobs
        }
        try:
            for future in as_completed(futures):
                outcome = _outcome(future, futures[future])
                yield outcome
                if fail_fast and outcome.status == "failed":
                    return
        finally:
            client.cancel(list(futures))

    return run


def _outcome(future: Any, job: CaseJob) -> CaseOutcome:
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    lost = isinstance(error, KilledWorker)
    found = "every worker that ran the case was lost" if lost else f"the task failed with {type(error).__name__}"
    problem = Problem("E_WORKER_LOST" if lost else "E_INTERNAL", found)
    return CaseOutcome.of(job.pair, "failed", code=problem.code, message=problem.text())


@contextmanager
def _connect(scheduler: str, resources: Mapping[str, float]) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            '--scheduler needs Dask, which is not installed. Run: pip install "dask[distributed]"'
        ) from None
    kind, _, rest = scheduler.partition(":")
    if kind == "local" and rest.isdigit() and int(rest) > 0:
        with _local_cluster(int(rest), resources) as cluster, Client(cluster) as client:
            yield client
        return
    if "://" not in scheduler:
        raise UsageError(f"scheduler {scheduler!r}: tcp://HOST:PORT or local:N is expected.")
    try:
        client = Client(scheduler, timeout=20)
    except (OSError, ValueError) as error:
        found = type(error).__name__
        raise UsageError(f"scheduler {scheduler}: nobody answers ({found}). Is it running?") from None
    with client:
        _check_offered(client, resources)
        yield client


@contextmanager
def _local_cluster(workers: int, resources: Mapping[str, float]) -> Iterator[LocalCluster]:
    """Worker processes of this machine, spoken to over the loopback only."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": _LOST_WORKERS}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            resources=dict(resources) or None,
            memory_limit=None,
        ) as cluster,
    ):
        yield cluster


def _check_offered(client: Client, resources: Mapping[str, float]) -> None:
    """Refuse to wait for ever. A cluster without workers may be about to start some."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    for name, amount in resources.items():
        if workers and all(worker["resources"].get(name, 0) < amount for worker in workers):
            raise UsageError(
                f"no worker of the cluster offers {name}={amount:g}. Start them with: dask worker ADDRESS "
                f"--nthreads 1 --resources {name}={amount:g}"
            )
