"""Sampling chains over the slices of a volume: on a GPU in batches that its memory holds, on the CPU side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import cast

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from ddfm_monai.errors import Cancelled, DDFMError
from ddfm_monai.method import DDFMInferer, SourceNoise, Step, noise_field
from ddfm_monai.priors import Prior
from ddfm_monai.progress import Progress, ProgressCallback
from ddfm_monai.volumes import SliceBatch, SlicePlan, assemble, slice_batches

__all__ = ["Chains", "Fused", "batch_size_for", "bytes_per_slice"]

_LARGEST_BATCH = 128  # larger ones were no quicker anywhere that is known, and progress comes per batch
_SHARE_OF_FREE_MEMORY = 0.7  # the rest is for the EM step's transforms and the allocator's rounding
_MOST_LANES = 8  # a slice of 512x512 takes 75 MB while it is fused
_LARGE_NETWORK = 50_000_000  # parameters; such a network's layers keep all threads busy, and one slice fills its memory


def batch_size_for(free_bytes: int, bytes_per_slice: int) -> int:
    """The largest power of two of slices that fits a share of the free memory, 1 to 128."""
    fitting = int(_SHARE_OF_FREE_MEMORY * free_bytes / max(bytes_per_slice, 1))
    return max(1, min(1 << (max(fitting, 1).bit_length() - 1), _LARGEST_BATCH))


@torch.no_grad()
def bytes_per_slice(network: Prior, height: int, width: int) -> int:
    """What one evaluation of a slice of ``height`` x ``width`` pixels takes of a CUDA device's memory, by trying it."""
    device = network.device
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.zeros(1, network.in_channels, height, width, device=device)
    network(x, torch.zeros(1, dtype=torch.long, device=device))
    return torch.cuda.max_memory_allocated(device) - before


@dataclass(frozen=True)
class Fused:
    """What sampling a volume gives.

    Args:
        mean: (1, X, Y, Z) in [0, 1], the mean over the chains.
        deviation: (1, X, Y, Z), their standard deviation on the same scale; None for one chain.
        outside: pixels that had to be brought back into the range of the sources.
    """

    mean: MetaTensor
    deviation: MetaTensor | None
    outside: int


@dataclass(frozen=True)
class Chains:
    """Sampling chains over all slices of a plan.

    Args:
        inferer: the loop; chain k starts from its seed + k.
        network: the prior, on its device.
        plan: how the volume is cut.
        source_noise: of the first and of the second source, in slices as the plan cuts them; None for a clean one.
        samples: number of chains.
        batch_size: slices at a time, or None for what suits the device.
        progress: told after every step.
    """

    inferer: DDFMInferer
    network: Prior
    plan: SlicePlan
    source_noise: SourceNoise
    samples: int
    batch_size: int | None
    progress: ProgressCallback

    def fuse(self, a: MetaTensor, b: MetaTensor, foreground: MetaTensor, seen: MetaTensor | None = None) -> Fused:
        """Fuse every slice of the plan.

        Args:
            a, b: (1, X, Y, Z) in [0, 1], on one grid.
            foreground: (1, X, Y, Z) bool.
            seen: (1, X, Y, Z) bool, the field of view of b; None: everywhere.
        """
        batches = slice_batches(self.plan, a, b, foreground, self.batch_size or self._fitting_batch_size(), seen)
        count = _Counter(len(self.plan.boxes), self.inferer.num_inference_steps, self.samples, self.progress)
        deviations: list[tuple[SliceBatch, Tensor]] = []

        def means() -> Iterator[tuple[SliceBatch, Tensor]]:
            for batch, chains in _side_by_side(self._chains, batches, self._lanes(), count):
                if self.samples > 1:
                    # assemble() maps [-1, 1] to [0, 1]; a deviation of s there is s / 2 on the grey scale
                    deviations.append((batch, chains.std(0) - 1))
                yield batch, chains.mean(0)

        fused = assemble(self.plan, means())
        return Fused(fused, assemble(self.plan, deviations) if deviations else None, count.outside)

    def _fitting_batch_size(self) -> int:
        """One on the CPU, where the prior evaluates slices one by one; on CUDA what the free memory holds."""
        device = self.network.device
        if device.type != "cuda":
            return 1
        largest = max(self.plan.boxes, key=lambda box: box.height * box.width)
        needed = bytes_per_slice(self.network, largest.height, largest.width)
        return batch_size_for(torch.cuda.mem_get_info(device)[0], needed)

    def _lanes(self) -> int:
        """Batches at a time: on the CPU one for each thread, because the layers of a small network are too small to
        be divided among threads without waiting for each other."""
        parameters = sum(p.numel() for p in self.network.parameters())
        if self.network.device.type != "cpu" or parameters > _LARGE_NETWORK:
            return 1
        return min(torch.get_num_threads(), len(self.plan.boxes), _MOST_LANES)

    def _chains(self, batch: SliceBatch, count: Callable[[Step], None]) -> Tensor:
        return torch.stack([self._chain(batch, k, count) for k in range(self.samples)])

    def _chain(self, batch: SliceBatch, number: int, count: Callable[[Step], None]) -> Tensor:
        inferer = self.inferer.with_seed(self.inferer.seed + number, draw=self.samples > 1)
        field = noise_field((self.network.in_channels, *self.plan.field_shape), inferer.seed)
        return self._run(inferer, torch.cat([batch.a, batch.b], 1), batch.crop_field(field), batch.seen, count)

    def _run(
        self,
        inferer: DDFMInferer,
        inputs: Tensor,
        noise: Tensor,
        seen: Tensor | None,
        count: Callable[[Step], None],
    ) -> Tensor:
        """One batch; where the device's memory does not hold it, its halves.

        Raises:
            DDFMError: not even one slice fits (``E_OUT_OF_MEMORY``).
        """
        device = self.network.device
        try:
            fused = inferer(
                inputs.to(device),
                self.network,
                noise.to(device),
                count,
                source_noise=self.source_noise,
                seen=None if seen is None else seen.to(device),
            )
            return cast(Tensor, fused).cpu()
        except torch.OutOfMemoryError as error:
            if len(inputs) == 1:
                raise DDFMError(
                    f"the memory of {device} is not enough for one slice of {inputs.shape[-2]}x{inputs.shape[-1]} "
                    "pixels. Close other programs that use it, or run with --device cpu.",
                    "E_OUT_OF_MEMORY",
                ) from error
        torch.cuda.empty_cache()
        half = len(inputs) // 2
        halves = slice(None, half), slice(half, None)
        parts = [(inputs[part], noise[part], None if seen is None else seen[part]) for part in halves]
        return torch.cat([self._run(inferer, *part, count) for part in parts])


