"""``ddfm dicom`` as an operator uses it: real commands on real folders, stopped, killed, repeated, called wrongly."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom.results import SMALL
from dicom.synthetic import Layout, save_pair, series
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset

from ddfm_monai.cli.main import run
from ddfm_monai.dicom import EXPLANATIONS, write
from ddfm_monai.errors import ExitCode
from ddfm_monai.files import sha256_of

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and fork")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five patients."""
    for number in range(5):
        who = {"patient_id": f"SECRET{number}", "patient_name": "Geheim^Patientin", "study": f"s{number}"}
        save_pair(tmp_path / f"in/SECRET{number}", "PT" if number == 4 else "CT", **SMALL, **who)
    return tmp_path / "in"


@pytest.fixture
def ddfm(tiny_prior_path: Path) -> Callable[..., int]:
    """Runs ``ddfm dicom`` in this process and returns its exit code; ``run`` gets the small prior and one step."""

    def call(*arguments: object) -> int:
        small = ["--prior", str(tiny_prior_path), "--steps", "1", "--device", "cpu"] if arguments[0] == "run" else []
        return run(["dicom", *map(str, arguments), *small])

    return call


def in_a_process(call: Callable[[], int]) -> int:
    """The exit code of a forked process that makes the call. (A new one would import torch for half a minute.)"""
    process = multiprocessing.get_context("fork").Process(target=lambda: os._exit(call()))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def send_myself(signal_number: int, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that writes DICOM files send itself a signal after so many of them: the same place every time."""
    real, written = write.save, []

    def save(ds: Dataset, path: Path) -> None:
        real(ds, path)
        written.append(path)
        if len(written) == after:
            os.kill(os.getpid(), signal_number)

    monkeypatch.setattr(write, "save", save)


def series_in(folder: Path) -> list[str]:
    """Series Instance UID of every file under a folder."""
    return [dcmread(path).SeriesInstanceUID for path in sorted(folder.rglob("*.dcm"))]


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def test_scan_edit_run(
    ddfm: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(source)
    manifest, out = tmp_path / "pairs.csv", tmp_path / "out"
    assert ddfm("scan", source, "-o", manifest) == ExitCode.DONE
    printed = capsys.readouterr().out
    assert "50 files, 10 volumes, 5 pairs to run, 0 ambiguous" in printed
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["run"] * 5
    for row in rows[2:]:
        row["status"] = "no"
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert ddfm("run", source, "-o", out, "--pairs", manifest) == ExitCode.DONE
    captured = capsys.readouterr()
    assert "2 ok, 0 failed" in captured.out
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(row["case_id"] for row in rows[:2])
    assert "SECRET" not in printed + captured.out + captured.err + manifest.read_text()
    assert tree(source) == before


def test_one_unreadable_case_among_five(
    ddfm: Callable[..., int], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next((source / "SECRET2/ct").iterdir())
    path.write_bytes(path.read_bytes()[:-500])
    before = tree(source)
    assert ddfm("run", source, "-o", tmp_path / "out", "--colour") == ExitCode.SOME_FAILED
    rows = json.loads((tmp_path / "out/report.json").read_text())["cases"]
    assert [row["status"] for row in rows if row["status"] != "skipped"] == ["ok"] * 4 + ["failed"]
    assert len(set(series_in(tmp_path / "out"))) == 5, "four grey series, one in colour for the PET"
    assert tree(source) == before
    captured = capsys.readouterr()
    assert "SECRET" not in captured.out + captured.err + (tmp_path / "out/report.csv").read_text()
    assert "E_PIXEL_DATA" in captured.out


@posix
def test_killed_in_the_middle_of_five_and_run_again(
    ddfm: Callable[..., int],
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL while the third case is being written. The second run makes the rest, and every case once."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        send_myself(signal.SIGKILL, 12, patch)
        assert in_a_process(lambda: ddfm("run", source, "-o", out)) == -signal.SIGKILL
    cases = [path for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")]
    assert len(cases) == 2
    assert len(list(out.glob(".tmp-*"))) == 1, "the kill did not come in the middle of a case"
    assert json.loads((out / "report.json").read_text())["counts"] == {"ok": 2, "pending": 3}
    kept = {case.name: set(series_in(case)) for case in cases}

    assert ddfm("run", source, "-o", out) == ExitCode.DONE
    assert "3 ok, 2 resumed, 0 failed" in capsys.readouterr().out
    assert not list(out.glob(".*"))
    rows = json.loads((out / "report.json").read_text())["cases"]
    found = {}
    for row in rows:
        found[row["case_id"]] = set(series_in(out / row["case_id"]))
        assert found[row["case_id"]] == {output["series_uid"] for output in row["outputs"]}
        assert row["status"] == ("resumed" if row["case_id"] in kept else "ok")
    assert len(set.union(*found.values())) == 5 == len(rows), "a series came twice"
    assert {name: found[name] for name in kept} == kept
    assert len(series_in(out)) == 25


@posix
@pytest.mark.parametrize("signal_name", ["SIGINT", "SIGTERM"])
def test_interrupt_leaves_nothing_half_written(
    ddfm: Callable[..., int], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_name: str
) -> None:
    out = tmp_path / "out"
    send_myself(getattr(signal, signal_name), 7, monkeypatch)
    assert in_a_process(lambda: ddfm("run", source, "-o", out)) == ExitCode.INTERRUPTED
    assert not list(out.glob(".*"))
    assert len([path for path in out.iterdir() if path.is_dir()]) == 1


def test_parts_share_the_work(ddfm: Callable[..., int], source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for part in (0, 1):
        assert ddfm("run", source, "-o", out, "--num-parts", 2, "--part-id", part) == ExitCode.DONE
    rows = [json.loads((out / f"report-{part}-of-2.json").read_text())["cases"] for part in (0, 1)]
    assert [len(part) for part in rows] == [3, 2]
    assert len({row["case_id"] for part in rows for row in part}) == 5
    assert ddfm("run", source, "-o", out) == ExitCode.DONE
    assert json.loads((out / "report.json").read_text())["counts"] == {"resumed": 5, "pending": 0}


def test_dry_run_writes_nothing(ddfm: Callable[..., int], source: Path, tmp_path: Path) -> None:
    assert ddfm("run", source, "-o", tmp_path / "out", "--dry-run") == ExitCode.DONE
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_folder_without_pairs(ddfm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(get_testdata_file("DICOMDIR", download=False)).parent
    assert ddfm("scan", folder) == ExitCode.NOTHING_TO_DO
    assert "S_NO_PARTNER" in capsys.readouterr().out
    assert ddfm("run", folder, "-o", tmp_path / "out") == ExitCode.NOTHING_TO_DO
    rows = json.loads((tmp_path / "out/report.json").read_text())["cases"]
    assert rows
    assert all(row["status"] == "skipped" and row["code"] and row["message"] for row in rows)


def test_ambiguity_is_an_error_with_the_candidates(
    ddfm: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pair(tmp_path / "in", **SMALL)
    series("CT", Layout(**SMALL, series="another", angle=0.0)).save(tmp_path / "in/another")
    assert ddfm("run", tmp_path / "in", "-o", tmp_path / "out") == ExitCode.ALL_FAILED
    printed = capsys.readouterr().out
    assert "S_AMBIGUOUS" in printed
    assert not list(tmp_path.glob("out/P*"))
    assert ddfm("run", tmp_path / "in", "-o", tmp_path / "out", "--select", "all") == ExitCode.DONE
    assert len(list(tmp_path.glob("out/P*"))) == 2


def test_different_frames_need_registration(ddfm: Callable[..., int], tmp_path: Path) -> None:
    layout = {"slices": 8, "slice_spacing": 6.0}
    series("MR", Layout(**layout)).save(tmp_path / "in/mr")
    second = series("CT", Layout(**layout, frame="other", angle=0.0))
    for ds in second.datasets:
        ds.ImagePositionPatient = [float(ds.ImagePositionPatient[0]) + 6, *ds.ImagePositionPatient[1:]]
    second.save(tmp_path / "in/ct")
    assert ddfm("run", tmp_path / "in", "-o", tmp_path / "out") == ExitCode.NOTHING_TO_DO
    assert ddfm("run", tmp_path / "in", "-o", tmp_path / "out", "--strict") == ExitCode.ALL_FAILED
    assert ddfm("run", tmp_path / "in", "-o", tmp_path / "out", "--register", "rigid") == ExitCode.DONE
    (case,) = tmp_path.glob("out/P*")
    assert dcmread(case / "registration.dcm").Modality == "REG"
    assert Image.open(case / "registration.png").size[0] > 900
    (row,) = json.loads((tmp_path / "out/report.json").read_text())["cases"]
    assert row["remarks"][0].startswith("registration: moved by ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scan", "nowhere"], "nowhere"),
        (["run", "in", "-o", "in/out"], "neither inside"),
        (["run", "in", "-o", "out", "--pairs", "none.csv"], "none.csv"),
        (["run", "in", "-o", "out", "--part-id", "1"], "num-parts"),
        (["run", "in", "-o", "out", "--worker-resource", "GPU=1"], "--scheduler"),
        (["run", "in", "-o", "out", "--window", "narrow"], "narrow"),
        (["run", "in", "-o", "out", "--scheduler", "here"], "tcp://HOST:PORT"),
        (["scan", "in", "-o", "in/pairs.csv"], "never written to"),
        (["scan", "in", "-o", "pairs.txt"], ".csv"),
    ],
)
def test_wrong_calls(
    ddfm: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    save_pair(tmp_path / "in", **SMALL)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    assert ddfm(*arguments) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_scan_shows_patients_only_when_asked(
    ddfm: Callable[..., int], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ddfm("scan", source, "--show-phi")
    printed = capsys.readouterr().out
    assert "SECRET3" in printed
    assert "Geheim" in printed


def test_names_that_the_screen_has_no_letters_for_are_no_fault(tmp_path: Path) -> None:
    """A patient's name in a pipe of another code page, and a folder whose name is no UTF-8."""
    folder = tmp_path / os.fsdecode(b"exp\xe4rt") if os.name == "posix" else tmp_path / "export"
    save_pair(folder, **SMALL, patient_name="Müller^Jürgen")
    command = [sys.executable, "-m", "ddfm_monai", "dicom", "scan", str(folder), "--show-phi"]
    for encoding in ("ascii", "utf-8:strict"):
        variables = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, capture_output=True, check=False, env=variables)
        assert done.returncode == ExitCode.DONE, done.stderr
        assert {"ascii": b"M\\xfcller", "utf-8:strict": "Müller".encode()}[encoding] in done.stdout


def test_the_manual_lists_every_code_and_only_those() -> None:
    manual = Path(__file__).parents[2] / "docs/dicom.md"
    if not manual.is_file():
        pytest.skip("docs/dicom.md is not part of this copy")
    rows = [
        line for line in manual.read_text(encoding="utf-8").splitlines() if line.startswith(("| `E_", "| `S_", "| `W_"))
    ]
    assert rows == [f"| `{code}` | {text.what} | {text.remedy} |" for code, text in EXPLANATIONS.items()]
