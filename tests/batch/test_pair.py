"""What is paired, what is not, and why; and the manifest in between."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom.synthetic import Layout, Made, registration, save, save_pair, series
from pydicom.dataset import Dataset

from ddfm_monai.batch.manifest import COLUMNS, read_manifest, write_manifest
from ddfm_monai.batch.pair import PairingOptions
from ddfm_monai.batch.pairing import PairingResult, find_pairs
from ddfm_monai.dicom.scan import scan_folder
from ddfm_monai.errors import UsageError


def shift(x: float = 0, y: float = 0, z: float = 0, degrees: float = 0) -> np.ndarray:
    """A rigid 4x4 matrix: rotation about z, then a shift, mm."""
    a = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    matrix[:3, 3] = x, y, z
    return matrix


def pairs_of(folder: Path, **options: object) -> PairingResult:
    return find_pairs(scan_folder(folder), PairingOptions(**options))  # type: ignore[arg-type]


def reasons(result: PairingResult) -> list[str]:
    return sorted(item.problem.code for item in (*result.skipped, *result.ambiguous))


def make(folder: Path, *made: Made) -> Path:
    for number, item in enumerate(made):
        item.save(folder / str(number))
    return folder


MR, CT = Layout(), Layout(rows=48, columns=52, pixel_spacing=(2.0, 1.75), angle=0.0)


def ct(**changes: object) -> Made:
    return series("CT", Layout(**{**vars(CT), **changes}))


def mr(**changes: object) -> Made:
    return series("MR", Layout(**{**vars(MR), **changes}))


# ------------------------------------------------------------------------------------------------ relations


@pytest.mark.parametrize("second", ["CT", "PT", "NM"])
def test_one_frame_of_reference_makes_a_pair(second: str, tmp_path: Path) -> None:
    save_pair(tmp_path, second)
    result = pairs_of(tmp_path)
    (pair,) = result.pairs
    assert (pair.relation, pair.reference.kind, pair.second.modality) == ("for", "mr", second)
    assert pair.overlap is not None
    assert pair.overlap > 0.8
    assert (result.skipped, result.ambiguous) == ((), ())
    np.testing.assert_array_equal(pair.second_to_reference, np.eye(4))


def test_case_ids_are_stable_and_name_nobody(tmp_path: Path) -> None:
    save_pair(tmp_path)
    (first,), (again,) = pairs_of(tmp_path).pairs, pairs_of(tmp_path).pairs
    assert first.case_id == again.case_id
    assert "P001" not in first.case_id
    assert first.case_id.startswith(first.reference.key.patient_key)


def test_mr_ct_and_pet_of_one_patient_make_two_pairs(tmp_path: Path) -> None:
    result = pairs_of(make(tmp_path, mr(), ct(), series("PT", CT)))
    assert [pair.second.kind for pair in sorted(result.pairs, key=lambda p: p.second.kind)] == ["ct", "pet"]


def test_different_frames_of_reference_are_not_paired(tmp_path: Path) -> None:
    result = pairs_of(make(tmp_path, mr(), ct(frame="other")))
    (skipped,) = result.skipped
    assert (result.pairs, skipped.problem.code) == ((), "S_DIFFERENT_FRAME")
    assert "--register" in skipped.problem.text()


def test_registration_must_be_asked_for(tmp_path: Path) -> None:
    (pair,) = pairs_of(make(tmp_path, mr(), ct(frame="other")), register="rigid").pairs
    assert (pair.relation, pair.overlap) == ("register", None)


def test_registration_across_studies_depends_on_the_days_between(tmp_path: Path) -> None:
    make(tmp_path, mr(), ct(frame="other", study="other", date="20240108"))
    assert reasons(pairs_of(tmp_path, register="rigid", max_days=0)) == ["S_TOO_FAR_APART"]
    assert len(pairs_of(tmp_path, register="rigid").pairs) == 1, "30 days by default"
    assert len(pairs_of(tmp_path, register="rigid", max_days=3).pairs) == 1
    assert len(pairs_of(tmp_path, register="rigid", max_days=2.9).pairs) == 0


def test_an_impossible_date_is_not_near(tmp_path: Path) -> None:
    make(tmp_path, mr(), ct(frame="other", study="other", date="20241399"))
    assert reasons(pairs_of(tmp_path, register="rigid", max_days=1000)) == ["S_TOO_FAR_APART"]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("by_images", [False, True])
def test_a_registration_object_relates_two_frames(reverse: bool, by_images: bool, tmp_path: Path) -> None:
    """Checked by points: a place of the second must come out where the matrix says in the base."""
    matrix = shift(7, -3, 5, degrees=10)
    base, second = mr(), ct(frame="other")
    make(tmp_path, base, second)
    ds = registration(base.datasets[0], second.datasets[0], matrix, reverse, by_images)
    if by_images:
        for item, made in zip(ds.RegistrationSequence, (second, base) if reverse else (base, second), strict=True):
            item.ReferencedImageSequence = [_reference(image) for image in made.datasets]
    save([ds], tmp_path / "reg")
    (pair,) = pairs_of(tmp_path).pairs
    assert pair.relation == "reg"
    assert pair.reg_sop_uid == ds.SOPInstanceUID
    lps = np.array([12.0, -30.0, 44.0, 1.0])
    ras = np.array([-12.0, 30.0, 44.0, 1.0])
    x, y, z, _ = matrix @ lps
    np.testing.assert_allclose(np.array(pair.reg_matrix) @ lps, [x, y, z, 1], atol=1e-6)
    np.testing.assert_allclose(pair.second_to_reference @ ras, [-x, -y, z, 1], atol=1e-6)


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def test_a_registration_through_a_third_frame(tmp_path: Path) -> None:
    """Both series are registered to a third one that is not there."""
    base, second, third = mr(frame="a"), ct(frame="b"), ct(frame="c")
    make(tmp_path, base, second)
    to_third = registration(third.datasets[0], base.datasets[0], shift(x=4))
    to_third.RegistrationSequence.append(
        registration(third.datasets[0], second.datasets[0], shift(x=9)).RegistrationSequence[1]
    )
    save([to_third], tmp_path / "reg")
    (pair,) = pairs_of(tmp_path).pairs
    np.testing.assert_allclose(np.array(pair.reg_matrix), shift(x=5), atol=1e-9)


def test_two_different_registrations_are_not_chosen_from(tmp_path: Path) -> None:
    base, second = mr(), ct(frame="other")
    make(tmp_path, base, second)
    for number in (1, 2):
        ds = registration(base.datasets[0], second.datasets[0], shift(x=3 * number))
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.{number}"
        save([ds], tmp_path / f"reg{number}")
    assert reasons(pairs_of(tmp_path)) == ["S_SEVERAL_REGISTRATIONS"]


def test_a_registration_of_another_patient_is_not_used(tmp_path: Path) -> None:
    base, second = mr(), ct(frame="other")
    make(tmp_path, base, second)
    ds = registration(base.datasets[0], second.datasets[0], shift(x=3))
    ds.PatientID = "somebody else"
    save([ds], tmp_path / "reg")
    assert reasons(pairs_of(tmp_path)) == ["S_DIFFERENT_FRAME"]


def test_a_registration_inside_one_frame_is_mentioned(tmp_path: Path) -> None:
    base, second = mr(), ct()
    make(tmp_path, base, second)
    ds = registration(base.datasets[0], second.datasets[0], shift(x=3), by_images=True)
    for item, made in zip(ds.RegistrationSequence, (base, second), strict=True):
        item.ReferencedImageSequence = [_reference(image) for image in made.datasets]
    save([ds], tmp_path / "reg")
    (pair,) = pairs_of(tmp_path).pairs
    assert pair.relation == "for"
    assert [warning.code for warning in pair.warnings] == ["W_REGISTRATION_NOT_USED"]


def test_a_closer_relation_goes_before_registration(tmp_path: Path) -> None:
    result = pairs_of(make(tmp_path, mr(), ct(), ct(frame="other", series="second")), register="rigid")
    assert [pair.relation for pair in result.pairs] == ["for"]
    assert reasons(result) == ["S_CLOSER_RELATION"]


def test_volumes_that_hardly_overlap_are_skipped(tmp_path: Path) -> None:
    result = pairs_of(make(tmp_path, mr(), ct(centre=(3.0, -8.0, 60.0))))
    assert reasons(result) == ["S_LITTLE_OVERLAP"]
    (pair,) = pairs_of(
        make(tmp_path / "trusted", mr(), ct(centre=(3.0, -8.0, 60.0), frame="f")), register="trust"
    ).pairs
    assert [warning.code for warning in pair.warnings] == ["W_COORDINATES_TRUSTED", "W_LITTLE_OVERLAP"]


# ------------------------------------------------------------------------------------------------ patients


def test_two_patients_are_never_paired(tmp_path: Path) -> None:
    result = pairs_of(make(tmp_path, mr(), ct(patient_id="P002")))
    assert reasons(result) == ["S_NO_PARTNER", "S_NO_PARTNER"]


def test_without_a_patient_id_the_study_must_be_the_same(tmp_path: Path) -> None:
    make(tmp_path, mr(patient_id=""), ct(patient_id=""))
    assert len(pairs_of(tmp_path).pairs) == 1
    other = tmp_path / "other"
    make(other, mr(patient_id="ANON", study="one"), ct(patient_id="ANON", study="two"))
    assert reasons(pairs_of(other)) == ["S_NO_PARTNER", "S_NO_PARTNER"]


def test_a_name_with_and_without_its_other_scripts_is_one_name(tmp_path: Path) -> None:
    full = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    (pair,) = pairs_of(make(tmp_path, mr(patient_name=full), ct(patient_name="YAMADA^TAROU"))).pairs
    assert pair.warnings == ()


def test_a_name_that_differs_is_a_warning(tmp_path: Path) -> None:
    (pair,) = pairs_of(make(tmp_path, mr(), ct(patient_name="Mueller^J"))).pairs
    assert [warning.code for warning in pair.warnings] == ["W_NAME_DIFFERS"]
    assert "Mueller" not in pair.warnings[0].text()


@pytest.mark.parametrize(
    ("base", "second", "allowed"), [("NO", "YES", False), ("YES", "NO", False), ("YES", "YES", True)]
)
def test_identified_and_deidentified_series_are_not_mixed(
    base: str, second: str, allowed: bool, tmp_path: Path
) -> None:
    one, other = {"PatientIdentityRemoved": base}, {"PatientIdentityRemoved": second}
    result = pairs_of(make(tmp_path, mr(extra=one), ct(extra=other)))
    assert bool(result.pairs) == allowed
    assert allowed or reasons(result) == ["S_DEIDENTIFICATION_DIFFERS"]


# ------------------------------------------------------------------------------------------------ candidates


def test_dicomdirtests_gives_no_pair_and_a_reason_for_each_series(untouched: Callable[[Path], None]) -> None:
    """Two real patients: localizers, MIPs, scouts, a CT with a gap, one regular CT without a partner."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    untouched(folder)
    scan = scan_folder(folder)
    result = find_pairs(scan)
    assert (result.pairs, result.ambiguous) == ((), ())
    assert {item.reference.key for item in result.skipped} == {item.key for item in scan.subseries}
    assert {code: reasons(result).count(code) for code in reasons(result)} == {
        "E_HEADER": 1,  # TINY_ALPHA: 50 headers without Rows and pixels
        "E_MISSING_SLICES": 1,
        "E_SINGLE_SLICE": 4,
        "S_DERIVED": 7,
        "S_LOCALIZER": 2,
        "S_NO_PARTNER": 1,
        "S_SEVERAL_ORIENTATIONS": 6,
    }
    assert scan.counts()["S_DICOMDIR"] == 8


