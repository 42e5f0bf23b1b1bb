"""Is the prior a prior? Denoising against BM3D and non-local means, noise-prediction error, samples, memorisation.

    python benchmarks/prior_quality.py --train TRAIN_FOLDER --val VAL_FOLDER [--prior medical]
        [--slices 12] [--samples 24] [--grid samples.png] [--json out.json] [--cache cache.json] [--only denoise]

Prints Markdown tables. Needs the packages ``bm3d`` and ``scikit-image``.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddfm_monai.method.schedule import alphas_cumprod
from ddfm_monai.priors import Prior, load_prior
from ddfm_monai.priors.precision import choose_precision
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.training import NoisePredictionError, NoisyCases, Slices, read_slices

LEVELS = (10, 25, 50)  # standard deviation of the added noise, grey levels of 255
MODALITIES = ("mr", "ct", "pet", "spect")
Image = np.ndarray


# --- denoising --------------------------------------------------------------------------------------------------------


def psnr(a: Image, b: Image) -> float:
    """Peak signal to noise ratio of two pictures in 0..255, dB."""
    return float(-10 * np.log10(np.mean((a - b) ** 2) / 255**2))


def by_bm3d(noisy: Image, sd: float) -> Image:
    import bm3d

    return np.asarray(bm3d.bm3d(noisy / 255, sigma_psd=sd / 255)) * 255


def by_non_local_means(noisy: Image, sd: float) -> Image:
    from skimage.restoration import denoise_nl_means

    settings = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return np.asarray(denoise_nl_means(noisy / 255, h=0.8 * sd / 255, sigma=sd / 255, **settings)) * 255


def by_prior(prior: Prior, noisy: Image, sd: float) -> Image:
    """One network evaluation at the timestep whose noise is nearest to ``sd``."""
    abar = alphas_cumprod(prior.num_train_timesteps).float()
    step = int(torch.argmin((((1 - abar) / abar).sqrt() - sd / 127.5).abs()))
    x = abar[step].sqrt() * torch.from_numpy(noisy.astype(np.float32) / 127.5 - 1)[None, None]
    with torch.inference_mode():
        noise = prior(x.to(prior.device), torch.tensor([step], device=prior.device)).cpu()
    clean = (x - (1 - abar[step]).sqrt() * noise) / abar[step].sqrt()
    return np.asarray((clean[0, 0] + 1) * 127.5)


def denoising(prior: Prior, val: Slices, count: int, cache: dict[str, float]) -> dict[str, dict[str, float]]:
    """Mean PSNR over ``count`` slices of each modality: ``{"mr 10": {"prior": ..., "bm3d": ..., "nlm": ...}}``."""
    methods: dict[str, Callable[[Image, float], Image]] = {
        "prior": lambda noisy, sd: by_prior(prior, noisy, sd),
        "bm3d": by_bm3d,
        "nlm": by_non_local_means,
    }
    table = {}
    for modality in MODALITIES:
        for sd in LEVELS:
            scores: dict[str, list[float]] = {name: [] for name in methods}
            for clean in evenly(val.get(modality, []), count):
                key = f"{zlib.crc32(clean.tobytes())}-{sd}"
                noisy = clean + sd * np.random.default_rng(zlib.crc32(key.encode())).standard_normal(clean.shape)
                for name, method in methods.items():
                    if name == "prior" or f"{name}-{key}" not in cache:
                        cache[f"{name}-{key}"] = psnr(np.clip(method(noisy, sd), 0, 255), clean)
                    scores[name].append(cache[f"{name}-{key}"])
            table[f"{modality} {sd}"] = {name: float(np.mean(found)) for name, found in scores.items()}
    return table


def evenly(found: list[Image], count: int) -> list[Image]:
    return [found[int((i + 0.5) * len(found) / count)] for i in range(min(count, len(found)))]


def print_denoising(table: dict[str, dict[str, float]]) -> None:
    print("\n| modality, noise sd | prior | BM3D | non-local means | prior - BM3D |\n| --- | --- | --- | --- | --- |")
    for cell, row in table.items():
        gain = row["prior"] - row["bm3d"]
        print(f"| {cell} | {row['prior']:.2f} | {row['bm3d']:.2f} | {row['nlm']:.2f} | {gain:+.2f} |")
    gains = [row["prior"] - row["bm3d"] for row in table.values()]
    ahead = sum(g > 0 for g in gains)
    print(f"\nPSNR in dB. Ahead of BM3D in {ahead} of {len(gains)} cells, by {np.mean(gains):+.2f} dB on average.")


# --- samples ----------------------------------------------------------------------------------------------------------


def sample(prior: Prior, count: int, size: int, steps: int, seed: int, batch: int = 8) -> Tensor:
    """Unconditional samples by ancestral sampling on a respaced schedule, ``(count, 1, size, size)`` in [-1, 1]."""
    abar = alphas_cumprod(prior.num_train_timesteps).float()
    kept = torch.linspace(prior.num_train_timesteps - 1, 0, steps).round().long()
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((count, 1, size, size), generator=generator)
    return torch.cat([_denoise(prior, x, kept, abar, generator) for x in start.split(batch)])


@torch.inference_mode()
def _denoise(prior: Prior, x: Tensor, kept: Tensor, abar: Tensor, generator: torch.Generator) -> Tensor:
    for i, step in enumerate(kept):
        now, after = abar[step], abar[kept[i + 1]] if i + 1 < len(kept) else torch.tensor(1.0)
        noise = prior(x.to(prior.device), step.expand(len(x)).to(prior.device)).cpu()
        clean = ((x - (1 - now).sqrt() * noise) / now.sqrt()).clamp(-1, 1)
        noise = (x - now.sqrt() * clean) / (1 - now).sqrt()
        variance = (1 - after) / (1 - now) * (1 - now / after)
        fresh = torch.randn(x.shape, generator=generator)
        x = after.sqrt() * clean + (1 - after - variance).clamp(min=0).sqrt() * noise + variance.sqrt() * fresh
    return x.clamp(-1, 1)


def write_grid(samples: Tensor, path: Path, columns: int = 6) -> None:
    from PIL import Image as Picture

    tiles = np.asarray(((samples[:, 0] + 1) * 127.5).round().to(torch.uint8))
    rows = [np.concatenate(list(tiles[i : i + columns]), axis=1) for i in range(0, len(tiles), columns)]
    width = rows[0].shape[1]
    Picture.fromarray(np.concatenate([np.pad(r, ((0, 0), (0, width - r.shape[1]))) for r in rows])).save(path)


def histograms(pictures: list[Image]) -> tuple[Image, Image]:
    """Shares of pixels by grey level (64 bins) and by gradient magnitude (64 bins to 128 levels a pixel)."""
    grey = sum(np.histogram(p, 64, (0, 256))[0] for p in pictures)
    steep = sum(np.histogram(np.hypot(*np.gradient(p.astype(float))).clip(0, 127.9), 64, (0, 128))[0] for p in pictures)
    return grey / np.sum(grey), steep / np.sum(steep)


def histogram_distances(pictures: list[Image], train: list[Image]) -> dict[str, float]:
    """Total variation distance (0 equal, 1 disjoint) of the two histograms to those of the training slices."""
    pairs = zip(("grey level", "gradient"), histograms(pictures), histograms(train), strict=True)
    return {name: float(np.abs(a - b).sum() / 2) for name, a, b in pairs}


def nearest(pictures: list[Image], train: list[Image]) -> list[float]:
    """For each picture the largest normalised correlation with any training slice after the best shift."""
    spectra = torch.stack([_spectrum(p) for p in train])
    return [float(torch.fft.irfft2(_spectrum(p).conj() * spectra).amax()) for p in pictures]


def _spectrum(picture: Image, side: int = 128) -> Tensor:
    """Transform of the picture at half size, zero mean and unit norm, so that products are correlations."""
    small = nn.functional.adaptive_avg_pool2d(torch.from_numpy(picture.astype(np.float32))[None], side)[0]
    small = small - small.mean()
    return torch.fft.rfft2(small / small.norm())


# --- the program ------------------------------------------------------------------------------------------------------


def judge_samples(prior: Prior, args: argparse.Namespace, train: Slices, val: Slices) -> dict[str, Any]:
    prior.precision = choose_precision("auto", prior.device)
    drawn = sample(prior, args.samples, args.size, args.steps, args.seed)
    if args.grid:
        write_grid(drawn, args.grid)
    pictures = list(np.asarray((drawn[:, 0] + 1) * 127.5))
    known = [s for found in train.values() for s in found]
    unseen = [s for found in val.values() for s in evenly(found, 12)]
    result: dict[str, Any] = {
        "samples": len(pictures),
        "histogram distance": histogram_distances(pictures, known),
        "histogram distance of val": histogram_distances(unseen, known),
        "nearest": nearest(pictures, known),
        "nearest of val": nearest(unseen, known),
    }
    for who in ("", " of val"):
        distance, near = result[f"histogram distance{who}"], result[f"nearest{who}"]
        print(
            f"{who.removeprefix(' of ') or 'samples'}: histogram distance to train, "
            f"grey level {distance['grey level']:.3f}, gradient {distance['gradient']:.3f}; "
            f"nearest training slice, correlation median {np.median(near):.3f}, largest {max(near):.3f}"
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--prior", default=DEFAULT_PRIOR)
    parser.add_argument("--slices", type=int, default=12, help="slices per modality")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=3407)
    parser.add_argument("--grid", type=Path, help="PNG of the samples")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--cache", type=Path, help="keep the slow methods' results here")
    parser.add_argument("--only", choices=("denoise", "error", "samples"))
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prior, train, val = load_prior(args.prior, device), read_slices(args.train), read_slices(args.val)
    report: dict[str, Any] = {"prior": prior.name, "sha256": prior.sha256}
    if args.only in (None, "denoise"):
        cache = json.loads(args.cache.read_text()) if args.cache and args.cache.exists() else {}
        report["denoising"] = denoising(prior, val, args.slices, cache)
        print_denoising(report["denoising"])
        if args.cache:
            args.cache.write_text(json.dumps({k: v for k, v in cache.items() if not k.startswith("prior")}))
    if args.only in (None, "error"):
        report["noise prediction error"] = NoisePredictionError(
            prior, NoisyCases(val, args.slices // 3, prior.stride), prior.device
        )()
        print("\n| noise-prediction error | |\n| --- | --- |")
        print("\n".join(f"| {name} | {value:.5f} |" for name, value in report["noise prediction error"].items()))
    if args.only in (None, "samples"):
        report["samples"] = judge_samples(prior, args, train, val)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
