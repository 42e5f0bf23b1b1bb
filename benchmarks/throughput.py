"""Slices per second and peak memory, beside a plain loop in the same run.

    python benchmarks/throughput.py              # tables: precision, batch size, slices, size, steps
    python benchmarks/throughput.py --quick --json   # the two speed-ups as one JSON object

The baseline does what the published DDFM code does: float32 in PyTorch's default memory format, one slice at a time and
all of it, attention by explicit softmax, residual blocks one operation after another, complex FFTs whose constants are
computed anew, and at each step the estimate goes to the host, through a colour conversion and into a PNG. Both sides
use the same weights, steps and slices, and take turns; ratios are of medians. The 256x256 ImageNet network has random
weights, which cost the same.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddfm_monai import fuse_volumes, load_prior
from ddfm_monai.method import DDFMInferer, noise_field
from ddfm_monai.priors import ADMUNet, Prior, find_prior, slice_unet
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.volumes import make_volume

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


# --- what is fused ----------------------------------------------------------------------------------------------------


def head_pair(size: int, slices: int) -> tuple[Any, Any]:
    """Two 8-bit volumes of a head that fills the picture as heads do (about 70 % of the width, 85 % of the height)."""
    y, x = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size))
    inside = (x / 0.7) ** 2 + (y / 0.85) ** 2
    rng = np.random.default_rng(0)
    folds = np.sin(14 * x) * np.cos(17 * y)
    mri = np.where(inside < 0.85, 120 + 60 * folds, np.where(inside < 1, 200, 0))
    ct = np.where(inside < 0.85, 60 + 15 * folds, np.where(inside < 1, 255, 0))
    volumes = []
    for image in (mri, ct):
        stack = np.repeat(image[..., None], slices, axis=2)
        stack = np.where(stack > 0, np.clip(stack + rng.integers(-2, 3, stack.shape), 1, 255), 0)
        volumes.append(make_volume(np.rint(stack)[None], np.diag([1.0, 1, 5, 1])))
    return volumes[0], volumes[1]


def network_named(name: str) -> Prior:
    if name == DEFAULT_PRIOR:
        return load_prior(name, DEVICE)
    torch.manual_seed(0)
    with torch.device(DEVICE):
        network = ADMUNet(**find_prior("imagenet256").config)
    return Prior(network, name, "random weights").eval().requires_grad_(False)


# --- the two sides ----------------------------------------------------------------------------------------------------


def ours(prior: Prior, pair: tuple[Any, Any], steps: int | None, **settings: Any) -> None:
    fuse_volumes(*pair, prior=prior, steps=steps, device=DEVICE, second_kind="ct", reference_kind="mr", **settings)


@torch.no_grad()
def plain_loop(network: Any, pair: tuple[Any, Any], steps: int) -> None:
    scheduler, channels = DDFMInferer(steps).scheduler, network.in_channels
    with plain_layers(), tempfile.TemporaryDirectory() as folder:
        for k in range(pair[0].shape[-1]):
            a, b = (volume[:, :, :, k].as_tensor()[None].to(DEVICE) / 127.5 - 1 for volume in pair)
            f_t = noise_field((1, channels, *a.shape[-2:]), 3407).to(DEVICE)
            state: dict[str, Any] = {"u": None, "gamma": 1.0, "rho": 1.0}
            for i in reversed(range(steps)):
                timestep = scheduler.model_timesteps[i].to(DEVICE).expand(1)
                epsilon = network(f_t, timestep)[:, :channels]
                alpha_bar = scheduler.alphas_cumprod[i]
                estimate = ((f_t - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()).clamp(-1, 1)
                luma, chroma = to_ycbcr(estimate)
                estimate = from_ycbcr(plain_em(luma.to(DEVICE), a, b, state).cpu(), chroma, channels)
                f_t, _ = scheduler.step(estimate.to(DEVICE), i, f_t)
                save_picture(estimate, Path(folder) / f"{k}_{i}.png")


def to_ycbcr(estimate: Tensor) -> tuple[Tensor, Tensor]:
    rgb = estimate.cpu().expand(1, 3, -1, -1)
    matrix = torch.tensor([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    ycbcr = torch.einsum("ij,bjhw->bihw", matrix, rgb) + torch.tensor([16, 128, 128])[:, None, None] / 255
    return ycbcr[:, :1], ycbcr[:, 1:]


def from_ycbcr(luma: Tensor, chroma: Tensor, channels: int) -> Tensor:
    matrix = torch.tensor([[1.16438, 0.0, 1.59603], [1.16438, -0.39176, -0.81297], [1.16438, 2.01723, 0.0]])
    ycbcr = torch.cat([luma, chroma], 1) - torch.tensor([16, 128, 128])[:, None, None] / 255
    return torch.einsum("ij,bjhw->bihw", matrix, ycbcr)[:, :channels]


def plain_em(f: Tensor, a: Tensor, b: Tensor, state: dict[str, Any]) -> Tensor:
    """The published EM step with full complex transforms, every constant computed anew."""
    x, y = f - b, a - b
    d = torch.sqrt(2 / state["rho"] / (x**2 + 1e-6))
    c = torch.sqrt(2 / state["gamma"] / (y - x + 1e-6) ** 2)
    d = torch.minimum(d, 2 * c)
    state["rho"], state["gamma"] = (1 / d + state["rho"] / 2).mean(), (1 / c + state["gamma"] / 2).mean()
    kernels = []
    for dim in (-2, -1):
        kernel = torch.zeros_like(f)
        kernel[..., 0, 0] = -1
        kernels.append(torch.fft.fft2(kernel + torch.roll(-kernel, -1, dim)))
    top, bottom = torch.fft.fft2(y - x), 1 + sum(k.abs() ** 2 for k in kernels)
    if state["u"] is not None:
        top = top + sum(k.conj() * torch.fft.fft2(u) for k, u in zip(kernels, state["u"], strict=True))
    k = torch.fft.ifft2(top / bottom).real
    state["u"] = [0.001 / 1.001 * (k - torch.roll(k, -1, dim)) for dim in (-2, -1)]
    return a - (2 * c * y + 0.001 * (y - k)) / (2 * c + 2 * d + 0.001)


def save_picture(estimate: Tensor, path: Path) -> None:
    picture = estimate[0].mean(0).float().numpy()
    picture = (picture - picture.min()) / (np.ptp(picture) + 1e-6)
    Image.fromarray((255 * picture).astype(np.uint8)).save(path)


def plain_copy(network: nn.Module) -> nn.Module:
    """The same weights, float32, in PyTorch's default memory format."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@contextmanager
