"""``ddfm fuse`` as a user meets it: a process, its files, its words and its exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicom.synthetic import save_pair
from PIL import Image
from pydicom import dcmread

from ddfm_monai.cli.main import run
from ddfm_monai.volumes import read_volume, write_volume


@dataclass
class Done:
    """What a finished command leaves, as of a process."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def ddfm(tiny_prior_path, tmp_path, monkeypatch, capfd):
    """Run the command in this process (starting one for each test would take minutes), in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        words = [str(argument) for argument in arguments]
        if words[0] == "fuse":
            words += ["--prior", str(tiny_prior_path), "--steps", "2"]
        capfd.readouterr()
        code = run(words)
        return Done(code, *capfd.readouterr())

    return call


def test_as_a_process(pair, tiny_prior_path, tmp_path):
    command = [sys.executable, "-m", "ddfm_monai", "fuse", *pair, "-o", tmp_path / "fused.nii.gz"]
    done = subprocess.run([*command, "--prior", tiny_prior_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "fused.nii.gz" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "--overwrite" in again.stderr and "Traceback" not in again.stderr


def files_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_two_files_give_volume_json_and_picture(ddfm, pair, tmp_path):
    before = [path.read_bytes() for path in pair]
    done = ddfm("fuse", *pair, "-o", "out/fused.nii.gz")
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "out") == {"fused.nii.gz", "fused.json", "fused.png"}
    fused, reference = nib.load(tmp_path / "out/fused.nii.gz"), nib.load(pair[0])
    assert fused.shape == reference.shape and np.allclose(fused.affine, reference.affine, atol=1e-5)
    other = sitk.ReadImage(str(tmp_path / "out/fused.nii.gz"))
    assert np.allclose(other.GetSpacing(), nib.affines.voxel_sizes(reference.affine), atol=1e-5)
    assert "diagnostic" in json.loads((tmp_path / "out/fused.json").read_text())["notice"]
    assert Image.open(tmp_path / "out/fused.png").width > 300
    assert [path.read_bytes() for path in pair] == before


def test_check_writes_a_map_beside_the_result(ddfm, pair, tmp_path):
    done = ddfm("fuse", *pair, "-o", "fused.nii.gz", "--check")
    assert done.returncode == 0, done.stderr
    assert "fused_check.nii.gz" in done.stdout and "of the head flagged" in done.stderr
    flags, fused = nib.load(tmp_path / "fused_check.nii.gz"), nib.load(tmp_path / "fused.nii.gz")
    assert flags.shape == fused.shape and np.allclose(flags.affine, fused.affine)
    values = np.asarray(flags.dataobj)
    assert set(np.unique(values)) <= {0, 1, 2, 3}
    shares = json.loads((tmp_path / "fused.json").read_text())["check"]
    assert set(shares) == {"flagged", "invented", "missing", "detail"}
    assert (shares["flagged"] > 0) == bool(values.any())
    again = ddfm("fuse", *pair, "-o", "fused.nii.gz", "--check")
    assert again.returncode == 2 and "--overwrite" in again.stderr


def test_check_of_pictures_and_of_dicom(ddfm, tmp_path):
    for seed, name in enumerate("ab"):
        levels = np.random.default_rng(seed).integers(20, 200, (40, 52), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{name}.png")
    done = ddfm("fuse", "a.png", "b.png", "-o", "f.png", "--check")
    assert done.returncode == 0, done.stderr
    assert set(np.unique(np.asarray(Image.open(tmp_path / "f_check.png")))) <= {0, 85, 170, 255}
    save_pair(tmp_path / "dicom")
    refused = ddfm("fuse", "dicom/mr", "dicom/ct", "-o", "series", "--check")
    assert refused.returncode == 2 and "--check" in refused.stderr


def test_nrrd_in_mha_out(ddfm, pair, tmp_path):
    for path, name in zip(pair, ("a.nrrd", "b.mha"), strict=True):
        write_volume(read_volume(path), tmp_path / name)
    done = ddfm("fuse", "a.nrrd", "b.mha", "-o", "fused.mha", "--second-kind", "ct", "--window", "bone")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "fused.json").read_text())["second"]["scaling"]["low"] == -500
    assert np.allclose(read_volume(tmp_path / "fused.mha").affine, nib.load(pair[0]).affine, atol=1e-4)


def test_folders_match_by_name_and_pictures_stay_pictures(ddfm, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        for folder, shape in (("visible", (40, 52, 3)), ("infrared", (40, 52))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / folder / f"{name}.png")
    Image.fromarray(rng.integers(0, 256, (40, 52), dtype=np.uint8)).save(tmp_path / "visible" / "alone.png")
    done = ddfm("fuse", "visible", "infrared", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert files_in(tmp_path / "out") == {"index.html", "one.png", "one.json", "two.png", "two.json"}
    picture = Image.open(tmp_path / "out/one.png")
    assert picture.mode == "RGB" and picture.size == (52, 40)


LEFT_OUT = [
    "a: 2 of 4 files left out, because b has no file of the same name: lone.png, old[b].png",
    "b: 1 of 3 files left out, because a has no file of the same name: other.png",
]


@pytest.fixture
def folders(tmp_path):
    """Two folders of pictures with two names in common; the rest is as LEFT_OUT says."""
    rng = np.random.default_rng(0)
    for folder, names in (("a", ("one", "two", "lone", "old[b]")), ("b", ("one", "two", "other"))):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(rng.integers(0, 256, (40, 52), dtype=np.uint8)).save(tmp_path / folder / f"{name}.png")
    return "a", "b"


def test_files_without_a_partner_are_named(ddfm, folders, tmp_path):
    done = ddfm("fuse", *folders, "-o", "out")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "left out" in line] == LEFT_OUT
    assert files_in(tmp_path / "out") == {"index.html", "one.png", "one.json", "two.png", "two.json"}


def test_a_program_is_warned_of_files_without_a_partner(ddfm, folders):
    done = ddfm("fuse", *folders, "-o", "out", "--json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(e["level"], e["message"]) for e in events if e["event"] == "log"] == [("warning", x) for x in LEFT_OUT]
    assert [e["event"] for e in events].count("result") == 2


def test_grey_pictures_give_a_grey_picture(ddfm, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (33, 47), dtype=np.uint8)).save(tmp_path / name)
    assert ddfm("fuse", "a.png", "b.png", "-o", "c.png").returncode == 0
    assert Image.open(tmp_path / "c.png").mode == "L"


@pytest.fixture
def three(pair, tmp_path):
    """Folders ``a`` and ``b`` with three pairs."""
    for folder, source in (("a", pair[0]), ("b", pair[1])):
        (tmp_path / folder).mkdir()
        for name in ("p1", "p2", "p3"):
            shutil.copy(source, tmp_path / folder / f"{name}.nii.gz")


def test_one_broken_pair_of_three_is_named_and_the_others_are_fused(ddfm, three, tmp_path):
    broken = tmp_path / "b" / "p2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:2000])
    done = ddfm("fuse", "a", "b", "-o", "out")
    assert done.returncode == 4
    assert "p2.nii.gz" in done.stderr.replace("\n", "")
    assert {name for name in files_in(tmp_path / "out") if name.endswith(".nii.gz")} == {"p1.nii.gz", "p3.nii.gz"}


def test_a_program_is_told_of_every_pair_in_order(ddfm, three, tmp_path):
    broken = tmp_path / "a" / "p2.nii.gz"
    broken.write_bytes(b"")
    done = ddfm("fuse", "a", "b", "-o", "out", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    told = [e.get("message") or e["outputs"]["fused"] for e in events if e["event"] in ("result", "error")]
    assert [name for text in told for name in ("p1", "p2", "p3") if f"{name}.nii.gz" in text] == ["p1", "p2", "p3"]


def test_an_interrupted_folder_keeps_the_pairs_that_are_done(three, tiny_prior_path, tmp_path):
    command = [sys.executable, "-m", "ddfm_monai", "fuse", "a", "b", "-o", "out", "--json"]
    command += ["--prior", tiny_prior_path, "--steps", "100"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    done = []
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "result":
            done.append(event["outputs"])
            if len(done) == 1:
                os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and 1 <= len(done) < 3
    assert files_in(tmp_path / "out") - {"index.html"} == {
        Path(path).name for outputs in done for path in outputs.values()
    }


def test_nothing_in_common_is_nothing_to_do(ddfm, pair, tmp_path):
    for folder, name in (("a", "x.nii.gz"), ("b", "y.nii.gz")):
        (tmp_path / folder).mkdir()
        shutil.copy(pair[0], tmp_path / folder / name)
    done = ddfm("fuse", "a", "b", "-o", "out")
    assert done.returncode == 3
    assert "x.nii.gz" in done.stderr and "y.nii.gz" in done.stderr and "nothing to do" in done.stderr


def test_wrong_use(ddfm, pair, tmp_path):
    for arguments, words in [
        (("fuse", pair[0], "missing.nii.gz", "-o", "f.nii.gz"), "missing.nii.gz: no such file"),
        (("fuse", *pair, "-o", "f.xyz"), ".nii.gz"),
        (("fuse", *pair, "-o", pair[0], "--overwrite"), "never written to"),
        (("fuse", *pair, "-o", "f.nii.gz", "--window", "40"), "window"),
        (("fuse", *pair, "-o", "f.nii.gz", "--second-kind", "xray"), "xray"),
        (("fuse", *pair, "-o", "f.nii.gz", "--no-such-option"), "no-such-option"),
        (("fuse", pair[0]), "second"),
        (("fuse", tmp_path, pair[1], "-o", "f.nii.gz"), "Give two of a kind"),
    ]:
        done = ddfm(*arguments)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in " ".join(done.stderr.split()), (arguments, done.stderr)
        assert files_in(tmp_path) == {path.name for path in pair}


def test_results_are_not_overwritten_unless_asked(ddfm, pair, tmp_path):
    (tmp_path / "fused.json").write_text("precious")
    done = ddfm("fuse", *pair, "-o", "fused.nii.gz")
    assert done.returncode == 2 and "--overwrite" in done.stderr
    assert (tmp_path / "fused.json").read_text() == "precious"
    assert ddfm("fuse", *pair, "-o", "fused.nii.gz", "--overwrite").returncode == 0


def _image(array, affine=None) -> nib.Nifti1Image:
    return nib.Nifti1Image(array, np.eye(4) if affine is None else affine)


NOISE = np.random.default_rng(0).normal(0, 100, (20, 20, 4)).astype(np.float32)
BAD = {
    "nan": lambda p: nib.save(_image(np.where(NOISE > 200, np.nan, NOISE)), p),
    "infinite": lambda p: nib.save(_image(np.where(NOISE > 200, np.inf, NOISE)), p),
    "constant": lambda p: nib.save(_image(np.ones((20, 20, 4), np.float32)), p),
    "2-D": lambda p: nib.save(_image(NOISE[..., 0]), p),
    "4-D": lambda p: nib.save(_image(np.stack([NOISE, NOISE], -1)), p),
    "complex": lambda p: nib.save(_image(NOISE.astype(np.complex64)), p),
    "empty": lambda p: p.write_bytes(b""),
    "no image": lambda p: p.write_text("this is a letter, not an image"),
    "elsewhere": lambda p: nib.save(
        _image(NOISE, np.array([[1, 0, 0, 900], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])), p
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_named_and_leave_nothing(kind, ddfm, pair, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    BAD[kind](bad)
    before = files_in(tmp_path)
    done = ddfm("fuse", pair[0], bad, "-o", "fused.nii.gz")
    assert done.returncode == 5, done.stderr
    assert "bad.nii.gz" in done.stderr
    assert "Traceback" not in done.stderr
    assert files_in(tmp_path) == before


def test_pictures_of_different_sizes(ddfm, tmp_path):
    for name, size in (("a.png", (30, 40)), ("b.png", (40, 40))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)).save(tmp_path / name)
    done = ddfm("fuse", "a.png", "b.png", "-o", "c.png")
    assert done.returncode == 5 and "b.png" in done.stderr
    assert files_in(tmp_path) == {"a.png", "b.png"}


def test_json_lines_end_in_a_result_that_names_the_files(ddfm, pair, tmp_path):
    done = ddfm("fuse", *pair, "-o", "fused.nii.gz", "--json", "--samples", "2")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "hello" and events[-1]["event"] == "result"
    assert all((tmp_path / path).is_file() for path in events[-1]["outputs"].values())
    assert {"fused", "provenance", "preview", "uncertainty"} == events[-1]["outputs"].keys()
    failed = ddfm("fuse", pair[0], "nowhere.nii.gz", "-o", "x.nii.gz", "--json")
    assert json.loads(failed.stdout.splitlines()[-1])["exit_code"] == failed.returncode == 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_in_the_middle_leaves_nothing(sent, pair, tiny_prior_path, tmp_path):
    command = [sys.executable, "-m", "ddfm_monai", "fuse", *pair, "-o", "out/fused.nii.gz", "--json"]
    command += ["--prior", tiny_prior_path, "--steps", "300"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    for line in process.stdout:
        if json.loads(line).get("stage") == "fuse":
            os.kill(process.pid, sent)
            break
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted: nothing half-written" in said
    assert files_in(tmp_path) == {path.name for path in pair}


def test_the_json_of_a_source_is_never_written_to(ddfm, pair, tmp_path):
    sidecar = tmp_path / pair[0].name.replace(".nii.gz", ".json")
    sidecar.write_text('{"Modality": "MR"}')
    done = ddfm("fuse", *pair, "-o", sidecar.with_suffix(".nrrd"), "--overwrite")
    assert done.returncode == 2 and f"is the JSON of {pair[0].name}" in done.stderr
    assert sidecar.read_text() == '{"Modality": "MR"}' and not sidecar.with_suffix(".nrrd").exists()


def test_a_name_that_no_file_system_takes_is_refused_before_the_work(ddfm, pair, tmp_path):
    done = ddfm("fuse", *pair, "-o", "n" * 250 + ".nii.gz", "--dry-run")
    assert done.returncode == 2 and "257 bytes long" in done.stderr and "together" not in done.stderr
    assert ddfm("fuse", *pair, "-o", "n" * 238 + ".nii.gz").returncode == 0


def test_with_nothing_to_do_a_program_hears_why(ddfm, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.nii.gz").write_bytes(b"x")
    events = [json.loads(line) for line in ddfm("fuse", "scans", "-o", "out", "--json").stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["code"], events[-1]["exit_code"]) == ("error", "E_NOTHING_TO_DO", 3)
    assert ddfm("fuse", "scans", "-o", "out", "--quiet").stderr.endswith("no two files make a pair; nothing to do.\n")


def test_help_needs_no_torch():
    code = "import sys; from ddfm_monai.cli.main import run; print(run(['--help']), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("0 False\n")


def test_prior_list_and_info(ddfm, tiny_prior_path):
    listed = {line.split()[0]: line for line in ddfm("prior", "list").stdout.splitlines() if line[1:2].strip()}
    assert "(default)" in listed["open"] and "Apache-2.0" in listed["open"]
    assert "Research only" in listed["medical"] and "imagenet256" in listed
    assert json.loads(ddfm("prior", "info", tiny_prior_path).stdout)["architecture"] == "SliceUNet"
    unknown = ddfm("prior", "info", "nothing")
    assert unknown.returncode == 2 and "imagenet256" in unknown.stderr


def test_two_dicom_series_give_a_volume_or_a_series(ddfm, tmp_path):
    save_pair(tmp_path / "export", slices=5, rows=40, columns=36)
    mr, ct = tmp_path / "export" / "mr", tmp_path / "export" / "ct"
    done = ddfm("fuse", mr, ct, "-o", "fused.nii.gz")
    assert done.returncode == 0, done.stderr
    assert nib.load(tmp_path / "fused.nii.gz").shape == (36, 40, 5)
    done = ddfm("fuse", mr, ct, "-o", "fused_series")
    assert done.returncode == 0, done.stderr
    written = [dcmread(path) for path in (tmp_path / "fused_series").rglob("*.dcm")]
    assert len(written) == 5
    assert {ds.Modality for ds in written} == {"MR"} and all("FUSED" in ds.ImageType for ds in written)


def test_an_ending_without_a_name_is_no_file_to_write(ddfm, pair, tmp_path):
    done = ddfm("fuse", *pair, "-o", tmp_path / ".nii.gz")
    assert done.returncode == 2 and "Name the file: fused.nii.gz" in done.stderr
    assert not (tmp_path / ".nii.gz").exists()


@pytest.mark.parametrize("folder", [".", "", "/"])
def test_a_folder_without_a_name_is_no_file_to_write_or_look_at(ddfm, pair, folder):
    done = ddfm("fuse", *pair, "-o", folder)
    assert done.returncode == 2 and "is a folder. Name the file" in done.stderr and "fused.nii.gz" in done.stderr
    done = ddfm("view", folder)
    assert done.returncode == 2 and "is a folder" in done.stderr
