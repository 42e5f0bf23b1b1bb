"""``ddfm fuse`` on folders: which files make a pair, what a rerun keeps, and two runs at one output."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.cli.main import run
from ddfm_monai.errors import UsageError
from ddfm_monai.fusion import many
from ddfm_monai.fusion.pairs import find_pairs, pairs_of_cases
from ddfm_monai.fusion.pipeline import FusionResult, fuse_volumes
from ddfm_monai.lock import target_locks

Ddfm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ddfm(
    tiny_prior_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Ddfm:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = run(["fuse", *map(str, arguments), "--prior", str(tiny_prior_path), "--steps", "1"])
        return code, *capfd.readouterr()

    return call


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def named(pairs: list) -> set[tuple[str, str, str]]:
    return {(pair.stem, pair.reference.name, pair.second.name) for pair in pairs}


LAYOUTS = {
    "names with the modality": (
        ["sub01_mri.nii.gz", "sub01_ct.nii.gz", "sub02-T1.nii.gz", "sub02-CT.nii.gz", "sub03_mri.nii.gz"],
        {("sub01", "sub01_mri.nii.gz", "sub01_ct.nii.gz"), ("sub02", "sub02-T1.nii.gz", "sub02-CT.nii.gz")},
        {"sub03_mri.nii.gz"},
    ),
    "a folder for each case": (
        ["a/mri.nii.gz", "a/ct.nii.gz", "b/mri.nrrd", "b/pet.nii.gz", "c/ct.nii.gz", "d/notes.txt"],
        {("a", "mri.nii.gz", "ct.nii.gz"), ("b", "mri.nrrd", "pet.nii.gz")},
        {"ct.nii.gz"},
    ),
    "several of a case": (
        ["a/t1.nii.gz", "a/flair.nii.gz", "a/ct_bone.nii.gz", "a/pet.nii.gz"],
        {("a_ct_bone", "t1.nii.gz", "ct_bone.nii.gz"), ("a_pet", "t1.nii.gz", "pet.nii.gz")},
        {"flair.nii.gz"},
    ),
    "no telling which MR": (
        ["a/mri_1.nii.gz", "a/mri_2.nii.gz", "a/ct.nii.gz"],
        set(),
        {"mri_1.nii.gz", "mri_2.nii.gz", "ct.nii.gz"},
    ),
    "BIDS": (
        [
            "dataset_description.json",
            "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz",
            "sub-01/ses-1/pet/sub-01_ses-1_trc-FDG_pet.nii.gz",
            "sub-01/ses-2/pet/sub-01_ses-2_trc-FDG_pet.nii.gz",
            "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz",
        ],
        {("sub-01_ses-1", "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-1_trc-FDG_pet.nii.gz")},
        {"sub-01_ses-1_FLAIR.nii.gz", "sub-01_ses-2_trc-FDG_pet.nii.gz"},
    ),
    "a folder for each modality": (
        ["mri/p1.nii.gz", "mri/p2.nii.gz", "ct/p1.nii.gz", "ct/p3.nii.gz"],
        {("p1", "p1.nii.gz", "p1.nii.gz")},
        {"p2.nii.gz", "p3.nii.gz"},
    ),
    "masks and labels are no images": (
        ["a/mri.nii.gz", "a/ct.nii.gz", "a/ct_mask.nii.gz", "a/mri.seg.nrrd", "b/mri_masked.nii.gz", "b/ct.nii.gz"],
        {("a", "mri.nii.gz", "ct.nii.gz"), ("b", "mri_masked.nii.gz", "ct.nii.gz")},
        {"ct_mask.nii.gz", "mri.seg.nrrd"},
    ),
    "BIDS with masks": (
        ["sub-1/anat/sub-1_T1w.nii.gz", "sub-1/anat/sub-1_T1w_label-GM_probseg.nii.gz", "sub-1/pet/sub-1_pet.nii.gz",
         "sub-1/pet/sub-1_desc-brain_mask.nii.gz"],
        {("sub-1", "sub-1_T1w.nii.gz", "sub-1_pet.nii.gz")},
        {"sub-1_T1w_label-GM_probseg.nii.gz", "sub-1_desc-brain_mask.nii.gz"},
    ),
    "pictures beside volumes, as results have them": (
        ["a_mri.nii.gz", "a_mri.png", "a_mri.json", "a_ct.nii.gz"],
        {("a", "a_mri.nii.gz", "a_ct.nii.gz")},
        set(),
    ),
    "patients called pt": (
        ["pt_12_mri.nii.gz", "pt_12_ct.nii.gz", "pt_13_mri.nii.gz"],
        {("pt_12", "pt_12_mri.nii.gz", "pt_12_ct.nii.gz")},
        {"pt_13_mri.nii.gz"},
    ),
}  # fmt: skip


def test_two_volumes_of_one_name_are_refused(tmp_path: Path) -> None:
    for names in (("a.nii", "a.nrrd"), ("a.png", "a.jpg")):
        folder = touch(tmp_path / names[1], *names)
        with pytest.raises(UsageError, match="Keep one"):
            find_pairs(folder, folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_folder_of_cases(layout: str, tmp_path: Path) -> None:
    files, expected, left_out = LAYOUTS[layout]
    pairs, rest = pairs_of_cases(touch(tmp_path / "cases", *files))
    assert named(pairs) == expected
    assert {path.name for item in rest for path in item.files} == left_out


def test_the_kind_of_the_second_chooses(tmp_path: Path) -> None:
    touch(tmp_path, "a/t1.nii.gz", "a/t2.nii.gz", "a/ct.nii.gz", "a/pet.nii.gz")
    assert named(pairs_of_cases(tmp_path, "auto", "pet")[0]) == {("a", "t1.nii.gz", "pet.nii.gz")}
    assert named(pairs_of_cases(tmp_path, "auto", "mr")[0]) == {("a", "t1.nii.gz", "t2.nii.gz")}
    assert named(pairs_of_cases(tmp_path, "ct", "pet")[0]) == {("a", "ct.nii.gz", "pet.nii.gz")}


def test_two_folders_match_by_name_with_and_without_the_modality(tmp_path: Path) -> None:
    touch(tmp_path / "m", "p1.nii.gz", "p2_mri.nii.gz", "p3_mri.nii.gz", "p4_t1.nii.gz", "p4_t2.nii.gz")
    touch(tmp_path / "c", "p1.nii.gz", "p2_ct.nii.gz", "p4_ct.nii.gz")
    pairs, lonely = find_pairs(tmp_path / "m", tmp_path / "c")
    assert named(pairs) == {("p1", "p1.nii.gz", "p1.nii.gz"), ("p2_mri", "p2_mri.nii.gz", "p2_ct.nii.gz")}
    assert {path.name for path in lonely} == {"p3_mri.nii.gz", "p4_t1.nii.gz", "p4_t2.nii.gz", "p4_ct.nii.gz"}


def test_two_trees_match_case_by_case(tmp_path: Path) -> None:
    touch(tmp_path / "m", "one/mri.nii.gz", "two/mri.nii.gz")
    touch(tmp_path / "c", "one/ct.nii.gz", "three/ct.nii.gz")
    pairs, lonely = find_pairs(tmp_path / "m", tmp_path / "c")
    assert named(pairs) == {("one_mri", "mri.nii.gz", "ct.nii.gz")} or named(pairs) == {
        ("mri", "mri.nii.gz", "ct.nii.gz")
    }
    assert {path.parent.name for path in lonely} == {"two", "three"}


@settings(max_examples=20, deadline=None)
@given(names=st.sets(st.from_regex(r"[b-z][0-9]{1,3}", fullmatch=True), min_size=1, max_size=6))
def test_every_file_is_in_one_pair_or_named(names: set[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("cases")
    files = [
        f"{name}_{kind}.nii.gz" for number, name in enumerate(sorted(names)) for kind in ("mri", "ct")[: 1 + number % 2]
    ]
    pairs, rest = pairs_of_cases(touch(root, *files))
    seen = [path.name for pair in pairs for path in (pair.reference, pair.second)]
    seen += [path.name for item in rest for path in item.files]
    assert sorted(seen) == sorted(files)


# --- through the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def cases(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """Two cases in folders of their own, and a third with an MRI alone."""
    for case in ("one", "two", "three"):
        (tmp_path / "cases" / case).mkdir(parents=True)
        shutil.copy(pair[0], tmp_path / "cases" / case / "mri.nii.gz")
    for case in ("one", "two"):
        shutil.copy(pair[1], tmp_path / "cases" / case / "ct.nii.gz")
    return tmp_path / "cases"


def test_a_rerun_keeps_what_is_done_and_does_the_rest(ddfm: Ddfm, cases: Path, tmp_path: Path) -> None:
    code, _, said = ddfm("cases", "-o", "out")
    assert code == 0 and "three/mri.nii.gz" in said and "2 fused, 1 without a partner" in said, said
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    for path in (tmp_path / "out").glob("two*"):
        path.unlink()
    code, out, said = ddfm("cases", "-o", "out")
    assert code == 0 and "1 fused, 1 done before and kept" in said and "one.nii.gz" not in out, said
    assert {path.name for path in (tmp_path / "out").iterdir()} == made.keys()
    assert (tmp_path / "out/one.nii.gz").stat().st_mtime_ns == times["one.nii.gz"]
    code, out, said = ddfm("cases", "-o", "out", "--json")
    assert [json.loads(line)["event"] for line in out.splitlines()].count("result") == 2


CHANGES = [
    ("window", ["--window", "bone"], ()),
    ("seed", ["--seed", "1"], ()),
    ("the reference was another file", [], ("other.nii.gz", "cases/one/mri.nii.gz")),
    ("the second was another file", [], ("other.nii.gz", "cases/one/ct.nii.gz")),
    ("one.png is missing", [], ("out/one.png", "elsewhere.png")),
    ("one.nii.gz has been changed", [], ("other.nii.gz", "out/one.nii.gz")),
    ("no record", [], ("out/one.json", "elsewhere.json")),
]
"""What differs as the refusal calls it, options that make it differ, and a file that is moved for it."""


def test_what_is_not_the_same_is_neither_kept_nor_replaced(
    ddfm: Ddfm, cases: Path, tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    image = nib.load(pair[0])
    other = nib.Nifti1Image(np.asarray(image.dataobj) * 2, image.affine)
    nib.save(other, tmp_path / "other.nii.gz")
    for path in (cases / "two", cases / "three"):
        shutil.rmtree(path)
    assert ddfm("cases", "-o", "out")[0] == 0
    shutil.copytree(tmp_path / "out", tmp_path / "kept")
    shutil.copytree(cases, tmp_path / "kept cases")
    for reason, more, moved in CHANGES:
        if moved:
            (tmp_path / moved[0]).replace(tmp_path / moved[1])
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        code, _, said = ddfm("cases", "-o", "out", *more)
        assert code == 2 and reason in said and "--overwrite" in said, (reason, said)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
        nib.save(other, tmp_path / "other.nii.gz")
        shutil.copytree(tmp_path / "kept", tmp_path / "out", dirs_exist_ok=True)
        shutil.copytree(tmp_path / "kept cases", cases, dirs_exist_ok=True)
    assert ddfm("cases", "-o", "out", "--overwrite", "--window", "bone")[0] == 0


def test_a_dry_run_says_it_all_and_writes_nothing(ddfm: Ddfm, cases: Path, tmp_path: Path) -> None:
    (cases / "two/ct.nii.gz").write_bytes(b"")
    code, _, said = ddfm("cases", "-o", "out", "--dry-run")
    assert code == 4 and not (tmp_path / "out").exists()
    assert "would fuse: cases/one/mri.nii.gz with cases/one/ct.nii.gz to out/one.nii.gz" in said
    assert "second: CT, by its name" in said and "together: " in said and "two/ct.nii.gz: the file is empty" in said
    code, _, said = ddfm(cases / "one/mri.nii.gz", cases / "one/ct.nii.gz", "-o", "new/f.nii.gz", "--dry-run")
    assert code == 0 and "would fuse" in said and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--window", "soft", "--second-kind", "pet"), "neither source is a CT"),
        (("--units", "suv", "--second-kind", "pet"), "SUV cannot be computed"),
        (("--units", "suv"), "neither source is a PET"),
        (("--device", "gpu"), "cannot be used here"),
        (("--colour",), "neither source has any"),
        (("--prior", "nobodys"), "no such prior"),
        (("--steps", "5000"), "steps"),
        (("--window=-600,100", "--reference-kind", "ct"), ""),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    more: tuple[str, ...], words: str, cases: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = []
    for rehearsal in ([], ["--dry-run"]):
        command = ["fuse", cases / "one/mri.nii.gz", cases / "one/ct.nii.gz", "-o", tmp_path / "f.nii.gz"]
        code = run([*map(str, command), *more, *rehearsal])
        answers.append((code, capfd.readouterr().err.splitlines()[-1]))
    assert answers[0] == answers[1] and answers[0][0] in (2, 5) and words in answers[0][1], answers


def test_of_two_runs_at_one_output_one_wins(
    ddfm: Ddfm, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (cases / "one/mri.nii.gz", cases / "one/ct.nii.gz")
    answers: list[tuple[int, str, str]] = []

    def meanwhile(*arguments: Any, **named: Any) -> FusionResult:
        """While the first run fuses, others begin: at its output, at a name that shares a file with it, elsewhere."""
        monkeypatch.setattr(many, "fuse_volumes", fuse_volumes)
        if not answers:
            answers.extend(ddfm(*words) for words in (
                ("cases", "-o", "out"), ("cases", "-o", "out", "--overwrite"), (*one, "-o", "out/one.mha"),
                (*one, "-o", "out/else.nii.gz"),
            ))  # fmt: skip
        return fuse_volumes(*arguments, **named)

    monkeypatch.setattr(many, "fuse_volumes", meanwhile)
    assert ddfm("cases", "-o", "out", "--seed", "5")[0] == 0
    assert [code for code, _, _ in answers] == [2, 2, 2, 0]
    assert all("another" in said and str(os.getpid()) in said for _, _, said in answers[:3])
    assert json.loads((tmp_path / "out/one.json").read_text())["sampling"]["seed"] == 5
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_a_lock_leaves_no_folder_behind(tmp_path: Path) -> None:
    wanted = [tmp_path / "a/b/f.json", tmp_path / "a/b/g.json"]
    with pytest.raises(UsageError, match=str(os.getpid())), target_locks(wanted[:1]), target_locks(wanted):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cases", "-o", "out.nii.gz"), "names a file"),
        (("cases", "-o", "cases/out"), "taken for sources"),
        (("cases/one/mri.nii.gz", "-o", "f.nii.gz"), "the second volume is missing"),
    ],
)
def test_wrong_use_of_folders(arguments: tuple[str, ...], words: str, ddfm: Ddfm, cases: Path, tmp_path: Path) -> None:
    code, _, said = ddfm(*arguments)
    assert code == 2 and words in said, said
    assert {path.name for path in tmp_path.iterdir()} == {"cases", "head_mri.nii.gz", "head_ct.nii.gz"}
