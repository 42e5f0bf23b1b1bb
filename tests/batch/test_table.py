"""What a scan tells a person: one table, all missing options at once, descriptions without anybody's name."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
from dicom.results import SMALL
from dicom.synthetic import Layout, Made, series
from hypothesis import given
from hypothesis import strategies as st

from ddfm_monai.batch.manifest import COLUMNS, read_manifest
from ddfm_monai.batch.pair import PairingOptions
from ddfm_monai.batch.pairing import find_pairs, missing_options
from ddfm_monai.batch.table import series_table
from ddfm_monai.batch.vocabulary import _KNOWN, safe_description
from ddfm_monai.cli.main import run
from ddfm_monai.dicom import scan_folder
from ddfm_monai.errors import ExitCode, UsageError


def mr(**changes: Any) -> Made:
    return series("MR", Layout(**{**SMALL, "angle": 0.0, "study": "mr", **changes}))


def ct(**changes: Any) -> Made:
    return series("CT", Layout(**{**SMALL, "angle": 0.0, "study": "ct", "frame": "ct", "date": "20240102", **changes}))


@pytest.fixture
def routine(tmp_path: Path) -> Path:
    """T1, T2 and FLAIR of one examination; a CT of three days before, in a study and a frame of its own."""
    mr().save(tmp_path / "in/t1")
    for number, name in enumerate(("T2 TSE", "T2 FLAIR"), 4):
        extra = {"SeriesDescription": name, "SeriesNumber": number, "MRAcquisitionType": "2D"}
        mr(series=name, extra=extra).save(tmp_path / "in" / name)
    ct(extra={"SeriesDescription": "CT head Smith 5mm"}).save(tmp_path / "in/ct")
    return tmp_path / "in"


def table_of(folder: Path, **options: Any) -> str:
    scan, wanted = scan_folder(folder), PairingOptions(**options)
    pairing = find_pairs(scan, wanted)
    return "\n".join(series_table(scan, pairing, missing_options(scan, wanted, pairing)))


def test_one_table_tells_what_there_is_and_all_that_is_missing(routine: Path) -> None:
    lines = table_of(routine).splitlines()
    assert lines[0].split() == ["patient", "day", "series", "description", "slices", "spacing", "mm", "pairing"]
    (of_ct,) = [line for line in lines if " CT 5 " in line]
    assert "CT head ... 5mm" in of_ct
    assert " 5 " in of_ct and "1.25 x 1.5 x 4" in of_ct
    assert "with MR 3: skipped S_DIFFERENT_FRAME" in of_ct
    assert of_ct.endswith("[--register rigid --select best]")
    assert [line.split()[1] for line in lines if " MR " in line and "reference" in line] == ["3", "3", "3"], "days"
    assert "Smith" not in "".join(lines)


def test_the_options_that_are_missing_are_enough(routine: Path) -> None:
    scan = scan_folder(routine)
    missing = missing_options(scan, PairingOptions(), find_pairs(scan))
    assert missing is not None
    assert missing.options == ("--register rigid", "--select best")
    (pair,) = find_pairs(scan, PairingOptions(register="rigid", select="best")).pairs
    assert (pair.reference.series_number, pair.relation, pair.days) == (3, "register", 3)
    assert missing.result.pairs == (pair,)
    assert missing_options(scan, PairingOptions(register="rigid", select="best"), missing.result) is None


def test_days_are_asked_for_with_their_number(tmp_path: Path) -> None:
    mr().save(tmp_path / "mr")
    ct(date="20231101").save(tmp_path / "ct")
    scan = scan_folder(tmp_path)
    missing = missing_options(scan, PairingOptions(), find_pairs(scan))
    assert missing is not None
    assert missing.options == ("--register rigid", "--max-days 65")
    assert len(missing.result.pairs) == 1
    assert "S_TOO_FAR_APART" not in table_of(tmp_path, max_days=65)


def test_what_no_option_can_bring_to_run_is_not_promised(tmp_path: Path) -> None:
    mr().save(tmp_path / "mr")
    ct(extra={"PatientIdentityRemoved": "YES"}).save(tmp_path / "ct")
    for ds in (made := mr(series="no", extra={"PatientIdentityRemoved": "NO"})).datasets:
        ds.PatientIdentityRemoved = "NO"
    made.save(tmp_path / "no")
    scan = scan_folder(tmp_path)
    missing = missing_options(scan, PairingOptions(), find_pairs(scan))
    assert missing is not None
    assert len(missing.result.pairs) == 1, "one of the two MRs may be paired"
    assert table_of(tmp_path).count("[--register rigid]") == 1


def test_kinds_that_were_not_asked_for_are_not_called_missing(routine: Path) -> None:
    (of_ct,) = [line for line in table_of(routine, second_kind="mr").splitlines() if " CT 5 " in line]
    assert of_ct.endswith("no pair of the kinds that were asked for (--reference-kind, --second-kind)")


def test_scan_then_one_command(routine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that scan prints runs as it stands."""
    assert run(["dicom", "scan", str(routine), "-o", str(tmp_path / "pairs.csv")]) == ExitCode.NOTHING_TO_DO
    told = capsys.readouterr().out
    (line,) = [line for line in told.splitlines() if "would run with" in line]
    options = line.partition("OUTPUT ")[2].split()
    command = ["dicom", "run", str(routine), "-o", str(tmp_path / "out"), *options, "--dry-run"]
    assert run(command) == ExitCode.DONE
    assert "1 pairs to run" in capsys.readouterr().out


