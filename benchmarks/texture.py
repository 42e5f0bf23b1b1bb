"""What noise and edges look like in a fused picture: noise power, and discs, in a drawn head of even tissue.

    python benchmarks/texture.py [--methods default maximum]

No data needed; under a minute. docs/trust.md says what the figures mean.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from quality import Method, ddfm, em_alone, mean

from ddfm_monai.metrics.noise_kinds import USUAL_SD, coloured_noise
from ddfm_monai.settings import DEFAULT_PRIOR

Array = NDArray[np.float64]

SIZE, HEAD, DISC = 256, 110, 22  # pixels: side of the picture, radii
TISSUE = 100.0, 120.0  # grey levels of the two sources
NOISE = "zero-filled", "soft"
SLICES = 8
REGION = 96  # pixels, in the middle
FREQUENCIES = (0.04, 0.08, 0.125, 0.17, 0.25, 0.33)  # cycles per pixel
BAND = 0.02  # on either side
EDGE = 16  # pixels on either side of a disc's edge, and the pixels there are put into bins of STEP
STEP = 0.25


def methods(prior: str, device: str | None) -> dict[str, Method]:
    return {"default": ddfm(prior, device), "em": em_alone, "maximum": np.maximum, "mean": mean}


def radius() -> Array:
    """Distance to the middle, which lies beside a pixel, so that an edge is met at many distances."""
    y, x = (np.arange(SIZE) - SIZE / 2 + shift for shift in (0.3, 0.1))
    return np.hypot(y[:, None], x)


def source(level: float, disc: float = 0.0) -> Array:
    """An even head with a disc of that contrast in the middle, edges one pixel wide."""
    r = radius()
    return level * np.clip(HEAD + 0.5 - r, 0, 1) + disc * np.clip(DISC + 0.5 - r, 0, 1)


def grey(image: Array) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def noisy_sources() -> list[NDArray[np.uint8]]:
    """Both sources, ``(X, Y, SLICES)``, each slice with its own noise, the air with it."""
    random = np.random.default_rng(3407)
    noise = [coloured_noise(kind, (SLICES, SIZE, SIZE), USUAL_SD[kind], random) for kind in NOISE]
    return [np.moveaxis(grey(source(level) + n), 0, -1) for level, n in zip(TISSUE, noise, strict=True)]


def noise_power(volume: NDArray) -> tuple[float, list[float]]:
    """Standard deviation, and the noise power spectrum at `FREQUENCIES` in squared grey levels (white noise: sd²)."""
    low = (SIZE - REGION) // 2
    regions = np.moveaxis(volume[low : low + REGION, low : low + REGION], -1, 0).astype(np.float64)
    regions -= regions.mean(axis=(1, 2), keepdims=True)
    power = np.mean(np.abs(np.fft.fft2(regions)) ** 2, axis=0) / REGION**2
    f = np.hypot(np.fft.fftfreq(REGION)[:, None], np.fft.fftfreq(REGION))
    return float(regions.std()), [float(power[np.abs(f - centre) < BAND].mean()) for centre in FREQUENCIES]


def contrast(image: NDArray) -> float:
    """Grey levels of the disc above its surroundings, either without the pixels near the edge."""
    r = radius()
    return float(image[r < DISC - 6].mean() - image[(r > DISC + 6) & (r < DISC + 18)].mean())


def task_transfer(image: NDArray, frequency: float) -> float:
    """Of the disc's edge: the spectrum of its profile's derivative there, over that at 0."""
    away = radius() - DISC
    near = np.abs(away) < EDGE
    place = ((away[near] + EDGE) / STEP).astype(int)
    profile = np.bincount(place, image[near]) / np.bincount(place)
    spread = np.diff(profile) * np.hanning(len(profile) - 1)
    wave = np.exp(-2j * np.pi * frequency * STEP * np.arange(len(spread)))
    return float(abs(spread @ wave) / abs(spread.sum()))


def noise_table(chosen: dict[str, Method]) -> list[str]:
    sources = noisy_sources()
    volumes = {"first source": sources[0], "second source": sources[1]}
    volumes |= {name: fuse(*sources) for name, fuse in chosen.items()}
    lines = ["| | sd | " + " | ".join(str(f) for f in FREQUENCIES) + " |", "|---" * (len(FREQUENCIES) + 2) + "|"]
    for name, volume in volumes.items():
        sd, power = noise_power(volume)
        lines.append(f"| {name} | {sd:.1f} | " + " | ".join(f"{p:.1f}" if p < 1 else f"{p:.0f}" for p in power) + " |")
    return lines


def disc_table(chosen: dict[str, Method]) -> list[str]:
    """Contrast, and in brackets the task transfer at 0.25 and 0.5 cycles per pixel."""
    columns = [(role, level) for role in (0, 1) for level in (20.0, 40.0)]
    heads = [f"{level:.0f} in the {('first', 'second')[role]}" for role, level in columns]
    lines = ["| disc | " + " | ".join(heads) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, fuse in {"its source": None, **chosen}.items():
        cells = []
        for role, level in columns:
            pair = [grey(source(tissue, level * (k == role)))[..., None] for k, tissue in enumerate(TISSUE)]
            fused = (fuse(*pair) if fuse else pair[role])[..., 0].astype(np.float64)
            there = contrast(fused)
            edge = ", ".join(f"{task_transfer(fused, f):.2f}" for f in (0.25, 0.5)) if there > 1 else "none"
            cells.append(f"{there:.0f} ({edge})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(methods("", None)), help="all by default")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="prior of the default")
    parser.add_argument("--device", default=None)
    arguments = parser.parse_args()
    known = methods(arguments.prior, arguments.device)
    chosen = {name: known[name] for name in arguments.methods or known}
    print("\n".join([*noise_table(chosen), "", *disc_table(chosen)]))


if __name__ == "__main__":
    main()
