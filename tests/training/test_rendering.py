"""Slices rendered from a label map of the phantom: every modality shows its tissues as a scanner would."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.phantom import write_phantom
from ddfm_monai.training import (
    LabelMap,
    SliceBatches,
    read_label_maps,
    render_slices,
    reslice,
    training_slices,
)
from ddfm_monai.training.drawing import SIZE
from ddfm_monai.training.label_maps import CODE

COUNTS = {"mr": 3, "ct": 3, "pet": 2, "spect": 2}
# Hounsfield units of the phantom's tissues (ddfm_monai/phantom.py), and FreeSurfer's and SAMSEG's numbers for them.
LABELS = {-1000: 0, -90: 507, 6: 24, 20: 511, 29: 2, 38: 3, 55: 508, 620: 516, 1350: 515}
AIR, GREY, BONE, FAT = (CODE[name] for name in ("air", "grey", "bone", "fat"))


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``labels/head.nii.gz``, the phantom's CT as a label map, and ``scans/mri.nii.gz``."""
    folder = tmp_path_factory.mktemp("phantom")
    paths = write_phantom(folder / "scans", resolution=3.0, slice_distance=4.0, noise="none")
    ct = nib.load(paths.ct)
    values = np.array(sorted(LABELS))
    nearest = np.abs(ct.get_fdata()[..., None] - values).argmin(-1)
    labels = np.array([LABELS[v] for v in values], np.int16)[nearest]
    (folder / "labels").mkdir()
    nib.save(nib.Nifti1Image(labels, ct.affine), folder / "labels" / "head.nii.gz")
    paths.ct.unlink()
    paths.pet.unlink()
    return folder


@pytest.fixture(scope="module")
def maps(phantom: Path) -> list[LabelMap]:
    return read_label_maps(phantom / "labels")


def test_a_label_map_is_read_in_lps_with_fat_split_off(maps: list[LabelMap], phantom: Path) -> None:
    stored = nib.load(phantom / "labels" / "head.nii.gz")
    (head,) = maps
    assert head.spacing == pytest.approx(stored.header.get_zooms(), abs=1e-3)
    air = np.asarray(stored.dataobj) == 0
    assert (head.tissues == AIR).sum() == air.sum()
    ras = np.asarray(nib.as_closest_canonical(stored).dataobj)
    assert (np.flip(head.tissues == AIR, (0, 1)) == (ras == 0)).all()
    assert {GREY, BONE} < set(np.unique(head.tissues))
    assert FAT in head.tissues  # which no label stands for


def test_every_modality_is_rendered_and_no_two_slices_are_alike(maps: list[LabelMap]) -> None:
    slices = render_slices(maps, COUNTS)
    assert {m: len(found) for m, found in slices.items()} == COUNTS
    for found in slices.values():
        for picture in found:
            assert picture.shape == (SIZE, SIZE)
            assert picture.dtype == np.uint8
            assert picture.max() > 60
            assert np.median(picture[:8]) < 30  # air around the head
        assert not (found[0] == found[1]).all()


def test_a_slice_depends_on_seed_and_number_only(maps: list[LabelMap]) -> None:
    once, longer, other = (render_slices(maps, {"mr": count}, seed)["mr"] for count, seed in ((1, 5), (2, 5), (1, 6)))
    assert (once[0] == longer[0]).all()
    assert not (once[0] == other[0]).all()


