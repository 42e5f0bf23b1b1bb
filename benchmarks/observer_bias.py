"""Is the observer study biased by few realisations? Its efficiency and AUC beside a closed form.

    python benchmarks/observer_bias.py [--realisations 4 6 8 20] [--added 0.25]

The "fusion" is the first source with independent noise of the same spectrum added, of a share of its power: the
efficiency is 1 / (1 + share), and d' in the source what the lesions were made for. No data needed; a minute or two on
one core.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.metrics.detectability import LEVELS, Noise, detectability
from ddfm_monai.metrics.noise_kinds import USUAL_SD, coloured_noise
from ddfm_monai.metrics.observers import auc_of_dprime

KIND = "zero-filled"
SLICES = 2


def even_head(level: int) -> NDArray[np.uint8]:
    away = np.hypot(np.arange(256)[:, None] - 128, np.arange(256) - 128)
    return np.repeat(np.where(away < 110, level, 0).astype(np.uint8)[..., None], SLICES, axis=-1)


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--realisations", type=int, nargs="+", default=[4, 6, 8, 20])
    parser.add_argument("--added", type=float, default=0.25, help="noise power over that of the source")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()

    def fuse(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.float64]:
        if a.shape[-1] == SLICES:  # the clean slices
            return a.astype(np.float64)
        sd, random = USUAL_SD[KIND] * np.sqrt(arguments.added), np.random.default_rng(99)
        return a + np.moveaxis(coloured_noise(KIND, (a.shape[-1], *a.shape[:2]), sd, random), 0, -1)

    exact = [np.mean([auc_of_dprime(d / np.sqrt(1 + q)) for d in LEVELS]) for q in (0, arguments.added)]
    print("| realisations | efficiency | its sd over seeds | AUC source | AUC fused |\n|---|---|---|---|---|")
    print(f"| closed form | {1 / (1 + arguments.added):.3f} | | {exact[0]:.3f} | {exact[1]:.3f} |")
    for realisations in arguments.realisations:
        rows = []
        for seed in range(arguments.seeds):
            found = detectability(fuse, even_head(110), even_head(120), Noise(KIND, "soft"), realisations, seed)
            bright, dark = found["a+"], found["a-"]
            efficiency = (bright.efficiency["DoG"] + dark.efficiency["DoG"]) / 2
            rows.append([efficiency, bright.auc_source, bright.auc_fused])
        mean, sd = np.mean(rows, axis=0), np.std(rows, axis=0)
        print(f"| {realisations} | {mean[0]:.3f} | {sd[0]:.3f} | {mean[1]:.3f} | {mean[2]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
