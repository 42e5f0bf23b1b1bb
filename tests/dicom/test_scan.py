"""Any folder can be scanned: junk, links, archives, several patients; nothing is written and nothing is hidden."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_charset_files, get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian

from ddfm_monai.dicom.errors import EXPLANATIONS, Problem
from ddfm_monai.dicom.read import read_folder_series
from ddfm_monai.dicom.scan import scan_file, scan_folder
from ddfm_monai.dicom.subseries import Patient
from ddfm_monai.errors import Cancelled, UsageError
from ddfm_monai.progress import Progress

from .synthetic import Layout, Made, enhanced, nuclear, registration, save, save_pair, series
from .test_read_series import assert_is


def codes(folder: Path) -> dict[str, str]:
    """File name to code, for the files that are no part of a series."""
    return {problem.path.name: problem.code for problem in scan_folder(folder).problems if problem.path}


def test_an_export_of_several_patients_is_sorted_by_content(tmp_path: Path, untouched: Callable[[Path], None]) -> None:
    """All files in one folder, without extension, names that say nothing."""
    for number, patient in enumerate(("A1", "B2")):
        for modality in ("MR", "CT", "PT"):
            series(modality, Layout(patient_id=patient, patient_name=f"Secret^{patient}")).save(
                tmp_path, prefix=f"{number}{modality}"
            )
    nuclear(Layout(patient_id="A1")).save(tmp_path, prefix="x")
    enhanced("MR", Layout(patient_id="B2", series="enhanced")).save(tmp_path, prefix="y")
    untouched(tmp_path)
    scan = scan_folder(tmp_path)
    assert scan.files == 6 * 12 + 2
    assert scan.problems == ()
    per_patient: dict[str, list[str]] = {}
    for item in scan.subseries:
        assert item.problem is None
        assert item.exclusion is None
        assert len(item.slices) == 12
        per_patient.setdefault(item.key.patient_key, []).append(item.modality)
    assert sorted(map(sorted, per_patient.values())) == [["CT", "MR", "MR", "PT"], ["CT", "MR", "NM", "PT"]]


def test_no_patient_data_shows_in_keys_texts_or_representations(tmp_path: Path) -> None:
    layout = Layout(patient_id="ID-4711", patient_name="Secret^Name", extra={"SeriesDescription": "of Secret Name"})
    series("CT", layout).save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    shown = repr(item) + str(item) + item.key.short()
    for secret in ("4711", "Secret", "Name^", "19700101"):
        assert secret not in shown
    assert item.patient.name == "Secret^Name"  # kept for --show-phi


def test_files_that_are_no_images_are_named_with_the_reason(tmp_path: Path, untouched: Callable[[Path], None]) -> None:
    series("CT", Layout(slices=5)).save(tmp_path / "ct")
    junk = tmp_path / "junk"
    junk.mkdir()
    (junk / "notes.txt").write_text("not DICOM")
    (junk / "short").write_bytes(b"\x08")
    (junk / "zeros").write_bytes(bytes(4096))
    (junk / "empty").write_bytes(b"")
    (junk / "looks.dcm").write_bytes(b"\x08\x00\x05\x00" + np.random.default_rng(1).bytes(400))
    (junk / "magic only").write_bytes(bytes(128) + b"DICM")
    (junk / "a.gz").write_bytes(gzip.compress(b"x" * 500))
    with zipfile.ZipFile(junk / "a.zip", "w") as archive:
        archive.writestr("ct", (tmp_path / "ct" / "IM0000").read_bytes())
    for name in ("rtdose.dcm", "reportsi.dcm", "liver_1frame.dcm", "waveform_ecg.dcm", "examples_rgb_color.dcm"):
        (junk / name).write_bytes(Path(str(get_testdata_file(name, download=False))).read_bytes())
    folder = Path(str(get_testdata_file("DICOMDIR", download=False)))
    (junk / "DICOMDIR").write_bytes(folder.read_bytes())
    untouched(tmp_path)
    assert codes(tmp_path) == {
        "notes.txt": "S_NOT_DICOM",
        "short": "S_NOT_DICOM",
        "zeros": "E_EMPTY_FILE",
        "empty": "E_EMPTY_FILE",
        "looks.dcm": "E_HEADER",
        "magic only": "E_HEADER",
        "a.gz": "S_ARCHIVE",
        "a.zip": "S_ARCHIVE",
        "rtdose.dcm": "S_SOP_CLASS",
        "reportsi.dcm": "S_SOP_CLASS",
        "liver_1frame.dcm": "S_SOP_CLASS",
        "waveform_ecg.dcm": "S_SOP_CLASS",
        "examples_rgb_color.dcm": "S_SOP_CLASS",
        "DICOMDIR": "S_DICOMDIR",
    }
    scan = scan_folder(tmp_path)
    assert scan.counts()["S_SOP_CLASS"] == 5
    assert [len(item.slices) for item in scan.subseries] == [5]


def test_links_lead_nowhere_twice_and_never_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    series("CT", Layout(slices=5)).save(root / "ct")
    series("MR", Layout(slices=5)).save(outside)
    (root / "loop").symlink_to(root, target_is_directory=True)
    (root / "ct" / "up").symlink_to("..", target_is_directory=True)
    (root / "self").symlink_to("self")
    (root / "file").symlink_to(root / "ct" / "IM0000")
    (root / "out").symlink_to(outside, target_is_directory=True)
    (root / "outfile").symlink_to(outside / "IM0000")
    (root / "dangling").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe")
    scan = scan_folder(root)
    assert [(item.modality, len(item.slices), item.warnings) for item in scan.subseries] == [("CT", 5, ())]
    assert codes(root) == {
        "self": "S_OUTSIDE_ROOT",
        "out": "S_OUTSIDE_ROOT",
        "outfile": "S_OUTSIDE_ROOT",
        "dangling": "S_OUTSIDE_ROOT",
        "pipe": "S_NOT_DICOM",
    }


def test_a_root_that_is_a_link_is_scanned(tmp_path: Path) -> None:
    series("CT", Layout(slices=5)).save(tmp_path / "ct")
    (tmp_path / "link").symlink_to(tmp_path / "ct", target_is_directory=True)
    assert len(scan_folder(tmp_path / "link").subseries) == 1


def test_a_file_that_cannot_be_opened_is_reported_and_the_rest_is_scanned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop root, so the refusal is staged."""
    series("CT").save(tmp_path)
    open_path = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "IM0005":
            raise PermissionError(13, "Permission denied")
        return open_path(self, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    scan = scan_folder(tmp_path)
    assert [problem.code for problem in scan.problems] == ["E_UNREADABLE_FILE"]
    assert [item.problem.code for item in scan.subseries if item.problem] == ["E_MISSING_SLICES"]
    assert [warning.code for warning in scan.subseries[0].warnings] == ["W_BROKEN_NEIGHBOUR"]


@pytest.mark.parametrize("name", ["no_meta.dcm", "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"])
def test_a_file_without_preamble_is_taken_only_with_uids_and_rows(name: str) -> None:
    path = Path(str(get_testdata_file(name, download=False)))
    ds = pydicom.dcmread(path, force=True)
    scan = scan_file(path)
    whole = all(ds.get(keyword) for keyword in ("SOPClassUID", "SOPInstanceUID", "Rows"))
    assert bool(scan.subseries) == (whole and ds.SOPClassUID.name.startswith(("CT Image", "MR Image")))
    assert len(scan.subseries) + len(scan.problems) == 1


def test_a_series_without_preamble_is_read(tmp_path: Path) -> None:
    made = series("CT")
    for number, ds in enumerate(made.datasets):
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        pydicom.dcmwrite(tmp_path / f"{number}", ds, implicit_vr=True, little_endian=True, enforce_file_format=False)
        with (tmp_path / f"{number}").open("rb") as file:
            content = file.read()
        (tmp_path / f"{number}").write_bytes(content[content.index(b"\x08\x00\x05\x00") :])
    (item,) = scan_folder(tmp_path).subseries
    assert item.problem is None
    assert [warning.code for warning in item.warnings] == ["W_NO_PREAMBLE"]
    assert_is(read_folder_series(tmp_path), made)


def test_every_character_set_can_be_scanned(tmp_path: Path) -> None:
    """pydicom's samples of 17 character sets have no image: each is sorted out, none stops the scan."""
    files = [Path(path) for path in get_charset_files("*")]
    assert len(files) > 10
    for path in files:
        scan = scan_file(path)
        assert len(scan.subseries) + len(scan.problems) == 1


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 127", "قباني^لنزار"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_in_other_character_sets_identify_patients(charset: object, name: str, tmp_path: Path) -> None:
    layout = Layout(patient_name=name, extra={"SpecificCharacterSet": charset})
    series("CT", layout).save(tmp_path)
    (item,) = scan_folder(tmp_path).subseries
    assert item.patient.name == name
    assert item.warnings == ()


def test_missing_or_unusable_patient_ids_keep_studies_apart(tmp_path: Path) -> None:
    for patient in ("", "ANON", "Anonymous", "0000"):
        for study in ("one", "two"):
            series("CT", Layout(patient_id=patient, study=study, slices=4)).save(tmp_path / f"{patient}-{study}")
    keys = {item.key.patient_key for item in scan_folder(tmp_path).subseries}
    assert len(keys) == 8


@pytest.mark.parametrize(
    ("patient_id", "usable"),
    [
        *((text, False) for text in ("REDACTED", "Anonymous Patient", "ANONYMIZED^PATIENT", "No ID", "NOID", "NULL")),
        *((text, False) for text in ("***", "?", "not available", "N/A", "de-identified", "Patient_ID", "xxxx", "0-0")),
        *((text, True) for text in ("P001", "ANON01", "patient 7", "Nancy", "X1", "1", "TEST-3", "患者", "id7")),
    ],
)
def test_an_id_that_names_nobody_is_none(patient_id: str, usable: bool) -> None:
    """Two people of whom an export says "REDACTED" were one patient, and to be registered to each other."""
    assert Patient(patient_id, "", "").has_usable_id is usable


def test_issuer_is_part_of_the_identity(tmp_path: Path) -> None:
    for issuer in ("Hospital A", "Hospital B"):
        layout = Layout(study=issuer, extra={"IssuerOfPatientID": issuer})
        series("CT", layout).save(tmp_path / issuer)
    assert len({item.key.patient_key for item in scan_folder(tmp_path).subseries}) == 2


def excluded(made: Made, folder: Path) -> list[str]:
    made.save(folder)
    return [item.exclusion.code if item.exclusion else "" for item in scan_folder(folder).subseries]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "S_LOCALIZER"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "S_DERIVED"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "S_DERIVED"),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "ADC", "ND"]}, "S_DERIVED"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, "S_DERIVED"),
        ({"ManufacturerModelName": "ddfm_monai"}, "S_OWN_OUTPUT"),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER"]}, ""),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MPRAGE"]}, ""),
    ],
)
def test_what_is_no_automatic_candidate(attributes: dict[str, object], code: str, tmp_path: Path) -> None:
    assert excluded(series("MR", Layout(extra=attributes)), tmp_path) == [code]


