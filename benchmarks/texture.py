"""What noise and edges look like in a fused picture: noise power and the contrast and edges of discs, in a drawn head.

    python benchmarks/texture.py [--slices 20] [--methods default maximum mean] [--prior open]

The head is even tissue of 100 grey levels in the first and 120 in the second source. Prints the tables of
docs/trust.md; takes a minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from quality import Method, Volume
from trust import methods

from ddfm_monai.metrics.noise_kinds import coloured_noise
from ddfm_monai.settings import DEFAULT_PRIOR

Array = NDArray[np.float64]

SIDE = 192  # pixels
TISSUE = (100.0, 120.0)  # grey levels of the two sources
NOISE = (("zero-filled", 10.0), ("soft", 12.0))  # kind, sd in grey levels
FREQUENCIES = (0.04, 0.08, 0.125, 0.17, 0.25, 0.33)  # cycles per pixel
REGION = slice(SIDE // 2 - 32, SIDE // 2 + 32)  # where noise is measured, along rows and columns
DISC, STEPS = 22.0, (20.0, 40.0)  # pixels: radius; grey levels
BIN = 0.5  # pixels, of an edge's profile


def head(slices: int) -> tuple[Array, Array]:
    """Both sources, (SIDE, SIDE, slices), without noise."""
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, SIDE)], indexing="ij")
    inside = (np.hypot(x / 0.72, y / 0.86) <= 1)[..., None]
    first, second = (np.repeat(np.where(inside, grey, 0.0), slices, axis=-1) for grey in TISSUE)
    return first, second


def levels(image: Array) -> Volume:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


# --- noise -----------------------------------------------------------------------------------------------------------


def with_noise(source: Array, kind: str, sd: float, seed: int) -> Volume:
    """The source with noise of its own in every slice, whole grey levels."""
    shape = (source.shape[-1], *source.shape[:2])
    noise = coloured_noise(kind, shape, sd, np.random.default_rng(seed))
    return levels(source + np.moveaxis(noise, 0, -1))


def noise_power(image: Volume) -> tuple[float, dict[float, float]]:
    """Standard deviation, and power by spatial frequency (squared grey levels; white noise has its variance)."""
    region = image[REGION, REGION].astype(np.float64)
    noise = region - region.mean(axis=-1, keepdims=True)
    noise *= np.sqrt(image.shape[-1] / (image.shape[-1] - 1))  # the mean of the slices has noise, too
    power = (np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).mean(axis=-1) / noise[..., 0].size
    f = np.hypot(np.fft.fftfreq(len(power))[:, None], np.fft.fftfreq(len(power))[None])
    by_frequency = {at: float(power[np.abs(f - at) <= 1 / len(power)].mean()) for at in FREQUENCIES}
    return float(noise.std()), by_frequency


def noise_table(chosen: dict[str, Method], slices: int) -> Iterator[str]:
    """Rows of Markdown."""
    clean = head(slices)
    noisy = [with_noise(x, *how, seed) for seed, (x, how) in enumerate(zip(clean, NOISE, strict=True))]
    pictures = {"first source": noisy[0], "second source": noisy[1]}
    pictures |= {name: fuse(noisy[0], noisy[1]) for name, fuse in chosen.items()}
    yield "| | sd | " + " | ".join(f"{f:g}" for f in FREQUENCIES) + " |"
    yield "|---" * (len(FREQUENCIES) + 2) + "|"
    for name, picture in pictures.items():
        sd, power = noise_power(picture)
        yield (
            f"| {name} | {sd:.1f} | "
            + " | ".join(f"{value:.{0 if value >= 1 else 1}f}" for value in power.values())
            + " |"
        )


# --- edges -----------------------------------------------------------------------------------------------------------


def profile(image: Volume) -> Array:
    """Mean grey level by distance from the middle, from half to three halves of the disc's radius, in steps of BIN."""
    y, x = np.meshgrid(*2 * [np.arange(SIDE) - SIDE / 2], indexing="ij")
    distance = np.hypot(x, y)
    edges = np.arange(DISC / 2, 1.5 * DISC + BIN / 2, BIN)
    plane = image[..., 0].astype(np.float64)
    inside = [plane[(distance >= low) & (distance < high)] for low, high in pairwise(edges)]
    return np.array([pixels.mean() for pixels in inside])


def contrast(edge: Array) -> float:
    """Grey levels between the two ends of an edge's profile."""
    end = round(3 / BIN)
    return float(edge[:end].mean() - edge[-end:].mean())


def half_transfer(edge: Array) -> float:
    """Cycles per pixel at which the task transfer function falls below one half; 0.5 if it does not."""
    transfer = np.abs(np.fft.rfft(np.diff(edge)))
    frequencies = np.fft.rfftfreq(len(edge) - 1, BIN)
    below = frequencies[(transfer < transfer[0] / 2) & (frequencies <= 0.5)]
    return float(below[0]) if len(below) else 0.5


def edge_table(chosen: dict[str, Method]) -> Iterator[str]:
    """Rows of Markdown: contrast and half transfer of discs in either source."""
    y, x = np.meshgrid(*2 * [np.arange(SIDE) - SIDE / 2], indexing="ij")
    disc = (np.hypot(x, y) <= DISC)[..., None]
    pairs = {}
    for source, name in enumerate(("first", "second")):
        for step in STEPS:
            pair = list(head(1))
            pair[source] = pair[source] + step * disc
            pairs[f"{step:g} in the {name}"] = (levels(pair[0]), levels(pair[1]), source)
    yield "| disc | " + " | ".join(pairs) + " |"
    yield "|---" * (len(pairs) + 1) + "|"
    edges = {"source": [profile((a, b)[source]) for a, b, source in pairs.values()]}
    edges |= {name: [profile(fuse(a, b)) for a, b, _ in pairs.values()] for name, fuse in chosen.items()}
    for name, found in edges.items():
        cells = (f"{contrast(e):.0f} ({half_transfer(e):.2f})" if contrast(e) > 1 else "0" for e in found)
        yield f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=20, help="of noise")
    parser.add_argument(
        "--methods", nargs="+", choices=list(methods("", None, 1)), default=["default", "maximum", "mean"]
    )
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="prior of the DDFM methods")
    parser.add_argument("--device", default=None)
    arguments = parser.parse_args()
    known = methods(arguments.prior, arguments.device, 10)
    chosen = {name: known[name] for name in arguments.methods}
    print("Noise power, squared grey levels, by cycles per pixel\n", *noise_table(chosen, arguments.slices), sep="\n")
    print("\nContrast in grey levels (cycles per pixel at half transfer)\n", *edge_table(chosen), sep="\n")


if __name__ == "__main__":
    main()
