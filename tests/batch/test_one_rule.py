"""One rule for pairs: every surface is asked the same questions, and must give one answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dicom.results import SMALL
from dicom.synthetic import Layout, Made, series

from ddfm_monai import DDFMFuse
from ddfm_monai.batch.manifest import read_manifest
from ddfm_monai.batch.pair import PairingOptions
from ddfm_monai.batch.pairing import find_pairs
from ddfm_monai.cli.main import run
from ddfm_monai.dicom import scan_folder
from ddfm_monai.errors import DDFMError, InputError
from ddfm_monai.fusion import pipeline
from ddfm_monai.rules import Identity, Origin, of_overlap, same_patient
from ddfm_monai.volumes import read_volume, write_volume


@dataclass
class Answer:
    """Whether the two were fused, and everything that was said."""

    fused: bool
    said: str


@dataclass
class Asker:
    """Asks one surface after the other about a reference and a second series."""

    folder: Path
    prior: Path
    capsys: pytest.CaptureFixture[str]

    def save(self, reference: Made, second: Made) -> None:
        reference.save(self.folder / "in/a")
        second.save(self.folder / "in/b")

    def files(self, **options: Any) -> Answer:
        """`ddfm fuse A.nii.gz B.nii.gz`: all that is known of DICOM is gone."""
        for name in "ab":
            write_volume(read_volume(self.folder / "in" / name), self.folder / f"{name}.nii.gz")
        options = {"reference_kind": "mr", "second_kind": "ct", **options}
        return self._fuse(self.folder / "a.nii.gz", self.folder / "b.nii.gz", self.folder / "files.nii.gz", options)

    def folders(self, **options: Any) -> Answer:
        """`ddfm fuse FOLDER FOLDER -o FOLDER`."""
        return self._fuse(self.folder / "in/a", self.folder / "in/b", self.folder / "folders", options)

    def folders_to_file(self, **options: Any) -> Answer:
        """`ddfm fuse FOLDER FOLDER -o FILE`."""
        return self._fuse(self.folder / "in/a", self.folder / "in/b", self.folder / "folders.nii.gz", options)

    def scan(self, **options: Any) -> Answer:
        """`ddfm dicom run FOLDER`."""
        return self._run("scan", options)

    def manifest(self, **options: Any) -> Answer:
        """`ddfm dicom run FOLDER --pairs MANIFEST`, with one row that names the two."""
        by_name = {item.paths[0].parent.name: item.key.series_uid for item in scan_folder(self.folder / "in").subseries}
        relations = {"rigid": "register", "same-patient": "same-patient", "trust": "trust", "none": "for"}
        relation = relations[options.get("register", "none")]
        row = {
            "reference_series_uid": by_name["a"], "second_series_uid": by_name["b"], "relation": relation,
            "output_kind": "rgb" if options.get("colour") else "gray", "status": "run",
        }  # fmt: skip
        (self.folder / "pairs.json").write_text(json.dumps([row]))
        return self._run("manifest", {}, "--pairs", str(self.folder / "pairs.json"))

    def transform(self, **options: Any) -> Answer:
        """`DDFMFuse` on two volumes in memory, which know where they come from."""
        volumes = [read_volume(self.folder / "in" / name) for name in "ab"]
        try:
            fused = DDFMFuse(prior=str(self.prior), steps=1, device="cpu", **options)(*volumes)
        except DDFMError as error:
            return Answer(False, f"{error.code} {error}")
        return Answer(True, str(fused.meta["ddfm"]))

    def _fuse(self, reference: Path, second: Path, output: Path, options: dict[str, Any]) -> Answer:
        code = run(["fuse", str(reference), str(second), "-o", str(output), "--json", *self._words(options)])
        said = self.capsys.readouterr().out
        assert (code == 0) == output.exists()
        return Answer(code == 0, said)

    def _run(self, name: str, options: dict[str, Any], *more: str) -> Answer:
        out = self.folder / f"out {name}"
        run(["dicom", "run", str(self.folder / "in"), "-o", str(out), *more, *self._words(options)])
        captured = self.capsys.readouterr()
        return Answer(bool(list(out.glob("P*"))), captured.out + captured.err)

    def _words(self, options: dict[str, Any]) -> list[str]:
        words = ["--prior", str(self.prior), "--steps", "1", "--device", "cpu"]
        for name, value in options.items():
            words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
        return words


@pytest.fixture
def asker(tmp_path: Path, tiny_prior_path: Path, capsys: pytest.CaptureFixture[str]) -> Asker:
    return Asker(tmp_path, tiny_prior_path, capsys)


DICOM = ("folders", "folders_to_file", "scan", "manifest", "transform")
ALL = ("files", *DICOM)
BY_NAME = tuple(surface for surface in ALL if surface != "scan")
"""Where a person has named the two: only a scan can leave them out without a word."""


def mr(**changes: Any) -> Made:
    return series("MR", Layout(**{**SMALL, "angle": 0.0, **changes}))


def ct(**changes: Any) -> Made:
    return series("CT", Layout(**{**SMALL, "angle": 0.0, **changes}))


def ask_all(asker: Asker, surfaces: tuple[str, ...], **options: Any) -> dict[str, Answer]:
    return {surface: getattr(asker, surface)(**options) for surface in surfaces}


def assert_refused(answers: dict[str, Answer], code: str) -> None:
    for surface, answer in answers.items():
        assert not answer.fused, surface
        assert code in answer.said, f"{surface}: {answer.said}"


def assert_fused(answers: dict[str, Answer], code: str = "") -> None:
    for surface, answer in answers.items():
        assert answer.fused, f"{surface}: {answer.said}"
        assert code in answer.said, f"{surface}: {answer.said}"


@pytest.fixture
def little_overlap(asker: Asker) -> Asker:
    asker.save(mr(), ct(centre=(3.0, -8.0, 36.0)))  # five slices of 4 mm, moved by 15 mm: a quarter is left
    return asker


def test_little_overlap_is_refused_everywhere(little_overlap: Asker) -> None:
    assert_refused(ask_all(little_overlap, ALL), "S_LITTLE_OVERLAP")


def test_little_overlap_is_fused_everywhere_when_the_coordinates_are_vouched_for(little_overlap: Asker) -> None:
    assert_fused(ask_all(little_overlap, ALL, register="trust"), "W_LITTLE_OVERLAP")


def test_no_overlap_is_refused_everywhere_whoever_vouches(asker: Asker) -> None:
    asker.save(mr(), ct(centre=(3.0, -8.0, 45.0)))
    assert_refused(ask_all(asker, ALL), "E_NO_OVERLAP")
    assert_refused(ask_all(asker, BY_NAME, register="trust"), "E_NO_OVERLAP")


@pytest.mark.parametrize("ids", [("ANON", "UNKNOWN"), ("", "Anonymous"), ("N/A", "000"), ("P001", "ANON")])
def test_ids_that_tell_nobody_apart_do_not_part_a_study(asker: Asker, ids: tuple[str, str]) -> None:
    first, second = mr(), ct()
    for made, patient_id in ((first, ids[0]), (second, ids[1])):
        for ds in made.datasets:
            ds.PatientID = patient_id
    asker.save(first, second)
    assert_fused(ask_all(asker, ("folders", "scan", "manifest", "transform")))


def test_ids_that_tell_nobody_apart_do_not_join_two_studies_by_themselves(asker: Asker) -> None:
    who = {"patient_id": "ANON", "frame": "f"}
    asker.save(mr(**who, study="one"), ct(**who, study="two"))
    assert not asker.scan().fused
    assert_fused(ask_all(asker, ("folders", "manifest", "transform")), "W_PATIENT_UNKNOWN")


def test_two_patients_are_refused_everywhere(asker: Asker) -> None:
    first, second = mr(), ct()
    for ds in second.datasets:
        ds.PatientID = "P002"  # in the same study and frame of reference
    asker.save(first, second)
    answers = ask_all(asker, DICOM)
    assert not answers.pop("scan").fused
    assert_refused(answers, "E_DIFFERENT_PATIENTS")


@pytest.mark.parametrize(
    ("issuers", "one_patient"),
    [(("", "HOSPITAL"), True), (("HOSPITAL", ""), True), (("A", "A"), True), (("A", "B"), False)],
)
def test_an_issuer_on_one_side_contradicts_nothing(asker: Asker, issuers: tuple[str, str], one_patient: bool) -> None:
    asker.save(mr(extra={"IssuerOfPatientID": issuers[0]}), ct(extra={"IssuerOfPatientID": issuers[1]}))
    answers = ask_all(asker, ("folders", "scan", "manifest", "transform"))
    assert {answer.fused for answer in answers.values()} == {one_patient}


def test_an_id_with_two_issuers_says_nothing_of_a_series_without(tmp_path: Path) -> None:
    mr(extra={"IssuerOfPatientID": "A"}).save(tmp_path / "a")
    mr(series="other", extra={"IssuerOfPatientID": "B"}).save(tmp_path / "b")
    ct().save(tmp_path / "c")
    assert find_pairs(scan_folder(tmp_path)).pairs == ()


def test_different_frames_are_refused_everywhere_and_trusted_where_asked(asker: Asker) -> None:
    asker.save(mr(), ct(frame="other"))
    assert_refused(ask_all(asker, DICOM), "S_DIFFERENT_FRAME")
    assert_fused(ask_all(asker, DICOM, register="trust"), "W_COORDINATES_TRUSTED")


@pytest.mark.parametrize(("register", "vouched"), [("rigid", False), ("same-patient", True)])
def test_the_word_for_one_patient_reaches_the_registration_from_everywhere(
    asker: Asker, monkeypatch: pytest.MonkeyPatch, register: str, vouched: bool
) -> None:
    def refuse(reference: Any, second: Any, same_patient: bool = False) -> None:
        raise InputError(f"vouched for: {same_patient}", "E_REGISTRATION_UNSURE")

    monkeypatch.setattr(pipeline, "register_rigid", refuse)
    asker.save(mr(), ct(frame="other"))
    assert_refused(ask_all(asker, ALL, register=register), f"vouched for: {vouched}")


@pytest.mark.parametrize("without", ["a", "b", "ab"])
def test_a_missing_frame_is_called_missing(asker: Asker, without: str) -> None:
    made = {"a": mr(), "b": ct()}
    for name in without:
        for ds in made[name].datasets:
            del ds.FrameOfReferenceUID
    asker.save(made["a"], made["b"])
    answers = ask_all(asker, DICOM)
    assert_refused(answers, "S_DIFFERENT_FRAME")
    assert all("has no Frame of Reference UID" in a.said or "neither series has" in a.said for a in answers.values())


def test_colour_that_is_not_there_is_never_left_out_in_silence(asker: Asker) -> None:
    asker.save(mr(), ct())
    assert_refused(ask_all(asker, BY_NAME, colour=True), "colour was asked for")
    assert_fused(ask_all(asker, ("scan",), colour=True), "W_NO_COLOUR")  # a folder's pairs may be of several kinds


def test_two_mrs_are_fused_only_when_asked_for(asker: Asker) -> None:
    asker.save(mr(), mr(series="t2", extra={"SeriesNumber": 4, "SeriesDescription": "T2"}))
    answers = ask_all(asker, ("folders", "folders_to_file", "transform"))
    assert_refused(answers, "S_SAME_KIND")
    left_out = asker.scan()
    assert not left_out.fused
    assert "--second-kind mr" in left_out.said
    assert_fused(ask_all(asker, DICOM, second_kind="mr"))


def test_a_series_is_not_fused_with_itself(asker: Asker) -> None:
    mr().save(asker.folder / "in/a")
    mr().save(asker.folder / "in/b")
    assert_refused(ask_all(asker, ("folders", "folders_to_file", "transform"), second_kind="mr"), "E_SAME_SERIES")


def test_a_kind_that_the_header_contradicts_is_refused(asker: Asker) -> None:
    asker.save(mr(), ct())
    assert_refused(ask_all(asker, ("folders", "folders_to_file", "transform"), second_kind="pet"), "Modality is CT")


def test_all_that_is_missing_is_said_at_once(asker: Asker) -> None:
    asker.save(mr(), mr(series="t2", frame="other", extra={"SeriesNumber": 4}))
    for answer in ask_all(asker, ("folders", "folders_to_file", "transform")).values():
        assert not answer.fused
        for word in ("S_SAME_KIND", "--second-kind mr", "--register rigid"):
            assert word in answer.said


@pytest.mark.parametrize(
    ("overlap", "register", "codes"),
    [
        (0.05, "none", ["E_NO_OVERLAP"]), (0.05, "trust", ["E_NO_OVERLAP"]), (0.26, "none", ["S_LITTLE_OVERLAP"]),
        (0.26, "trust", ["W_LITTLE_OVERLAP"]), (0.26, "rigid", ["W_LITTLE_OVERLAP"]), (0.5, "none", []),
        (1, "none", []),
    ],
)  # fmt: skip
def test_overlap(overlap: float, register: str, codes: list[str]) -> None:
    assert [finding.code for finding in of_overlap(overlap, register)] == codes


def test_an_origin_survives_the_meta_of_a_volume() -> None:
    origin = Origin(Identity("a", "b", "c", "d"), "mr", "s", "f", "20240105101500", "YES")
    assert Origin.from_meta(origin.as_meta()) == origin
    assert Origin.from_meta(None) is None


def test_same_patient_is_symmetric() -> None:
    some = [Identity(p, i, "", s) for p in ("", "x", "y") for i in ("", "A", "B") for s in ("1", "2")]
    for one in some:
        assert same_patient(one, one)
        for other in some:
            assert same_patient(one, other) is same_patient(other, one)


def test_a_row_of_a_manifest_says_what_scan_said(tmp_path: Path) -> None:
    """The same code from the scan and from the manifest that overrules nothing."""
    mr().save(tmp_path / "in/a")
    ct(centre=(3.0, -8.0, 36.0)).save(tmp_path / "in/b")
    scan = scan_folder(tmp_path / "in")
    (left_out,) = find_pairs(scan, PairingOptions()).skipped
    uids = {item.kind: item.key.series_uid for item in scan.subseries}
    row = {"reference_series_uid": uids["mr"], "second_series_uid": uids["ct"], "status": "run"}
    (tmp_path / "pairs.json").write_text(json.dumps([row]))
    with pytest.raises(DDFMError, match=left_out.problem.code):
        read_manifest(tmp_path / "pairs.json", scan)