def test_a_tilted_ct_can_only_be_the_second(tmp_path: Path) -> None:
    made = ct()
    for ds in made.datasets:
        ds.ImageOrientationPatient = [1, 0, 0, 0, f"{np.cos(np.deg2rad(10)):.8f}", f"{np.sin(np.deg2rad(10)):.8f}"]
    (pair,) = pairs_of(make(tmp_path, mr(), made)).pairs
    assert pair.second.grid is not None
    assert pair.second.grid.tilt == pytest.approx(10, abs=0.01)


def test_a_tilted_mr_cannot_be_the_base(tmp_path: Path) -> None:
    made = mr(angle=0.0)
    for ds in made.datasets:
        ds.ImageOrientationPatient = [1, 0, 0, 0, f"{np.cos(np.deg2rad(10)):.8f}", f"{np.sin(np.deg2rad(10)):.8f}"]
    assert reasons(pairs_of(make(tmp_path, made, ct()))) == ["E_GANTRY_TILT", "S_NO_PARTNER"]


def test_a_broken_series_costs_only_its_own_pair(tmp_path: Path) -> None:
    broken = ct(patient_id="P002")
    del broken.datasets[4]
    result = pairs_of(make(tmp_path, mr(), ct(), mr(patient_id="P002"), broken))
    assert len(result.pairs) == 1
    assert reasons(result) == ["E_MISSING_SLICES", "S_NO_PARTNER"]


