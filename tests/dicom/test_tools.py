"""What other people's software says about the results: validators, a server, converters, readers of volumes."""

from __future__ import annotations

import os
import subprocess
import urllib.error
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread
from pydicom.datadict import dictionary_VR

from ddfm_monai.batch.case import CaseJob, CaseSettings, run_case
from ddfm_monai.batch.pair import PairingOptions
from ddfm_monai.batch.pairing import find_pairs
from ddfm_monai.dicom import scan_folder

from .external import Orthanc, dcentvfy, dciodvfy, dcmtk_receiver, dicom_validator, needs, not_in_iod, orthanc
from .synthetic import Layout, Made, series

SERIES = ("grey", "colour", "secondary capture")


@pytest.fixture(scope="module")
def base() -> Made:
    return series("MR", Layout(slices=6, slice_spacing=6.0))


@pytest.fixture(scope="module")
def written(base: Made, tmp_path_factory: pytest.TempPathFactory, tiny_prior_path: Path) -> dict[str, Path]:
    """The whole way with a small prior: MR and PET registered and fused; grey, colour and grey as Secondary Capture."""
    root = tmp_path_factory.mktemp("written")
    base.save(root / "in/mr")
    pet = Layout(slices=8, rows=48, columns=52, pixel_spacing=(2.0, 1.75), angle=0.0, slice_spacing=6.0, frame="other")
    second = series("PT", pet)
    for ds in second.datasets:  # it lies elsewhere, so that there is something to register
        ds.ImagePositionPatient = [
            float(v) + shift for v, shift in zip(ds.ImagePositionPatient, (7, -5, 4), strict=True)
        ]
    second.save(root / "in/pt")
    (pair,) = find_pairs(scan_folder(root / "in"), PairingOptions(register="rigid", output_kind="both")).pairs
    folders = {}
    for sop_class in ("mr", "sc"):
        settings = CaseSettings(prior=str(tiny_prior_path), steps=2, sop_class=sop_class)
        outcome = run_case(CaseJob(pair, settings, root / sop_class, 301))
        assert outcome.status == "ok", outcome.message
        folders[sop_class] = root / sop_class / pair.case_id
    return {
        "sources": root / "in",
        "grey": folders["mr"] / "grey",
        "colour": folders["mr"] / "colour",
        "secondary capture": folders["sc"] / "grey",
        "registration": folders["mr"] / "registration.dcm",
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("server") / "orthanc") as running:
        yield running


def files_of(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


@needs("dciodvfy")
@pytest.mark.parametrize("name", [*SERIES, "registration"])
def test_dciodvfy_finds_nothing(written: dict[str, Path], name: str) -> None:
    for path in files_of(written[name]):
        assert dciodvfy(path) == []


@needs("dciodvfy")
def test_dciodvfy_would_find_something(written: dict[str, Path], tmp_path: Path) -> None:
    ds = dcmread(written["grey"] / "0001.dcm")
    del ds.ImageOrientationPatient
    ds.save_as(tmp_path / "broken.dcm")
    assert any("ImageOrientationPatient" in line for line in dciodvfy(tmp_path / "broken.dcm"))


@pytest.mark.parametrize("name", [*SERIES, "registration"])
def test_dicom_validator_finds_nothing(written: dict[str, Path], name: str) -> None:
    for path in files_of(written[name]):
        assert dicom_validator(dcmread(path)) == []


@pytest.mark.parametrize(
    ("keyword", "value", "found"),
    [
        ("ImageOrientationPatient", None, "is missing"),
        ("MRAcquisitionType", "4D", "enum value '4D' not allowed"),
        ("StudyDate", "31.01.2024", "invalid value"),
        ("RescaleType", "HU", "is unexpected"),
    ],
)
def test_dicom_validator_would_find_something(
    written: dict[str, Path], keyword: str, value: str | None, found: str
) -> None:
    ds = dcmread(written["grey"] / "0001.dcm")
    ds.pop(keyword, None)
    if value is not None:
        ds.add_new(keyword, dictionary_VR(keyword), value)
    assert [line for line in dicom_validator(ds) if keyword in line and found in line], dicom_validator(ds)


@needs("dcentvfy")
def test_dcentvfy_finds_one_patient_and_study(written: dict[str, Path]) -> None:
    assert dcentvfy([path for folder in written.values() for path in files_of(folder)]) == ""


@needs("dcmftest", "dcmdump")
def test_dcmtk_reads_every_file(written: dict[str, Path]) -> None:
    for name in (*SERIES, "registration"):
        files = files_of(written[name])
        done = subprocess.run(["dcmftest", *files], check=True, capture_output=True, text=True)
        assert done.stdout.count("yes:") == len(files)
        dumped = subprocess.run(["dcmdump", files[0]], check=True, capture_output=True, text=True)
        assert dumped.stderr == ""


@pytest.mark.parametrize("name", [*SERIES, "registration"])
def test_tables_of_the_standard(written: dict[str, Path], name: str) -> None:
    missing, outside = not_in_iod(dcmread(files_of(written[name])[0]))
    assert missing == []
    assert outside == []


@pytest.mark.parametrize("name", SERIES)
def test_simpleitk_reads_the_bases_grid(written: dict[str, Path], base: Made, name: str) -> None:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(written[name]))
    image = sitk.ReadImage(names)
    assert image.GetSize() == base.values.shape
    assert image.GetNumberOfComponentsPerPixel() == (3 if name == "colour" else 1)
    for corner in np.ndindex(2, 2, 2):
        index = [int(c * (n - 1)) for c, n in zip(corner, base.values.shape, strict=True)]
        expected = (base.affine @ [*index, 1])[:3] * (-1, -1, 1)
        np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), expected, atol=1e-3)
    if name != "colour":
        stored = np.stack([dcmread(path).pixel_array.T for path in files_of(written[name])], axis=-1)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(2, 1, 0), stored)


