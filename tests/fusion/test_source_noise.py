"""Noise of volumes: found once on each source's own grid, followed onto the reference's, and gone from the result."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from typer.testing import CliRunner

from ddfm_monai.cli.main import app
from ddfm_monai.fusion.source_noise import as_cut, carried, noise_of
from ddfm_monai.method import Noise
from ddfm_monai.phantom import PhantomPaths, write_phantom
from ddfm_monai.volumes import affine_of, make_volume, plan_pair, read_source, read_volume

SIZE = {"resolution": 1.8, "slice_distance": 30.0, "ct_resolution": 0.9}  # CT pixels of half the width


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PhantomPaths]:
    """Without noise, and with that of scanners."""
    folder = tmp_path_factory.mktemp("phantoms")
    return {noise: write_phantom(folder / noise, noise=noise, **SIZE) for noise in ("none", "scanner")}


def fused(paths: PhantomPaths) -> tuple[MetaTensor, dict]:
    """Through the command, as anybody does it."""
    target = paths.mri.with_name("fused.nii.gz")
    done = CliRunner().invoke(app, ["fuse", str(paths.mri), str(paths.ct), "-o", str(target)])
    assert done.exit_code == 0, done.output
    return read_volume(target), json.loads(target.with_name("fused.json").read_text())


def test_noise_of_two_scanners_on_two_grids_is_found_and_taken_out(phantoms):
    (clean, clean_account), (result, account) = fused(phantoms["none"]), fused(phantoms["scanner"])
    assert clean_account["reference"]["noise"] is None and clean_account["second"]["noise"] is None
    mri, ct = account["reference"]["noise"], account["second"]["noise"]
    assert mri["sd"] == pytest.approx(37, rel=0.15) and mri["spectrum"] == "k-space up to 0.25"
    assert ct["sd"] == pytest.approx(5, rel=0.15) and ct["spectrum"].startswith("tomographic")

    def maximum(paths: PhantomPaths) -> torch.Tensor:
        reference = read_source(paths.mri, "reference")
        return torch.maximum(reference.grey, read_source(paths.ct, "second").onto(reference).grey)

    head = maximum(phantoms["none"]) > 0.04

    def psnr(x: torch.Tensor, truth: torch.Tensor) -> float:
        return float(-10 * torch.log10(((x - truth)[head] ** 2).mean()))

    before = psnr(maximum(phantoms["scanner"]), maximum(phantoms["none"]))
    assert psnr(result, clean) > before + 1.2
    air = (maximum(phantoms["none"]) == 0) & (maximum(phantoms["scanner"]) < 0.2)
    assert float((result[air] == 0).float().mean()) > 0.97


def test_a_source_has_the_same_noise_however_it_is_stored(phantoms):
    """Axes exchanged and turned round: the same level, the spectrum turned along."""
    image = nib.load(phantoms["scanner"].ct)
    found = noise_of(read_source(phantoms["scanner"].ct, "ct"))
    stored = image.as_reoriented([[1, -1], [0, 1], [2, 1]])
    turned = make_volume(np.asarray(stored.dataobj, dtype=np.float32)[None], stored.affine)
    again = noise_of(read_source(turned, "ct", "ct"))
    assert found is not None and again is not None
    assert again.sd == pytest.approx(found.sd, rel=0.03) and again.family == found.family


def test_level_is_the_same_when_carried_along_and_when_found_there(phantoms):
    """On the MRI's grid, its slices nearer to each other, the CT's noise is what an estimate there finds."""
    mri, ct = (read_source(getattr(phantoms["scanner"], name), name) for name in ("mri", "ct"))
    affine = affine_of(mri.volume) @ np.diag([1, 1, 0.1, 1])
    grid = make_volume(torch.zeros(*mri.volume.shape[:3], 10 * mri.volume.shape[3]), affine)
    mri = replace(mri, volume=grid, grey=grid)
    moved = ct.onto(mri)
    expected, found = carried(noise_of(ct), ct, mri, None), noise_of(moved)
    assert expected is not None and found is not None
    assert found.sd == pytest.approx(expected.sd, rel=0.15)
    assert expected.sd < 0.9 * noise_of(ct).sd  # interpolation averages


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ARS", "PLS"])
def test_slices_as_they_are_cut_have_the_noise_turned_with_them(codes):
    """Stripes along one direction of the patient: in upright slices they run along the rows, however stored."""
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)),
        (40, 40, 8),
    ) @ np.diag([1.0, 1, 1, 1])
    volume = make_volume(np.ones((1, 40, 40, 8)), affine)
    volume[0, 0, 0, 0] = 0
    source = read_source(volume, "volume", "mr")
    left_right = [code in "LR" for code in codes].index(True)
    spectrum = torch.zeros(64, 64)
    spectrum[(slice(1, 8), 0) if left_right == 0 else (0, slice(1, 8))] = 1.0  # power at left-right frequencies only
    _, plan = plan_pair(source, source, 8)
    cut = as_cut(Noise(spectrum, "stripes"), plan)
    assert cut is not None
    assert float(cut.spectrum[0].sum()) == pytest.approx(7)  # frequencies along the columns of a slice
