"""Two folders of one series each: what `ddfm fuse SERIES_A SERIES_B -o OUT` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dicom.results import SMALL
from dicom.synthetic import Layout, save_pair, series
from pydicom import dcmread

from ddfm_monai.batch.two_series import fuse_folders
from ddfm_monai.cli.main import run
from ddfm_monai.dicom import DicomError
from ddfm_monai.errors import ExitCode, UsageError


@pytest.fixture
def small(tiny_prior_path: Path) -> dict[str, Any]:
    return {"prior": str(tiny_prior_path), "steps": 1, "device": "cpu"}


def test_writes_the_series_of_a_case(small: dict[str, Any], tmp_path: Path) -> None:
    save_pair(tmp_path, "PT", **SMALL)
    result = fuse_folders(tmp_path / "mr", tmp_path / "pt", tmp_path / "out", colour=True, **small)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case.json", "colour", "grey", "preview.png"]
    first = dcmread(tmp_path / "out/grey/0001.dcm")
    assert first.SeriesDescription.startswith("FUSED MR(3)+PT(7)")
    assert str(first.PatientName) == "Müller^Jürgen"
    assert result.provenance["sampling"]["seed"] == 3407
    assert json.loads((tmp_path / "out/case.json").read_text())["provenance"] == result.provenance


def test_command(tiny_prior_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pair(tmp_path, **SMALL)
    command = ["fuse", str(tmp_path / "mr"), str(tmp_path / "ct"), "-o", str(tmp_path / "out")]
    options = ["--prior", str(tiny_prior_path), "--steps", "1", "--device", "cpu"]
    assert run([*command, *options]) == ExitCode.DONE
    assert len(list((tmp_path / "out/grey").iterdir())) == 5
    assert run([*command, *options]) == ExitCode.USAGE
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, *options, "--overwrite", "--seed", "5"]) == ExitCode.DONE
    assert json.loads((tmp_path / "out/case.json").read_text())["provenance"]["sampling"]["seed"] == 5


def test_a_page_to_compare_them_in_names_nobody(small: dict[str, Any], tmp_path: Path) -> None:
    save_pair(tmp_path, **SMALL)
    options = ["--prior", small["prior"], "--steps", "1", "--device", "cpu", "--html"]
    command = ["fuse", str(tmp_path / "mr"), str(tmp_path / "ct"), "-o", str(tmp_path / "out"), *options]
    assert run(command) == ExitCode.DONE
    page = (tmp_path / "out/viewer.html").read_text()
    assert "MRI and CT, fused" in page
    assert all(f'id="layer-{role}"' in page for role in ("reference", "second", "fused"))
    header = dcmread(next((tmp_path / "mr").iterdir()))
    for private in (header.PatientID, *str(header.PatientName).split("^"), header.SeriesInstanceUID, str(tmp_path)):
        assert private not in page


@pytest.mark.parametrize(
    ("layout", "code"),
    [({"patient_id": "another"}, "E_DIFFERENT_PATIENTS"), ({"frame": "other"}, "S_DIFFERENT_FRAME")],
)
def test_what_does_not_belong_together(
    small: dict[str, Any], tmp_path: Path, layout: dict[str, Any], code: str
) -> None:
    series("MR", Layout(**SMALL)).save(tmp_path / "mr")
    series("CT", Layout(**SMALL, **layout)).save(tmp_path / "ct")
    with pytest.raises(DicomError) as caught:
        fuse_folders(tmp_path / "mr", tmp_path / "ct", tmp_path / "out", **small)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_wrong_calls(small: dict[str, Any], tmp_path: Path) -> None:
    save_pair(tmp_path, **SMALL)
    folders = tmp_path / "mr", tmp_path / "ct"
    with pytest.raises(UsageError, match="neither inside"):
        fuse_folders(*folders, tmp_path / "mr/out", **small)
    with pytest.raises(UsageError, match="Modality is CT"):
        fuse_folders(*folders, tmp_path / "out", second_kind="pet", **small)
    with pytest.raises(UsageError):
        fuse_folders(tmp_path / "none", tmp_path / "ct", tmp_path / "out", **small)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="other things"):
        fuse_folders(*folders, tmp_path / "home", overwrite=True, **small)
    assert (tmp_path / "home/letter.txt").read_text() == "dear"
