"""A batch of cases: isolation, resuming, the report, the lock, and that nothing half-written or private is left."""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom.results import SMALL, spoil
from dicom.synthetic import Layout, save_pair, series
from pydicom import dcmread

from ddfm_monai.batch import case
from ddfm_monai.batch.case import CaseJob, CaseOutcome, CaseSettings, run_case
from ddfm_monai.batch.folder import new_case_folder
from ddfm_monai.batch.pair import PairingOptions
from ddfm_monai.batch.pairing import find_pairs
from ddfm_monai.batch.report import BatchReport
from ddfm_monai.batch.run import check_folders, check_settings, left_out, one_after_the_other, plan_jobs, run_batch
from ddfm_monai.dicom import scan_folder
from ddfm_monai.errors import Cancelled, ExitCode, UsageError
from ddfm_monai.files import sha256_of
from ddfm_monai.lock import output_lock
from ddfm_monai.progress import Progress

NAME = "Geheim^Patientin"


@pytest.fixture
def settings(tiny_prior_path: Path) -> CaseSettings:
    return CaseSettings(prior=str(tiny_prior_path), steps=1, device="cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three patients with an MR and a CT each."""
    return patients(tmp_path / "in", 3)


def patients(folder: Path, count: int) -> Path:
    for number in range(count):
        who = {"patient_id": f"SECRET{number}", "patient_name": NAME, "study": f"s{number}"}
        save_pair(folder / f"SECRET{number}", **SMALL, **who)
    return folder


def jobs_for(source: Path, settings: CaseSettings, out: Path, **more: bool) -> list[CaseJob]:
    scan = scan_folder(source)
    return plan_jobs(find_pairs(scan, PairingOptions()).pairs, scan, settings, out, **more)


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_every_case_gets_a_folder_and_a_row(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    before = tree(source)
    out = tmp_path / "out"
    told: list[str] = []
    jobs = jobs_for(source, settings, out)
    report = run_batch(jobs, [], out, on_outcome=lambda outcome: told.append(outcome.case_id))
    assert report.exit_code() == ExitCode.DONE
    assert told == [job.pair.case_id for job in jobs]
    document = json.loads((out / "report.json").read_text())
    assert document["counts"] == {"ok": 3, "pending": 0}
    with (out / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case_id"] for row in rows] == told
    for row, job in zip(rows, jobs, strict=True):
        folder = out / job.pair.case_id
        record = json.loads((folder / "case.json").read_text())
        first = dcmread(folder / "grey/0001.dcm")
        assert row["outputs"] == f"grey={first.SeriesInstanceUID}"
        assert record["outputs"][0]["instance_uids"][0] == first.SOPInstanceUID
        assert (row["status"], row["shape"], row["relation"]) == ("ok", "36 x 40 x 5", "for")
        assert float(row["overlap"]) > 0.8
        assert 0.8 < float(row["covered"]) < 1  # the CT is not tilted as the MR is
    assert tree(source) == before, "the input was touched"
    assert sorted(path.name for path in out.iterdir()) == sorted([*told, "report.csv", "report.html", "report.json"])
    if os.name != "nt":
        assert (out.stat().st_mode & 0o777, (out / told[0]).stat().st_mode & 0o777) == (0o700, 0o700)


def test_one_broken_case_does_not_stop_the_others(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    spoil(source / "SECRET1/ct/IM0002")
    out = tmp_path / "out"
    report = run_batch(jobs_for(source, settings, out), [], out)
    assert report.counts() == {"ok": 2, "failed": 1}
    assert report.exit_code() == ExitCode.SOME_FAILED
    (failed,) = (outcome for outcome in report.outcomes if outcome.status == "failed")
    assert failed.code == "E_PIXEL_DATA"
    assert "slice" in failed.message
    assert "SOP Instance UID" in failed.message
    assert not (out / failed.case_id).exists()
    assert failed.code in (out / "logs" / f"{failed.case_id}.log").read_text()


def test_nobody_is_named(source: Path, settings: CaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports, logs and file names of good, broken and crashing cases hold neither name nor ID nor path."""
    spoil(source / "SECRET1/ct/IM0002")
    real = case.derive

    def crash(base: object, second: object, pair: case.Pair, *rest: object) -> dict[str, object]:
        if pair.reference.patient.patient_id == "SECRET2":
            raise RuntimeError(f"something about {NAME} in {source}")
        return real(base, second, pair, *rest)

    monkeypatch.setattr(case, "derive", crash)
    out = tmp_path / "out"
    report = run_batch(jobs_for(source, settings, out), [], out)
    assert sorted(outcome.code for outcome in report.outcomes) == ["", "E_INTERNAL", "E_PIXEL_DATA"]
    for path in out.rglob("*"):
        assert "SECRET" not in path.name
        if path.suffix in (".json", ".csv", ".log"):
            text = path.read_text()
            assert "SECRET" not in text
            assert "Geheim" not in text
            assert str(source) not in text
    logs = [path.read_text() for path in (out / "logs").iterdir()]
    assert any("RuntimeError" in text and "line" in text for text in logs), "the log says where it happened"


def test_show_phi_tells_all(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    spoil(source / "SECRET1/ct/IM0002")
    out = tmp_path / "out"
    report = run_batch(jobs_for(source, settings, out, show_phi=True), [], out)
    (failed,) = (outcome for outcome in report.outcomes if outcome.status == "failed")
    assert "SECRET1" in failed.message
    assert "Traceback" in (out / "logs" / f"{failed.case_id}.log").read_text()


def test_finished_cases_are_kept(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = jobs_for(source, settings, out)
    first = run_batch(jobs, [], out)
    before = {name: digest for name, digest in tree(out).items() if not name.startswith("report")}
    again = run_batch(jobs, [], out)
    assert again.counts() == {"resumed": 3}
    assert again.exit_code() == ExitCode.DONE
    assert {name: digest for name, digest in tree(out).items() if not name.startswith("report")} == before
    timeless = [replace(outcome, seconds=0, status="ok") for outcome in again.outcomes]
    assert timeless == [replace(outcome, seconds=0) for outcome in first.outcomes]


def test_the_report_links_to_the_page_of_a_case(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run_batch(jobs_for(source, replace(settings, page=True), out), [], out)
    pages = list(out.glob("*/viewer.html"))
    assert len(pages) == sum(outcome.status == "ok" for outcome in first.outcomes) > 0
    report = (out / "report.html").read_text()
    assert all(f"href='{page.parent.name}/viewer.html'" in report for page in pages)


@pytest.mark.parametrize("change", ["settings", "input", "result"])
def test_other_results_are_not_overwritten_unasked(
    source: Path, settings: CaseSettings, tmp_path: Path, change: str
) -> None:
    out = tmp_path / "out"
    job = jobs_for(source, settings, out)[0]
    first = run_case(job)
    assert first.status == "ok"
    if change == "settings":
        settings = replace(settings, seed=1)
    elif change == "input":
        path = job.pair.second.slices[2].path
        ds = dcmread(path)
        ds.PixelData = bytes(np.frombuffer(ds.PixelData, np.uint8)[::-1])
        ds.save_as(path)
    else:
        (out / job.pair.case_id / "grey/0002.dcm").unlink()
    job = jobs_for(source, settings, out)[0]
    refused = run_case(job)
    assert (refused.status, refused.code) == ("failed", "E_OUTPUT_EXISTS")
    replaced = run_case(replace(job, overwrite=True))
    assert replaced.status == "ok"
    assert replaced.outputs[0]["series_uid"] != first.outputs[0]["series_uid"]
    assert len(list((out / job.pair.case_id / "grey").iterdir())) == 5
    assert run_case(job).status == "resumed"
    assert not list(out.glob(".*"))


def test_device_and_batch_size_do_not_make_another_case(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    job = jobs_for(source, settings, tmp_path / "out")[0]
    assert run_case(job).status == "ok"
    assert run_case(replace(job, settings=replace(settings, device=None, batch_size=3))).status == "resumed"


def test_stopping_leaves_nothing_half_written(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = jobs_for(source, settings, out)

    def stop_in_the_second(job: CaseJob) -> case.ProgressCallback:
        def progress(step: Progress) -> None:
            if job is jobs[1] and step.stage == "write":
                raise Cancelled("stop")

        return progress

    with pytest.raises(Cancelled):
        run_batch(jobs, [], out, one_after_the_other(stop_in_the_second))
    document = json.loads((out / "report.json").read_text())
    assert document["counts"] == {"ok": 1, "pending": 2}
    expected = [jobs[0].pair.case_id, "report.csv", "report.html", "report.json"]
    assert sorted(path.name for path in out.iterdir()) == sorted(expected)
    assert run_batch(jobs, [], out).counts() == {"resumed": 1, "ok": 2}


def test_fail_fast_stops_and_says_what_was_not_run(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = jobs_for(source, settings, out)
    spoil(jobs[0].pair.second.slices[2].path)
    report = run_batch(jobs, [], out, one_after_the_other(fail_fast=True))
    assert (report.counts(), report.pending) == ({"failed": 1}, 2)
    assert report.exit_code() == ExitCode.ALL_FAILED
    assert "2 not run" in report.summary()


def test_a_full_disk_fails_the_case_only(
    source: Path, settings: CaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddfm_monai.dicom import write

    written: list[Path] = []
    real = write.save

    def save(ds: object, path: Path) -> None:
        written.append(path)
        if len(written) == 7:
            raise OSError(28, "No space left on device", str(path))
        real(ds, path)

    monkeypatch.setattr(write, "save", save)
    out = tmp_path / "out"
    report = run_batch(jobs_for(source, settings, out), [], out)
    assert [outcome.code for outcome in report.outcomes] == ["", "E_DISK", ""]
    assert "No space left" in report.outcomes[1].message
    assert not list(out.glob(".tmp*"))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_lack_of_memory_has_a_code_and_the_log_goes_when_it_works(
    source: Path, settings: CaseSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    job = jobs_for(source, settings, tmp_path / "out")[0]

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(case, "derive", fail)
        outcome = run_case(job)
    assert (outcome.status, outcome.code) == ("failed", "E_OUT_OF_MEMORY")
    assert "--device cpu" in outcome.message
    logs = tmp_path / "out/logs"
    assert len(list(logs.iterdir())) == 1
    assert run_case(job).status == "ok"
    assert not list(logs.iterdir())


def test_colour_is_written_for_pet_and_not_for_ct(settings: CaseSettings, tmp_path: Path) -> None:
    for second in ("PT", "CT"):
        save_pair(tmp_path / second, second, **SMALL)
        scan = scan_folder(tmp_path / second)
        pairs = find_pairs(scan, PairingOptions(output_kind="both")).pairs
        (job,) = plan_jobs(pairs, scan, settings, tmp_path / f"out {second}")
        outcome = run_case(job)
        kinds = [output["kind"] for output in outcome.outputs]
        if second == "PT":
            assert kinds == ["grey", "colour"]
            rgb = dcmread(job.out / job.pair.case_id / "colour/0003.dcm").pixel_array.astype(int)
            assert np.ptp(rgb, axis=-1).max() > 30, "there is no colour in it"
        else:
            assert kinds == ["grey"]
            assert "W_NO_COLOUR" in outcome.warnings


def test_options_that_do_not_concern_a_pair_do_not_fail_it(settings: CaseSettings, tmp_path: Path) -> None:
    """A batch may hold pairs of any kind: a window is a CT's, SUV are a PET's."""
    asked = replace(settings, window="bone", units="suv")
    for second, window, units in (("PT", None, "suv"), ("CT", "bone", "none")):
        save_pair(tmp_path / second, second, **SMALL)
        (pair,) = find_pairs(scan_folder(tmp_path / second), PairingOptions()).pairs
        chosen = asked.for_pair(pair)
        assert (chosen.window, chosen.units) == (window, units)


def test_series_numbers_are_free_in_the_study(settings: CaseSettings, tmp_path: Path) -> None:
    save_pair(tmp_path / "in", **SMALL)
    series("CT", Layout(**SMALL, series="other", angle=0.0, extra={"SeriesNumber": 302})).save(tmp_path / "in/ct2")
    series("PT", Layout(**SMALL, series="third", angle=0.0)).save(tmp_path / "in/pt")
    scan = scan_folder(tmp_path / "in")
    jobs = plan_jobs(find_pairs(scan, PairingOptions(select="all")).pairs, scan, settings, tmp_path / "out")
    numbers = [job.series_number for job in jobs]
    assert len(numbers) >= 3
    taken = {number + offset for number in numbers for offset in range(3)}
    assert len(taken) == 3 * len(numbers)
    assert not taken & {3, 5, 7, 302}
    assert min(numbers) > 300
    with pytest.raises(UsageError, match="twice"):
        plan_jobs([jobs[0].pair, jobs[0].pair], scan, settings, tmp_path / "out")


@pytest.mark.parametrize(
    ("statuses", "pending", "strict", "code"),
    [
        (["ok", "resumed", "skipped"], 0, False, ExitCode.DONE),
        (["ok", "skipped"], 0, True, ExitCode.SOME_FAILED),
        (["ok", "failed"], 0, False, ExitCode.SOME_FAILED),
        (["ok", "ambiguous"], 0, False, ExitCode.SOME_FAILED),
        (["failed", "failed"], 0, False, ExitCode.ALL_FAILED),
        (["ambiguous", "skipped"], 0, False, ExitCode.ALL_FAILED),
        (["skipped"], 0, False, ExitCode.NOTHING_TO_DO),
        ([], 0, False, ExitCode.NOTHING_TO_DO),
        (["ok"], 1, False, ExitCode.SOME_FAILED),
    ],
)
def test_exit_codes(statuses: list[case.Status], pending: int, strict: bool, code: ExitCode) -> None:
    outcomes = tuple(CaseOutcome(str(number), status) for number, status in enumerate(statuses))
    assert BatchReport(outcomes, pending).exit_code(strict) == code


def test_what_is_left_out_is_in_the_report(settings: CaseSettings, tmp_path: Path) -> None:
    save_pair(tmp_path / "in", **SMALL)
    series("CT", Layout(**SMALL, series="second CT", angle=0.0)).save(tmp_path / "in/ct2")
    series("MR", Layout(**SMALL, patient_id="lonely", study="x")).save(tmp_path / "in/lonely")
    scan = scan_folder(tmp_path / "in")
    report = run_batch([], left_out(find_pairs(scan), scan), tmp_path / "out")
    assert report.exit_code() == ExitCode.ALL_FAILED
    rows = json.loads((tmp_path / "out/report.json").read_text())["cases"]
    assert {(row["status"], row["code"]) for row in rows} >= {("ambiguous", "S_AMBIGUOUS"), ("skipped", "S_NO_PARTNER")}
    assert all(row["message"] and row["reference_series_uid"] for row in rows)


def test_a_damaged_series_counts_as_failed(source: Path, settings: CaseSettings, tmp_path: Path) -> None:
    """A scan finds a file that is cut short, so that no pair is made; the patient's case has failed all the same."""
    path = next((source / "SECRET1/ct").iterdir())
    path.write_bytes(path.read_bytes()[:-900])
    (source / "SECRET2/mr/IM0002").unlink()
    scan = scan_folder(source)
    pairing = find_pairs(scan)
    jobs = plan_jobs(pairing.pairs, scan, settings, tmp_path / "out")
    report = run_batch(jobs, left_out(pairing, scan), tmp_path / "out")
    assert report.exit_code() == ExitCode.SOME_FAILED
    assert sorted(outcome.code for outcome in report.outcomes if outcome.status == "failed") == [
        "E_MISSING_SLICES",
        "E_PIXEL_DATA",
    ]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"AcquisitionNumber": 2}, "E_PIECES"),
        ({"FrameOfReferenceUID": "1.2.3"}, "E_FRAMES_OF_REFERENCE"),
        ({"SeriesInstanceUID": "1.2.3"}, "E_SERIES_PER_SLICE"),
        ({"StudyInstanceUID": "1.2.3"}, "E_SEVERAL_OWNERS"),
    ],
)
def test_a_volume_in_pieces_counts_as_failed(changes: dict[str, object], code: str, tmp_path: Path) -> None:
    """With exit code 0 nobody would miss the patient."""
    _, ct = save_pair(tmp_path / "in", **{**SMALL, "slices": 12})
    for ds in ct.datasets:
        ds.AcquisitionNumber = 1
    for ds in ct.datasets[1::2]:
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
    ct.save(tmp_path / "in" / "ct")
    scan = scan_folder(tmp_path / "in")
    rows = left_out(find_pairs(scan), scan)
    assert {row.code for row in rows if row.status == "failed"} == {code}


@pytest.mark.parametrize("out", ["in", "in/out", "."])
def test_input_and_output_stay_apart(tmp_path: Path, out: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    with pytest.raises(UsageError, match="neither inside"):
        check_folders(tmp_path / "in", tmp_path / out)
    with pytest.raises(UsageError):
        check_folders(tmp_path / "link", tmp_path / out)
    check_folders(tmp_path / "in", tmp_path / "in2")


def test_impossible_settings_are_refused_before_any_case(settings: CaseSettings) -> None:
    check_settings(settings)
    for change in (
        {"prior": "none such"},
        {"window": "40"},
        {"steps": 5000},
        {"likelihood": "other"},
        {"device": "warp"},
    ):
        with pytest.raises(UsageError):
            check_settings(replace(settings, **change))


def test_lock_of_a_living_process_holds(tmp_path: Path) -> None:
    with output_lock(tmp_path), pytest.raises(UsageError, match="another batch") as caught, output_lock(tmp_path):
        pass
    assert caught.value.code == "E_LOCKED"
    with output_lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / ".lock").write_text(json.dumps({"pid": dead.pid, "host": socket.gethostname()}))
    with output_lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [json.dumps({"pid": 1, "host": "elsewhere"}), "", "{}"])
def test_lock_that_cannot_be_judged_is_respected(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(UsageError, match="delete the lock"), output_lock(tmp_path):
        pass


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="other things"), new_case_folder(tmp_path / "home"):
        pass
    assert (tmp_path / "home/letter.txt").read_text() == "dear"
