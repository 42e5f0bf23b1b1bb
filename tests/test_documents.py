"""The documents keep their word: their commands run as written, their site builds, and the wheel installs."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import fire
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import typer
from dicom.results import SMALL  # tests/dicom
from dicom.synthetic import save_pair
from PIL import Image

import ddfm_monai.phantom
from ddfm_monai import fuse_volumes
from ddfm_monai.bundle import bundle_folder
from ddfm_monai.cli.main import app, run

ROOT = Path(__file__).parents[1]
WRITTEN = ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "bundles/*/docs/README.md", "slicer_extension/README.md")
PAGES = sorted(page for pattern in WRITTEN for page in ROOT.glob(pattern))
PROGRAMS = "ddfm|python|pip|make|torchrun|dask|dciodvfy|dcentvfy|dcm2niix"
ELSEWHERE = {
    "make": "sets up a virtual environment from a package index; .ci/run does it",
    "pip install": "the wheel: test_a_wheel_installs_with_its_extras_and_runs",
    "python -m pip wheel": "the same",
    ".venv/bin/python -m pytest": "these tests",
    "torchrun": "tests/bundles: two processes, on the CPU",
    "dask": "tests/batch/test_cluster.py: a cluster in this process",
    "ddfm dicom run EXPORT -o RESULTS --scheduler": "the same",
    "dciodvfy": "tests/dicom/test_tools.py",
    "dcentvfy": "tests/dicom/test_tools.py",
    "dcm2niix": "tests/dicom/test_tools.py",
    "python scripts/export_bundle_weights.py": "writes into the repository; tests/bundles compares what it wrote",
    "python -m monai.bundle run --config_file bundles/ddfm_prior": "tests/bundles/test_ddfm_prior.py, on small data",
    "python -m monai.bundle run --config_file configs/": "tests/bundles/test_ddfm_fusion.py, in the bundle's folder",
    "ddfm fuse mri.nii.gz ct.nii.gz -o fused.nii.gz --prior runs/mine": "tests/bundles: what training gives is loaded",
}
"""How a command begins that is not run here, and why."""


def commands_of(page: Path) -> list[str]:
    """The lines of a page's code blocks that begin with a program."""
    blocks = re.findall(r"^```(?:sh|console|bash)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    lines = "\n".join(blocks).splitlines()
    return [line for line in lines if re.match(rf"({PROGRAMS}|\.venv/bin/\w+) ", line)]


def run_here(page: Path) -> list[str]:
    return [line for line in commands_of(page) if not line.startswith(tuple(ELSEWHERE))]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the documents name: a pair, folders of pairs and results, an export; `ddfm demo` is small."""
    small = partial(ddfm_monai.phantom.write_phantom, resolution=4.0, slice_distance=20.0)
    monkeypatch.setattr(ddfm_monai.phantom, "write_phantom", small)
    paths = small(tmp_path)
    for folder, path in (("MRI_FOLDER", paths.mri), ("CT_FOLDER", paths.ct), ("mri", paths.mri), ("ct", paths.ct)):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / folder / "case.nii.gz")
    image = nib.load(paths.mri)
    for folder in ("fused", "my_results"):
        (tmp_path / folder).mkdir()
        fused = np.clip(image.get_fdata() / 1000, 0, 1).astype(np.float32)
        nib.save(nib.Nifti1Image(fused, image.affine), tmp_path / folder / "case.nii.gz")
    save_pair(tmp_path / "EXPORT", **SMALL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if run_here(page)], ids=lambda page: page.stem)
def test_commands_run_as_they_are_written(page: Path, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_here(page)
    if not any("-o fused.nii.gz" in line for line in lines):
        shutil.copy(desk / "fused" / "case.nii.gz", desk / "fused.nii.gz")
    for line in lines:
        assert execute(line) == 0, f"{line}\n{capsys.readouterr().err}"


def execute(line: str) -> int:
    """Run a line of a shell in this process."""
    words = shlex.split(line.replace("$(ddfm bundle path)", str(bundle_folder("ddfm_fusion"))), comments=True)
    if words[0] == "ddfm":
        return run(words[1:])
    assert words[:4] == ["python", "-m", "monai.bundle", "run"], line
    fire.Fire(monai.bundle.run, command=words[4:])
    return 0


def test_options_that_the_documents_name_exist() -> None:
    """In the text as well: `ddfm ...` between backticks."""
    wrong = []
    for page in PAGES:
        for quoted in re.findall(r"`(ddfm [^`\n]+)`", page.read_text(encoding="utf-8")):
            command = typer.main.get_command(app)
            for word in quoted.replace("`", "").split()[1:]:
                options = {option for item in command.params for option in item.opts} | {"--help", "-h"}
                below = getattr(command, "commands", None)
                if below and word in below:
                    command = below[word]
                elif (word.startswith("-") and word not in options and not below) or (below and word.isalpha()):
                    wrong.append(f"{page.relative_to(ROOT)}: {quoted}: {word}")
    assert not wrong


def test_the_blend_hides_the_infarct_and_the_fusion_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What README.md shows first, on three slices at half the resolution."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import blend_picture as made

    paths = ddfm_monai.phantom.write_phantom(tmp_path, resolution=1.8)
    made.add_lesion(paths.mri, made.MR_RISE)
    made.add_lesion(paths.ct, made.CT_FALL)
    slices = nib.load(paths.mri).slicer[:, :, 19:22]
    nib.save(slices, tmp_path / "slices.nii.gz")
    result = fuse_volumes(tmp_path / "slices.nii.gz", paths.ct)
    a, b, fused = (volume.numpy()[0] for volume in (result.reference01, result.second01, result.fused))
    away = made.distances(slices, made.INFARCT)
    mri, ct, blend, kept = (made.contrast(x, away, made.INFARCT.radius) for x in (a, b, (a + b) / 2, fused))
    assert mri > 40 and ct < -35
    assert abs(blend) < 6 and kept > 20


def test_the_picture_of_noise_can_be_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/images/noise.png, coarser; what the step against noise changes is seen in it."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import noise_picture as made

    coarse = partial(ddfm_monai.phantom.write_phantom, resolution=2.0)
    monkeypatch.setattr(
        made, "write_phantom", lambda folder, **kinds: coarse(folder, **{**kinds, "ct_resolution": 1.2})
    )
    made.main(tmp_path / "noise.png")
    assert "None" not in capsys.readouterr().out  # noise is found in both sources
    picture = np.asarray(Image.open(tmp_path / "noise.png"), dtype=float)[24:]
    *_, left, default = np.split(picture, len(made.TITLES), axis=1)
    assert np.abs(left - default)[picture[:, : left.shape[1]] > 0].mean() > 1


def test_the_picture_of_the_check_can_be_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """docs/images/check.png: each wrong fusion has more of the flags that it was made for."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_picture as made

    made.main(tmp_path / "check.png")
    said = {line.split(" {")[0]: "{" + line.split(" {")[1] for line in capsys.readouterr().out.splitlines()}
    shares = {
        name: {kind: float(share.split()[0]) for kind, share in ast.literal_eval(text).items()}
        for name, text in said.items()
    }
    right = shares["as fused"]
    assert right["flagged"] < 2
    assert shares["lesion pasted in"]["invented"] > right["invented"] + 0.1
    assert shares["oedema removed"]["missing"] > right["missing"] + 0.05
    assert shares["region smoothed"]["detail"] > right["detail"] + 1
    assert Image.open(tmp_path / "check.png").size == Image.open(ROOT / "docs/images/check.png").size


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation site, built as `make docs` builds it, without a way to the network."""
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra docs)")
    folder = tmp_path_factory.mktemp("site")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_the_site_has_every_page_and_the_python_interface(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "package_page.md":
            assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file()
    reference = (site / "api" / "fusion.html").read_text(encoding="utf-8")
    for name in ("fuse_volumes", "DDFMFused", "reference_kind", "Seed of the start noise"):
        assert name in reference
    assert ":func:" not in reference and "{settings}" not in reference
    assert "--register" in (site / "command.html").read_text(encoding="utf-8")
    assert "write_phantom" in (site / "tutorial.html").read_text(encoding="utf-8")
    assert "fuse_volumes" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


def test_the_site_asks_nobody_else_for_anything(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?:https?:)?//|<link[^>]*href=\"?(?:https?:)?//")
    for page in site.rglob("*.html"):
        assert not loads.search(page.read_text(encoding="utf-8")), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_a_wheel_installs_with_its_extras_and_runs(tmp_path: Path) -> None:
    """As README.md says it: build a wheel, install it by its name in brackets with extras, run it from elsewhere."""
    pytest.importorskip("hatchling", reason="hatchling is not installed (extra test)")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "-q", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", *offline, "-w", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name in (ROOT / "README.md").read_text(encoding="utf-8")
    content = "\n".join(zipfile.ZipFile(wheel).namelist())
    assert "bundles/ddfm_fusion/configs/inference.json" in content
    assert "weights/open.safetensors" in content and "weights/medical.safetensors" not in content  # research only
    target = tmp_path / "installed"
    install = [*pip, "install", *offline[:2], *offline[3:], "--target", str(target), f"{wheel.name}[dicom,cluster]"]
    subprocess.run(install, check=True, capture_output=True, cwd=tmp_path)
    code = (
        "import ddfm_monai, sys; print(ddfm_monai.__file__)\n"
        "from ddfm_monai.cli.main import run; sys.exit(run(['bundle', 'path']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(target)},
    )  # fmt: skip
    module, bundle = (Path(line) for line in done.stdout.split("\n")[:2])
    assert module.is_relative_to(target) and bundle.is_relative_to(target)
    assert (bundle / "configs" / "inference.json").is_file()


def test_pages_with_a_changed_reading_are_seen(tmp_path: Path) -> None:
    """The reader of commands itself: it finds those in plain and in shell blocks, and no others."""
    page = tmp_path / "page.md"
    page.write_text(
        "```\nddfm demo x\nfiles, 9 volumes\n```\ntext\n```sh\nddfm fuse a b\n```\n```python\nddfm no\n```\n"
    )
    assert commands_of(page) == ["ddfm demo x", "ddfm fuse a b"]
    assert len(run_here(ROOT / "README.md")) >= 7
