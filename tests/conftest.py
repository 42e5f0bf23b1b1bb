"""What all tests share: few threads, a tiny prior on disk, small pairs of head-like volumes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ddfm_monai.files import sha256_of
from ddfm_monai.priors import Prior, SliceUNet, load_prior

# A shell starts what it runs in the background with Ctrl-C ignored, and programs hand that on: tests press Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {"channels": [16, 16], "down_blocks": [1, 1], "up_blocks": [1, 1]}


@pytest.fixture(scope="session")
def tiny_prior_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a small random network with its configuration beside it: quick, and as good as any other for
    tests that do not look at image quality."""
    path = tmp_path_factory.mktemp("prior") / "tiny.safetensors"
    torch.manual_seed(0)
    network = SliceUNet(**TINY)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file(network.state_dict(), path)
    card = {"architecture": "SliceUNet", "config": TINY, "sha256": sha256_of(path)}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


@pytest.fixture
def tiny_prior(tiny_prior_path: Path) -> Prior:
    return load_prior(tiny_prior_path)


def head(shape: tuple[int, int, int], kind: str, seed: int = 0) -> np.ndarray:
    """A head of ellipsoids, (X, Y, Z): ``"mr"`` in arbitrary units with air 0, ``"ct"`` in HU with air -1000."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    x, y, z = grid
    texture = np.random.default_rng(seed).normal(0, 1, shape)

    def ball(radius: float, cx: float = 0.0, cy: float = 0.0) -> np.ndarray:
        return ((x - cx) / radius) ** 2 + ((y - cy) / (1.1 * radius)) ** 2 + (z / 1.2) ** 2 < 1

    skull, brain, ventricle, spot = ball(0.8), ball(0.68), ball(0.18), ball(0.12, 0.3, 0.2)
    if kind == "mr":
        image = np.where(skull, 300, 0) + np.where(brain, 400 + 20 * texture, 0) - np.where(ventricle, 350, 0)
        return np.clip(image, 0, None).astype(np.float32)
    image = np.where(skull, 1200.0, -1000.0)
    image = np.where(brain, 35 + 4 * texture, image)
    return np.where(ventricle, 8.0, np.where(spot & brain, 75.0, image)).astype(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """MRI and CT of one head as NIfTI files on one small oblique, anisotropic grid."""
    affine = np.diag([3.0, 3.0, 6.0, 1.0])
    angle = np.deg2rad(12)
    affine[:2, :2] = 3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    affine[:3, 3] = (-80, -95, -20)
    paths = tmp_path / "head_mri.nii.gz", tmp_path / "head_ct.nii.gz"
    for path, kind in zip(paths, ("mr", "ct"), strict=True):
        nib.save(nib.Nifti1Image(head((56, 64, 6), kind), affine), path)
    return paths
