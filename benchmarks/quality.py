"""Fuse validation volumes with named settings and print every quality measure side by side.

    python benchmarks/quality.py DATA_DIR [--every 5] [--methods maximum default] [--cases ct_02] [--format markdown]

DATA_DIR holds one folder per case with ``mri.*`` and one of ``ct.*``, ``pet.*`` or ``spect.*`` in any readable format
(``mri.nii.gz``, ``mri.png``), 8-bit grey; ``pet_rgb.*`` or ``spect_rgb.*`` beside them gives the hue error. Cases are
averaged by modality, each weighted by its number of slices that hold foreground. The columns are explained in
docs/metrics.md. ``--noise`` prints what the default makes of noise as scanners make it instead (needs ``bm3d``).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai.metrics import (
    evaluate_slices,
    hue_error,
    lesion_transfer,
    noise_gain,
    pixel_alternation,
    through_plane_coherence,
)
from ddfm_monai.metrics.noise_kinds import NOISE_KINDS
from ddfm_monai.metrics.slices import luma
from ddfm_monai.settings import DEFAULT_PRIOR

Volume = NDArray[np.uint8]  # (X, Y, Z), grey levels 0..255
Method = Callable[[Volume, Volume], Volume]

UPRIGHT = np.diag([-1.0, -1.0, 1.0, 1.0])  # affine: x is the column, y the row of a slice with anterior on top
SECONDS = ("ct", "pet", "spect")
FIELD = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM_range2", "SSIM_range255")
COLUMNS = (*FIELD, "a+", "a-", "b+", "b-", "worst", "gain", "gain_head", "coherence", "alternation", "hue", "s/slice")
THREE_DIGITS = ("coherence", "alternation", "s/slice")


@dataclass(frozen=True)
class Case:
    """One patient: the second source's modality, both sources, the second one's colours ``(3, X, Y, Z)``, 0..255."""

    modality: str
    a: Volume
    b: Volume
    colours: NDArray[np.float64] | None


def mean(a: Volume, b: Volume) -> Volume:
    """The pixelwise mean."""
    return _levels((a.astype(np.float64) + b) / 2)


def pointwise(a: Volume, b: Volume) -> Volume:
    """A mixture of the brighter and the darker value, the same everywhere: the plainest rule that keeps both."""
    return _levels(0.8 * np.maximum(a, b).astype(np.float64) + 0.6 * np.minimum(a, b))


def laplacian_pyramid(a: Volume, b: Volume, levels: int = 4) -> Volume:
    """Burt and Adelson's pyramid, slice by slice: the larger detail at each level, the mean of the two bases."""
    return np.stack([_pyramid_slice(a[..., k], b[..., k], levels) for k in range(a.shape[-1])], axis=-1)


def _pyramid_slice(a: Volume, b: Volume, levels: int) -> Volume:
    base_a, base_b = a.astype(np.float64), b.astype(np.float64)
    details = []
    for _ in range(levels):
        next_a, next_b = _reduce(base_a), _reduce(base_b)
        detail_a, detail_b = base_a - _expand(next_a, base_a.shape), base_b - _expand(next_b, base_b.shape)
        details.append(np.where(np.abs(detail_a) >= np.abs(detail_b), detail_a, detail_b))
        base_a, base_b = next_a, next_b
    fused = (base_a + base_b) / 2
    for detail in reversed(details):
        fused = _expand(fused, detail.shape) + detail
    return _levels(fused)


def _blur(x: NDArray[np.float64]) -> NDArray[np.float64]:
    taps = np.array([1, 4, 6, 4, 1]) / 16
    return ndimage.correlate1d(ndimage.correlate1d(x, taps, axis=0, mode="mirror"), taps, axis=1, mode="mirror")