# ------------------------------------------------------------------------------------------------ ambiguity


def two_mrs(folder: Path) -> Path:
    t2 = mr(series="t2", extra={"SeriesDescription": "T2 TSE", "SeriesNumber": 4})
    return make(folder, mr(), t2, ct())


def test_several_candidates_are_an_error_with_the_list(tmp_path: Path) -> None:
    result = pairs_of(two_mrs(tmp_path))
    assert result.pairs == ()
    assert [item.problem.code for item in result.ambiguous] == ["S_AMBIGUOUS", "S_AMBIGUOUS"]
    text = result.ambiguous[0].problem.text()
    assert "MR series 3" in text
    assert "MR series 4" in text
    assert "--select best" in text


def test_select_best_takes_the_t1(tmp_path: Path) -> None:
    result = pairs_of(two_mrs(tmp_path), select="best")
    assert [pair.reference.series_number for pair in result.pairs] == [3]
    assert reasons(result) == ["S_NOT_CHOSEN"]


def test_select_all_takes_every_one(tmp_path: Path) -> None:
    assert len(pairs_of(two_mrs(tmp_path), select="all").pairs) == 2


def test_select_best_prefers_three_d_then_slices_then_small_voxels(tmp_path: Path) -> None:
    flat = mr(series="2d", extra={"MRAcquisitionType": "2D", "SeriesNumber": 10})
    short = mr(series="short", slices=10, extra={"SeriesNumber": 11})
    coarse = mr(series="coarse", pixel_spacing=(1.6, 1.3), extra={"SeriesNumber": 12})
    result = pairs_of(make(tmp_path, flat, short, coarse, mr(), ct()), select="best")
    assert [pair.reference.series_number for pair in result.pairs] == [3]