def _side_by_side(
    work: Callable[[SliceBatch, Callable[[Step], None]], Tensor],
    batches: Iterator[SliceBatch],
    lanes: int,
    report: Callable[[Step], None],
) -> Iterator[tuple[SliceBatch, Tensor]]:
    """Batches with their results, as they get ready, from ``lanes`` threads that share torch's threads among them.

    Steps are reported in the caller's thread. What is raised there or in a lane stops all lanes at their next step.
    """
    if lanes == 1:
        for batch in batches:
            yield batch, work(batch, report)
        return
    threads = torch.get_num_threads()
    events: SimpleQueue[Step | Future[Tensor]] = SimpleQueue()
    stopped = threading.Event()
    running: dict[Future[Tensor], SliceBatch] = {}

    def step_done(step: Step) -> None:
        if stopped.is_set():
            raise Cancelled("another slice was stopped.")
        events.put(step)

    def start(batch: SliceBatch) -> None:
        future = pool.submit(work, batch, step_done)
        running[future] = batch
        future.add_done_callback(events.put)

    with ThreadPoolExecutor(lanes, initializer=torch.set_num_threads, initargs=(threads // lanes,)) as pool:
        try:
            for batch in islice(batches, lanes):
                start(batch)
            while running:
                event = events.get()
                if isinstance(event, Step):
                    report(event)
                    continue
                batch, result = running.pop(event), event.result()
                for following in islice(batches, 1):
                    start(following)
                yield batch, result
        finally:
            stopped.set()
            torch.set_num_threads(threads)  # MKL counts for all threads what one sets


class _Counter:
    """A callback of the inferer that adds up slice steps and reports them.

    Steps that ran out of memory count again, but never past the total.
    """

    def __init__(self, slices: int, steps: int, samples: int, progress: ProgressCallback) -> None:
        self.slices, self.per_slice, self.progress = slices, steps * samples, progress
        self.total = slices * self.per_slice
        self.done = 0
        self.outside = 0  # pixels that the last steps had to bring back into the sources' range
        progress(Progress("fuse", 0, self.total))

    def __call__(self, step: Step) -> None:
        self.done = min(self.done + len(step.estimate), self.total)
        if step.index == step.total and step.outside is not None:
            self.outside += int(step.outside.sum())
        in_slice = f"slice {-(-self.done // self.per_slice)} of {self.slices}"
        self.progress(Progress("fuse", self.done, self.total, in_slice))