NM_MAP = ["DERIVED", "PRIMARY", "RECON TOMO", "TRANSMISSION"]


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (series("CT", Layout(extra={"RescaleType": "MGML"})), "S_DERIVED"),  # iodine
        (series("CT", Layout(extra={"RescaleType": "Z_EFF"})), "S_DERIVED"),
        (series("CT", Layout(extra={"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM"]})), "S_DERIVED"),
        (series("CT", Layout(extra={"RescaleType": "HU"})), ""),
        (series("CT", Layout(extra={"RescaleType": "US"})), ""),
        (series("PT", Layout(extra={"Units": "1CM"})), "S_DERIVED"),
        (series("PT", Layout(extra={"CountsSource": "TRANSMISSION"})), "S_DERIVED"),
        (series("PT", Layout(extra={"Units": "CNTS", "CountsSource": "EMISSION"})), ""),
        (series("MR", Layout(extra={"ImageType": ["DERIVED", "PRIMARY", "M", "UMAP"]})), "S_DERIVED"),
        (nuclear(image_type=NM_MAP), "S_DERIVED"),
        (nuclear(), ""),
        (enhanced("CT"), ""),
    ],
)
def test_a_map_is_not_taken_for_an_image_of_its_modality(made: Made, code: str, tmp_path: Path) -> None:
    """Iodine in mg/ml is no HU, and an attenuation map shows no uptake."""
    assert excluded(made, tmp_path) == [code]