def test_equal_candidates_stay_ambiguous_even_for_best(tmp_path: Path) -> None:
    result = pairs_of(make(tmp_path, mr(), mr(series="again"), ct()), select="best")
    assert (result.pairs, len(result.ambiguous)) == ((), 2)


def test_two_time_points_of_one_series_are_two_candidates(tmp_path: Path) -> None:
    first, second = mr(), mr(series="other")
    for number, made in enumerate((first, second)):
        for ds in made.datasets:
            ds.SeriesInstanceUID = first.datasets[0].SeriesInstanceUID
            ds.TemporalPositionIdentifier = number + 1
    result = pairs_of(make(tmp_path, first, second, ct()))
    assert len(result.ambiguous) == 2
    assert "TemporalPositionIdentifier=1" in result.ambiguous[0].problem.text()


@pytest.mark.parametrize("series_of", ["CT", "MR"])
def test_an_acquisition_that_overlaps_less_is_a_candidate_too(series_of: str, tmp_path: Path) -> None:
    """Which of two acquisitions is meant is not said by where they lie; one that lies elsewhere is none."""
    kind, other = {"CT": (ct, mr), "MR": (mr, ct)}[series_of]
    places = (3.0, -8.0, 21.0), (3.0, -8.0, 50.0), (3.0, -8.0, 90.0)
    acquisitions = [kind(series=str(k), centre=centre, angle=0.0) for k, centre in enumerate(places)]
    for number, made in enumerate(acquisitions, start=1):
        for ds in made.datasets:
            ds.SeriesInstanceUID = acquisitions[0].datasets[0].SeriesInstanceUID
            ds.AcquisitionNumber = number
    make(tmp_path, *acquisitions, other())
    result = pairs_of(tmp_path)
    assert result.pairs == ()
    assert reasons(result) == ["E_NO_OVERLAP", "S_AMBIGUOUS", "S_LITTLE_OVERLAP"]
    found = result.ambiguous[0].problem.found
    assert found.startswith("2 candidates")
    assert "AcquisitionNumber=1" in found
    assert "AcquisitionNumber=2" in found
    assert pairs_of(tmp_path, register="trust").pairs == (), "nor by vouching for coordinates"
    for select in ("best", "all"):
        (pair,) = pairs_of(tmp_path, select=select).pairs
        chosen = pair.reference if series_of == "MR" else pair.second
        assert chosen.key.subseries == "AcquisitionNumber=1"


