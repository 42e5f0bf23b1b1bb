"""Sampling chains over the slices of a volume, in batches that the device's memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from ddfm_monai.method import DDFMInferer, Step, noise_field
from ddfm_monai.priors import Prior
from ddfm_monai.progress import Progress, ProgressCallback
from ddfm_monai.volumes import SliceBatch, SlicePlan, assemble, slice_batches

__all__ = ["Chains", "batch_size_for", "bytes_per_slice"]

_LARGEST_BATCH = 128  # larger ones were no quicker anywhere that is known, and progress comes per batch
_SHARE_OF_FREE_MEMORY = 0.7  # the rest is for the EM step's transforms and the allocator's rounding


def batch_size_for(free_bytes: int, bytes_per_slice: int) -> int:
    """The largest power of two of slices that fits a share of the free memory, 1 to 128."""
    fitting = int(_SHARE_OF_FREE_MEMORY * free_bytes / max(bytes_per_slice, 1))
    return max(1, min(1 << (max(fitting, 1).bit_length() - 1), _LARGEST_BATCH))


@torch.no_grad()
def bytes_per_slice(network: Prior, height: int, width: int) -> int:
    """What one evaluation of one slice takes of a CUDA device's memory, by trying it."""
    device = network.device
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    x = torch.zeros(1, network.in_channels, height, width, device=device)
    network(x, torch.zeros(1, dtype=torch.long, device=device))
    return torch.cuda.max_memory_allocated(device) - before


@dataclass(frozen=True)
class Chains:
    """Sampling chains over all slices of a plan.

    Args:
        inferer: the loop; chain k starts from its seed + k.
        network: the prior, on its device.
        plan: how the volume is cut.
        samples: number of chains.
        batch_size: slices at a time, or None for what suits the device.
        progress: told after every step.
    """

    inferer: DDFMInferer
    network: Prior
    plan: SlicePlan
    samples: int
    batch_size: int | None
    progress: ProgressCallback

    def fuse(self, a: MetaTensor, b: MetaTensor, foreground: MetaTensor) -> tuple[MetaTensor, MetaTensor | None]:
        """Mean over the chains and, for several, their standard deviation: (1, X, Y, Z) in [0, 1]."""
        batches = slice_batches(self.plan, a, b, foreground, self.batch_size or self._fitting_batch_size())
        count = self._counter()
        deviations: list[tuple[SliceBatch, Tensor]] = []

        def means() -> Iterator[tuple[SliceBatch, Tensor]]:
            for batch in batches:
                chains = torch.stack([self._chain(batch, k, count) for k in range(self.samples)])
                if self.samples > 1:
                    # assemble() maps [-1, 1] to [0, 1]; a deviation of s there is s / 2 on the grey scale
                    deviations.append((batch, chains.std(0) - 1))
                yield batch, chains.mean(0)

        fused = assemble(self.plan, means())
        return fused, assemble(self.plan, deviations) if deviations else None

    def _fitting_batch_size(self) -> int:
        """One on the CPU, where the prior evaluates slices one by one; on CUDA what the free memory holds."""
        device = self.network.device
        if device.type != "cuda":
            return 1
        largest = max(self.plan.boxes, key=lambda box: box.height * box.width)
        needed = bytes_per_slice(self.network, largest.height, largest.width)
        return batch_size_for(torch.cuda.mem_get_info(device)[0], needed)

    def _chain(self, batch: SliceBatch, number: int, count: Callable[[int], None]) -> Tensor:
        inferer = self.inferer if number == 0 else self.inferer.with_seed(self.inferer.seed + number)
        field = noise_field((self.network.in_channels, *self.plan.field_shape), inferer.seed)
        return self._run(inferer, torch.cat([batch.a, batch.b], 1), batch.crop_field(field), count)

    def _run(self, inferer: DDFMInferer, inputs: Tensor, noise: Tensor, count: Callable[[int], None]) -> Tensor:
        """One batch; where the device's memory does not hold it, its halves."""
        device = self.network.device

        def step(done: Step) -> None:
            count(len(inputs))

        try:
            fused = inferer(inputs.to(device), self.network, noise.to(device), step)
            return cast(Tensor, fused).cpu()
        except torch.OutOfMemoryError:
            if len(inputs) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(inputs) // 2
        parts = [(inputs[:half], noise[:half]), (inputs[half:], noise[half:])]
        return torch.cat([self._run(inferer, x, n, count) for x, n in parts])

    def _counter(self) -> Callable[[int], None]:
        """Adds up slice steps and reports them. Steps that ran out of memory count again, but never past the total."""
        steps = self.inferer.num_inference_steps
        total = len(self.plan.boxes) * steps * self.samples
        done = 0

        def count(slices: int) -> None:
            nonlocal done
            done = min(done + slices, total)
            in_slice = f"slice {-(-done // (steps * self.samples))} of {len(self.plan.boxes)}"
            self.progress(Progress("fuse", done, total, in_slice))

        self.progress(Progress("fuse", 0, total))
        return count
