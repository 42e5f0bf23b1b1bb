"""Fusion inside MONAI: in a Compose, with MONAI's own readers, on tensors of MONAI's making."""

from __future__ import annotations

import json
import pickle
import threading

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset, get_track_meta, set_track_meta
from monai.transforms import Compose, LoadImage, LoadImaged, SaveImaged, Spacingd
from monai.utils.enums import SpaceKeys

from ddfm_monai import DDFMFuse, DDFMFuseD, DDFMFused, DDFMFuseDict, fuse_volumes
from ddfm_monai.errors import InputError
from ddfm_monai.switches import META_TRACKED

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


def test_threads_leave_monais_switch_as_they_found_it(tiny_prior):
    """Each fuses within the other's time; what the user has set holds for every result and afterwards."""
    a, b = (torch.rand(1, 40, 40, 2, generator=torch.Generator().manual_seed(s)) * 800 for s in (0, 1))
    fuse = DDFMFuse(prior=tiny_prior, **SETTINGS)
    both_inside, first_done = threading.Barrier(2, timeout=60), threading.Event()
    original = fuse.fuse

    def meet_inside(*sources):
        with META_TRACKED.held():
            both_inside.wait()
            result = original(*sources)
            if threading.current_thread().name == "last":
                first_done.wait(60)
            return result

    fuse.fuse = meet_inside
    found = {}

    def work(name):
        found[name] = fuse(a, b)
        first_done.set()

    set_track_meta(False)
    try:
        threads = [threading.Thread(target=work, args=(name,), name=name) for name in ("first", "last")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert get_track_meta() is False
    finally:
        set_track_meta(True)
    assert [type(found[name]) for name in ("first", "last")] == [torch.Tensor] * 2
    assert torch.equal(found["first"], found["last"])


def test_torchs_default_type_does_not_matter(pair, tiny_prior_path):
    """Tensors that are made on the way would be float64, and do not mix with float32 weights."""
    expected = fuse_volumes(*pair, prior=tiny_prior_path, **SETTINGS).fused
    torch.set_default_dtype(torch.float64)
    try:
        found = fuse_volumes(*pair, prior=tiny_prior_path, **SETTINGS).fused
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype is torch.float32 and torch.equal(found.as_tensor(), expected.as_tensor())


def test_fuse_volumes_works_without_tracking(pair, tiny_prior):
    expected = fuse_volumes(*pair, prior=tiny_prior, **SETTINGS).fused
    set_track_meta(False)
    try:
        found = fuse_volumes(*pair, prior=tiny_prior, **SETTINGS).fused
    finally:
        set_track_meta(True)
    assert torch.equal(found.as_tensor(), expected.as_tensor())


def test_lazy_transforms_that_still_wait_are_carried_out(pair, tiny_prior):
    load = LoadImaged(("mri", "ct"), ensure_channel_first=True, image_only=True)
    data = load({"mri": str(pair[0]), "ct": str(pair[1])})
    fuse = DDFMFused(("mri", "ct"), prior=tiny_prior, **SETTINGS)
    spaced = [Spacingd(("mri", "ct"), pixdim=(5.0, 5.0, 5.0), lazy=lazy)(data) for lazy in (False, True)]
    assert spaced[1]["mri"].has_pending_operations
    expected, found = (fuse(item)["fused"] for item in spaced)
    torch.testing.assert_close(found.affine, expected.affine)
    assert torch.equal(found.as_tensor(), expected.as_tensor())


@pytest.mark.parametrize("wrong", [None, [[0.0]], 3])
def test_what_is_no_volume_is_called_that(arrays, tiny_prior, wrong):
    with pytest.raises(InputError, match=f"second: found a {type(wrong).__name__}; expected a tensor or an array"):
        DDFMFuse(prior=tiny_prior, **SETTINGS)(arrays[0], wrong)


@pytest.fixture
def arrays(pair):
    return [nib.load(path).get_fdata(dtype=np.float32)[None] for path in pair]


TYPES = ["uint16", "uint32", "uint64", "int16", "int64", "float16", "bfloat16", "float64", "float32"]


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_number_gives_what_float32_gives(arrays, tiny_prior, name):
    mri, ct = (np.rint(array) for array in arrays)
    fuse = DDFMFuse(prior=tiny_prior, **SETTINGS)
    ct = ct + 1024 if name.startswith("uint") else ct
    a, b = (torch.from_numpy(array).to(getattr(torch, name)) for array in (mri, ct))
    expected = fuse(a.to(torch.float32), b.to(torch.float32))
    assert torch.equal(fuse(a, b), expected)
    if name != "bfloat16":
        assert torch.equal(fuse(a.numpy(), b.numpy()), expected)


def test_the_tensors_of_a_persistent_dataset(pair, tiny_prior, tmp_path):
    load = Compose([LoadImaged(("mri", "ct"), ensure_channel_first=True, image_only=True)])
    data = [{"mri": str(pair[0]), "ct": str(pair[1])}]
    fuse = DDFMFused(("mri", "ct"), prior=tiny_prior, **SETTINGS)
    expected = fuse(load(data[0]))["fused"]
    for _ in range(2):  # made, then read back from the cache
        found = fuse(PersistentDataset(data, load, cache_dir=tmp_path)[0])["fused"]
        assert torch.equal(found.as_tensor(), expected.as_tensor())


def _keyed(prior):
    return DDFMFused(("a", "b"), prior=prior, **SETTINGS)


@pytest.mark.parametrize("transform", [lambda p: DDFMFuse(prior=p, **SETTINGS), _keyed])
def test_a_pickled_transform_leaves_the_weights_where_they_are(arrays, tiny_prior_path, transform):
    fuse = transform(str(tiny_prior_path))
    call = fuse if isinstance(fuse, DDFMFuse) else lambda a, b: fuse({"a": a, "b": b})["fused"]
    before = len(pickle.dumps(fuse))
    expected = call(*arrays)
    content = pickle.dumps(fuse)
    assert len(content) == before < 10_000
    again = pickle.loads(content)
    assert torch.equal((again if isinstance(again, DDFMFuse) else again.transform)(*arrays), expected)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda a: a[0], "EnsureChannelFirst"),
        (lambda a: a[0, :, :, 0], "EnsureChannelFirst"),
        (lambda a: a[..., 0], r"a single slice has Z = 1"),
        (lambda a: a[None], "EnsureChannelFirst"),
        (lambda a: np.concatenate([a, a]), "C = 1 or 3"),
        (lambda a: a.astype(np.complex64), "real numbers"),
        (lambda a: a > 0, "real numbers"),
    ],
    ids=["no channel", "2-D", "2-D with channel", "batch", "two channels", "complex", "bool"],
)
def test_wrong_shapes_and_types_say_what_to_do(arrays, tiny_prior, wrong, words):
    mri, ct = arrays
    with pytest.raises(InputError, match=f"second: .*{words}"):
        DDFMFuse(prior=tiny_prior, **SETTINGS)(mri, wrong(ct))