@pytest.mark.parametrize("image_type", [["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "REFORMATTED"]])
@pytest.mark.parametrize("kind", ["CT", "MR"])
def test_no_other_series_takes_the_place_of_one_that_cannot_be_read(
    kind: str, image_type: list[str], tmp_path: Path
) -> None:
    """With both readable there would be two candidates: that one lacks a slice does not say that the other is meant."""
    of = {"CT": ct, "MR": mr}[kind]
    broken, other = of(), of(series="other", slices=8, extra={"ImageType": image_type, "SeriesNumber": 8})
    del broken.datasets[4]
    make(tmp_path, mr() if kind == "CT" else ct(), broken, other)
    result = pairs_of(tmp_path)
    assert (result.pairs, reasons(result)) == ((), ["E_MISSING_SLICES", "S_AMBIGUOUS"])
    assert result.ambiguous[0].problem.found.startswith("2 candidates")
    assert "11 slices, cannot be read: E_MISSING_SLICES" in result.ambiguous[0].problem.found
    assert len(pairs_of(tmp_path, select="best").pairs) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
        {"PhotometricInterpretation": "YBR_FULL_422", "SamplesPerPixel": 3},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"FrameOfReferenceUID": "1.2.3", "ImagePositionPatient": [0, 0, 0]},
    ],
)
def test_what_never_was_a_volume_of_these_coordinates_asks_nothing(spoil: dict[str, object], tmp_path: Path) -> None:
    """Maps in colour, mosaics, scouts, and a damaged series of another frame of reference."""
    other = mr(series="other")
    for ds in other.datasets:
        for keyword, value in spoil.items():
            setattr(ds, keyword, value)
    assert len(pairs_of(make(tmp_path, mr(), ct(), other)).pairs) == 1


# ------------------------------------------------------------------------------------------------ manifest


