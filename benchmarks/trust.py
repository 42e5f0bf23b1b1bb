"""Does a fusion lose anything, does it invent anything? One table for the default and what it is to be compared with.

    python benchmarks/trust.py DATA_DIR [--realisations 20] [--methods default maximum] [--sets ct] [--json FILE]

DATA_DIR as for benchmarks/quality.py. Every method sees the same slices, noise and lesions. docs/trust.md says what the
columns mean. With the defaults it takes about three quarters of an hour on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quality import (
    SECONDS,
    Method,
    Volume,
    ddfm,
    em_alone,
    laplacian_pyramid,
    mean,
    pointwise,
    read_case,
    remembering,
)

from ddfm_monai.metrics import LESION_KINDS, check_fusion, foreground_slices, shared_lesion_transfer, streak_test
from ddfm_monai.metrics.detectability import Detectability, Noise, detectability
from ddfm_monai.settings import DEFAULT_PRIOR

MARGIN = -0.05  # of the AUC: what may be lost
NOISE = {"ct": Noise("zero-filled", "soft"), "pet": Noise("linear", "soft"), "spect": Noise("white", "soft")}
"""What each pair's scanners usually make (docs/trust.md)."""


def methods(prior: str, device: str | None, steps: int) -> dict[str, Method]:
    """All named methods, in the order of the table."""
    return {
        "default": ddfm(prior, device),
        "published": ddfm(prior, device, likelihood="published", steps=steps),
        "paper": ddfm(prior, device, likelihood="paper", steps=steps),
        "em": em_alone,
        "maximum": np.maximum,
        "mean": mean,
        "pointwise": pointwise,
        "laplacian": laplacian_pyramid,
    }


def read_sets(data: Path, count: int) -> dict[str, tuple[Volume, Volume]]:
    """Modality to ``count`` foreground slices of all its cases, evenly spread: two volumes ``(X, Y, count)``."""
    cases = [read_case(folder, 1) for folder in sorted(data.iterdir()) if folder.is_dir()]
    sets = {}
    for modality in SECONDS:
        of_set = [case for case in cases if case.modality == modality]
        slices = []
        for number, case in enumerate(of_set):
            wanted = count // len(of_set) + (number < count % len(of_set))
            there = list(foreground_slices(case.a, case.b))
            chosen = [there[(2 * i + 1) * len(there) // (2 * wanted)] for i in range(wanted)]
            slices += [(case.a[..., k], case.b[..., k]) for k in chosen]
        if slices:
            a, b = (np.stack(stack, axis=-1) for stack in zip(*slices, strict=True))
            sets[modality] = a, b
    return sets


def measure(
    fuse: Method, a: Volume, b: Volume, noise: Noise, realisations: int, studied: int, both: bool
) -> dict[str, Any]:
    """Everything about one method on one set; the observer study on ``studied`` of its slices."""
    fuse = remembering(fuse)
    row: dict[str, Any] = {"check": check_fusion(fuse(a, b), a, b).shares}
    for ratio in (1.0, 0.5):
        row[f"shared {ratio}"] = shared_lesion_transfer(fuse, a, b, ratio)
    some = np.linspace(0, a.shape[-1] - 1, studied + 2).round().astype(int)[1:-1]
    found = detectability(fuse, a[..., some], b[..., some], noise, realisations, both=both)
    return row | {"observer": {kind: cell._asdict() for kind, cell in found.items()}}


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Markdown: one table per set, methods as rows."""
    lines = []
    for modality, by_method in results.items():
        if modality == "streaks":
            continue
        noise = NOISE[modality]
        lines += [f"MRI ({noise.a} noise) and {modality.upper()} ({noise.b} noise)", ""]
        head = [*LESION_KINDS, "not inferior", "largest AUC loss", "false positives", "same", "opposite", "flagged %"]
        lines += ["| method | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
        for method, row in by_method.items():
            cells = {kind: Detectability(**cell) for kind, cell in row["observer"].items()}
            efficiency = [f"{cells[kind].efficiency['DoG']:.2f}" if kind in cells else "" for kind in LESION_KINDS]
            kept = sum(cell.difference[0] > MARGIN for cell in cells.values())
            loss = min(cell.auc_fused - cell.auc_source for cell in cells.values())
            wrong = max(cell.false_positives for cell in cells.values())
            shared = [row[f"shared {ratio}"] for ratio in (1.0, 0.5)]
            same = min(s[kind] for s in shared for kind in ("a+b+", "a-b-"))
            opposite = min(s[kind] for s in shared for kind in ("a+b-", "a-b+"))
            rest = [f"{kept} of {len(cells)}", f"{loss:.3f}", f"{wrong:.3f}", f"{same:.2f}", f"{opposite:.2f}"]
            flagged = f"{100 * row['check']['flagged']:.2f}"
            lines.append(f"| {method} | " + " | ".join([*efficiency, *rest, flagged]) + " |")
        lines.append("")
    lines += ["| method | folds kept | streaks passed on |", "|---|---|---|"]
    lines += [f"| {name} | {row['mri']:.2f} | {row['streaks']:.2f} |" for name, row in results["streaks"].items()]
    return "\n".join(lines)


def streaks(fuse: Method) -> dict[str, float]:
    """`streak_test` of a method that takes volumes."""
    return streak_test(lambda a, b: fuse(a[..., None], b[..., None])[..., 0])


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--realisations", type=int, default=20, help="of the noise, even")
    parser.add_argument("--slices", type=int, default=4, help="per set, clean")
    parser.add_argument("--studied", type=int, default=2, help="of these, slices of the observer study")
    parser.add_argument("--both", action="store_true", help="noise in both sources, not in the lesion's alone")
    parser.add_argument("--methods", nargs="+", choices=list(methods("", None, 1)), help="all by default")
    parser.add_argument("--sets", nargs="+", choices=SECONDS, default=SECONDS)
    parser.add_argument("--steps", type=int, default=10, help="of the published and the paper's likelihood")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="prior of the DDFM methods")
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, help="also write everything to this file, after each method")
    arguments = parser.parse_args()

    known = methods(arguments.prior, arguments.device, arguments.steps)
    chosen = {name: known[name] for name in arguments.methods or known}
    results: dict[str, dict[str, dict[str, Any]]] = {"streaks": {name: streaks(fuse) for name, fuse in chosen.items()}}
    sets = {name: pair for name, pair in read_sets(arguments.data, arguments.slices).items() if name in arguments.sets}
    for modality, (a, b) in sets.items():
        how = {"realisations": arguments.realisations, "studied": arguments.studied, "both": arguments.both}
        study = partial(measure, noise=NOISE[modality], **how)
        for name, fuse in chosen.items():
            started = time.perf_counter()
            results.setdefault(modality, {})[name] = study(fuse, a, b)
            print(f"{modality} {name} {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
