"""What the command says: its help, the version, completion, and nothing at all when asked to be quiet."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from ddfm_monai.cli.host import in_lines
from ddfm_monai.cli.main import run
from ddfm_monai.fusion.pipeline import fuse_volumes
from ddfm_monai.phantom import write_phantom
from ddfm_monai.priors import Prior
from ddfm_monai.volumes import read_source
from ddfm_monai.volumes.registration import look_at_alignment

COMMANDS = [
    "fuse", "demo", "evaluate", "dicom scan", "dicom run", "dicom wrap", "prior list", "prior info", "prior download",
    "bundle path", "view",
]  # fmt: skip
GROUPS = ["", "dicom", "prior", "bundle"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")


@pytest.mark.parametrize("command", COMMANDS + GROUPS)
def test_help_fits_80_columns_and_shows_examples(
    command: str, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command.split(), "-h"]) == 0
    short = capsys.readouterr().out
    assert run([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out == short
    assert max(map(len, short.splitlines())) <= 80
    assert "<bool>" not in short and "hains to draw" not in short and "EM step" not in short
    assert (f"  ddfm {command} " in short or f"  ddfm {command}\n" in short) == (command in COMMANDS)


@pytest.mark.parametrize("flag", ["--version", "-V", "-v"])
def test_the_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([flag]) == 0
    assert capsys.readouterr().out.startswith("ddfm-monai ")


def test_completion_knows_commands_and_choices() -> None:
    def complete(words: str) -> str:
        code = "import sys; sys.argv[0] = 'ddfm'; from ddfm_monai.cli.main import main; main()"
        env = {
            **os.environ,
            "_DDFM_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split())),
        }
        return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False).stdout

    assert "fuse" in complete("ddfm ").split()
    assert {"none", "rigid", "same-patient", "trust"} <= set(complete("ddfm fuse a b --register ").split())


def test_quiet_says_doubts_only_and_verbose_says_more(
    pair: tuple[Path, Path], tiny_prior_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["fuse", str(pair[0]), str(pair[1]), "--prior", str(tiny_prior_path), "--steps", "1"]
    assert run([*words, "-o", str(tmp_path / "a.nii.gz"), "--quiet"]) == 0
    assert capfd.readouterr() == ("", "")
    assert run([*words, "-o", str(tmp_path / "b.nii.gz")]) == 0
    plain = capfd.readouterr().err
    assert "together: the reference's grid, 56 x 64 x 6" in plain and "1 fused" in plain and "model:" not in plain
    assert run([*words, "-o", str(tmp_path / "c.nii.gz"), "-v"]) == 0
    assert "model: tiny" in capfd.readouterr().err
    swapped = ["fuse", str(pair[1]), str(pair[0]), *words[3:], "-o", str(tmp_path / "d.nii.gz"), "-q"]
    assert run(swapped) == 0
    assert "W_ORDER" in capfd.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_sentences_break_between_words_on_a_terminal_and_nowhere_else(narrow: None) -> None:
    path = "/a/very-long-path/that-has-hyphens/" + "x" * 90 + ".nii.gz"
    text = f"{path}: already exists, and is another result than the one that is asked for. Choose another output."
    lines = in_lines(text, Terminal()).splitlines()
    assert lines[0] == f"{path}:" and len(lines) > 2 and max(map(len, lines[1:])) <= 80
    assert " ".join(lines) == text
    assert in_lines(text, io.StringIO()) == text


# --- doubts about the pair -------------------------------------------------------------------------------------------


def moved(volume: MetaTensor, shift: float, degrees: float) -> MetaTensor:
    """The same voxels elsewhere in space: turned about the middle of the volume, then shifted."""
    affine = volume.affine.numpy()
    centre = (affine @ np.append((np.array(volume.shape[1:]) - 1) / 2, 1))[:3]
    turn = Rotation.from_rotvec(np.radians(degrees) * np.array([0.48, 0.6, 0.64])).as_matrix()
    motion = np.eye(4)
    motion[:3, :3] = turn
    motion[:3, 3] = centre - turn @ centre + shift * np.array([0.6, 0.64, 0.48])
    return MetaTensor(volume.as_tensor(), affine=torch.from_numpy(motion @ affine), meta=dict(volume.meta))


@pytest.mark.parametrize("second", ["ct", "pet"])
def test_a_moved_second_is_doubtful_and_an_aligned_one_is_not(second: str, tmp_path: Path) -> None:
    files = write_phantom(tmp_path, resolution=3.0, slice_distance=5.0)
    mri, other = read_source(files.mri, "reference").grey, read_source(getattr(files, second), "second").grey
    aligned = look_at_alignment(mri, other)
    assert aligned is not None and not aligned.is_doubtful and aligned.apart_mm < 5 and aligned.gain < 0.06
    for shift, degrees in ((11, 8), (20, 0), (0, 15)):
        found = look_at_alignment(mri, moved(other, shift, degrees))
        assert found is not None and found.is_doubtful, (shift, degrees, found)
    assert look_at_alignment(mri[..., :2], other) is None


def test_doubtful_alignment_is_told_before_the_work_and_kept(
    tiny_prior_path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = write_phantom(tmp_path, resolution=4.0, slice_distance=10.0)
    image = nib.load(files.ct)
    affine = image.affine.copy()
    affine[:3, 3] += (12, 10, 0)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), tmp_path / "moved_ct.nii.gz")
    words = ["fuse", str(files.mri), str(tmp_path / "moved_ct.nii.gz"), "--prior", str(tiny_prior_path), "--steps", "1"]
    assert run([*words, "-o", str(tmp_path / "x.nii.gz"), "--dry-run"]) == 0
    assert "W_ALIGNMENT_DOUBTFUL" in capfd.readouterr().err
    assert run([*words, "-o", str(tmp_path / "x.nii.gz"), "--register", "trust"]) == 0
    assert "W_ALIGNMENT_DOUBTFUL" not in capfd.readouterr().err  # somebody vouched for it


def test_one_image_twice_is_noticed_however_it_is_stored(pair: tuple[Path, Path], tiny_prior: Prior) -> None:
    first = pair[0]
    copy, link, other_format = (first.with_name(name) for name in ("copy.nii.gz", "link.nii.gz", "plain.nii"))
    copy.write_bytes(first.read_bytes())
    link.symlink_to(first)
    nib.save(nib.load(first), other_format)
    for second in (first, copy, link, other_format):
        result = fuse_volumes(first, second, prior=tiny_prior, steps=1, second_kind="mr")
        assert [text for text in result.provenance["warnings"] if "W_SAME_SOURCE" in text], second
    assert fuse_volumes(*pair, prior=tiny_prior, steps=1).provenance["warnings"] == []


def test_exchanged_sources_are_remarked_on_unless_meant(pair: tuple[Path, Path], tiny_prior: Prior) -> None:
    def said(**settings: str) -> str:
        return " ".join(fuse_volumes(pair[1], pair[0], prior=tiny_prior, steps=1, **settings).provenance["warnings"])

    assert "W_ORDER" in said()
    assert "W_ORDER" not in said(reference_kind="ct")