def test_bone_is_the_brightest_in_ct_and_cortex_in_pet() -> None:
    """A cube of grey matter in a shell of bone, without air inside."""
    tissues = np.full((96, 96, 96), AIR, np.uint8)
    tissues[8:88, 8:88, 8:88] = BONE
    tissues[14:82, 14:82, 14:82] = GREY
    cube = [LabelMap(tissues, (2.0, 2.0, 2.0))]
    ct = np.stack(render_slices(cube, {"ct": 8})["ct"]).astype(float)
    brain = ct[:, 118:138, 118:138].mean((1, 2))
    assert (np.sort(ct.reshape(8, -1))[:, -3000:].mean(1) > brain + 40).all()
    assert (brain < 200).all()
    assert (ct[:, :3].mean((1, 2)) < 5).all()
    pet = np.stack(render_slices(cube, {"pet": 8})["pet"]).astype(float)
    edge = pet[:, :6].mean((1, 2))
    assert (pet[:, 118:138, 118:138].mean((1, 2)) > edge + 20).all()
    steepest = np.abs(np.diff(pet, axis=2)).max((1, 2))
    assert np.median(steepest) < np.median(np.abs(np.diff(ct, axis=2)).max((1, 2)))  # blurred to its resolution


def test_tissues_differ_between_people_in_ct() -> None:
    """A plexus is calcified in one and not in the next, so it is much brighter or darker than the cortex around it."""
    tissues = np.full((96, 96, 96), BONE, np.uint8)
    tissues[14:82, 14:82, 14:82] = GREY
    tissues[30:66, 30:66, 30:66] = CODE["plexus"]
    ct = np.stack(render_slices([LabelMap(tissues, (2.0, 2.0, 2.0))], {"ct": 12})["ct"]).astype(float)
    difference = ct[:, 108:148, 108:148].mean((1, 2)) - ct[:, 72:84, 108:148].mean((1, 2))
    assert (abs(difference) > 50).sum() >= 3


def test_thick_slices_and_pixels_average_their_tissues() -> None:
    """Stripes of bone and air, 1 mm each: what a pixel of 1 mm sees is neither."""
    tissues = np.zeros((120, 120, 120), np.uint8)
    tissues[10:110:2, 10:110, 10:110] = BONE
    pictures = np.stack(render_slices([LabelMap(tissues, (1.0, 1.0, 1.0))], {"mr": 6})["mr"])
    inside = pictures[:, 100:156, 100:156].astype(float)
    between = ((inside > 0.1 * inside.max()) & (inside < 0.8 * inside.max())).mean()
    assert between > 0.3


def test_real_mri_is_cut_in_other_planes(phantom: Path) -> None:
    found = reslice(phantom / "scans", 4)["mr"]
    assert len(found) == 4
    assert all(picture.shape == (SIZE, SIZE) and picture.max() > 100 for picture in found)
    assert not (found[0] == found[1]).all()
    assert reslice(None, 4) == reslice(phantom / "scans", 0) == {}


def test_real_slices_and_renderings_are_one_training_set(phantom: Path) -> None:
    rendered = {"mr": 1, "ct": 2}
    both = training_slices(phantom / "scans", phantom / "labels", rendered, 2)
    own = training_slices(phantom / "scans", None, rendered, 0)
    assert set(own) == {"mr"}
    assert len(both["mr"]) == len(own["mr"]) + 3
    assert len(both["ct"]) == 2
    views = [{"size": 64, "batch": 2, "power": 1.0, "timesteps": [0, 10], "upright": False, "share": [1, 1]}]
    assert SliceBatches(both, 1, views, {"mr": 0.5, "ct": 0.5})[0]["image"].shape == (2, 1, 64, 64)
    assert set(training_slices(None, phantom / "labels", rendered, 0)) == {"mr", "ct"}


def test_what_cannot_be_rendered_is_refused_by_name(phantom: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--labels_dir"):
        training_slices(None, None, COUNTS, 0)
    with pytest.raises(UsageError, match="--labels_dir"):
        read_label_maps(tmp_path / "absent")
    with pytest.raises(UsageError, match="no label map"):
        read_label_maps(tmp_path)
    with pytest.raises(UsageError, match="ultrasound"):
        render_slices([], {"ultrasound": 1})
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 700, np.int16), np.eye(4)), tmp_path / "odd.nii.gz")
    with pytest.raises(InputError, match=r"odd\.nii\.gz: labels 700 are not known"):
        read_label_maps(tmp_path)
