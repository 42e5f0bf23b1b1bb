"""Real series, where a development machine has them beside the repository: read as dcm2niix reads them, and fused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from ddfm_monai.batch.pairing import find_pairs
from ddfm_monai.cli.main import run
from ddfm_monai.dicom.read import read_subseries
from ddfm_monai.dicom.scan import scan_folder
from ddfm_monai.errors import ExitCode

from .external import dcentvfy, dciodvfy, dicom_validator, needs, read_series

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real series are not on this machine")

# Volumes, and how far dcm2niix may place a voxel elsewhere, mm. Of the oblique PD it takes the first of three gaps that
# cycle for all, which is 1.3 mm at the far corner.
EQUAL = {
    "agfa_perfusion": (8, 0.001),
    "ge_4d_classic": (10, 0.001),
    "ge_oblique_pd": (1, 1.4),
    "pd_t2_pair": (2, 0.001),
    "sarcoma_ct_pet_mr": (3, 0.003),
}


def converted(folder: Path, output: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Voxels and affine (RAS mm) of every volume that dcm2niix makes of a folder."""
    subprocess.run(["dcm2niix", "-b", "n", "-f", "%s_%j_%z", "-o", output, folder], check=True, capture_output=True)
    volumes = []
    for path in sorted(output.glob("*.nii")):
        image = nib.load(path)
        voxels = image.get_fdata(dtype=np.float32)
        volumes += [
            (part, image.affine) for part in np.moveaxis(np.atleast_3d(voxels).reshape(*voxels.shape[:3], -1), -1, 0)
        ]
    return volumes


def difference(
    ours: np.ndarray, affine: np.ndarray, theirs: np.ndarray, their_affine: np.ndarray
) -> tuple[float, float]:
    """Largest difference of voxels that lie nearest to each other, and their largest distance in mm; inf if none do.

    Of every slice, each third row and column, and the last ones.
    """
    steps = [np.unique([*range(0, n, 3), n - 1]) for n in ours.shape[:2]]
    index = np.stack(np.meshgrid(*steps, np.arange(ours.shape[2]), indexing="ij"), -1).reshape(-1, 3)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    place = (world - their_affine[:3, 3]) @ np.linalg.inv(their_affine[:3, :3]).T
    nearest = np.rint(place).astype(int)
    if not ((nearest >= 0) & (nearest < theirs.shape)).all():
        return np.inf, np.inf
    away = np.linalg.norm((place - nearest) @ their_affine[:3, :3].T, axis=1)
    return float(np.abs(theirs[tuple(nearest.T)] - ours[tuple(index.T)]).max()), float(away.max())


@needs("dcm2niix")
@pytest.mark.parametrize("name", EQUAL)
def test_every_volume_is_the_one_that_dcm2niix_makes(name: str, tmp_path: Path) -> None:
    count, tolerance = EQUAL[name]
    found = scan_folder(REAL / name).subseries
    assert [(item.problem, item.exclusion) for item in found] == [(None, None)] * count
    theirs = converted(REAL / name, tmp_path)
    used = set()
    for item in found:
        volume = read_subseries(item).volume
        voxels, affine = volume.numpy()[0], volume.affine.numpy()
        differences = [difference(voxels, affine, *other) for other in theirs]
        best = min(range(len(theirs)), key=lambda k: differences[k])
        assert differences[best][0] <= 1e-5 * np.abs(voxels).max()
        assert differences[best][1] <= tolerance
        used.add(best)
    if name != "agfa_perfusion":  # one study sent twice: the same voxels at the same places
        assert len(used) == count


def test_a_head_ct_of_two_spacings_is_one_volume_and_no_reference() -> None:
    (item,) = scan_folder(REAL / "ge_head_ct_two_spacings").subseries
    assert (len(item.slices), item.problem, item.exclusion) == (28, None, None)
    assert item.not_as_base is not None
    assert {warning.code for warning in item.warnings} == {"W_MIXED", "W_UNEVEN"}


def test_a_vendors_grid_is_refused_as_what_it_is() -> None:
    (item,) = scan_folder(REAL / "uih_grid").subseries
    assert item.problem is not None
    assert item.problem.code == "E_MOSAIC"


@needs("dciodvfy", "dcentvfy")
def test_a_patients_ct_pet_and_mr_are_paired_fused_and_pass_the_validators(
    tiny_prior_path: Path, tmp_path: Path
) -> None:
    study = REAL / "sarcoma_ct_pet_mr"
    pairs = find_pairs(scan_folder(study)).pairs
    assert sorted((pair.reference.kind, pair.second.kind, pair.relation) for pair in pairs) == [
        ("mr", "ct", "for"),
        ("mr", "pet", "for"),
    ]
    small = ["--prior", str(tiny_prior_path), "--steps", "1", "--device", "cpu"]
    assert run(["dicom", "run", str(study), "-o", str(tmp_path / "out"), "--colour", *small]) == ExitCode.DONE
    series = sorted(path.parent for path in (tmp_path / "out").glob("P*/*/0001.dcm"))
    assert [path.name for path in series].count("grey") == 2
    assert [path.name for path in series].count("colour") == 1
    for folder in series:
        files = sorted(folder.glob("*.dcm"))
        assert len(files) == 35
        assert dcentvfy(files) == ""
        assert [line for line in dciodvfy(files[0]) if line.startswith("Error")] == []
        assert dicom_validator(read_series(folder)[0]) == []
