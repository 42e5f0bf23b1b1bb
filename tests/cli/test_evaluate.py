"""``ddfm evaluate`` on real files: what it prints, what it writes, and its exit codes."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom.results import SMALL, derivation, values_of  # tests/dicom
from dicom.synthetic import save_pair
from PIL import Image

from ddfm_monai import fuse_volumes
from ddfm_monai.cli import main
from ddfm_monai.dicom.write import write_grey
from ddfm_monai.files import sha256_of
from ddfm_monai.fusion.outputs import write_outputs
from ddfm_monai.metrics import METRIC_NAMES, evaluate_pair
from ddfm_monai.metrics.study import LesionStudy
from ddfm_monai.volumes import choose_scaling, colour, make_volume, read_volume, resample_to, write_volume

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ddfm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ddfm", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main.main()
        return int(end.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def fused(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """The pixelwise maximum of the scaled pair, in [0, 1], as `ddfm fuse` would write it."""
    volumes = [read_volume(path) for path in pair]
    a, b = (choose_scaling(volume).apply(volume) for volume in volumes)
    write_volume(make_volume(np.maximum(a.numpy(), b.numpy()), volumes[0].affine), tmp_path / "fused.nii.gz")
    return tmp_path / "fused.nii.gz"


def metrics_in(path: Path) -> dict[str, float]:
    row = next(csv.DictReader(path.open()))
    return {name: float(value) for name, value in row.items() if name != "name"}


def save_pictures(folder: Path, **pictures: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for name, array in pictures.items():
        Image.fromarray(array).save(folder / f"{name}.png")


def picture(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (40, 52)).astype(np.uint8)


# --- what comes out


def test_table_csv_json_and_html_of_a_volume(ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"out/quality.{kind}" for kind in ("csv", "json", "html")}
    options = (x for kind, path in files.items() for x in (f"--{kind}", path))
    code, out, _ = ddfm(fused, *pair, *options)
    assert code == 0
    assert all(name in out for name in (*METRIC_NAMES, "coherence", "maximum", "mean"))

    content = json.loads(files["json"].read_text())
    (found,) = content["pairs"]
    assert found["name"] == "fused" and len(found["slices"]) == 6
    for name in METRIC_NAMES:
        per_slice = [row[name] for row in found["slices"].values()]
        assert found["metrics"][name] == pytest.approx(np.mean(per_slice))
        assert found["metrics"][name] == pytest.approx(found["baselines"]["maximum"][name])
    assert metrics_in(files["csv"]) == pytest.approx(found["metrics"])

    report = files["html"].read_text()
    assert "http:" not in report.lower() and "https:" not in report.lower()
    for words in (
        "MR: head_mri.nii.gz",
        "CT: head_ct.nii.gz",
        "Slice 1",
        "Slice 3",
        f"SSIM range2 {found['slices']['1']['SSIM_range2']:.2f}",
        "maximum",
        "Date",
        "the defaults",
    ):
        assert words in report, words
    pictures = [Image.open(io.BytesIO(base64.b64decode(x))) for x in re.findall(r"base64,([^']+)'", report)]
    assert len(pictures) == 15 and all(image.size == (56, 64) for image in pictures)
    assert all(np.ptp(np.asarray(image)) > 100 for image in pictures)
    assert all(name in report for name in METRIC_NAMES) and "rewards wrongly" in report


def test_what_no_source_shows_is_flagged_in_table_and_report(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    right = read_volume(fused)
    wrong = right.numpy().copy()
    x, y = np.ogrid[:56, :64]
    wrong[0, ..., 3] += 0.3 * np.exp(-((x - 34) ** 2 + (y - 30) ** 2) / 18) * (wrong[0, ..., 3] > 0)
    write_volume(make_volume(wrong.clip(0, 1), right.affine), tmp_path / "wrong.nii.gz")
    found = {}
    for name, path in (("right", fused), ("wrong", tmp_path / "wrong.nii.gz")):
        code, out, err = ddfm(path, *pair, "--json", tmp_path / f"{name}.json", "--html", tmp_path / f"{name}.html")
        assert code == 0 and "check:" in out and "flagged" in out, err
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())["pairs"][0]["check"]
    assert found["wrong"]["invented"] > found["right"]["invented"] + 0.001
    reports = {name: (tmp_path / f"{name}.html").read_text() for name in found}
    assert reports["wrong"].count("<rect") > reports["right"].count("<rect")
    assert "invented" in reports["right"]


def test_pictures_give_exactly_what_their_arrays_give(ddfm: Run, tmp_path: Path) -> None:
    arrays = {name: picture(k) for k, name in enumerate(("fused", "a", "b"))}
    save_pictures(tmp_path, **arrays)
    code, _, _ = ddfm(*(tmp_path / f"{name}.png" for name in arrays), "--csv", tmp_path / "q.csv")
    assert code == 0
    assert metrics_in(tmp_path / "q.csv") == pytest.approx(evaluate_pair(*arrays.values()))


def test_second_source_on_another_grid_is_resampled_as_the_fusion_does(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    moved = nib.load(pair[1])
    affine = moved.affine.copy()
    affine[:3, :2] *= 1.5
    finer = resample_to(read_volume(pair[1]), make_volume(np.zeros((1, 38, 43, 6)), affine), fill=-1000.0)
    write_volume(finer, tmp_path / "other_ct.nii.gz")
    code, _, err = ddfm(fused, pair[0], tmp_path / "other_ct.nii.gz", "--csv", tmp_path / "q.csv")
    assert code == 0, err
    assert metrics_in(tmp_path / "q.csv")["CC"] > 0.8


def test_a_flipped_fused_file_is_brought_back_and_said_so(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    nib.save(nib.load(fused).as_reoriented([[0, -1], [1, 1], [2, 1]]), tmp_path / "flipped.nii.gz")
    code, out, err = ddfm(tmp_path / "flipped.nii.gz", *pair)
    assert code == 0, err
    assert "another grid" in err
    rows = [line.split() for line in out.splitlines() if "SSIM_range255" in line]
    assert rows[0][3] == rows[0][5]  # the fused column equals the maximum's


@pytest.mark.parametrize("change", [lambda v: np.where(v >= v.max(), 1.000001, v), lambda v: v * 1.08 - 0.04])
def test_a_fused_file_a_little_beyond_its_scale_is_clipped_and_not_taken_for_a_dark_one(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    volume = read_volume(fused)
    changed = change(volume.numpy())
    write_volume(make_volume(changed, volume.affine), tmp_path / "beyond.nii.gz")
    write_volume(make_volume(changed.clip(0, 1), volume.affine), tmp_path / "clipped.nii.gz")
    rows = {}
    for name in ("beyond", "clipped"):
        code, _, err = ddfm(tmp_path / f"{name}.nii.gz", *pair, "--csv", tmp_path / f"{name}.csv")
        assert code == 0 and ("beyond its scale of 0 to 1 " in err) is (name == "beyond")
        rows[name] = metrics_in(tmp_path / f"{name}.csv")
    assert rows["beyond"] == pytest.approx(rows["clipped"])


def test_a_scale_that_is_none_of_the_two_is_refused_and_a_dark_one_is_told(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    volume = read_volume(fused)
    for factor, code, words in ((1.5, 5, "0 to 1 or 0 to 255"), (100, 0, "of which it uses 100")):
        write_volume(make_volume(volume.numpy() * factor, volume.affine), tmp_path / "scaled.nii.gz")
        found, _, err = ddfm(tmp_path / "scaled.nii.gz", *pair)
        assert found == code and words in err


def test_a_fused_file_without_a_place_lies_where_the_first_source_does(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    """As programs that know arrays only save it: the identity for an affine."""
    nib.save(nib.Nifti1Image(nib.load(fused).get_fdata(dtype=np.float32), np.eye(4)), tmp_path / "plain.nii.gz")
    for name, path in (("placed", fused), ("plain", tmp_path / "plain.nii.gz")):
        code, _, err = ddfm(path, *pair, "--csv", tmp_path / f"{name}.csv")
        assert code == 0 and ("no position in space" in err) is (name == "plain")
    assert metrics_in(tmp_path / "plain.csv") == pytest.approx(metrics_in(tmp_path / "placed.csv"))


def test_a_fused_file_of_a_part_of_the_source_says_which_part(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    image = nib.load(fused)
    nib.save(image.slicer[: image.shape[0] * 3 // 4], tmp_path / "part.nii.gz")
    code, _, err = ddfm(tmp_path / "part.nii.gz", *pair)
    assert code == 0 and "covers 75% of it" in err


def test_colour_result_has_a_hue_error(ddfm: Run, tmp_path: Path) -> None:
    mri, pet = picture(0), np.stack([picture(1) // 2 + 100, picture(2) // 4, picture(3) // 4], axis=-1)
    kept = colour.with_luma(make_volume(np.moveaxis(pet, -1, 0)[..., None], np.eye(4)), make_volume(
        np.maximum(mri, 90)[None, ..., None] / 255, np.eye(4)))  # fmt: skip
    as_picture = np.moveaxis(np.rint(kept.numpy())[..., 0], 0, -1).astype(np.uint8)
    save_pictures(tmp_path, mri=mri, pet=pet, kept=as_picture, lost=as_picture[..., ::-1])
    errors = {}
    for name in ("kept", "lost"):
        code, _, err = ddfm(tmp_path / f"{name}.png", tmp_path / "mri.png", tmp_path / "pet.png",
                            "--csv", tmp_path / f"{name}.csv", "--html", tmp_path / f"{name}.html")  # fmt: skip
        assert code == 0, err
        errors[name] = metrics_in(tmp_path / f"{name}.csv")["hue_error"]
    assert errors["kept"] < 5 and errors["lost"] > 20


def test_dicom_series_give_what_the_fused_nifti_gives(ddfm: Run, tmp_path: Path) -> None:
    save_pair(tmp_path, **SMALL)
    made = derivation(tmp_path / "mr", tmp_path / "ct")
    write_grey(values_of(made.base), made, tmp_path / "series")
    write_volume(make_volume(values_of(made.base)[None], made.base.volume.affine), tmp_path / "fused.nii.gz")
    found = []
    for name in ("series", "fused.nii.gz"):
        code, _, err = ddfm(tmp_path / name, tmp_path / "mr", tmp_path / "ct", "--csv", tmp_path / f"{name}.csv")
        assert code == 0, err
        found.append(metrics_in(tmp_path / f"{name}.csv"))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_lesions_are_asked_of_the_fusion_that_made_the_file(
    ddfm: Run, pair: tuple[Path, Path], tiny_prior_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = fuse_volumes(*pair, prior=tiny_prior_path, steps=1, seed=11)
    result.provenance["prior"]["name"] = str(tiny_prior_path)
    write_outputs(result, tmp_path / "made.nii.gz")
    asked = []

    def study(fuse: Callable, a: np.ndarray, b: np.ndarray, kinds: tuple[str, str]) -> LesionStudy:
        asked.append((fuse(a, b), a, b, kinds))
        return LesionStudy({"a+": 0.91}, {"a+b-": 0.42}, {"b-": 0.63}, {"b-": 0.07}, ("zero-filled", "soft"))

    monkeypatch.setattr("ddfm_monai.metrics.files.study_lesions", study)
    code, _, err = ddfm(tmp_path / "made.nii.gz", *pair, "--lesions", "--html", tmp_path / "q.html")
    assert code == 0, err
    (ours, a, b, kinds), (maximum, *_), (mean, *_) = asked
    assert kinds == ("mr", "ct") and ours.shape == a.shape == (64, 56, 3)
    assert np.array_equal(maximum, np.maximum(a, b)) and not np.array_equal(ours, maximum)
    assert np.abs(mean - (a / 2 + b / 2)).max() <= 0.5
    report = (tmp_path / "q.html").read_text()
    for words in ("0.91", "0.42", "0.63", "0.07", "this fusion", "seed 11", "1 steps"):
        assert words in report, words
    (tmp_path / "made.json").unlink()
    code, _, err = ddfm(tmp_path / "made.nii.gz", *pair, "--lesions")
    assert code == 2 and "no JSON of ddfm" in err


def test_a_dicom_folder_is_called_by_its_kind_alone(ddfm: Run, tmp_path: Path) -> None:
    save_pair(tmp_path / "Geheim^Patientin", **SMALL)
    folder = tmp_path / "Geheim^Patientin"
    made = derivation(folder / "mr", folder / "ct")
    write_volume(make_volume(values_of(made.base)[None], made.base.volume.affine), tmp_path / "fused.nii.gz")
    code, _, err = ddfm(tmp_path / "fused.nii.gz", folder / "mr", folder / "ct", "--html", tmp_path / "q.html")
    assert code == 0, err
    report = (tmp_path / "q.html").read_text()
    assert "MR: DICOM series" in report and "CT: DICOM series" in report and "Geheim" not in report


# --- folders


def test_folders_match_by_name(ddfm: Run, tmp_path: Path) -> None:
    save_pictures(tmp_path / "a", one=picture(0), two=picture(1), three=picture(2))
    save_pictures(tmp_path / "b", one=picture(3), two=picture(4))
    save_pictures(tmp_path / "f", one=picture(5), two=picture(6))
    (tmp_path / "f/one.json").write_text("{}")
    folders = [tmp_path / name for name in "fab"]
    code, out, err = ddfm(*folders, "--csv", tmp_path / "q.csv", "--html", tmp_path / "q.html")
    assert code == 0
    assert "three" in err and "mean of 2 pairs" in out
    assert [row["name"] for row in csv.DictReader((tmp_path / "q.csv").open())] == ["one", "two"]
    assert (tmp_path / "q.html").read_text().count("base64,") == 10


def test_one_bad_pair_of_several_is_named_and_the_rest_is_measured(ddfm: Run, tmp_path: Path) -> None:
    for k, folder in enumerate("fab"):
        save_pictures(tmp_path / folder, good=picture(k), bad=picture(k, 40, 52 + k))
    folders = [tmp_path / name for name in "fab"]
    code, _, err = ddfm(*folders, "--csv", tmp_path / "q.csv")
    assert code == 4 and "bad:" in err and "size" in err
    assert [row["name"] for row in csv.DictReader((tmp_path / "q.csv").open())] == ["good"]
    (tmp_path / "a/good.png").unlink()
    assert ddfm(*folders)[0] == 5


def test_volume_wins_over_the_preview_beside_it(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    for folder, source in zip("fab", (fused, *pair), strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "head.nii.gz").write_bytes(source.read_bytes())
    save_pictures(tmp_path / "f", head=picture(0))
    code, out, err = ddfm(*(tmp_path / name for name in "fab"), "--second-kind", "ct")
    assert code == 0, err
    assert "coherence" in out


def test_of_two_files_of_one_name_none_is_chosen(ddfm: Run, tmp_path: Path) -> None:
    for folder in ("fused", "a", "b"):
        save_pictures(tmp_path / folder, one=picture(len(folder)))
    (tmp_path / "fused" / "._one.png").write_bytes(b"macOS")
    assert ddfm(*(tmp_path / name for name in ("fused", "a", "b")))[0] == 0
    Image.fromarray(picture(9)).save(tmp_path / "fused" / "one.bmp")
    code, out, err = ddfm(*(tmp_path / name for name in ("fused", "a", "b")))
    assert code == 2 and "one.bmp" in err and "Keep one" in err and out == ""


def test_a_result_without_sources_is_named_and_what_lies_beside_a_result_is_not(ddfm: Run, tmp_path: Path) -> None:
    for folder in "fab":
        save_pictures(tmp_path / folder, one=picture(1))
    save_pictures(tmp_path / "f", one_check=picture(2), two_fused=picture(3))
    code, _, errors = ddfm(tmp_path / "f", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "not in all three folders: two_fused\n" in errors


def test_a_folder_with_nothing_but_subfolders_is_named(ddfm: Run, tmp_path: Path) -> None:
    for folder in "fab":
        save_pictures(tmp_path / folder, one=picture(1))
    (tmp_path / "outer").mkdir()
    (tmp_path / "f").rename(tmp_path / "outer/f")
    code, _, errors = ddfm(tmp_path / "outer", tmp_path / "a", tmp_path / "b")
    assert code == 2 and f"in {tmp_path / 'outer'} itself" in errors.replace("\n", " ")


def test_nothing_in_common(ddfm: Run, tmp_path: Path) -> None:
    for folder in "fab":
        save_pictures(tmp_path / folder, **{f"only_{folder}": picture(0)})
    code, _, err = ddfm(*(tmp_path / name for name in "fab"))
    assert code == 3 and "Nothing to evaluate" in err


# --- what cannot be measured


def test_missing_file_mixed_call_and_bad_option_are_wrong_use(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    code, _, err = ddfm(fused, pair[0], tmp_path / "absent.nii.gz")
    assert code == 2 and "absent.nii.gz" in err
    code, _, err = ddfm(tmp_path, *pair)
    assert code == 2 and "three folders" in err
    assert ddfm(fused, *pair, "--second-kind", "xray")[0] == 2
    assert ddfm(fused, *pair, "--window", "wide")[0] == 2


def test_existing_output_is_kept_without_overwrite(
    ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path
) -> None:
    target = tmp_path / "q.csv"
    target.write_text("mine")
    code, _, err = ddfm(fused, *pair, "--csv", target)
    assert code == 2 and "--overwrite" in err and target.read_text() == "mine"
    assert ddfm(fused, *pair, "--csv", target, "--overwrite")[0] == 0
    assert metrics_in(target)["SD"] > 0


def test_sources_in_the_wrong_place_are_noticed(ddfm: Run, pair: tuple[Path, Path], fused: Path) -> None:
    code, _, err = ddfm(pair[1], pair[0], fused)  # CT in HU where the fused file belongs
    assert code == 5 and "FUSED A B" in err


def test_truncated_file_is_named(ddfm: Run, pair: tuple[Path, Path], fused: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(fused.read_bytes()[:2000])
    code, _, err = ddfm(broken, *pair, "--csv", tmp_path / "q.csv")
    assert code == 5 and "broken.nii.gz" in err and "Traceback" not in err
    assert not (tmp_path / "q.csv").exists()


def test_the_installed_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ddfm_monai", "evaluate", "--help"], capture_output=True, text=True, check=True
    )
    assert all(option in done.stdout for option in ("--csv", "--json", "--html", "--second-kind"))


@pytest.mark.parametrize("option", ["--html", "--json", "--csv"])
def test_a_folder_where_a_file_is_meant_is_refused_before_the_work(
    ddfm: Run, fused: Path, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("ddfm_monai.metrics.files.evaluate_files", None)  # the work
    (tmp_path / "folder").mkdir()
    code, _, err = ddfm(fused, *pair, option, tmp_path / "folder", "--overwrite")
    assert code == 2
    assert "is a folder" in err


def test_sources_that_the_result_was_not_made_of_are_told(
    ddfm: Run, fused: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    made = {
        "sampling": {},
        **{role: {"sha256": sha256_of(p)} for role, p in zip(("reference", "second"), pair, strict=True)},
    }
    (tmp_path / "fused.json").write_text(json.dumps(made))
    for sources in (pair, pair[::-1]):
        code, _, err = ddfm(fused, *sources)
        assert code == 0 and "SHA-256" not in err
    other = tmp_path / "other.nii"
    nib.save(nib.load(pair[1]), other)  # not compressed: other bytes
    code, _, err = ddfm(fused, pair[0], other, "--html", tmp_path / "report.html")
    assert code == 0 and "given as second source is not the one that the result was made of" in err
    assert "not the one that the result was made of" in (tmp_path / "report.html").read_text()
