"""The phantom: the same bytes every time, three scanners of one head, each lesion in one of them only."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ddfm_monai import fuse_volumes
from ddfm_monai.phantom import Lesion, PhantomPaths, write_phantom
from ddfm_monai.volumes import make_volume, overlap_fraction, read_volume

SMALL = {"resolution": 2.0, "slice_distance": 8.0}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> PhantomPaths:
    return write_phantom(tmp_path_factory.mktemp("phantom"), **SMALL)


def values_around(path: Path, lesion: Lesion, inner: float, outer: float) -> np.ndarray:
    """Voxel values whose distance from the lesion's centre is between ``inner`` and ``outer`` mm."""
    image = nib.load(path)
    indices = np.indices(image.shape).reshape(3, -1)
    places = image.affine[:3, :3] @ indices + image.affine[:3, 3:]
    distance = np.linalg.norm(places - np.array(lesion.centre)[:, None], axis=0)
    return image.get_fdata().reshape(-1)[(distance >= inner) & (distance < outer)]


def test_it_writes_the_same_bytes_every_time(phantom: PhantomPaths, tmp_path: Path) -> None:
    again = write_phantom(tmp_path / "new" / "folder", **SMALL)
    for name in ("mri", "ct", "pet"):
        first, second = (hashlib.sha256(getattr(paths, name).read_bytes()).hexdigest() for paths in (phantom, again))
        assert first == second, name


def test_each_scanner_has_its_own_grid_and_units(phantom: PhantomPaths) -> None:
    mri, ct, pet = (nib.load(path) for path in (phantom.mri, phantom.ct, phantom.pet))
    assert len({image.shape for image in (mri, ct, pet)}) == 3
    assert nib.aff2axcodes(mri.affine) == ("R", "A", "S")
    assert nib.aff2axcodes(ct.affine) == ("L", "P", "S")
    assert np.abs(nib.affines.obliquity(ct.affine)).max() > np.radians(3)  # a tilted gantry
    assert np.allclose(nib.affines.obliquity(mri.affine), 0)
    hounsfield = ct.get_fdata()
    assert ct.get_data_dtype() == np.int16
    assert hounsfield.min() < -950
    assert 1000 < hounsfield.max() <= 3071
    assert mri.get_data_dtype() == np.float32
    assert 0.4 < overlap_fraction(read_volume(phantom.mri), read_volume(phantom.ct)) < 1  # another field of view


def test_the_oedema_is_in_the_mri_only(phantom: PhantomPaths) -> None:
    oedema = next(lesion for lesion in phantom.lesions if lesion.shown_by == "mr")
    inside = values_around(phantom.mri, oedema, 0, oedema.radius)
    beside = values_around(phantom.mri, oedema, oedema.radius + 8, oedema.radius + 12)
    assert inside.min() > 1.15 * np.median(beside)
    ct_inside = values_around(phantom.ct, oedema, 0, oedema.radius - 2)
    assert abs(np.median(ct_inside) - 29) < 4  # white matter, as around it


def test_the_calcification_is_in_the_ct_only(phantom: PhantomPaths) -> None:
    calcification = next(lesion for lesion in phantom.lesions if lesion.shown_by == "ct")
    inside = values_around(phantom.ct, calcification, 0, calcification.radius - 2)
    beside = values_around(phantom.ct, calcification, calcification.radius + 4, calcification.radius + 8)
    assert inside.min() > 100
    assert np.median(beside) < 60
    mri_inside = values_around(phantom.mri, calcification, 0, calcification.radius)
    mri_beside = values_around(phantom.mri, calcification, calcification.radius + 1, calcification.radius + 5)
    assert abs(np.median(mri_inside) / np.median(mri_beside) - 1) < 0.08


def test_sources_are_told_apart_automatically(phantom: PhantomPaths) -> None:
    from ddfm_monai.volumes import guess_kind

    assert guess_kind(read_volume(phantom.mri)) == "mr"
    assert guess_kind(read_volume(phantom.ct)) == "ct"


def test_the_uncertainty_is_higher_where_the_sources_disagree_and_where_they_are_noisy(phantom: PhantomPaths) -> None:
    clean = fuse_volumes(phantom.mri, phantom.ct, samples=4)
    assert clean.uncertainty is not None
    a, b, deviation = (x.as_tensor()[0] for x in (clean.reference01, clean.second01, clean.uncertainty))
    inside = torch.maximum(a, b) > 0.05
    disagreement = (a - b).abs()
    low, high = disagreement[inside].quantile(torch.tensor([0.25, 0.75]))
    agreeing, disagreeing = inside & (disagreement < low), inside & (disagreement > high)
    assert float(deviation[disagreeing].mean()) > 1.5 * float(deviation[agreeing].mean())

    noise = torch.randn(2, *a.shape, generator=torch.Generator().manual_seed(0)) * 20 / 255
    sources = [
        make_volume(np.rint(255 * (x + n).clamp(0, 1).numpy())[None], np.eye(4))
        for x, n in zip((a, b), noise, strict=True)
    ]
    noisy = fuse_volumes(*sources, samples=4, reference_kind="mr", second_kind="mr").uncertainty
    assert noisy is not None
    assert float(noisy.as_tensor()[0][agreeing].mean()) > 1.2 * float(deviation[agreeing].mean())
