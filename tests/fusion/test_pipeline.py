"""The way of the data: what a slice's result depends on, geometry, background, refusals."""

from __future__ import annotations

import json
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import head
from monai.data.meta_tensor import MetaTensor

from ddfm_monai import fuse_volumes
from ddfm_monai.errors import Cancelled, DDFMError, InputError, UsageError
from ddfm_monai.fusion.outputs import write_outputs
from ddfm_monai.priors import Prior
from ddfm_monai.volumes import make_volume, read_source, read_volume

SHAPE = (48, 56, 7)


def volume(kind: str, shape=SHAPE, affine=None) -> MetaTensor:
    """A head; 8-bit grey so that scaling is the same for every part of it."""
    image = head(shape, kind)
    low, high = (0, 800) if kind == "mr" else (-160, 240)
    grey = np.rint(255 * np.clip((image - low) / (high - low), 0, 1))
    grey[0, 0, 0] = 255  # the range of 8-bit data is recognised in every slice
    return make_volume(grey[None], np.diag([2.0, 2, 5, 1]) if affine is None else affine)


@pytest.fixture(scope="module")
def sources():
    return volume("mr"), volume("ct")


def fuse(a, b, prior, **settings):
    settings = {"steps": 4, "reference_kind": "mr", "second_kind": "ct", **settings}
    return fuse_volumes(a, b, prior=prior, **settings)


def test_a_slice_is_the_same_alone_in_any_batch_and_among_empty_slices(sources, tiny_prior):
    a, b = sources
    whole = fuse(a, b, tiny_prior, batch_size=1).fused
    assert torch.allclose(whole, fuse(a, b, tiny_prior, batch_size=7).fused, atol=1e-5)
    k = SHAPE[2] // 2
    alone = fuse(a[..., k : k + 1], b[..., k : k + 1], tiny_prior).fused
    assert torch.allclose(whole[..., k : k + 1].as_tensor(), alone.as_tensor(), atol=1e-5)
    others_empty = []
    for source in sources:
        emptied = torch.zeros_like(source)
        emptied[..., k] = source[..., k]
        others_empty.append(emptied)
    among_empty = fuse(*others_empty, tiny_prior, batch_size=3).fused
    assert torch.allclose(whole[..., k].as_tensor(), among_empty[..., k].as_tensor(), atol=1e-5)
    assert float(among_empty[..., :k].abs().max()) == 0


def test_common_background_is_exactly_zero_and_the_range_is_0_to_1(sources, tiny_prior):
    a, b = sources
    fused = fuse(a, b, tiny_prior).fused
    background = (a == 0) & (b == 0)
    assert bool(background.any())
    assert float(fused[background].abs().max()) == 0
    assert float(fused.min()) >= 0 and float(fused.max()) <= 1
    assert float(fused[~background].std()) > 0.05


def test_same_seed_same_result_other_seed_other_noise(sources, tiny_prior):
    a, b = sources
    first = fuse(a, b, tiny_prior, likelihood="published", seed=1).fused
    assert torch.equal(first, fuse(a, b, tiny_prior, likelihood="published", seed=1).fused)
    assert not torch.equal(first, fuse(a, b, tiny_prior, likelihood="published", seed=2).fused)


@pytest.mark.parametrize("codes", [("L", "A", "S"), ("R", "A", "S"), ("P", "S", "R"), ("L", "P", "I")], ids="".join)
def test_orientation_of_the_file_does_not_matter(codes, tmp_path, tiny_prior):
    affine = np.diag([2.0, 2, 6, 1])
    results = []
    for name in ("RAS", codes):
        paths = []
        for kind in ("mr", "ct"):
            image = nib.Nifti1Image(head((40, 48, 5), kind), affine)
            transform = nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(name)
            )
            paths.append(tmp_path / f"{''.join(name)}_{kind}.nii.gz")
            nib.save(image.as_reoriented(transform), paths[-1])
        result = fuse(*paths, tiny_prior)
        target = tmp_path / f"fused_{''.join(name)}.nii.gz"
        write_outputs(result, target)
        reference, fused = nib.load(paths[0]), nib.load(target)
        assert fused.shape == reference.shape
        assert np.allclose(fused.affine, reference.affine, atol=1e-5)
        results.append(nib.as_closest_canonical(fused).get_fdata())
    assert np.allclose(results[0], results[1], atol=1e-5)


def test_second_on_another_grid_lands_on_the_reference_and_outside_it_is_air(tmp_path, tiny_prior):
    a = volume("mr", affine=np.diag([2.0, 2, 5, 1]))
    affine = np.diag([3.0, 3, 4, 1])
    affine[:3, 3] = (0, 0, 8)
    ct = make_volume(head((32, 38, 5), "ct")[None], affine)
    result = fuse(a, ct, tiny_prior)
    assert result.fused.shape == a.shape
    assert np.allclose(result.fused.affine, a.affine)
    assert float(result.second01[..., 0].abs().max()) == 0  # below the CT's field of view
    assert result.provenance["second"]["resampled"]


def test_colour_source_keeps_its_hue(sources, tiny_prior):
    a, _ = sources
    rgb = torch.cat([a * 0.9, a * 0.3, a * 0.1])
    result = fuse(a, MetaTensor(rgb, affine=a.affine), tiny_prior, second_kind="pet", colour=True)
    fused = result.fused.as_tensor()
    assert fused.shape == (3, *SHAPE)
    coloured = fused.amax(0) - fused.amin(0) > 5
    assert bool(coloured.any())
    assert bool((fused[0] >= fused[1])[coloured].all()) and bool((fused[1] >= fused[2])[coloured].all())