def test_an_unedited_manifest_says_why_nothing_runs(
    routine: Path, tmp_path: Path, tiny_prior_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "pairs.csv"
    run(["dicom", "scan", str(routine), "-o", str(manifest)])
    capsys.readouterr()
    command = ["dicom", "run", str(routine), "-o", str(tmp_path / "out"), "--pairs", str(manifest)]
    assert run([*command, "--prior", str(tiny_prior_path)]) == ExitCode.NOTHING_TO_DO
    told = capsys.readouterr().err
    assert "no row has the status run (3 skipped)" in told
    assert "MR 3 with CT 5: S_DIFFERENT_FRAME" in told
    assert "[scan with --register rigid --select best]" in told
    assert "Set the status" in told


def test_the_manifest_has_what_a_person_chooses_by(routine: Path, tmp_path: Path) -> None:
    run(["dicom", "scan", str(routine), "-o", str(tmp_path / "pairs.csv")])
    with (tmp_path / "pairs.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["reference_series_number"]: row for row in csv.DictReader(file)}
    row = rows["3"]
    assert [row[name] for name in COLUMNS[1:15]] == [
        "skipped", "MR", "3", "T1 3D", "5", "1.25 x 1.5 x 4", "CT", "5", "CT head ... 5mm", "5", "1.25 x 1.5 x 4",
        "3", "", "register",
    ]  # fmt: skip
    assert row["options"] == "--register rigid --select best"
    assert "base" not in ",".join(COLUMNS)


def test_a_manifest_without_a_needed_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("status,base_series_uid,second_series_uid\nrun,1,2\n")
    with pytest.raises(UsageError, match="reference_series_uid"):
        read_manifest(tmp_path / "old.csv", scan_folder(tmp_path))


@given(st.text(max_size=40))
def test_a_description_shows_words_of_the_trade_only(text: str) -> None:
    for word in safe_description(text).split():
        assert word == "..." or word.lower() in _KNOWN or any(digit.isdigit() for digit in word)


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("t1_mprage_sag_p2_iso", "t1 mprage sag ... iso"),
        ("AX T2 FLAIR 5 mm", "AX T2 FLAIR 5mm"),
        ("Head 0.75mm H31s", "Head 0.75mm H31s"),
        ("SMITH^JOHN 12.03.1970 brain", "... brain"),
        ("Gated CT 10.0%", "Gated CT 10.0%"),
        ("03.12.70", "..."),
        ("4711", "..."),
        ("", ""),
    ],
)
def test_descriptions(description: str, shown: str) -> None:
    assert safe_description(description) == shown


def test_no_warning_of_a_library_reaches_the_screen_or_a_file(
    tmp_path: Path, tiny_prior_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dates as an export tool wrote them, which pydicom quotes when it warns."""
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
    for name, made in (("mr", mr()), ("ct", ct(study="mr", frame="frame"))):
        for ds in made.datasets:
            ds.PatientBirthDate, ds.PatientAge, ds.PatientID, ds.StudyDate = "1970-01-31", "53", "ID-4711", "2024-01-05"
        made.save(tmp_path / "in" / name)
    monkeypatch.undo()
    capfd.readouterr()
    small = ["--prior", str(tiny_prior_path), "--steps", "1", "--device", "cpu"]
    with warnings.catch_warnings(record=True) as warned:
        assert run(["dicom", "scan", str(tmp_path / "in")]) == ExitCode.DONE
        assert run(["dicom", "run", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *small]) == ExitCode.DONE
        folders = [str(tmp_path / "in" / name) for name in ("mr", "ct")]
        assert run(["fuse", *folders, "-o", str(tmp_path / "fused"), *small]) == ExitCode.DONE
        assert run(["fuse", *folders, "-o", str(tmp_path / "fused.nii.gz"), *small]) == ExitCode.DONE
    assert [str(warning.message) for warning in warned] == []
    said = "".join(capfd.readouterr())
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".csv", ".log")]
    for text in (said, *texts):
        assert not any(secret in text for secret in ("1970-01-31", "2024-01-05", "ID-4711", "Warning", "Invalid value"))


def test_a_doubt_about_a_series_stands_beside_it(tmp_path: Path) -> None:
    mr().save(tmp_path / "mr")
    made = ct(study="mr", frame="frame")
    for ds in made.datasets:
        ds.SpacingBetweenSlices = 3.0  # the positions say 4
    made.save(tmp_path / "ct")
    scan = scan_folder(tmp_path)
    (pair,) = find_pairs(scan).pairs
    assert pair.remarks == ("W_SPACING_CONTRADICTS",)
    lines = table_of(tmp_path).splitlines()
    (number,) = [number for number, line in enumerate(lines) if "with MR 3: RUN" in line]
    assert "W_SPACING_CONTRADICTS: " in lines[number + 1]
