"""The same batch on a Dask cluster: what comes out is what one process makes, also when a worker dies in the middle."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

dask = pytest.importorskip("dask", reason="Dask is not installed")
distributed = pytest.importorskip("distributed", reason="Dask is not installed")

from dicom.results import SMALL, spoil  # noqa: E402
from dicom.synthetic import save_pair  # noqa: E402

from ddfm_monai.batch import case  # noqa: E402
from ddfm_monai.batch.case import CaseJob, CaseOutcome, CaseSettings  # noqa: E402
from ddfm_monai.batch.cluster import cluster_runner, parse_resources  # noqa: E402
from ddfm_monai.batch.pairing import find_pairs  # noqa: E402
from ddfm_monai.batch.run import plan_jobs, run_batch  # noqa: E402
from ddfm_monai.dicom import scan_folder  # noqa: E402
from ddfm_monai.errors import UsageError  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A scheduler and two worker processes, as an operator would start them.

    They are forked: as new processes each would import torch first, which takes longer than all the tests.
    """
    forked = dask.config.set({"distributed.worker.multiprocessing-method": "fork"})
    with forked, distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", host="127.0.0.1",
        resources={"GPU": 1},
    ) as running:  # fmt: skip
        yield running


class Die(distributed.WorkerPlugin):
    """Kills a worker that has half of a case written: once, or whenever it is a certain case."""

    def __init__(self, once: Path | None = None, of: str = "") -> None:
        self.once, self.of = once, of

    def setup(self, worker: distributed.Worker) -> None:
        from ddfm_monai.dicom import write

        real = write.save

        def save(ds: Any, path: Path) -> None:
            real(ds, path)
            if path.name != "0003.dcm" or self.of not in str(path) or (self.once and self.once.exists()):
                return
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)

        write.save = save


def make_jobs(folder: Path, prior: Path, out: Path, count: int) -> list[CaseJob]:
    """So many cases, and one more whose pixels cannot be decoded."""
    for number in range(count + 1):
        save_pair(folder / str(number), **SMALL, patient_id=f"P{number}", study=f"s{number}")
    spoil(folder / "0/mr/IM0003")
    scan = scan_folder(folder)
    return plan_jobs(find_pairs(scan).pairs, scan, CaseSettings(prior=str(prior), steps=1, device="cpu"), out)


def timeless(outcome: CaseOutcome) -> CaseOutcome:
    """What must not depend on who ran the case, and when."""
    outputs = tuple({"kind": output["kind"], "count": len(output["instance_uids"])} for output in outcome.outputs)
    return replace(outcome, seconds=0, outputs=outputs)


def test_results_are_those_of_one_process(cluster: Any, tmp_path: Path, tiny_prior_path: Path) -> None:
    jobs = make_jobs(tmp_path / "in", tiny_prior_path, tmp_path / "serial", 2)
    serial = run_batch(jobs, [], tmp_path / "serial")
    elsewhere = [replace(job, out=tmp_path / "cluster") for job in jobs]
    with cluster_runner(cluster.scheduler_address, {"GPU": 1}) as runner:
        parallel = run_batch(elsewhere, [], tmp_path / "cluster", runner)
    assert [timeless(outcome) for outcome in parallel.outcomes] == [timeless(outcome) for outcome in serial.outcomes]
    assert serial.counts() == {"ok": 2, "failed": 1}
    names = [{str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*")}
             for name in ("serial", "cluster")]  # fmt: skip
    assert names[0] == names[1]
    for name in names[0]:
        if name.endswith(".dcm"):
            pixels = [dcmread(tmp_path / run / name).PixelData for run in ("serial", "cluster")]
            assert pixels[0] == pixels[1]


def test_a_worker_killed_in_the_middle_costs_its_case_only_time(
    cluster: Any, tmp_path: Path, tiny_prior_path: Path
) -> None:
    out, marker = tmp_path / "out", tmp_path / "killed"
    jobs = make_jobs(tmp_path / "in", tiny_prior_path, out, 2)
    with distributed.Client(cluster) as client:
        client.register_plugin(Die(once=marker), name="die")
        with cluster_runner(cluster.scheduler_address) as runner:
            report = run_batch(jobs, [], out, runner)
        client.unregister_worker_plugin("die")
    assert marker.exists(), "no worker was killed"
    assert report.counts() == {"ok": 2, "failed": 1}
    assert not list(out.glob(".*"))
    for outcome in report.outcomes:
        if outcome.status == "ok":
            files = sorted((out / outcome.case_id / "grey").iterdir())
            assert [dcmread(path).SOPInstanceUID for path in files] == outcome.outputs[0]["instance_uids"]


def test_a_case_that_always_loses_its_worker_fails(tmp_path: Path, tiny_prior_path: Path) -> None:
    """Only that case: the cluster goes on with the others."""
    jobs = make_jobs(tmp_path / "in", tiny_prior_path, tmp_path / "out", 1)
    with dask.config.set({"distributed.worker.multiprocessing-method": "fork"}), cluster_runner("local:2") as runner:
        client = distributed.default_client()
        client.register_plugin(Die(of=jobs[1].pair.case_id))
        report = run_batch(jobs, [], tmp_path / "out", runner)
    assert sorted(outcome.code for outcome in report.outcomes) == ["E_PIXEL_DATA", "E_WORKER_LOST"]


@pytest.mark.parametrize("scheduler", ["here", "local:0", "local:many"])
def test_addresses_that_are_none(scheduler: str) -> None:
    with pytest.raises(UsageError, match="local:N"), cluster_runner(scheduler):
        pass


def test_resources(cluster: Any) -> None:
    assert parse_resources("GPU=1, MEMORY=2.5") == {"GPU": 1, "MEMORY": 2.5}
    assert parse_resources("") == {}
    with pytest.raises(UsageError, match="GPU=1"):
        parse_resources("GPU")
    with pytest.raises(UsageError, match="offers TPU=1"), cluster_runner(cluster.scheduler_address, {"TPU": 1}):
        pass


def test_the_job_can_travel(tmp_path: Path, tiny_prior_path: Path) -> None:
    import pickle

    job = make_jobs(tmp_path / "in", tiny_prior_path, tmp_path / "out", 0)[0]
    assert pickle.loads(pickle.dumps(job)) == job
    assert case.run_case(pickle.loads(pickle.dumps(job))).code == "E_PIXEL_DATA"
