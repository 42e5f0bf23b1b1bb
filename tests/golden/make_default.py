"""Golden vectors of the default likelihood: ``python tests/golden/make_default.py`` writes ``default.npz`` anew.

They hold what the default gives today, nothing more: run this when the default is changed on purpose, and say in the
commit what changed and why it is better. Two pairs of phantom slices (MRI with CT, MRI with PET), as they are and with
white noise of 10 grey levels; shipped prior, float32, default settings.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ddfm_monai import load_prior
from ddfm_monai.method import DDFMInferer
from ddfm_monai.phantom import write_phantom
from ddfm_monai.priors import Prior
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.volumes import read_source

FILE = Path(__file__).with_name("default.npz")
SHAPE = 128, 112
LEVEL = 0.55  # of the slices, from the neck (0) to the top of the head (1): both lesions are in it


def phantom_slices() -> np.ndarray:
    """(2, 2, H, W) uint8: MRI and CT, MRI and PET, of one slice, black around it."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_phantom(folder, resolution=1.8, slice_distance=8)
        mri = read_source(paths.mri, "reference")
        seconds = [read_source(path, "second").onto(mri) for path in (paths.ct, paths.pet)]
    index = round(LEVEL * mri.grey.shape[-1])
    pairs = np.zeros((2, 2, *SHAPE), np.uint8)
    for pair, second in zip(pairs, seconds, strict=True):
        for canvas, source in zip(pair, (mri, second), strict=True):
            image = np.rint(255 * source.grey.numpy()[0, ..., index].T[: SHAPE[0], : SHAPE[1]])
            canvas[: image.shape[0], : image.shape[1]] = image
    return pairs


def inputs_from(pairs: np.ndarray) -> dict[str, torch.Tensor]:
    """What the inferer is given, (2, 2, H, W) in [-1, 1]: ``"clean"``, and ``"noisy"``, 8-bit again."""
    noise = np.random.default_rng(3407).normal(0, 10, pairs.shape)
    noisy = np.clip(np.rint(pairs + noise), 0, 255)
    return {
        name: torch.as_tensor(x / 127.5 - 1, dtype=torch.float32) for name, x in (("clean", pairs), ("noisy", noisy))
    }


@cache
def prior() -> Prior:
    """The shipped one, in float32 on the CPU."""
    network = load_prior(DEFAULT_PRIOR, "cpu")
    network.precision = torch.float32
    return network


def fused_from(inputs: torch.Tensor) -> torch.Tensor:
    """(2, 1, H, W) in [-1, 1], default settings."""
    return DDFMInferer()(inputs, prior())


def main() -> None:
    pairs = phantom_slices()
    fused = {name: fused_from(x).numpy().astype(np.float16) for name, x in inputs_from(pairs).items()}
    np.savez_compressed(FILE, pairs=pairs, **fused)


if __name__ == "__main__":
    main()
