"""``ddfm demo``: from nothing to a fused head, through the bundle."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from ddfm_monai.bundle import bundle_folder
from ddfm_monai.cli.demo import run_demo
from ddfm_monai.cli.main import main
from ddfm_monai.phantom import LESIONS
from ddfm_monai.priors import find_prior
from ddfm_monai.progress import Progress
from ddfm_monai.settings import DEFAULT_PRIOR


def test_demo_fuses_the_phantom_and_both_lesions_survive(tmp_path: Path) -> None:
    seen: list[Progress] = []
    files = run_demo(
        tmp_path / "demo", phantom={"resolution": 2.5, "slice_distance": 7.0}, device="cpu", progress=seen.append
    )
    assert [role for role, path in files.items() if path.stat().st_size > 0] == [
        "mri", "ct", "pet", "fused", "provenance", "preview", "page",
    ]  # fmt: skip
    assert seen[-1].stage == "fuse"
    assert seen[-1].done == seen[-1].total
    fused, mri = nib.load(files["fused"]), nib.load(files["mri"])
    assert fused.shape == mri.shape
    assert np.allclose(fused.affine, mri.affine)
    assert Image.open(files["preview"]).size > (600, 600)
    assert "Not for diagnostic use" in json.loads(files["provenance"].read_text())["notice"]
    places = np.moveaxis(np.indices(fused.shape), 0, -1) @ fused.affine[:3, :3].T + fused.affine[:3, 3]
    values = fused.get_fdata()
    for lesion in LESIONS:
        distance = np.linalg.norm(places - lesion.centre, axis=-1)
        inside = values[distance < lesion.radius]
        around = values[(distance > lesion.radius + 5) & (distance < lesion.radius + 9)]
        assert inside.size
        assert np.median(inside) > np.median(around) + 0.1, lesion.name


def test_an_installed_package_takes_its_one_copy_of_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "_bundles" / "ddfm_fusion"  # as in a wheel: no models
    shutil.copytree(bundle_folder("ddfm_fusion"), installed, ignore=shutil.ignore_patterns("models", "eval"))
    monkeypatch.setattr("ddfm_monai.bundle.bundle_folder", lambda name: installed)
    files = run_demo(tmp_path / "demo", phantom={"resolution": 4.0, "slice_distance": 20.0}, device="cpu", steps=1)
    provenance = json.loads(files["provenance"].read_text())
    assert provenance["prior"] == {"name": DEFAULT_PRIOR, "sha256": find_prior(DEFAULT_PRIOR).sha256}


@pytest.mark.parametrize("name", ["mri_fused.nii.gz", "mri.nii.gz", "pet.nii.gz"])
def test_neither_an_earlier_demo_nor_files_of_ones_own_are_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    earlier = tmp_path / name
    earlier.write_text("precious")
    monkeypatch.setattr(sys, "argv", ["ddfm", "demo", str(tmp_path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "--overwrite" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [earlier.name]
    assert earlier.read_text() == "precious"