def plain_layers() -> Iterator[None]:
    """Attention and residual blocks as guided diffusion writes them: one operation after another, each a new tensor."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v

    def block(self: Any, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return x + self.conv2(F.silu(h * (1 + scale) + shift))

    with (
        mock.patch.object(F, "scaled_dot_product_attention", attention),
        mock.patch.object(slice_unet._Block, "forward", block),
    ):
        yield


# --- measuring --------------------------------------------------------------------------------------------------------


def seconds(work: Callable[[], object]) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(name: str, size: int, slices: int, steps: int, rounds: int) -> dict[str, Any]:
    """Both sides in turn; slices per second of each and their ratio."""
    pair, prior = head_pair(size, slices), network_named(name)
    plain = plain_copy(prior.network)
    times: dict[str, list[float]] = {"baseline": [], "ours": []}
    for _ in range(rounds):
        times["baseline"].append(seconds(lambda: plain_loop(plain, pair, steps)))
        times["ours"].append(seconds(lambda: ours(prior, pair, steps)))
    rates = {side: slices / statistics.median(found) for side, found in times.items()}
    return {
        "network": name,
        "size": size,
        "slices": slices,
        "steps": steps,
        **{f"{side}_slices_per_second": round(rate, 4) for side, rate in rates.items()},
        "speedup": round(rates["ours"] / rates["baseline"], 2),
    }


def one_run(name: str, size: int, slices: int, steps: int | None, **settings: Any) -> dict[str, Any]:
    """One fusion in a process of its own, so that its peak memory is its own."""
    pair, prior = head_pair(size, slices), network_named(name)
    ours(prior, (pair[0][..., :1], pair[1][..., :1]), 1, **settings)  # warm up
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = seconds(lambda: ours(prior, pair, steps, **settings))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "network": name, "size": size, "slices": slices, "steps": steps or "default", **settings,
        "seconds": round(taken, 2), "slices_per_second": round(slices / taken, 3), "peak_rss_mb": round(memory),
        **({"peak_cuda_mb": round(torch.cuda.max_memory_allocated() / 2**20)} if DEVICE == "cuda" else {}),
    }  # fmt: skip


def matrix_share(name: str, precision: str, size: int = 256) -> dict[str, Any]:
    """The network's floating-point rate as a share of what one large matrix product reaches on this device."""
    prior = network_named(name)
    prior.precision = dtype = getattr(torch, precision)
    batch = 8 if DEVICE == "cuda" else 1
    x = torch.randn(batch, prior.in_channels, size, size, device=DEVICE)
    t = torch.full((batch,), 200, device=DEVICE)
    n = 8192 if DEVICE == "cuda" else 2048
    matrix = torch.randn(n, n, device=DEVICE, dtype=dtype)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            prior(x, t)
        network = statistics.median(seconds(lambda: prior(x, t)) for _ in range(5))
        product = statistics.median(seconds(lambda: matrix @ matrix) for _ in range(5))
    rate, best = counter.get_total_flops() / network, 2 * n**3 / product
    return {
        "network": name, "precision": precision, "gflop_per_slice": round(counter.get_total_flops() / batch / 1e9, 1),
        "gflops": round(rate / 1e9), "matrix_gflops": round(best / 1e9), "share": round(rate / best, 2),
    }  # fmt: skip


