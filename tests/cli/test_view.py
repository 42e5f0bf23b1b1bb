"""``ddfm view`` and ``ddfm fuse --html`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from viewer.reading import about, values

from ddfm_monai.cli.main import run


@pytest.fixture
def fuse(tiny_prior_path, pair, tmp_path, monkeypatch):
    """Fuse the pair into ``fused.nii.gz`` beside it; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*options: str) -> int:
        command = ["fuse", *map(str, pair), "-o", "fused.nii.gz", "--prior", str(tiny_prior_path), "--steps", "1"]
        return run([*command, *options])

    return call


def test_html_writes_the_page_beside_the_result(fuse, capsys) -> None:
    assert fuse("--html") == 0
    assert "page: fused.html" in capsys.readouterr().out
    page = Path("fused.html").read_text()
    assert np.allclose(values(page, "fused"), nib.as_closest_canonical(nib.load("fused.nii.gz")).get_fdata(), atol=2e-3)
    assert fuse("--html") == 2  # nothing is replaced unasked


def test_html_with_samples_and_check_has_both_maps(fuse) -> None:
    assert fuse("--html", "--samples", "2", "--check") == 0
    page = Path("fused.html").read_text()
    wanted = nib.as_closest_canonical(nib.load("fused_uncertainty.nii.gz")).get_fdata()
    assert np.allclose(values(page, "uncertainty"), wanted, atol=wanted.max() / 255)
    assert (values(page, "check") == nib.as_closest_canonical(nib.load("fused_check.nii.gz")).get_fdata()).all()


def test_view_finds_the_sources_by_what_the_json_names(fuse, pair, capsys) -> None:
    assert fuse("--html", "--samples", "2", "--check", "--window", "soft") == 0
    made = Path("fused.html").read_text()
    for number, path in enumerate(pair):  # by their content, whatever they are called
        path.rename(path.with_name(f"renamed_{number}.nii.gz"))
    assert run(["view", "fused.nii.gz", "-o", "later.html"]) == 0
    assert "page: later.html" in capsys.readouterr().out
    later = Path("later.html").read_text()
    assert about(later)["layers"] == about(made)["layers"]
    for role in ("reference", "second", "uncertainty", "check"):
        assert np.array_equal(values(later, role), values(made, role), equal_nan=True)
    assert np.abs(values(later, "fused") - values(made, "fused")).max() <= 1.01 / 255


def test_view_takes_a_registration_from_the_json(fuse, pair) -> None:
    assert fuse() == 0
    made = json.loads(Path("fused.json").read_text())
    matrix = np.eye(4)
    matrix[0, 3] = 6.0
    made["registration"] = {"matrix": matrix.tolist(), "already_aligned": False, "sentence": "moved"}
    assert run(["view", "fused.nii.gz", "-o", "still.html"]) == 0
    Path("fused.json").write_text(json.dumps(made))
    assert run(["view", "fused.nii.gz", "-o", "moved.html"]) == 0
    still, moved = (values(Path(name).read_text(), "second") for name in ("still.html", "moved.html"))
    assert np.nanmean(np.abs(still - moved)) > 10


def test_view_puts_exchanged_sources_right_and_doubts_foreign_ones(fuse, pair) -> None:
    assert fuse("--html") == 0
    made = Path("fused.html").read_text()
    assert run(["view", "fused.nii.gz", str(pair[1]), str(pair[0]), "-o", "exchanged.html"]) == 0
    assert about(Path("exchanged.html").read_text())["layers"] == about(made)["layers"]
    other = pair[1].with_name("other_ct.nii.gz")
    image = nib.load(pair[1])
    nib.save(nib.Nifti1Image(image.get_fdata() + 3, image.affine), other)
    assert run(["view", "fused.nii.gz", str(pair[0]), str(other), "-o", "foreign.html"]) == 0
    assert "second source is not the one" in Path("foreign.html").read_text()
    assert "is not the one" not in made


def test_view_without_sources_says_how_to_name_them(fuse, pair, capsys) -> None:
    assert fuse() == 0
    pair[1].unlink()
    assert run(["view", "fused.nii.gz"]) == 2
    assert "for the second" in (said := capsys.readouterr().err) and "ddfm view RESULT REFERENCE SECOND" in said
    Path("fused.json").unlink()
    assert run(["view", "fused.nii.gz"]) == 2
    assert "no JSON beside it" in capsys.readouterr().err
    assert not list(Path().glob("*.html"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda made: made["second"].update(sha256=[1]),
        lambda made: made["second"].update(scaling="x"),
        lambda made: made["reference"]["scaling"].update(low=None),
        lambda made: made.update(warnings=3),
        lambda made: made.update(sampling=["steps"]),
        lambda made: made.update(registration="moved"),
    ],
)
def test_a_json_that_was_spoilt_by_hand_is_none(fuse, capsys, edit) -> None:
    assert fuse() == 0
    made = json.loads(Path("fused.json").read_text())
    edit(made)
    Path("fused.json").write_text(json.dumps(made))
    assert run(["view", "fused.nii.gz"]) == 2
    assert "no JSON beside it says what it was made of" in capsys.readouterr().err
    assert fuse() == 2  # nor is it taken for the record of this very result
    assert "is not this result (no record of how it was made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["view", "missing.nii.gz"], "missing.nii.gz"),
        (["view", "fused.nii.gz", "one.nii.gz"], "reference and second source, or none"),
        (["view", "fused.nii.gz", "-o", "page.png"], "page.html"),
    ],
)
def test_wrong_use_is_named(fuse, capsys, words, reason) -> None:
    assert fuse() == 0
    assert run(words) == 2
    assert reason in capsys.readouterr().err


def test_the_picture_can_be_a_mosaic(fuse) -> None:
    assert fuse() == 0
    planes = Image.open("fused.png").size
    assert fuse("--picture", "mosaic", "--overwrite") == 0
    mosaic = Image.open("fused.png").size
    assert mosaic[0] > planes[0]  # six slices of 168 pixels and the names of three rows
    assert fuse("--picture", "film", "--overwrite") == 2


def test_an_existing_page_is_replaced_when_asked(fuse, capsys) -> None:
    assert fuse("--html") == 0
    assert run(["view", "fused.nii.gz"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(["view", "fused.nii.gz", "--overwrite"]) == 0