def test_an_enhanced_map_neither(tmp_path: Path) -> None:
    made = enhanced("CT")
    for frame in made.datasets[0].PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence[0].RescaleType = "MGML"
    assert excluded(made, tmp_path) == ["S_DERIVED"]


def test_few_slices_are_no_automatic_candidate(tmp_path: Path) -> None:
    assert excluded(series("MR", Layout(slices=3)), tmp_path) == ["S_FEW_SLICES"]


def test_registration_objects_are_collected(tmp_path: Path) -> None:
    mr, ct = save_pair(tmp_path)
    save([registration(mr.datasets[0], ct.datasets[0], np.eye(4))], tmp_path / "reg")
    (found,) = scan_folder(tmp_path).registrations
    assert found.frame_of_reference_uid == mr.datasets[0].FrameOfReferenceUID


@pytest.mark.parametrize("matrix", [[[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], [[0] * 4] * 4])
def test_a_registration_that_mirrors_or_collapses_is_refused(matrix: list[list[float]], tmp_path: Path) -> None:
    mr, ct = save_pair(tmp_path / "images")
    ds = registration(mr.datasets[0], ct.datasets[0], np.array(matrix))
    save([ds], tmp_path / "reg")
    scan = scan_folder(tmp_path)
    assert scan.registrations == ()
    assert [problem.code for problem in scan.problems] == ["E_REGISTRATION"]


def test_progress_can_stop_the_scan(tmp_path: Path) -> None:
    series("CT").save(tmp_path)
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        scan_folder(tmp_path, stop)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total) == ("scan", 12, 12)


def test_a_missing_folder_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        scan_folder(tmp_path / "nothing")


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    scan = scan_folder(tmp_path)
    assert (scan.files, scan.subseries, scan.problems) == (0, (), ())


def test_every_code_has_its_texts() -> None:
    for code, explanation in EXPLANATIONS.items():
        assert code[:2] in ("E_", "S_", "W_")
        assert explanation.what.endswith((".", ")"))
        assert explanation.expected
        assert explanation.remedy.endswith((".", ")"))
    with pytest.raises(KeyError):
        Problem("E_INVENTED", "never")
