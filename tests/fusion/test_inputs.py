"""What a person is told about the inputs of `ddfm fuse`, before and beside the result; and what costs one pair only."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from conftest import head

from ddfm_monai import fuse_volumes
from ddfm_monai.cli.main import run
from ddfm_monai.volumes import make_volume


@pytest.fixture
def ddfm(tiny_prior_path, tmp_path, monkeypatch, capfd):
    """Run ``ddfm fuse`` here; gives exit code, output and errors, each line by line."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        code = run(["fuse", *map(str, arguments), "--prior", str(tiny_prior_path), "--steps", "1"])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err.splitlines()

    return call


def test_decisions_are_printed_before_the_work_and_kept_beside_the_result(ddfm, pair, tmp_path):
    code, _, said = ddfm(*pair, "-o", "fused.nii.gz")
    assert code == 0
    assert said[0].startswith("reference: MR, by its name; 0 to ")
    assert said[1].startswith("second: CT, by its name; 0 to 80 (brain window, in HU: air at -1000, soft tissue at 35;")
    kept = json.loads((tmp_path / "fused.json").read_text())
    assert [kept[role]["scaling"]["decided"] for role in ("reference", "second")] == ["by its name"] * 2
    assert kept["warnings"] == []


def test_a_program_hears_of_doubts_only(ddfm, pair, tmp_path):
    shutil.copy(pair[0], tmp_path / "scan.nii.gz")
    code, out, _ = ddfm("scan.nii.gz", pair[1], "-o", "fused.nii.gz", "--json")
    logs = [event for event in map(json.loads, out) if event["event"] == "log"]
    assert code == 0
    assert [event["level"] for event in logs] == ["warning"] and "--reference-kind" in logs[0]["message"]


def test_a_contradiction_is_refused_until_the_kind_is_given(ddfm, pair, tmp_path):
    shutil.copy(pair[1], tmp_path / "pet.nii.gz")
    code, _, said = ddfm(pair[0], "pet.nii.gz", "-o", "fused.nii.gz")
    assert code == 5 and "--second-kind" in " ".join(said)
    assert not (tmp_path / "fused.nii.gz").exists()
    code, _, said = ddfm(pair[0], "pet.nii.gz", "-o", "fused.nii.gz", "--second-kind", "CT")
    assert code == 0 and any(line.startswith("second: CT, as asked; 0 to 80") for line in said)


def test_an_uncoded_reference_is_warned_of_and_stays_uncoded(ddfm, pair, tmp_path):
    for path, name in zip(pair, ("mri.nii.gz", "ct.nii.gz"), strict=True):
        image = nib.Nifti1Image(nib.load(path).get_fdata(dtype=np.float32), None)
        image.header.set_zooms((3, 3, 6))
        nib.save(image, tmp_path / name)
    code, _, said = ddfm("mri.nii.gz", "ct.nii.gz", "-o", "fused.nii.gz")
    assert code == 0
    assert sum("no position in space" in line for line in said) == 2
    assert len(json.loads((tmp_path / "fused.json").read_text())["warnings"]) == 2
    header = nib.load(tmp_path / "fused.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (0, 0)


def folders(pair, tmp_path, names=("p1", "p2", "p3")):
    for folder, source in (("mri", pair[0]), ("ct", pair[1])):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(source, tmp_path / folder / f"{name}.nii.gz")


def results(tmp_path):
    return sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))


@pytest.mark.parametrize("where", ["reading", "writing"])
def test_a_file_error_costs_its_pair_only(ddfm, pair, tmp_path, monkeypatch, where):
    folders(pair, tmp_path)
    if where == "reading":
        from ddfm_monai.volumes import sources

        original, at = sources.read_volume, sources
    else:
        from ddfm_monai.fusion import outputs as at

        original = at.write_volume

    def fails(*arguments, **named):
        path = arguments[0 if where == "reading" else 1]
        if path.name == "p2.nii.gz":
            raise OSError(5, "Input/output error", str(path))
        return original(*arguments, **named)

    monkeypatch.setattr(at, original.__name__, fails)
    code, _, said = ddfm("mri", "ct", "-o", "out")
    assert code == 4
    assert "p2.nii.gz: Input/output error" in " ".join(said) and "Traceback" not in " ".join(said)
    assert results(tmp_path) == ["p1.nii.gz", "p3.nii.gz"]