def edit(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Change every row of a CSV manifest."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_manifest_gives_back_the_pairs(suffix: str, tmp_path: Path) -> None:
    base, second = mr(patient_id="P002"), ct(patient_id="P002", frame="other")
    make(tmp_path / "in", mr(), ct(), base, second)
    save([registration(base.datasets[0], second.datasets[0], shift(x=3, degrees=4))], tmp_path / "in" / "reg")
    scan = scan_folder(tmp_path / "in")
    result = find_pairs(scan, PairingOptions(output_kind="both"))
    assert sorted(pair.relation for pair in result.pairs) == ["for", "reg"]
    path = tmp_path / f"pairs{suffix}"
    write_manifest(result, path)
    assert sorted(read_manifest(path, scan), key=lambda pair: pair.case_id) == list(result.pairs)
    content = path.read_text(encoding="utf-8")
    for secret in ("P001", "P002", "Jürgen", "ller", str(tmp_path)):
        assert secret not in content


def test_a_manifest_lists_what_is_not_run_with_the_reason(tmp_path: Path) -> None:
    two_mrs(tmp_path / "in")
    make(tmp_path / "in" / "b", mr(patient_id="P002"), ct(patient_id="P002", frame="other"))
    scan = scan_folder(tmp_path / "in")
    path = tmp_path / "pairs.json"
    write_manifest(find_pairs(scan), path)
    rows = json.loads(path.read_text())
    assert sorted((row["status"], row["reason"].split(":")[0]) for row in rows) == [
        ("ambiguous", "S_AMBIGUOUS"),
        ("ambiguous", "S_AMBIGUOUS"),
        ("skipped", "S_DIFFERENT_FRAME"),
    ]
    assert read_manifest(path, scan) == ()


def test_a_person_chooses_one_of_several_in_a_spreadsheet(tmp_path: Path) -> None:
    scan = scan_folder(two_mrs(tmp_path / "in"))
    path = tmp_path / "pairs.csv"
    write_manifest(find_pairs(scan), path)
    chosen: list[str] = []

    def choose(row: dict[str, str]) -> None:
        if not chosen:
            chosen.append(row["reference_series_uid"])
            row["status"] = "RUN"

    edit(path, choose)
    semicolons = path.read_text(encoding="utf-8").replace(",", ";")  # as a European spreadsheet saves it
    path.write_text("\ufeff" + semicolons, encoding="utf-8")
    (pair,) = read_manifest(path, scan)
    assert pair.reference.key.series_uid == chosen[0]


def test_trust_and_register_come_from_the_manifest(tmp_path: Path) -> None:
    scan = scan_folder(make(tmp_path / "in", mr(), series("PT", Layout(**{**vars(CT), "frame": "other"}))))
    path = tmp_path / "pairs.csv"
    write_manifest(find_pairs(scan), path)
    for relation in ("trust", "register", "same-patient"):
        edit(path, lambda row, relation=relation: row.update(status="run", relation=relation, output_kind="rgb"))
        (pair,) = read_manifest(path, scan)
        assert (pair.relation, pair.output_kind) == (relation, "rgb")
        assert (pair.overlap is None) == (relation != "trust")


BAD_EDITS: dict[str, tuple[dict[str, str], str]] = {
    "unknown base": ({"reference_series_uid": "1.2.3"}, "E_UNKNOWN_UID"),
    "unknown second": ({"second_series_uid": "1.2.3"}, "E_UNKNOWN_UID"),
    "UID as a number": ({"reference_series_uid": "1.2E+45"}, "E_UNKNOWN_UID"),
    "unknown sub-series": ({"second_subseries": "EchoTime=9"}, "E_UNKNOWN_UID"),
    "unknown registration": ({"relation": "reg", "reg_sop_uid": "1.2.3"}, "E_UNKNOWN_UID"),
    "no such relation": ({"relation": "guess"}, "E_MANIFEST"),
    "no such output": ({"output_kind": "png"}, "E_MANIFEST"),
    "untrue frame": ({"relation": "for"}, "E_MANIFEST"),
    "no second": ({"second_series_uid": ""}, "E_UNKNOWN_UID"),
}


@pytest.mark.parametrize("name", BAD_EDITS)
def test_a_wrong_manifest_stops_before_anything_is_fused(name: str, tmp_path: Path) -> None:
    changes, code = BAD_EDITS[name]
    scan = scan_folder(make(tmp_path / "in", mr(), ct(frame="other")))
    path = tmp_path / "pairs.csv"
    write_manifest(find_pairs(scan, PairingOptions(register="rigid")), path)
    edit(path, lambda row: row.update(changes))
    with pytest.raises(UsageError, match=r"pairs.csv, row 1") as caught:
        read_manifest(path, scan)
    assert caught.value.code == code


def test_no_manifest_joins_two_patients(tmp_path: Path) -> None:
    scan = scan_folder(make(tmp_path / "in", mr(), ct(patient_id="P002")))
    row = dict.fromkeys(COLUMNS, "")
    ours, theirs = scan.subseries if scan.subseries[0].kind == "mr" else scan.subseries[::-1]
    row.update(
        reference_series_uid=ours.key.series_uid,
        second_series_uid=theirs.key.series_uid,
        relation="trust",
        status="run",
    )
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([row]))
    with pytest.raises(UsageError, match="different patients"):
        read_manifest(path, scan)