def in_lps(volume):
    affine = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64)) @ volume.affine
    meta = {key: value for key, value in volume.meta.items() if key != "affine"}
    return MetaTensor(volume.as_tensor(), affine=affine, meta={**meta, "space": SpaceKeys.LPS})


@pytest.mark.parametrize("turned", [(False, True), (True, False), (True, True)])
def test_tensors_in_lps_are_understood_and_the_result_is_in_the_space_of_the_reference(pair, tiny_prior, turned):
    load = LoadImage(ensure_channel_first=True, image_only=True)
    mri, ct = (load(str(path)) for path in pair)
    ct.affine[:3, 3] += torch.tensor([20.0, 0.0, 6.0])  # so that a mirrored one would not fit
    fuse = DDFMFuse(prior=tiny_prior, **SETTINGS)
    expected = fuse(mri, ct)
    found = fuse(*(in_lps(volume) if turn else volume for volume, turn in zip((mri, ct), turned, strict=True)))
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    reference = in_lps(mri) if turned[0] else mri
    assert found.meta["space"] == reference.meta["space"]
    torch.testing.assert_close(found.affine, reference.affine)


def test_a_file_is_taken_for_the_same_through_monai_and_by_its_path(pair, tiny_prior):
    load = LoadImage(ensure_channel_first=True, image_only=True)
    result = DDFMFuse(prior=tiny_prior, steps=2)(*(load(str(path)) for path in pair))
    by_path = fuse_volumes(*pair, prior=tiny_prior, steps=2)
    assert torch.equal(result.as_tensor(), by_path.fused.as_tensor())
    for role in ("reference", "second"):
        assert json.loads(result.meta["ddfm"])[role]["scaling"] == by_path.provenance[role]["scaling"]
