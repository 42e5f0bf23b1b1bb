"""`ddfm dicom wrap`: a fused volume file becomes a series of its reference's patient and study."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom.external import dciodvfy, dicom_validator, needs, read_series
from dicom.results import PROVENANCE, SMALL, values_of
from dicom.synthetic import Layout, save_pair, series

from ddfm_monai.batch.wrap import wrap_fused
from ddfm_monai.cli.main import run
from ddfm_monai.dicom import DicomError, DicomVolume, read_folder_series
from ddfm_monai.dicom.read import AIR
from ddfm_monai.dicom.write import GREY_MAXIMUM
from ddfm_monai.errors import ExitCode, InputError, UsageError
from ddfm_monai.volume import affine_of, make_volume
from ddfm_monai.volumes import write_volume

HOW: dict[str, Any] = {
    **PROVENANCE,
    "second": {"resampled": True, "scaling": {"kind": "ct"}},
    "registration": None,
}


def save_fused(path: Path, values: np.ndarray, affine: np.ndarray, **how: Any) -> Path:
    write_volume(make_volume(values, affine), path)
    path.with_name(f"{path.name.split('.')[0]}.json").write_text(json.dumps({**HOW, **how}))
    return path


@pytest.fixture
def base(tmp_path: Path) -> DicomVolume:
    save_pair(tmp_path, **SMALL)
    return read_folder_series(tmp_path / "mr")


@pytest.fixture
def fused(base: DicomVolume, tmp_path: Path) -> Path:
    return save_fused(tmp_path / "fused.nrrd", values_of(base)[None], affine_of(base.volume))


@needs("dciodvfy")
@pytest.mark.parametrize("with_second", [True, False])
def test_the_series_shows_the_volume_and_is_valid(
    with_second: bool, base: DicomVolume, fused: Path, tmp_path: Path
) -> None:
    second = tmp_path / "ct" if with_second else None
    wrap_fused(fused, tmp_path / "mr", tmp_path / "out", second=second)
    results, sources = read_series(tmp_path / "out/grey"), read_series(tmp_path / "mr")
    stored = np.stack([ds.pixel_array.T for ds in results], axis=-1)
    np.testing.assert_array_equal(stored, np.rint(values_of(base) * GREY_MAXIMUM))
    for result, source in zip(results, sources, strict=True):
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "ImagePositionPatient"):
            assert result[keyword].value == source[keyword].value
    assert results[0].SeriesDescription == f"FUSED MR(3)+{'CT(5)' if with_second else 'CT'} NOT FOR DIAGNOSTIC USE"
    assert (len(results[0].SourceImageSequence) > 1) is with_second
    assert len(results[0].ContributingEquipmentSequence) == (3 if with_second else 2)
    assert [line for path in sorted((tmp_path / "out/grey").iterdir()) for line in dciodvfy(path)] == []
    assert [line for result in results for line in dicom_validator(result)] == []


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 0, 2)])
def test_voxel_axes_may_run_otherwise(order: tuple[int, ...], base: DicomVolume, tmp_path: Path) -> None:
    values = np.flip(values_of(base).transpose(order), 1)
    affine = affine_of(base.volume)[:, [*order, 3]]
    affine[:3, 3] += affine[:3, 1] * (values.shape[1] - 1)
    affine[:3, 1] *= -1
    fused = save_fused(tmp_path / "turned.nrrd", values[None].copy(), affine)
    same_voxels = {"reference_volume": fused}  # the values are the reference's, scaled
    wrap_fused(fused, tmp_path / "mr", tmp_path / "out", second=tmp_path / "ct", **same_voxels)
    stored = np.stack([ds.pixel_array.T for ds in read_series(tmp_path / "out/grey")], axis=-1)
    np.testing.assert_array_equal(stored, np.rint(values_of(base) * GREY_MAXIMUM))


def test_colour(base: DicomVolume, tmp_path: Path) -> None:
    rgb = np.rint(np.stack([values_of(base) * 255] * 3))
    rgb[1] = 7
    fused = save_fused(tmp_path / "fused.nrrd", rgb, affine_of(base.volume))
    wrap_fused(fused, tmp_path / "mr", tmp_path / "out", second=tmp_path / "ct")
    results = read_series(tmp_path / "out/colour")
    np.testing.assert_array_equal(np.stack([ds.pixel_array for ds in results]).transpose(3, 2, 1, 0), rgb)


def test_a_moved_second_is_referred_to_where_it_lay(base: DicomVolume, fused: Path, tmp_path: Path) -> None:
    """Moved by two slices, slice 2 of the result was made from slice 0 of the second."""
    shutil.rmtree(tmp_path / "ct")
    series("CT", Layout(**{**SMALL, "rows": 44})).save(tmp_path / "ct")
    second = read_folder_series(tmp_path / "ct")
    moved = affine_of(second.volume)
    moved[:3, 3] += 2 * affine_of(base.volume)[:3, 2]
    voxels = second.volume.numpy()

    def wrap(voxels: np.ndarray, affine: np.ndarray) -> Any:
        volume = save_fused(tmp_path / "second.nrrd", voxels, affine)
        return wrap_fused(
            fused, tmp_path / "mr", tmp_path / "out", second=tmp_path / "ct", second_volume=volume, overwrite=True
        )

    assert wrap(voxels, moved).record["warnings"] == []
    results = read_series(tmp_path / "out/grey")
    first_ct = second.subseries.slices[0].sop_instance_uid
    named = [first_ct in [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence] for ds in results]
    assert named == [False, False, True, False, False]
    for other_voxels, other_affine in (
        (voxels, moved @ np.diag([1.5, 1, 1, 1])),  # stretched
        (voxels, moved @ np.diag([-1.0, 1, 1, 1])),  # mirrored
        (voxels[:, 2:], moved),  # cropped
        (np.roll(voxels, 2, axis=1), moved),  # resampled
    ):
        assert "no longer what its series holds" in wrap(other_voxels, other_affine).record["warnings"][0]
        assert len(read_series(tmp_path / "out/grey")[0].SourceImageSequence) == 1


def test_padding_that_another_program_reads_differently_is_no_change(fused: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "ct")
    made = series("CT", Layout(**{**SMALL, "rows": 44}))
    for ds in made.datasets:
        pixels = np.frombuffer(ds.PixelData, np.uint16).copy()
        pixels[:100] = ds.PixelPaddingValue = 0
        ds.PixelData = pixels.tobytes()
    made.save(tmp_path / "ct")
    second = read_folder_series(tmp_path / "ct")
    voxels = second.volume.numpy()
    voxels[voxels == AIR] = -3024
    volume = save_fused(tmp_path / "second.nrrd", voxels, affine_of(second.volume))
    wrapped = wrap_fused(fused, tmp_path / "mr", tmp_path / "out", second=tmp_path / "ct", second_volume=volume)
    assert wrapped.record["warnings"] == []


def test_what_is_refused(base: DicomVolume, fused: Path, tmp_path: Path) -> None:
    mr, out = tmp_path / "mr", tmp_path / "out"
    shifted = affine_of(base.volume)
    shifted[0, 3] += 1
    with pytest.raises(InputError) as caught:
        wrap_fused(save_fused(tmp_path / "shifted.nrrd", values_of(base)[None], shifted), mr, out)
    assert caught.value.code == "E_OTHER_GRID"
    cropped = save_fused(tmp_path / "cropped.nrrd", values_of(base)[None, :, :-1], affine_of(base.volume))
    with pytest.raises(InputError, match="36 x 39 x 5 voxels, the series has 36 x 40 x 5"):
        wrap_fused(cropped, mr, out)
    for layout, code in (({"patient_id": "another"}, "E_DIFFERENT_PATIENTS"), ({"frame": "x"}, "S_DIFFERENT_FRAME")):
        series("CT", Layout(**SMALL, **layout)).save(tmp_path / code)
        with pytest.raises(DicomError) as refused:
            wrap_fused(fused, mr, out, second=tmp_path / code)
        assert refused.value.code == code
    with pytest.raises(InputError, match="outside 0 to 1"):
        wrap_fused(save_fused(tmp_path / "raw.nrrd", 900 * values_of(base)[None], affine_of(base.volume)), mr, out)
    bent = np.roll(values_of(base), 1, axis=0)
    with pytest.raises(InputError, match="no longer the series"):
        voxels = save_fused(tmp_path / "bent.nrrd", bent[None], affine_of(base.volume))
        wrap_fused(fused, mr, out, reference_volume=voxels)
    (tmp_path / "fused.json").write_text("{}")
    with pytest.raises(UsageError, match="does not say how the volume was made"):
        wrap_fused(fused, mr, out)
    (tmp_path / "fused.json").unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        wrap_fused(fused, mr, out)
    assert not out.exists()


def test_command(fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["dicom", "wrap", str(fused), "--reference", str(tmp_path / "mr"), "-o", str(tmp_path / "out")]
    assert run(command) == ExitCode.DONE
    assert len(list((tmp_path / "out/grey").iterdir())) == 5
    assert run(command) == ExitCode.USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite", "--second", str(tmp_path / "ct"), "--json"]) == ExitCode.DONE
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["event"], last["outputs"]) == ("result", {"fused": str(tmp_path / "out")})


def test_other_readers_see_the_volume(base: DicomVolume, fused: Path, tmp_path: Path) -> None:
    wrap_fused(fused, tmp_path / "mr", tmp_path / "out")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "out/grey")))
    seen = sitk.GetArrayFromImage(reader.Execute()).transpose(2, 1, 0)
    np.testing.assert_allclose(seen / GREY_MAXIMUM, values_of(base), atol=1 / GREY_MAXIMUM)


def test_an_old_pydicom_is_named_with_its_remedy(fused: Path, tmp_path: Path) -> None:
    script = (
        "import importlib.metadata as m, sys; real = m.version;"
        "m.version = lambda name: '2.4.4' if name == 'pydicom' else real(name);"
        "from ddfm_monai.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    for command in (
        ["dicom", "scan", str(tmp_path / "mr")],
        ["fuse", str(tmp_path / "mr"), str(fused), "-o", "x.nrrd"],
    ):
        done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, check=False)
        assert done.returncode == ExitCode.USAGE
        for words in ("pydicom 2.4.4 is installed", 'pip install "pydicom>=3"', "3D Slicer"):
            assert words in done.stderr
        assert "Traceback" not in done.stderr


def test_a_series_number_stays_an_integer_string(base: DicomVolume, fused: Path, tmp_path: Path) -> None:
    """30000000 gave 3000000001, which is above 2^31."""
    for path in (tmp_path / "mr").iterdir():
        ds = pydicom.dcmread(path)
        ds.SeriesNumber = 30_000_000
        ds.save_as(path)
    wrap_fused(fused, tmp_path / "mr", tmp_path / "out")
    assert {int(pydicom.dcmread(path).SeriesNumber) for path in (tmp_path / "out/grey").iterdir()} == {9001}