def test_no_manifest_makes_a_broken_series_run(tmp_path: Path) -> None:
    broken = ct()
    del broken.datasets[4]
    scan = scan_folder(make(tmp_path / "in", mr(), broken))
    path = tmp_path / "pairs.json"
    uids = {item.kind: item.key.series_uid for item in scan.subseries}
    path.write_text(
        json.dumps([{"reference_series_uid": uids["mr"], "second_series_uid": uids["ct"], "status": "run"}])
    )
    with pytest.raises(UsageError) as caught:
        read_manifest(path, scan)
    assert caught.value.code == "E_MISSING_SLICES"


@pytest.mark.parametrize("content", ["", "[]x", "[1]", '[{"status": "run"}]', "\x00\xff"])
def test_a_manifest_that_is_none(content: str, tmp_path: Path) -> None:
    scan = scan_folder(tmp_path)
    path = tmp_path / "pairs.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        read_manifest(path, scan)
    assert caught.value.code == "E_MANIFEST"


SPREADSHEETS = {
    "semicolons, UTF-8 with a mark": (lambda text: text.replace(",", ";"), "utf-8-sig"),
    "tabs, UTF-16": (lambda text: text.replace(",", "\t"), "utf-16"),
    "sep= and one byte a letter": (lambda text: "sep=;\r\n" + text.replace(",", ";"), "cp1252"),
    "carriage returns": (lambda text: text.replace("\r\n", "\r"), "utf-8"),
    "capitals and blanks": (lambda text: text.replace("status", " Status", 1).replace(",for,", ",For ,"), "utf-8"),
    "every field in quotes": (lambda text: re.sub(r"[^,\r\n]+", r'"\g<0>"', text), "utf-8"),
}


@pytest.mark.parametrize("name", SPREADSHEETS)
def test_a_manifest_as_spreadsheet_programs_save_it(name: str, tmp_path: Path) -> None:
    save_pair(tmp_path / "in")
    scan = scan_folder(tmp_path / "in")
    (pair,) = find_pairs(scan).pairs
    row = {**dict.fromkeys(COLUMNS, ""), "status": "run", "relation": "for", "reason": "geprüft"}
    row |= {"reference_series_uid": pair.reference.key.series_uid, "second_series_uid": pair.second.key.series_uid}
    text = "\r\n".join([",".join(row), ",".join(row.values()), "," * (len(row) - 1), ""])
    change, encoding = SPREADSHEETS[name]
    path = tmp_path / "pairs.csv"
    path.write_bytes(change(text).encode(encoding))
    assert [found.case_id for found in read_manifest(path, scan)] == [pair.case_id]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04\x14\x00", b"case_id,status\r\n"])
def test_a_table_without_the_columns_is_no_manifest(content: bytes, tmp_path: Path) -> None:
    """A workbook that was given the suffix .csv had no rows to run, and so nothing to do."""
    path = tmp_path / "pairs.csv"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"first line does not name the columns .* Write it anew") as caught:
        read_manifest(path, scan_folder(tmp_path))
    assert caught.value.code == "E_MANIFEST"


def test_a_row_without_a_second_series_says_so(tmp_path: Path) -> None:
    mr().save(tmp_path / "in")
    scan, path = scan_folder(tmp_path / "in"), tmp_path / "pairs.csv"
    write_manifest(find_pairs(scan), path)
    path.write_text(path.read_text().replace(",skipped,", ",run,"))
    with pytest.raises(UsageError, match="row 1: the row names no second series"):
        read_manifest(path, scan)


def test_a_pair_listed_twice_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path / "in")
    scan = scan_folder(tmp_path / "in")
    path = tmp_path / "pairs.json"
    write_manifest(find_pairs(scan), path)
    path.write_text(json.dumps(json.loads(path.read_text()) * 2))
    with pytest.raises(UsageError, match="listed twice"):
        read_manifest(path, scan)


def test_a_manifest_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    save_pair(tmp_path / "in")
    result = pairs_of(tmp_path / "in")
    path = tmp_path / "pairs.csv"
    path.write_text("precious")
    with pytest.raises(UsageError) as caught:
        write_manifest(result, path)
    assert caught.value.code == "E_OUTPUT_EXISTS"
    assert path.read_text() == "precious"
    write_manifest(result, path, overwrite=True)
    assert path.read_text().startswith("case_id,")
    with pytest.raises(UsageError, match=r"csv or \.json"):
        write_manifest(result, tmp_path / "pairs.xlsx")