def _reduce(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return _blur(x)[::2, ::2]


def _expand(x: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    spread = np.zeros(shape)
    spread[::2, ::2] = 4 * x
    return _blur(spread)


def _levels(x: NDArray[np.float64]) -> Volume:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def ddfm(prior: str, device: str | None, **settings: Any) -> Method:
    """`fuse_volumes` with these settings; grey levels are taken as they are, as for any 8-bit picture."""

    def fuse(a: Volume, b: Volume) -> Volume:
        from ddfm_monai import fuse_volumes
        from ddfm_monai.volumes import make_volume

        sources = (make_volume(np.ascontiguousarray(x[None]), UPRIGHT) for x in (a, b))
        kinds = {"reference_kind": "picture", "second_kind": "picture"}
        result = fuse_volumes(*sources, **{"prior": prior, "device": device, **kinds, **settings})
        return _levels(255 * result.fused[0].cpu().numpy())

    return fuse


def em_alone(a: Volume, b: Volume) -> Volume:
    """The default likelihood without any prior: its EM steps one after the other, each from the last one's result."""
    import torch

    from ddfm_monai import DDFMInferer

    inferer = DDFMInferer()
    likelihood = inferer.likelihood
    first, second = (torch.as_tensor(np.moveaxis(x, -1, 0)[:, None] / 127.5 - 1, dtype=torch.float32) for x in (a, b))
    fused = []
    for slice_a, slice_b in zip(first.split(1), second.split(1), strict=True):
        state = likelihood.prepare(slice_a, slice_b)
        f = likelihood.initial(state)
        for _ in range(inferer.num_inference_steps):
            f = likelihood.rectify(f, state)
        fused.append(likelihood.finish(f, state)[0, 0])
    return _levels((torch.stack(fused, dim=-1).numpy().astype(np.float64) + 1) * 127.5)


def methods(prior: str, device: str | None) -> dict[str, Method]:
    """All named methods, in the order of the table."""
    return {
        "mean": mean,
        "maximum": np.maximum,
        "pointwise": pointwise,
        "laplacian": laplacian_pyramid,
        "paper": ddfm(prior, device, likelihood="paper", steps=25),
        "published": ddfm(prior, device, likelihood="published", steps=25),
        "default": ddfm(prior, device),
        "em": em_alone,
        "default-10": ddfm(prior, device, steps=10),
        "default-25": ddfm(prior, device, steps=25),
        "default-100": ddfm(prior, device, steps=100),
    }


def remembering(fuse: Method) -> Method:
    """The same method, but a pair is not fused twice: the clean pair is asked for three times."""
    known: dict[tuple[int, int], Volume] = {}

    def fuse_once(a: Volume, b: Volume) -> Volume:
        key = hash(a.tobytes()), hash(b.tobytes())
        if key not in known:
            known[key] = fuse(a, b)
        return known[key]

    return fuse_once


def measure(method: Method, case: Case, probes: bool) -> dict[str, float]:
    """Every column of one method on one case, and ``slices``, the number of slices that the field's metrics used."""
    a, b = case.a, case.b
    fuse = remembering(method)
    start = time.perf_counter()
    fused = fuse(a, b)
    row = {"s/slice": (time.perf_counter() - start) / a.shape[-1]}
    per_slice = evaluate_slices(fused, a, b)
    row |= {name: float(np.mean([values[name] for values in per_slice.values()])) for name in FIELD}
    row["slices"] = len(per_slice)
    row["alternation"] = pixel_alternation(fused, a, b)
    if a.shape[-1] > 1:
        row["coherence"] = through_plane_coherence(fused, a, b)
    if case.colours is not None:
        row["hue"] = hue_error(in_colours(fused, case.colours), case.colours)
    if probes:
        row |= lesion_transfer(fuse, a, b)
        gain = noise_gain(fuse, a, b)
        row |= {"gain": gain["slice"], "gain_head": gain["head"]}
    return row


def in_colours(fused: Volume, colours: NDArray[np.float64]) -> NDArray[np.float64]:
    """The fused grey levels with the hue of ``(3, X, Y, Z)`` colours, as a colour fusion gives it."""
    import torch

    from ddfm_monai.volumes.colour import with_luma

    coloured = with_luma(torch.as_tensor(colours).float(), torch.as_tensor(fused[None] / 255).float())
    return np.rint(coloured.numpy())


def combine(rows: list[dict[str, float]]) -> dict[str, float]:
    """Mean of several cases' rows, weighted by slices; the worst lesion is the worst of the means."""
    combined = {}
    for name in COLUMNS:
        present = [row for row in rows if not math.isnan(row.get(name, math.nan))]
        if present:
            combined[name] = sum(row[name] * row["slices"] for row in present) / sum(row["slices"] for row in present)
    kinds = [combined[kind] for kind in ("a+", "a-", "b+", "b-") if kind in combined]
    if kinds:
        combined["worst"] = min(kinds)
    combined["slices"] = sum(row["slices"] for row in rows)
    return combined


def read_case(folder: Path, every: int) -> Case:
    """A case folder's every ``every``-th slice."""
    from ddfm_monai.volumes import read_volume

    def grey(path: Path) -> Volume:
        volume = read_volume(path).numpy()
        return _levels(luma(volume) if volume.shape[0] == 3 else volume[0])[..., ::every]

    for modality in SECONDS:
        for second in sorted(folder.glob(f"{modality}.*")):
            rgb = [read_volume(path).numpy()[..., ::every] for path in folder.glob(f"{modality}_rgb.*")]
            return Case(modality, grey(next(folder.glob("mri.*"))), grey(second), rgb[0] if rgb else None)
    sys.exit(f"{folder}: holds no mri.* with ct.*, pet.* or spect.*")


def markdown(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """One table per modality, methods as rows."""
    lines = []
    for modality, by_method in results.items():
        slices = int(next(iter(by_method.values()))["slices"])
        columns = [name for name in COLUMNS if any(name in row for row in by_method.values())]
        lines += [f"{modality.upper()} ({slices} slices)", "", "| method | " + " | ".join(columns) + " |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        for method, row in by_method.items():
            cells = (f"{row[name]:.{3 if name in THREE_DIGITS else 2}f}" if name in row else "" for name in columns)
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def print_noise_tables(folders: list[Path], arguments: argparse.Namespace) -> None:
    """Both tables of noise_tables.py, over all cases."""
    from noise_tables import as_markdown, tables

    from ddfm_monai import load_prior

    prior = load_prior(arguments.prior, arguments.device)
    found: dict[str, list[dict[str, str | float]]] = {"sources": [], "fusion": []}
    for folder in folders:
        case = read_case(folder, arguments.every)
        a, b = (np.ascontiguousarray(x.transpose(2, 1, 0)) for x in (case.a, case.b))
        shown = [round((i + 0.5) * len(a) / arguments.slices) for i in range(arguments.slices)]
        for name, row in tables(a, b, case.modality, arguments.noise or NOISE_KINDS, shown, prior):
            print(folder.name, name, row, file=sys.stderr, flush=True)
            found[name].append({"case": folder.name} | row)
    print("\n\n".join(as_markdown(rows) for rows in found.values()))


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every K-th slice (coherence then spans K slices)")
    parser.add_argument("--methods", nargs="+", choices=list(methods("", None)), help="all by default")
    parser.add_argument("--cases", nargs="+", help="folder names; all by default")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="prior of the DDFM methods")
    parser.add_argument("--device", default=None)
    parser.add_argument("--no-probes", action="store_true", help="leave out lesions and noise: 1 fusion instead of 6")
    parser.add_argument("--noise", nargs="*", choices=NOISE_KINDS, help="tables of these kinds (or all) instead")
    parser.add_argument("--slices", type=int, default=2, help="slices per case for --noise, evenly spread")
    parser.add_argument("--format", choices=("markdown", "json"), default="markdown")
    arguments = parser.parse_args()

    table = methods(arguments.prior, arguments.device)
    folders = sorted(f for f in arguments.data.iterdir() if f.is_dir() and f.name in (arguments.cases or [f.name]))
    if not folders:
        sys.exit(f"{arguments.data}: no case folder of the names asked for")
    if arguments.noise is not None:
        print_noise_tables(folders, arguments)
        return
    rows: dict[str, dict[str, list[dict[str, float]]]] = {}
    for folder in folders:
        case = read_case(folder, arguments.every)
        for name in arguments.methods or table:
            print(f"{folder.name} {name}", file=sys.stderr, flush=True)
            row = measure(table[name], case, probes=not arguments.no_probes)
            rows.setdefault(case.modality, {}).setdefault(name, []).append(row)
    results = {
        modality: {name: combine(cases) for name, cases in by_method.items()} for modality, by_method in rows.items()
    }
    print(json.dumps(results, indent=1) if arguments.format == "json" else markdown(results))


if __name__ == "__main__":
    main()