@needs("dcm2niix")
@pytest.mark.parametrize("name", SERIES)
def test_dcm2niix_converts_to_the_bases_grid(written: dict[str, Path], base: Made, name: str, tmp_path: Path) -> None:
    subprocess.run(["dcm2niix", "-o", tmp_path, "-f", "out", "-b", "n", written[name]], check=True, capture_output=True)
    (path,) = tmp_path.glob("*.nii")
    image = nib.load(path)
    shape = base.values.shape
    assert image.shape[:3] == shape
    corners = np.array([[*np.array(c) * (np.array(shape) - 1), 1] for c in np.ndindex(2, 2, 2)]).T
    ours, theirs = (base.affine @ corners)[:3].T, (image.affine @ corners)[:3].T
    # dcm2niix may turn axes round, so the corners are compared as sets.
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    assert distance.min(axis=0).max() < 1e-3
    assert distance.min(axis=1).max() < 1e-3


def test_highdicom_makes_a_volume(written: dict[str, Path], base: Made) -> None:
    highdicom = pytest.importorskip("highdicom")
    volume = highdicom.image.get_volume_from_series([dcmread(path) for path in files_of(written["grey"])])
    assert volume.spatial_shape == (6, 64, 56)
    np.testing.assert_allclose(volume.spacing, (6.0, 1.5, 1.25), atol=1e-4)


@needs("Orthanc")
def test_orthanc_stores_orders_and_gives_back_what_it_got(written: dict[str, Path], server: Orthanc) -> None:
    stored = {}
    for folder in written.values():
        for path in files_of(folder):
            answer = server.store(path)
            assert answer["Status"] == "Success"
            stored[path] = answer["ID"]
    assert (len(server.get("/patients")), len(server.get("/studies"))) == (1, 1)
    assert len(server.get("/series")) == 6  # two sources, three image series, one registration
    for path, identifier in stored.items():
        assert dcmread(BytesIO(server.download(f"/instances/{identifier}/file"))) == dcmread(path)
    (patient,) = server.get("/patients?expand")
    assert patient["MainDicomTags"]["PatientName"] == "Müller^Jürgen"
    for name in SERIES:
        series_id = server.get(f"/instances/{stored[files_of(written[name])[0]]}/series")["ID"]
        ordered = server.get(f"/series/{series_id}/ordered-slices")
        assert ordered["Type"] == "Volume"
        places = [stored[path] for path in files_of(written[name])]
        slices = [entry[0] for entry in ordered["SlicesShort"]]
        assert slices in (places, places[::-1])


@needs("Orthanc")
def test_orthanc_knows_an_instance_again_and_refuses_junk(
    written: dict[str, Path], server: Orthanc, tmp_path: Path
) -> None:
    path = files_of(written["grey"])[0]
    server.store(path)
    assert server.store(path)["Status"] == "AlreadyStored"
    (tmp_path / "junk").write_bytes(b"no DICOM at all")
    with pytest.raises(urllib.error.HTTPError, match="400"):
        server.store(tmp_path / "junk")


@needs("storescu", "storescp")
def test_dcmtk_sends_and_receives(written: dict[str, Path], tmp_path: Path) -> None:
    """The association that a PACS would accept: every SOP class as it was written, uncompressed."""
    with dcmtk_receiver(tmp_path / "received") as port:
        for name in (*SERIES, "registration"):
            command = ["storescu", "-R", "127.0.0.1", str(port), *files_of(written[name])]
            subprocess.run(command, check=True, capture_output=True, timeout=60, env={**os.environ, "TCP_NODELAY": "1"})
    sent = {ds.SOPInstanceUID: ds for name in (*SERIES, "registration") for ds in map(dcmread, files_of(written[name]))}
    received = {ds.SOPInstanceUID: ds for ds in map(dcmread, (tmp_path / "received").iterdir())}
    assert received == sent
