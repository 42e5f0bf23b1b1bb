"""The examples run as they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_chain_that_saves_the_fused_volume(pair: tuple[Path, Path], tiny_prior_path: Path, tmp_path: Path) -> None:
    run("fuse_and_save.py", *pair, tmp_path / "out", "--prior", tiny_prior_path)
    fused = nib.load(tmp_path / "out" / "head_mri_fused.nii.gz")
    assert fused.shape == nib.load(pair[0]).shape
    assert np.allclose(fused.affine, nib.load(pair[0]).affine, atol=1e-5)


def test_fused_volumes_feed_a_segmentation_network(
    pair: tuple[Path, Path], tiny_prior_path: Path, tmp_path: Path
) -> None:
    mri = nib.load(pair[0])
    label = (mri.get_fdata() > 350).astype(np.uint8)
    nib.save(nib.Nifti1Image(label, mri.affine), tmp_path / "label.nii.gz")
    told = run("fused_input_for_segmentation.py", *pair, tmp_path / "label.nii.gz", "--prior", tiny_prior_path)
    losses = [float(line.split()[-1]) for line in told.splitlines() if line.startswith("iteration")]
    assert len(losses) == 20 and np.mean(losses[-5:]) < 0.9 * losses[0]


def test_the_inferer_with_a_network_of_ones_own() -> None:
    assert "fused (1, 1, 64, 64)" in run("own_network.py")


def test_the_notebook_runs(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(EXAMPLES / "tutorial.ipynb", as_version=4)
    monkeypatch.chdir(tmp_path)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert (tmp_path / "tutorial" / "mri_fused.nii.gz").is_file()
    pictures = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert pictures
