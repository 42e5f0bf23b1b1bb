"""Installation on first use, and the sample data, against stand-ins of pip and of the PyTorch extension."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed (pip install ddfm-monai[slicer-test])")

BUNDLED = {"numpy": "2.4.6", "SimpleITK": "2.5.5", "pydicom": "3.0.2"}


class Python:
    """Slicer's Python environment: what is installed in it, and what has been done to it."""

    def __init__(self) -> None:
        self.installed = dict(BUNDLED)
        self.done: list[str] = []
        self.constraints = ""
        self.environment: dict[str, str | None] = {}

    def install(self, name: str, version: str) -> None:
        self.done.append(f"install {name}")
        self.installed[name] = version
        self.environment = {key: os.environ.get(key) for key in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}


@pytest.fixture
def python(slicer: Any, monkeypatch: pytest.MonkeyPatch) -> Python:
    from DDFMFusionLib import dependencies

    python = Python()
    monkeypatch.setattr(dependencies, "_version", python.installed.get)
    monkeypatch.delitem(sys.modules, "PyTorchUtils", raising=False)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: True)
    return python


@pytest.fixture
def torch_extension(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> object:
            assert askConfirmation
            assert torchVersionRequirement == ">=2.4"
            python.install("torch", "2.7.0")
            return object()

    module = types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)


@pytest.fixture
def packaging(python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    """slicer.packaging of Slicer 5.11 and later."""

    def pip_ensure(requirements: list[str], constraints: Path, requester: str) -> None:
        assert requirements == ["ddfm-monai>=0.1"]
        assert requester == "DDFM"
        python.constraints = constraints.read_text()
        python.install("ddfm-monai", "0.1.0")

    module = types.ModuleType("slicer.packaging")
    module.pip_ensure = pip_ensure
    module.load_requirements = lambda path: Path(path).read_text().split()
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)


@pytest.fixture
def ensure(python: Python) -> Callable[..., None]:
    from DDFMFusion import DDFMFusionLogic

    return DDFMFusionLogic().ensureInstalled


def problem(ensure: Callable[..., None], *arguments: Any) -> str:
    from DDFMFusionLib.problem import FusionProblem

    with pytest.raises(FusionProblem) as caught:
        ensure(*arguments)
    return str(caught.value)


def test_without_the_pytorch_extension_it_is_named(
    python: Python, packaging: None, ensure: Callable[..., None]
) -> None:
    assert "The PyTorch extension is needed" in problem(ensure)
    assert python.done == []


def test_torch_comes_first_and_nothing_bundled_is_replaced(
    python: Python, packaging: None, torch_extension: None, ensure: Callable[..., None]
) -> None:
    ensure()
    assert python.done == ["install torch", "install ddfm-monai"]
    assert set(python.constraints.split()) == {
        *(f"{name}=={version}" for name, version in BUNDLED.items()),
        "torch==2.7.0",
    }
    ensure()
    assert len(python.done) == 2


def test_an_old_version_is_replaced(python: Python, packaging: None, ensure: Callable[..., None]) -> None:
    python.installed.update({"torch": "2.4.0+cu121", "ddfm-monai": "0.0.9"})
    ensure()
    assert python.done == ["install ddfm-monai"]


@pytest.mark.parametrize("version", ["0.1", "0.1.3", "1.0rc1", "0.10.0"])
def test_a_new_enough_version_stays(version: str, python: Python, ensure: Callable[..., None]) -> None:
    python.installed.update({"torch": "2.4.0", "ddfm-monai": version})
    ensure()
    assert python.done == []


def test_slicer_before_5_11(
    slicer: Any, python: Python, ensure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip_install(arguments: list[str]) -> None:
        assert arguments[0] == "-c"
        python.constraints = Path(arguments[1]).read_text()
        assert arguments[2:] == ["ddfm-monai>=0.1"]
        python.install("ddfm-monai", "0.1.0")

    python.installed["torch"] = "2.6.0"
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", pip_install)
    ensure()
    assert "numpy==2.4.6" in python.constraints
    python.installed.pop("ddfm-monai")
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: False)
    assert "You declined the installation" in problem(ensure)


def test_a_failing_pip_says_what_can_be_done(
    python: Python, packaging: None, ensure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pip_ensure(*_: Any, **__: Any) -> None:
        raise subprocess.CalledProcessError(1, "pip install")

    python.installed["torch"] = "2.6.0"
    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_ensure", pip_ensure)
    message = problem(ensure)
    for words in ("ddfm-monai could not be installed", "exit status 1", "folder of wheels", "HTTPS_PROXY"):
        assert words in message


def test_installing_in_slicers_testing_mode_is_noticed(
    python: Python, packaging: None, ensure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    python.installed["torch"] = "2.6.0"
    monkeypatch.setattr(sys.modules["slicer.packaging"], "pip_ensure", lambda *_, **__: None)
    assert "ddfm-monai is not installed" in problem(ensure)


def test_wheels_folder_replaces_the_index_for_all_steps(
    python: Python, packaging: None, torch_extension: None, ensure: Callable[..., None], tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels from IT"
    wheels.mkdir()
    ensure(wheels)
    assert python.environment == {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri()}
    assert " " not in python.environment["PIP_FIND_LINKS"]
    assert "PIP_NO_INDEX" not in os.environ
    python.installed.pop("ddfm-monai")
    assert "does not exist" in problem(ensure, tmp_path / "nowhere")


def test_pip_really_takes_a_wheel_from_such_a_folder(slicer: Any, tmp_path: Path) -> None:
    """pip itself, with the environment that the module sets, on a folder whose name has a space."""
    import zipfile

    from DDFMFusionLib import dependencies

    wheels = tmp_path / "my wheels"
    wheels.mkdir()
    info = "tiny_wheel-1.0.dist-info"
    with zipfile.ZipFile(wheels / "tiny_wheel-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-wheel\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    with dependencies._pip_reads_from(wheels):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--no-deps",
                "--no-cache-dir",
                "--target",
                str(tmp_path / "to"),
                "tiny-wheel>=1.0",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / info).is_dir()


def test_the_panel_tells_what_is_installed(python: Python, slicer: Any) -> None:
    from DDFMFusionLib import dependencies

    assert dependencies.installed_version() is None
    python.installed["ddfm-monai"] = "0.1.0"
    assert dependencies.installed_version() == "0.1.0"


def test_sample_data_are_registered_at_start_up(slicer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import DDFMFusion

    registered: list[dict[str, Any]] = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    slicer.app.started.clear()
    module = DDFMFusion.DDFMFusion(types.SimpleNamespace())
    assert (module.parent.title, module.parent.categories) == ("DDFM Fusion", ["Filtering"])
    (start,) = slicer.app.started
    start()
    (source,) = registered
    assert len({len(source[key]) for key in ("uris", "fileNames", "nodeNames")}) == 1
    assert Path(source["thumbnailFileName"]).is_file()
    monkeypatch.setattr(DDFMFusion.DDFMFusionLogic, "ensureInstalled", lambda self: None)
    monkeypatch.setattr(DDFMFusion.DDFMFusionLogic, "loadSamplePair", lambda self: ["mri", "ct"])
    assert source["customDownloader"](source) == ["mri", "ct"]
