"""Masks and label maps given as if they were images: told, and fused all the same."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from ddfm_monai.cli.main import run
from ddfm_monai.volumes import make_volume, read_source, write_volume

from .helpers import affine, head

GRID = affine(spacing=(5.0, 5.0, 8.0), origin=(-85.0, -105.0, -75.0))
LABELS = np.digitize(head((34, 42, 19), GRID).numpy()[0], (0.2, 0.45, 0.8)).astype(np.int16) * 400
COUNTS = np.random.default_rng(1).poisson(head((34, 42, 19), GRID).numpy()[0] * 40).astype(np.int16)


def stored(path, voxels, intent="none"):
    image = nib.Nifti1Image(voxels, GRID)
    image.header.set_intent(intent)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("name", "voxels", "intent", "witness"),
    [
        ("t1_seg.nii.gz", COUNTS, "none", "by its name"),
        ("brain_mask.nii.gz", LABELS, "none", "by its name"),
        ("t1.nii.gz", COUNTS, "label", "by its header"),
        ("t1.nii.gz", LABELS, "none", "only 4 different values"),
        ("t1.nii.gz", LABELS > 400, "none", "only 2 different values"),
        ("t1.nii.gz", COUNTS, "none", None),
        ("t1_masked.nii.gz", COUNTS, "none", None),
        ("segal_t1.nii.gz", COUNTS, "none", None),
    ],
)
def test_what_looks_like_labels_is_told_with_the_reason(tmp_path, name, voxels, intent, witness):
    voxels = voxels.astype(np.uint8) if voxels.dtype == bool else voxels
    told = [text for text in read_source(stored(tmp_path / name, voxels, intent), "second").warnings if "mask" in text]
    assert [witness] == [text.partition("(")[2].partition(")")[0] for text in told] if witness else told == []


def test_a_mask_for_a_ct_is_fused_but_not_without_a_word(tmp_path, capfd):
    mri = tmp_path / "mri.nii.gz"
    write_volume(head((34, 42, 19), GRID) * 900, mri)
    mask = stored(tmp_path / "ct.nii.gz", (LABELS > 0).astype(np.uint8))
    assert (
        run(["fuse", str(mri), str(mask), "-o", str(tmp_path / "fused.nii.gz"), "--steps", "1", "--device", "cpu"]) == 0
    )
    assert (tmp_path / "fused.nii.gz").is_file()
    said = " ".join(capfd.readouterr().err.split())
    assert "second: looks like a mask or labels, no image (only 2 different values)" in said


def test_a_volume_in_memory_is_told_too():
    source = read_source(make_volume(LABELS[None].astype(np.float32), GRID), "second", "ct")
    assert any("looks like a mask" in text for text in source.warnings)
