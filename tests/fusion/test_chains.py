"""Batch sizes by memory; slices side by side on the CPU; on a GPU: the same result as the CPU, in little memory."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import head
from hypothesis import given
from hypothesis import strategies as st

from ddfm_monai import fuse_volumes
from ddfm_monai.errors import Cancelled
from ddfm_monai.fusion.chains import batch_size_for
from ddfm_monai.priors import Prior
from ddfm_monai.volumes import make_volume

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@given(free=st.integers(0, 1 << 40), needed=st.integers(0, 1 << 34))
def test_batches_fit_the_memory_and_are_never_empty(free, needed):
    size = batch_size_for(free, needed)
    assert 1 <= size <= 128
    assert size == 1 or size * needed <= free


def pair(shape):
    return [make_volume(head(shape, kind)[None], np.diag([1.0, 1, 3, 1])) for kind in ("mr", "ct")]


def psnr(found, expected) -> float:
    return float(-10 * torch.log10(((found - expected) ** 2).mean()))


@pytest.mark.parametrize("likelihood", ["default", "published"])
def test_reduced_precision_stays_close_to_float32(likelihood, tiny_prior):
    settings = {"prior": tiny_prior, "steps": 5, "likelihood": likelihood}
    full = fuse_volumes(*pair((48, 56, 3)), precision="float32", **settings).fused
    reduced = fuse_volumes(*pair((48, 56, 3)), precision="bfloat16", **settings).fused
    assert psnr(reduced, full) > 45


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("samples", [1, 2])
def test_slices_side_by_side_give_what_they_give_alone(tiny_prior, three_threads, samples):
    sources, settings = pair((48, 56, 7)), {"prior": tiny_prior, "steps": 2, "samples": samples}
    seen = []
    together = fuse_volumes(*sources, **settings, progress=lambda p: seen.append((p, threading.current_thread())))
    assert torch.get_num_threads() == 3
    torch.set_num_threads(1)
    alone = fuse_volumes(*sources, **settings)
    assert torch.allclose(together.fused, alone.fused, atol=1e-5)
    if samples > 1:
        assert torch.allclose(together.uncertainty, alone.uncertainty, atol=1e-5)
    fused = [p.done for p, _ in seen if p.stage == "fuse"]
    assert fused == sorted(fused) and fused[-1] == next(p.total for p, _ in seen if p.stage == "fuse")
    assert {thread for _, thread in seen} == {threading.current_thread()}


class _Failing(Prior):
    """Fails at the second evaluation."""

    def __init__(self, prior: Prior) -> None:
        super().__init__(prior.network, "failing", prior.sha256)
        self.evaluations = 0

    def forward(self, x, timesteps):
        self.evaluations += 1
        if self.evaluations > 1:
            raise ArithmeticError("no more")
        return super().forward(x, timesteps)


def test_what_is_raised_beside_other_slices_arrives_and_stops_them(tiny_prior, three_threads):
    threads = threading.active_count()

    def cancel(progress):
        if progress.stage == "fuse" and progress.done > 1:
            raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        fuse_volumes(*pair((48, 56, 7)), prior=tiny_prior, steps=20, progress=cancel)
    with pytest.raises(ArithmeticError, match="no more"):
        fuse_volumes(*pair((48, 56, 7)), prior=_Failing(tiny_prior), steps=20)
    assert threading.active_count() == threads and torch.get_num_threads() == 3


LARGE = """
import resource
resource.setrlimit(resource.RLIMIT_DATA, (8 * 2**30, 8 * 2**30))
import numpy as np, torch
from ddfm_monai import fuse_volumes
from ddfm_monai.volumes import make_volume
torch.set_num_threads(2)
sources = [np.zeros((1, 512, 512, 400), np.int16) for _ in range(2)]
for source in sources:
    source[:, 100:400, 80:440, 197:203] = np.random.default_rng(0).integers(10, 200, (300, 360, 1))
result = fuse_volumes(*(make_volume(source, np.eye(4)) for source in sources), second_kind="mr", steps=1)
assert result.fused.shape == (1, 512, 512, 400) and result.provenance["slices"]["fused"] == 6
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
def test_a_large_volume_in_8_gb_of_memory():
    """512x512x400 with the shipped prior; slices take their memory one after another, so a few of them serve."""
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4 * 2**20  # kB: half of it


@pytest.mark.gpu
@needs_cuda
def test_cuda_agrees_with_the_cpu_and_with_itself(tiny_prior):
    sources = pair((96, 112, 9))
    cpu = fuse_volumes(*sources, prior=tiny_prior, device="cpu", precision="float32").fused
    cuda = [fuse_volumes(*sources, prior=tiny_prior, device="cuda", precision="float32").fused for _ in range(2)]
    assert psnr(cuda[0], cpu) > 60
    assert torch.equal(cuda[0], cuda[1])
    reduced = fuse_volumes(*sources, prior=tiny_prior, device="cuda").fused
    assert psnr(reduced, cuda[0]) > 45


@pytest.mark.gpu
@needs_cuda
def test_a_large_volume_in_8_gb_of_gpu_memory():
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 8 * 2**30 / total))
    try:
        sources = pair((512, 512, 400))
        assert fuse_volumes(*sources, device="cuda").fused.shape == sources[0].shape
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
