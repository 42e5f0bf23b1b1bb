"""The tables of ``benchmarks/quality.py --noise``: what the default makes of sources with noise as scanners make it.

Each kind of noise (:mod:`ddfm_monai.metrics.noise_kinds`) is added to the reference, to the second source and to both,
8-bit as in :func:`~ddfm_monai.metrics.noise_gain`. Four ways lead to the fusion: the spectrum found blindly (the
default), the same with the exact spectrum, BM3D with the exact spectrum before the fusion (the anchor), and nothing
against the noise. Each is compared with the fusion of the clean sources, in the head, in dB over the maximum's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfm_monai import DDFMInferer
from ddfm_monai.method import Noise, estimate_noise
from ddfm_monai.method.inferer import noise_field
from ddfm_monai.method.noise import TABLE, expected_clean
from ddfm_monai.metrics import lesion_transfer
from ddfm_monai.metrics.noise_kinds import USUAL_SD, coloured_noise, noise_spectrum
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL
from ddfm_monai.priors import Prior

Stack = NDArray[np.uint8]  # (N, H, W)
ROLES = {"reference": (True, False), "second": (False, True), "both": (True, True)}


@dataclass
class Source:
    """One source of a case: its clean slices, the same with noise, and what is made of these."""

    scan: Stack
    kind: str
    seed: int
    shown: list[int]  # the slices that are fused; the noise is estimated from all

    @property
    def clean(self) -> Stack:
        return self.scan[self.shown]

    @cached_property
    def noisy_scan(self) -> Stack:
        random = np.random.default_rng(self.seed)
        noise = coloured_noise(self.kind, self.scan.shape, USUAL_SD[self.kind], random)
        return _grey(self.scan + noise)

    @property
    def noisy(self) -> Stack:
        return self.noisy_scan[self.shown]

    @cached_property
    def exact(self) -> Noise:
        power = noise_spectrum(self.kind, (TABLE, TABLE)) * (USUAL_SD[self.kind] / 127.5) ** 2
        return Noise(torch.from_numpy(power).float(), self.kind)

    @cached_property
    def blind(self) -> Noise | None:
        return estimate_noise(torch.from_numpy(self.noisy_scan.astype(np.float32)), 0.0, 255.0)

    @cached_property
    def after_bm3d(self) -> Stack:
        return np.stack([_by_bm3d(image, self.kind) for image in self.noisy])


def _by_bm3d(image: NDArray[np.uint8], kind: str) -> NDArray[np.uint8]:
    """BM3D (Makinen, Azzari and Foi 2020), told the exact power spectrum."""
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # bm3d 4 wants it, numpy 2.4 has it no more
    import bm3d

    power = noise_spectrum(kind, image.shape) * (USUAL_SD[kind] / 255) ** 2 * image.size
    return _grey(np.asarray(bm3d.bm3d(image / 255, sigma_psd=power)) * 255)


def _grey(x: NDArray[np.float64]) -> Stack:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _images(stack: Stack) -> Tensor:
    return torch.from_numpy(stack.astype(np.float32) / 127.5 - 1)[:, None]


def _fused(prior: Prior, a: Stack, b: Stack, noise: Sequence[Noise | None]) -> Stack:
    pairs = torch.cat([_images(a), _images(b)], 1)
    found = torch.cat([DDFMInferer()(pair, prior, source_noise=(noise[0], noise[1])) for pair in pairs.split(1)])  # type: ignore[misc]
    return _grey((found[:, 0].numpy().astype(np.float64) + 1) * 127.5)


def _decibels(x: Stack, truth: Stack, head: NDArray[np.bool_]) -> float:
    return float(10 * np.log10(255**2 / np.mean((x.astype(np.float64) - truth)[head] ** 2)))


def fusion_rows(sources: list[Source], prior: Prior) -> Iterator[dict[str, str | float]]:
    """One row for each role of one kind of noise."""
    a, b = (source.clean for source in sources)
    head = np.maximum(a, b) > BACKGROUND_LEVEL
    clean = _fused(prior, a, b, [None, None])
    for role, has_noise in ROLES.items():

        def pick(name: str, otherwise: list[Any], has_noise: tuple[bool, bool] = has_noise) -> list[Any]:
            each = zip(sources, has_noise, otherwise, strict=True)
            return [getattr(source, name) if has else other for source, has, other in each]

        noisy = pick("noisy", [a, b])
        maximum = _decibels(np.maximum(*noisy), np.maximum(a, b), head)
        ways = {
            "default": _fused(prior, *noisy, pick("blind", [None, None])),
            "exact spectrum": _fused(prior, *noisy, pick("exact", [None, None])),
            "after BM3D": _fused(prior, *pick("after_bm3d", [a, b]), [None, None]),
            "as it is": _fused(prior, *noisy, [None, None]),
        }
        row: dict[str, str | float] = {"noise": sources[0].kind, "in": role, "maximum": maximum}
        row |= {name: _decibels(fused, clean, head) - maximum for name, fused in ways.items()}
        if role == "both":
            row["worst lesion"] = _worst_lesion(prior, sources)
        yield row


def _worst_lesion(prior: Prior, sources: list[Source]) -> float:
    """The worst lesion transfer between fusions of noisy sources, with the same noise with and without the lesion."""
    noise = [s.noisy.astype(np.int16) - s.clean for s in sources]
    found = [s.blind for s in sources]

    def fuse(*pair: NDArray[np.uint8]) -> Stack:
        stacks = [np.moveaxis(x, -1, 0) for x in pair]
        noisy = (_grey(x.astype(np.float64) + n) for x, n in zip(stacks, noise, strict=True))
        return np.moveaxis(_fused(prior, *noisy, found), 0, -1)

    return lesion_transfer(fuse, *(np.moveaxis(s.clean, 0, -1) for s in sources))["worst"]


def source_row(source: Source, name: str, head: NDArray[np.bool_], prior: Prior) -> dict[str, str | float]:
    """One source by itself: found level, and PSNR in the head after one, two, four and eight evaluations."""
    white = noise_field((1, 1, *source.scan.shape[1:]), 3407)

    @torch.no_grad()
    def denoised(noise: Noise | None, evaluations: int | None = None) -> float:
        y = _images(source.noisy)
        if noise is not None:
            y = torch.cat([expected_clean(prior, x, noise, white, evaluations) for x in y.split(1)])
        return _decibels(_grey((y[:, 0].numpy() + 1.0) * 127.5), source.clean, head)

    found = 0.0 if source.blind is None else 127.5 * source.blind.sd
    row: dict[str, str | float] = {"source": name, "noise": source.kind, "sd": USUAL_SD[source.kind], "found": found}
    row["noisy"] = _decibels(source.noisy, source.clean, head)
    row |= {f"{n} evaluations": denoised(source.exact, n) for n in (1, 2, 4, 8)}
    row |= {"exact": denoised(source.exact), "default": denoised(source.blind)}
    row["BM3D"] = _decibels(source.after_bm3d, source.clean, head)
    return row


def tables(
    a: Stack, b: Stack, second: str, kinds: Sequence[str], shown: list[int], prior: Prior
) -> Iterator[tuple[str, dict[str, str | float]]]:
    """Rows of both tables for one case, each with the table's name."""
    head = np.maximum(a, b)[shown] > BACKGROUND_LEVEL
    for kind in kinds:
        sources = [Source(scan, kind, 3407 + number, shown) for number, scan in enumerate((a, b))]
        for source, name in zip(sources, ("MR", second.upper()), strict=True):
            yield "sources", source_row(source, name, head, prior)
        for row in fusion_rows(sources, prior):
            yield "fusion", {"second": second.upper()} | row


def as_markdown(rows: list[dict[str, str | float]]) -> str:
    """A table with the keys of its longest row as columns."""
    columns = list(max(rows, key=len))

    def cell(value: str | float) -> str:
        return value if isinstance(value, str) else f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}"

    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell(row.get(name, "")) for name in columns) + " |" for row in rows])