def alone(function: Callable[..., dict[str, Any]], *arguments: Any, **settings: Any) -> dict[str, Any]:
    """Run it in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments, settings)


# --- the program ------------------------------------------------------------------------------------------------------


def quick() -> dict[str, Any]:
    shipped = alone(compare, DEFAULT_PRIOR, size=256, slices=4, steps=10, rounds=3)
    imagenet = alone(compare, "imagenet256", size=256, slices=1, steps=2, rounds=2)
    default = alone(one_run, DEFAULT_PRIOR, size=256, slices=20, steps=None)
    return {
        **machine(),
        "speedup_shipped_prior": shipped["speedup"],
        "speedup_imagenet256": imagenet["speedup"],
        "default_256x256x20_seconds": default["seconds"],
        "default_256x256x20_peak_rss_mb": default["peak_rss_mb"],
        "details": [shipped, imagenet, default],
    }


def tables() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    precisions = ("float32", "bfloat16", "float16") if DEVICE == "cuda" else ("float32", "bfloat16")
    batches = (1, 4, 16, 64) if DEVICE == "cuda" else (1, 4)
    names = (DEFAULT_PRIOR, "imagenet256")
    few = (
        {DEFAULT_PRIOR: (8, 10), "imagenet256": (1, 2)}
        if DEVICE == "cpu"
        else {DEFAULT_PRIOR: (80, 10), "imagenet256": (16, 10)}
    )
    yield "Against the plain loop", [alone(compare, n, 256, *few[n], rounds=3) for n in names]
    yield "The network alone", [alone(matrix_share, n, p) for n in names for p in precisions]
    yield "Precision and batch size", [
        alone(one_run, n, 256, *few[n], precision=p, batch_size=b)
        for n in names for p in precisions for b in batches if b <= few[n][0]
    ]  # fmt: skip
    yield "Slices", [alone(one_run, DEFAULT_PRIOR, 256, slices, 10) for slices in (20, 80, 160)]
    yield "Size", [alone(one_run, DEFAULT_PRIOR, size, 20, 10) for size in (128, 256, 512)]
    yield "Steps", [alone(one_run, DEFAULT_PRIOR, 256, 20, steps) for steps in (5, 10, 25)]


def machine() -> dict[str, Any]:
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the two speed-ups and the default run only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.quick:
        found = quick()
        print(json.dumps(found) if arguments.json else json.dumps(found, indent=2))
        return
    report: dict[str, Any] = {**machine(), "tables": {}}
    for title, rows in tables():
        report["tables"][title] = rows
        if not arguments.json:
            print_table(title, rows)
    if arguments.json:
        print(json.dumps(report))


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    columns = list(rows[0])
    print(f"\n### {title} ({machine()['device']})\n")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row[column]) for column in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
