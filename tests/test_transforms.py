"""Fusion inside MONAI: in a Compose, with MONAI's own readers, on tensors of MONAI's making."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, get_track_meta, set_track_meta
from monai.transforms import Compose, LoadImaged, SaveImaged

from ddfm_monai import DDFMFuse, DDFMFuseD, DDFMFused, DDFMFuseDict

SETTINGS = {"steps": 2, "reference_kind": "mr", "second_kind": "ct"}


def test_in_a_compose_from_file_to_file(pair, tiny_prior, tmp_path):
    chain = Compose(
        [
            LoadImaged(("mri", "ct"), ensure_channel_first=True, image_only=True),
            DDFMFused(("mri", "ct"), "fused", prior=tiny_prior, **SETTINGS),
            SaveImaged("fused", output_dir=tmp_path / "out", output_postfix="fused", separate_folder=False),
        ]
    )
    result = chain({"mri": str(pair[0]), "ct": str(pair[1])})
    assert isinstance(result["fused"], MetaTensor)
    assert json.loads(result["fused"].meta["ddfm"])["sampling"]["steps"] == 2
    written = nib.load(tmp_path / "out" / "head_mri_fused.nii.gz")
    assert np.allclose(written.affine, nib.load(pair[0]).affine, atol=1e-5)
    assert np.allclose(written.get_fdata(), result["fused"][0].numpy(), atol=1e-6)


def test_in_a_dataset_and_loader(pair, tiny_prior):
    chain = Compose(
        [
            LoadImaged(("mri", "ct"), ensure_channel_first=True, image_only=True),
            DDFMFused(("mri", "ct"), prior=tiny_prior, **SETTINGS),
        ]
    )
    data = [{"mri": str(pair[0]), "ct": str(pair[1])}] * 2
    batch = next(iter(DataLoader(CacheDataset(data, chain, progress=False), batch_size=2)))
    assert batch["fused"].shape == (2, 1, 56, 64, 6)
    assert torch.equal(batch["fused"][0], batch["fused"][1])


def test_array_transform_takes_plain_tensors(tiny_prior):
    a, b = (torch.rand(1, 40, 40, 2, generator=torch.Generator().manual_seed(s)) * 800 for s in (0, 1))
    fused = DDFMFuse(prior=tiny_prior, **SETTINGS)(a, b)
    assert fused.shape == a.shape


def test_aliases_and_wrong_keys(tiny_prior):
    assert DDFMFuseD is DDFMFused and DDFMFuseDict is DDFMFused
    with pytest.raises(ValueError, match="exactly two"):
        DDFMFused(("a", "b", "c"))
    with pytest.raises(KeyError):
        DDFMFused(("mri", "ct"), prior=tiny_prior)({"mri": torch.rand(1, 8, 8, 8)})
    data = {"mri": torch.rand(1, 8, 8, 8)}
    assert DDFMFused(("mri", "ct"), allow_missing_keys=True)(data).keys() == data.keys()


@pytest.mark.parametrize("tracked", [True, False])
def test_arrays_tensors_and_metatensors_give_the_same_with_and_without_tracking(tiny_prior, tracked):
    a, b = (torch.rand(1, 40, 40, 2, generator=torch.Generator().manual_seed(s)) * 800 for s in (0, 1))
    fuse = DDFMFuse(prior=tiny_prior, **SETTINGS)
    expected = fuse(MetaTensor(a), MetaTensor(b)).as_tensor()
    set_track_meta(tracked)
    try:
        results = [fuse(a, b), fuse(a.numpy(), b.numpy()), fuse(MetaTensor(a), MetaTensor(b))]
        keyed = DDFMFused(("a", "b"), prior=tiny_prior, **SETTINGS)({"a": a.numpy(), "b": b})["fused"]
        assert get_track_meta() is tracked
    finally:
        set_track_meta(True)
    for result in (*results, keyed):
        assert isinstance(result, MetaTensor) is tracked
        assert torch.equal(torch.as_tensor(result), expected)
