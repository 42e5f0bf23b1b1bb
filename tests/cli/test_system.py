"""What the operating system refuses: each a sentence that says what to do, before the work where it can be known."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom.synthetic import save_pair
from safetensors.torch import save_file

from ddfm_monai.cli.main import run
from ddfm_monai.errors import SystemFailure, UsageError
from ddfm_monai.files import atomic_group, atomic_path, check_folder_takes_files
from ddfm_monai.priors import SliceUNet, load_prior
from ddfm_monai.volume import make_volume
from ddfm_monai.volumes import write_volume
from ddfm_monai.volumes.registration.result import Evidence, Registration


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own, where this process may mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "full", "size=100k") as folder:
        yield folder


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "ro", "ro") as folder:
        yield folder


@pytest.fixture
def in_the_way(tmp_path: Path) -> Path:
    (tmp_path / "a file").write_text("in the way")
    return tmp_path / "a file"


@pytest.fixture
def sources(tmp_path: Path, pair: tuple[Path, Path], tiny_prior_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_pair(tmp_path / "export", slices=5, rows=40, columns=36)
    monkeypatch.chdir(tmp_path)
    for path, name in zip(pair, ("mri.nii.gz", "ct.nii.gz"), strict=True):
        path.rename(tmp_path / name)
    shutil.copy("mri.nii.gz", "fused.nii.gz")
    return tiny_prior_path


COMMANDS = {
    "fuse": "fuse mri.nii.gz ct.nii.gz -o {}/f.nii.gz --prior {prior} --steps 1",
    "fuse to a new folder": "fuse mri.nii.gz ct.nii.gz -o {}/new/f.nrrd --prior {prior} --steps 1",
    "fuse --json": "fuse mri.nii.gz ct.nii.gz -o {}/f.nii.gz --prior {prior} --steps 1 --json",
    "fuse DICOM": "fuse export/mr export/ct -o {}/out --prior {prior} --steps 1",
    "scan": "dicom scan export -o {}/pairs.csv",
    "run": "dicom run export -o {}/out --prior {prior} --steps 1",
    "evaluate": "evaluate fused.nii.gz mri.nii.gz ct.nii.gz --csv {}/table.csv",
    "demo": "demo {}/demo",
    "download": "prior download imagenet256",
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("state", ["full_disk", "read_only_disk", "in_the_way"])
def test_an_output_that_cannot_be_made_is_refused_before_the_work(
    name: str,
    state: str,
    sources: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    place = request.getfixturevalue(state)
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    before = sorted(place.iterdir()) if place.is_dir() else place.read_text()
    code = run([word.format(place.name, prior=sources) for word in COMMANDS[name].split()])
    out, err = capfd.readouterr()
    assert code == 2, err
    expected = {"full_disk": "no space left", "read_only_disk": "read-only", "in_the_way": "a folder is needed"}[state]
    assert expected in err and "Traceback" not in err and str(place.name) in err
    assert "reference:" not in err and "2 volumes" not in out
    assert (sorted(place.iterdir()) if place.is_dir() else place.read_text()) == before


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The system takes no more than so many bytes of a file, as on a full disk: what nobody could know beforehand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("name", "size"), [("fuse", 20_000), ("fuse DICOM", 2_000), ("scan", 300), ("run", 2_000)])
def test_a_disk_that_gets_full_leaves_nothing_half_written(
    name: str, size: int, sources: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = COMMANDS[name].format("new", prior=sources).split()
    with no_file_above(size):
        code = run(arguments)
    _, err = capfd.readouterr()
    assert code == 5 and "Traceback" not in err
    assert "larger than is allowed" in err or "File too large" in err
    left = {path.name for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert left <= {"report.json", "report.csv"} | {name for name in left if name.endswith(".log")}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha", ".png"])
def test_every_format_says_that_the_disk_is_full(suffix: str, full_disk: Path) -> None:
    noise = np.random.default_rng(0).random((1, 400, 300, 1 if suffix == ".png" else 4), np.float32)
    with pytest.raises(SystemFailure, match=r"fused.*no space left") as caught:
        write_volume(make_volume(noise, np.eye(4)), full_disk / f"fused{suffix}")
    assert caught.value.code == "E_DISK" and ".ddfm-" not in str(caught.value)
    assert list(full_disk.iterdir()) == []


def test_a_transform_that_did_not_get_onto_the_disk_is_no_transform(full_disk: Path) -> None:
    (full_disk / "filling").write_bytes(b"0" * (os.statvfs(full_disk).f_bavail * os.statvfs(full_disk).f_bsize))
    found = Registration(np.eye(4), np.zeros(3), 0.0, False, "sure", Evidence(*[1.0] * 3, 5, 5, *[1.0] * 4), ())
    with pytest.raises(SystemFailure, match="no space left"):
        found.save(full_disk / "fused.tfm")
    assert [path.name for path in full_disk.iterdir()] == ["filling"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_without_permission(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o500)
    shutil.copy("ct.nii.gz", "secret.nii.gz")
    Path("secret.nii.gz").chmod(0)
    words = COMMANDS["fuse"].format("theirs", prior=sources), COMMANDS["fuse"].format(".", prior=sources)
    code = "import sys; from ddfm_monai.cli.main import run; print([run(words.split('|')) for words in sys.argv[1:]])"
    command = [sys.executable, "-c", code, "|".join(words[0].split())]
    command += ["|".join(words[1].replace("ct.nii.gz", "secret.nii.gz").split())]
    if os.getuid() == 0:  # who may do everything has no permission to lack
        if shutil.which("setpriv") is None:
            pytest.skip("root needs setpriv to lay its powers down")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1].count("2") == 2, done.stderr
    assert "in theirs: you have no permission" in done.stderr and "'secret.nii.gz' is not readable" in done.stderr


def test_lack_of_memory_is_said_to_be_that(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def hungry(*arguments: object, **named: object) -> torch.Tensor:
        return torch.empty(1 << 50)  # torch's own refusal, in its own words

    words = COMMANDS["fuse"].format(".", prior=sources).split()
    for place in ("load_state_dict", "forward"):
        with monkeypatch.context() as patch:
            patch.setattr(SliceUNet, place, hungry)
            code = run(words)
        _, err = capfd.readouterr()
        assert code == 5 and "memory of this computer" in err and "do not fit" not in err and "Traceback" not in err
        assert not (tmp_path / "f.nii.gz").exists()
    assert run(words) == 0


def test_weights_without_their_configuration(sources: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(sources, "alone.safetensors")
    code = run(["fuse", "mri.nii.gz", "ct.nii.gz", "-o", "f.nii.gz", "--prior", "alone.safetensors"])
    _, err = capfd.readouterr()
    assert code == 2 and "alone.safetensors" in err and "alone.json" in err and "reference:" not in err


def test_weights_of_another_network_are_still_said_not_to_fit(sources: Path, tmp_path: Path) -> None:
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    card = json.loads(sources.with_suffix(".json").read_text())
    (tmp_path / "other.json").write_text(json.dumps({**card, "sha256": ""}))
    with pytest.raises(UsageError, match="do not fit"):
        load_prior(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("output", "words"),
    [("f.png", "holds one slice"), ("f.xyz", ".nii.gz"), ("folder", "Name the file"), ("f", ".nii.gz")],
)
def test_an_output_of_the_wrong_type_is_refused_before_the_fusion(
    output: str, words: str, sources: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("was fused")

    Path("folder").mkdir()
    monkeypatch.setattr("ddfm_monai.fusion.many.fuse_volumes", never)
    code = run(["fuse", "mri.nii.gz", "ct.nii.gz", "-o", output, "--prior", str(sources)])
    _, err = capfd.readouterr()
    assert code == 2 and words in err, err


def test_a_fault_of_the_program_quotes_no_header(
    sources: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*arguments: object, **named: object) -> None:
        raise KeyError("^".join(("DOE", "JANE")))

    monkeypatch.setattr("ddfm_monai.fusion.many.fuse_volumes", faulty)
    words = COMMANDS["fuse"].format(".", prior=sources).split()
    assert run(words) == 1
    _, err = capfd.readouterr()
    assert "DOE^JANE" not in err and "KeyError" in err and "test_system.py" in err and "--show-phi" in err
    assert run([*words, "--json"]) == 1
    assert "DOE^JANE" not in "".join(capfd.readouterr())
    assert run(["--show-phi", *words]) == 1
    assert "DOE^JANE" in capfd.readouterr().err


def test_what_a_folder_takes(tmp_path: Path, in_the_way: Path) -> None:
    check_folder_takes_files(tmp_path / "not" / "there" / "yet")
    with pytest.raises(UsageError, match="a folder is needed"):
        check_folder_takes_files(in_the_way / "below")
    with pytest.raises(UsageError, match="no space left"):
        check_folder_takes_files(tmp_path, shutil.disk_usage(tmp_path).total + 1)


@pytest.mark.parametrize("maker", [atomic_path, atomic_group])
def test_an_error_of_another_file_keeps_its_name(maker: Callable[..., object], tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match=r"elsewhere\.txt"), maker(tmp_path / "target"):
        (tmp_path / "elsewhere.txt").read_text()