def test_an_output_that_cannot_be_made_is_an_error_for_people(ddfm, pair, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, said = ddfm(*pair, "-o", "file/fused.nii.gz")
    assert code in (2, 5) and "file" in " ".join(said) and "Traceback" not in " ".join(said)


def test_what_macos_leaves_beside_files_is_no_volume(ddfm, pair, tmp_path):
    folders(pair, tmp_path, ("p1",))
    for folder in ("mri", "ct"):
        (tmp_path / folder / "._p1.nii.gz").write_bytes(b"\0\5\x16\7 resource fork")
        (tmp_path / folder / ".DS_Store").write_bytes(b"Bud1")
    code, _, said = ddfm("mri", "ct", "-o", "out")
    assert code == 0 and results(tmp_path) == ["p1.nii.gz"]
    assert not any("left out" in line for line in said)


def test_a_folder_of_subjects_is_called_what_it_is(ddfm, pair, tmp_path):
    for subject in ("sub-01", "sub-02"):
        (tmp_path / "bids" / subject / "anat").mkdir(parents=True)
        shutil.copy(pair[0], tmp_path / "bids" / subject / "anat" / f"{subject}_T1w.nii.gz")
    (tmp_path / "bids" / "dataset_description.json").write_text("{}")
    (tmp_path / "bids" / "README").write_text("two subjects")
    code, _, said = ddfm("bids", "bids", "-o", "out")
    told = " ".join(said)
    assert code == 2 and "holds 2 folders (sub-01, sub-02" in told and "sub-01_T1w.nii.gz" in told


# --- bodies ----------------------------------------------------------------------------------------------------------


def torso(kind):
    """A chest and abdomen of 380 x 250 x 520 mm with lungs, spine, liver and a tumour: CT in HU, PET in Bq/ml."""
    shape, spacing = (72, 56, 40), np.array([7.0, 7.0, 13.0])
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    x, y, z = (spacing[i] * (np.arange(n) - (n - 1) / 2) for i, n in enumerate(shape))
    x, y, z = np.meshgrid(x, y, z, indexing="ij")
    random = np.random.default_rng(0)

    def ball(centre, radii):
        return sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True)) < 1

    body = (x / 190) ** 2 + (y / 125) ** 2 < 1
    body &= np.abs(z) < 250
    lungs = ball((80, 10, 120), (60, 85, 110)) | ball((-80, 10, 120), (60, 85, 110))
    spine = (x / 22) ** 2 + ((y + 85) / 22) ** 2 < 1
    liver, tumour = ball((70, 10, -60), (95, 80, 75)), ball((-70, 20, 100), (22, 22, 26))
    parts = [~body, tumour, lungs, spine & body, liver]
    if kind == "ct":
        return np.select(parts, [-1000, 45, -830, 400, 60], 45) + random.normal(0, 10, shape), affine
    return np.select(parts, [0, 40000, 1500, 5000, 9000], 4000) * (1 + 0.1 * random.normal(0, 1, shape)), affine


@pytest.fixture
def body(tmp_path):
    paths = tmp_path / "ct.nii.gz", tmp_path / "pet.nii.gz"
    for path, kind in zip(paths, ("ct", "pet"), strict=True):
        values, affine = torso(kind)
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), path)
    return paths


def test_a_whole_body_is_fused_with_its_limit_stated(ddfm, body, tmp_path):
    code, _, said = ddfm(*body, "-o", "fused.nii.gz", "--window", "soft")
    assert code == 0
    assert any("heads only" in line for line in said)
    kept = json.loads((tmp_path / "fused.json").read_text())
    assert any("heads only" in warning for warning in kept["warnings"])
    assert (kept["reference"]["scaling"]["low"], kept["reference"]["scaling"]["high"]) == (-160, 240)
    fused = nib.load(tmp_path / "fused.nii.gz").get_fdata()
    values, _ = torso("pet")
    tumour, lung = values > 30000, (values > 500) & (values < 2000)
    assert fused[tumour].mean() > fused[lung].mean() + 0.2
    assert fused[0, 0].max() == 0


def test_a_head_is_no_body(pair, tiny_prior):
    values = head((60, 72, 20), "mr")
    whole = make_volume(values[None], np.diag([3.0, 3.0, 8.0, 1.0]), filename_or_obj="mri.nii")
    other = make_volume(head((60, 72, 20), "ct")[None], np.diag([3.0, 3.0, 8.0, 1.0]), filename_or_obj="ct.nii")
    assert fuse_volumes(whole, other, prior=tiny_prior, steps=1).provenance["warnings"] == []