def test_grey_pet_gets_a_colour_map_and_mr_ct_refuse_colour(sources, tiny_prior):
    a, b = sources
    assert fuse(a, b, tiny_prior, second_kind="pet", colour=True).fused.shape[0] == 3
    with pytest.raises(UsageError, match="second-kind"):
        fuse(a, b, tiny_prior, colour=True)


def test_provenance_is_json_and_names_everything(sources, tiny_prior):
    provenance = json.loads(json.dumps(fuse(*sources, tiny_prior).provenance))
    assert "Not for diagnostic use" in provenance["notice"]
    assert provenance["prior"]["sha256"] == tiny_prior.sha256
    assert provenance["sampling"]["steps"] == 4 and provenance["sampling"]["seed"] == 3407
    assert len(provenance["reference"]["sha256"]) == len(provenance["second"]["sha256"]) == 64
    assert {"torch", "monai", "numpy", "ddfm_monai"} <= set(provenance["software"])


def test_progress_reaches_its_total_and_cancel_stops(sources, tiny_prior):
    seen = []
    fuse(*sources, tiny_prior, progress=seen.append)
    fused = [p for p in seen if p.stage == "fuse"]
    assert [p.done for p in fused] == sorted(p.done for p in fused)
    assert fused[-1].done == fused[-1].total

    def cancel(progress):
        if progress.stage == "fuse" and progress.done == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fuse(*sources, tiny_prior, progress=cancel)


class _LimitedPrior(Prior):
    """A prior that runs out of memory for batches over a limit."""

    def __init__(self, prior, limit):
        super().__init__(prior.network, "limited", prior.sha256)
        self.limit = limit

    def forward(self, x, timesteps):
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("no memory for so many slices")
        return super().forward(x, timesteps)


def test_out_of_memory_halves_the_batch_and_goes_on(sources, tiny_prior):
    expected = fuse(*sources, tiny_prior).fused
    limited = fuse(*sources, _LimitedPrior(tiny_prior, 2), batch_size=7).fused
    assert torch.allclose(limited, expected, atol=1e-5)
    with pytest.raises(DDFMError, match=r"one slice of .* --device cpu"):
        fuse(*sources, _LimitedPrior(tiny_prior, 0), batch_size=7)


def test_several_samples_give_mean_and_uncertainty(sources, tiny_prior):
    result = fuse(*sources, tiny_prior, samples=3, likelihood="published")
    assert result.uncertainty is not None
    assert result.uncertainty.shape == result.fused.shape
    background = (sources[0] == 0) & (sources[1] == 0)
    assert float(result.uncertainty[background].abs().max()) == 0
    assert float(result.uncertainty[~background].mean()) > 0


def bad(change):
    a = volume("mr")
    return change(a.clone())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.mul_(float("nan")), "NaN"),
        (lambda v: v.fill_(3), "every value"),
        (lambda v: v[0], "shape"),
        (lambda v: v[None], "shape"),
        (lambda v: torch.cat([v, v]), "shape"),
    ],
)
def test_unusable_volumes_are_refused_with_their_role(change, message, sources, tiny_prior):
    with pytest.raises(InputError, match=f"second.*{message}"):
        fuse(sources[0], bad(change), tiny_prior)


def test_volumes_that_do_not_overlap_are_refused(sources, tiny_prior):
    affine = np.diag([2.0, 2, 5, 1])
    affine[:3, 3] = 1000
    with pytest.raises(InputError, match="overlap"):
        fuse(sources[0], volume("ct", affine=affine), tiny_prior)


@pytest.mark.parametrize(
    "settings",
    [
        {"register": "affine"},
        {"samples": 0},
        {"steps": 2000},
        {"likelihood": "best"},
        {"device": "cuda:99"},
        {"device": 99},
        {"device": "meta"},  # holds no values
        {"device": ""},
        {"window": "40,80", "second_kind": "pet"},
    ],
)
def test_impossible_settings_are_refused(settings, sources, tiny_prior):
    with pytest.raises(UsageError):
        fuse(*sources, tiny_prior, **settings)


@pytest.mark.parametrize("read", [read_volume, partial(read_source, name="source")])
def test_what_was_read_before_gives_the_same_as_its_path(read, pair, tiny_prior):
    by_path = fuse_volumes(*pair, prior=tiny_prior, steps=2)
    by_volume = fuse_volumes(read(pair[0]), read(pair[1]), prior=tiny_prior, steps=2)
    assert torch.equal(by_path.fused, by_volume.fused)


def test_a_prior_that_is_passed_in_is_not_changed(sources, tiny_prior):
    fuse(*sources, tiny_prior, precision="bfloat16")
    assert tiny_prior.precision == torch.float32 and tiny_prior.device.type == "cpu"


def test_outside_the_second_s_field_of_view_the_reference_stands_alone(sources, tiny_prior):
    """A CT that shows the left two thirds of the head and half of its slices."""
    a, b = sources
    cut = make_volume(b[:, :32, :, :4], b.affine)
    fused = fuse(a, cut, tiny_prior)
    alone = fused.reference01.clone()
    outside = torch.zeros(SHAPE, dtype=torch.bool)
    outside[32:], outside[..., 4:] = True, True
    head_there = outside & (alone[0] > 0.1)
    found, expected = fused.fused[0][head_there], alone[0][head_there]
    assert head_there.sum() > 500
    assert float((found / expected - 1).abs().max()) < 0.02
