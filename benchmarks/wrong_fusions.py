"""What the check of one picture (``ddfm fuse --check``) catches of wrong fusions, and what it says of right ones.

    python benchmarks/wrong_fusions.py DATA_DIR [--slices 4] [--noise] [--json FILE]

DATA_DIR as for benchmarks/quality.py. The fusions are those of the default's likelihood alone, which on clean slices
are the default's; ``--noise`` checks the default's own fusions of noisy sources (a minute a set). docs/trust.md has the
tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from quality import SECONDS, Volume, ddfm, em_alone
from scipy import ndimage
from trust import read_sets

from ddfm_monai.metrics import LESION_KINDS, check_fusion, lesion_probes
from ddfm_monai.metrics.check import flagged_slice
from ddfm_monai.metrics.noise_kinds import NOISE_KINDS, USUAL_SD, coloured_noise
from ddfm_monai.settings import DEFAULT_PRIOR

Slice = NDArray[np.uint8]  # (H, W), grey levels
Places = NDArray[np.intp]  # (N, 2), pixels

AMPLITUDES = (50, 30)  # grey levels; the probes' lesions have 50
NEAR = 12.0  # pixels: a flag this near to a place is one for it
SMOOTHED, SMOOTHING = 23.0, 2.5  # pixels: radius of the region, sd of the smoothing


def places_of(lesions: NDArray[np.float64]) -> Places:
    """The middles of the lesions of one slice."""
    blobs, count = ndimage.label(np.abs(lesions) > np.abs(lesions).max() / 2)
    middles = ndimage.center_of_mass(np.abs(lesions), blobs, range(1, count + 1))
    return np.rint(np.array(middles).reshape(-1, 2)).astype(np.intp)


def caught(before: Slice, after: Slice, places: Places) -> list[bool]:
    """Whether each place has a flag near it that was not there before."""
    new = (after > 0) & (before == 0)
    rows, columns = np.indices(new.shape)
    return [bool(new[np.hypot(rows - row, columns - column) <= NEAR].any()) for row, column in places]


def lesions_and_smoothing(fused: Slice, a: Slice, b: Slice) -> dict[str, list[bool]]:
    """Of one slice: what is caught of each kind of fault, by name."""
    right = flagged_slice(fused, a, b)
    found: dict[str, list[bool]] = {}
    for kind, probe in lesion_probes(a, b).items():
        if not probe.lesion.any():
            continue
        places = places_of(probe.lesion)
        for amplitude in AMPLITUDES:
            lesion = probe.lesion * amplitude / max(AMPLITUDES)
            pasted = flagged_slice(_levels(fused + lesion), a, b)
            sources = (_levels(a + lesion), b) if kind[0] == "a" else (a, _levels(b + lesion))
            left_out = flagged_slice(fused, *sources)
            source = "MRI" if kind[0] == "a" else "second source"
            found.setdefault(f"lesion of {amplitude} pasted in", []).extend(caught(right, pasted, places))
            found.setdefault(f"lesion of {amplitude} in the {source} left out", []).extend(
                caught(right, left_out, places)
            )
    for place in places_of(lesion_probes(a, b)[LESION_KINDS[0]].lesion):
        wrong = flagged_slice(_smoothed_around(fused, place), a, b)
        found.setdefault("region smoothed", []).extend(caught(right, wrong, place[None]))
    return found


def _smoothed_around(fused: Slice, place: NDArray[np.intp]) -> Slice:
    rows, columns = np.indices(fused.shape)
    inside = np.hypot(rows - place[0], columns - place[1]) <= SMOOTHED
    return np.where(inside, _levels(ndimage.gaussian_filter(fused.astype(np.float64), SMOOTHING)), fused)


WHOLE: dict[str, Callable[[Volume, Volume, Volume], Volume]] = {
    "as it is": lambda fused, a, b: fused,
    "moved by 3 pixels": lambda fused, a, b: np.roll(fused, 3, axis=0),
    "mirrored": lambda fused, a, b: fused[:, ::-1],
    "the fusion of another slice": lambda fused, a, b: np.roll(fused, 1, axis=2),
    "smoothed (sd 1.5)": lambda fused, a, b: _levels(ndimage.gaussian_filter(fused.astype(np.float64), (1.5, 1.5, 0))),
    "noise of 10 added": lambda fused, a, b: _levels(fused + np.random.default_rng(0).normal(0, 10, fused.shape)),
    "black and white exchanged": lambda fused, a, b: 255 - fused,
    "a copy of the MRI": lambda fused, a, b: a,
    "a copy of the second source": lambda fused, a, b: b,
}
"""Pictures that are wrong as a whole, of a fusion and its sources (X, Y, Z)."""


def _levels(image: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def of_noisy_sources(a: Volume, b: Volume, prior: str, device: str | None) -> dict[str, float]:
    """Share of the head that is flagged in the default's fusions of noisy sources (both), by kind of noise."""
    fuse, shares = ddfm(prior, device), {}
    for kind in NOISE_KINDS:
        random = np.random.default_rng(3407)
        noisy = [
            _levels(np.moveaxis(x, -1, 0) + coloured_noise(kind, np.moveaxis(x, -1, 0).shape, USUAL_SD[kind], random))
            for x in (a, b)
        ]
        first, second = (np.moveaxis(x, 0, -1) for x in noisy)
        shares[kind] = check_fusion(fuse(first, second), first, second).shares["flagged"]
    return shares


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=4, help="per set")
    parser.add_argument("--sets", nargs="+", choices=SECONDS, default=SECONDS)
    parser.add_argument("--noise", action="store_true", help="also right fusions of noisy sources")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="of the fusions of noisy sources")
    parser.add_argument("--device", default=None)
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    arguments = parser.parse_args()

    columns: dict[str, dict[str, str]] = {}
    sets = {name: pair for name, pair in read_sets(arguments.data, arguments.slices).items() if name in arguments.sets}
    for modality, (a, b) in sets.items():
        fused, column = em_alone(a, b), columns.setdefault(modality, {})
        found: dict[str, list[bool]] = {}
        for k in range(a.shape[-1]):
            for fault, hits in lesions_and_smoothing(fused[..., k], a[..., k], b[..., k]).items():
                found.setdefault(fault, []).extend(hits)
        column |= {fault: f"{sum(hits)} of {len(hits)}" for fault, hits in sorted(found.items())}
        for fault, spoil in WHOLE.items():
            column[fault] = f"{100 * check_fusion(spoil(fused, a, b), a, b).shares['flagged']:.1f} %"
        if arguments.noise:
            of_noise = of_noisy_sources(a, b, arguments.prior, arguments.device)
            column |= {f"right, {kind} noise in both": f"{100 * share:.1f} %" for kind, share in of_noise.items()}
    print("| | " + " | ".join(name.upper() for name in columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for fault in next(iter(columns.values())):
        print(f"| {fault} | " + " | ".join(column.get(fault, "") for column in columns.values()) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(columns, indent=1))


if __name__ == "__main__":
    main()
