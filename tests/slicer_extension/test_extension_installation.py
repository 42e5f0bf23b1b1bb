"""Installation on first use: against a stand-in of pip that a test can let fail, against pip itself, and on paper
against what each version of Slicer brings along."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
pytest.importorskip("slicer", reason="slicer-core is not installed (pip install ddfm-monai[slicer-test])")

ROOT = Path(__file__).parents[2]
BUNDLED = {"numpy": "2.4.6", "SimpleITK": "2.5.5", "pydicom": "3.0.2"}


class Python:
    """Slicer's Python environment: what is installed in it, and what has been done to it."""

    def __init__(self, folder: Path) -> None:
        self.installed = dict(BUNDLED)
        self.calls: list[list[str]] = []
        self.constraints = ""
        self.environment: dict[str, str] = {}
        self.questions: list[str] = []
        self.answer = True
        self.failures: dict[str, str] = {}  # package -> what pip prints when it fails
        self.offers = "0.1.0"
        self.requirements = folder / "Resources" / "requirements.txt"
        (folder / "Resources" / "Wheels").mkdir(parents=True)
        self.requirements.write_text("ddfm-monai>=0.1\n")
        self.requirements.with_name("wheel_url.txt").write_text("# none\n")

    def pip(
        self, command: list[str], on_line: Callable[[str], None], meanwhile: Any, environment: dict[str, str]
    ) -> tuple[int, str]:
        assert command[1:4] == ["-m", "pip", "install"]
        self.calls.append([part for part in command[4:] if part not in ("--disable-pip-version-check", "--no-input")])
        self.constraints = Path(command[command.index("-c") + 1]).read_text()
        self.environment = environment
        package = next(part for part in self.calls[-1] if not part.startswith("-"))
        on_line(f"Collecting {package}")
        if package in self.failures:
            return 1, self.failures[package]
        if "light-the-torch" in package:
            self.installed["light-the-torch"] = "0.8"
        else:
            self.installed.setdefault("torch", "2.9.0")
            self.installed["ddfm-monai"] = self.offers
        return 0, "Successfully installed"

    @property
    def packages(self) -> list[str]:
        return [next(part for part in call if not part.startswith("-")) for call in self.calls]

    def add_wheel(self, folder: Path, name: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
        return folder / name


@pytest.fixture
def python(slicer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Python:
    from DDFMFusionLib import dependencies

    python = Python(tmp_path / "module")
    slicer.app.testing = False

    def ask(text: str) -> bool:
        python.questions.append(text)
        return python.answer

    monkeypatch.setattr(dependencies, "_version", python.installed.get)
    monkeypatch.setattr(dependencies, "run", python.pip)
    monkeypatch.setattr(platform, "machine", lambda: "AMD64")
    monkeypatch.delitem(sys.modules, "PyTorchUtils", raising=False)
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", ask)
    return python


@pytest.fixture
def torch_extension(python: Python, monkeypatch: pytest.MonkeyPatch) -> Any:
    logic = types.SimpleNamespace(error=None, seen="")

    def install_torch(askConfirmation: bool, torchVersionRequirement: str) -> object:
        assert not askConfirmation  # the one question was asked before
        assert torchVersionRequirement == ">=2.4"
        logic.seen = os.environ["PIP_CONSTRAINT"]
        if logic.error is not None:
            raise logic.error
        python.installed["torch"] = "2.7.0"
        return object()

    logic.installTorch = install_torch
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=lambda: logic))
    return logic


@pytest.fixture
def ensure(python: Python) -> Callable[..., None]:
    from DDFMFusion import DDFMFusionLogic

    logic = DDFMFusionLogic()
    logic.requirements = python.requirements
    return logic.ensureInstalled


def problem(ensure: Callable[..., None], *arguments: Any) -> str:
    from DDFMFusionLib.problem import FusionProblem

    with pytest.raises(FusionProblem) as caught:
        ensure(*arguments)
    return str(caught.value)


# -- before anything is downloaded --------------------------------------------------------------------


def test_intel_macs_are_told_before_anything_is_asked_or_downloaded(
    python: Python, torch_extension: Any, ensure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert problem(ensure).startswith("There is no PyTorch 2.4 or newer for macOS on Intel")
    assert (python.calls, python.questions) == ([], [])
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    ensure()
    assert python.installed["ddfm-monai"] == "0.1.0"


def test_a_slicer_with_an_old_python_is_told_at_once(
    python: Python, ensure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from DDFMFusionLib import dependencies

    monkeypatch.setattr(dependencies, "_python_version", lambda: (3, 9))
    assert problem(ensure) == (
        "This Slicer's Python is 3.9; ddfm-monai needs 3.10 or newer. Use Slicer 5.12.3 or newer."
    )
    assert python.questions == []


def test_without_the_pytorch_extension_it_is_named(python: Python, ensure: Callable[..., None]) -> None:
    assert "The PyTorch extension is needed" in problem(ensure)
    assert python.calls == []


def test_a_torch_that_is_too_old_says_how_to_replace_it(python: Python, ensure: Callable[..., None]) -> None:
    python.installed["torch"] = "2.2.2+cpu"
    message = problem(ensure)
    for words in ("PyTorch 2.2.2+cpu is too old", "2.4 or newer", "PyTorch Utils", "restart"):
        assert words in message
    assert (python.calls, python.questions) == ([], [])


def test_a_declined_installation_does_nothing(
    python: Python, torch_extension: Any, ensure: Callable[..., None]
) -> None:
    python.answer = False
    assert problem(ensure).startswith("You declined the installation, so nothing was installed.")
    assert len(python.questions) == 1
    assert (python.calls, torch_extension.seen) == ([], "")


def test_slicers_testing_mode_installs_nothing(slicer: Any, python: Python, ensure: Callable[..., None]) -> None:
    slicer.app.testing = True
    python.installed["torch"] = "2.6.0"
    assert "testing mode" in problem(ensure)
    assert python.calls == []


# -- what is installed --------------------------------------------------------------------------------


def test_torch_comes_first_by_its_extension_and_nothing_bundled_is_replaced(
    python: Python, torch_extension: Any, ensure: Callable[..., None]
) -> None:
    ensure()
    assert python.packages == ["light-the-torch>=0.5", "ddfm-monai>=0.1"]
    assert torch_extension.seen.startswith("file://")
    assert "PIP_CONSTRAINT" not in os.environ
    assert set(python.constraints.split()) == {
        *(f"{name}=={version}" for name, version in BUNDLED.items()),
        "torch==2.7.0",
    }
    assert len(python.questions) == 1
    ensure()
    assert len(python.calls) == 2


def test_an_old_version_is_replaced(python: Python, ensure: Callable[..., None]) -> None:
    python.installed.update({"torch": "2.4.0+cu121", "ddfm-monai": "0.0.9"})
    ensure()
    assert python.packages == ["ddfm-monai>=0.1"]


@pytest.mark.parametrize("version", ["0.1", "0.1.3", "1.0rc1", "0.10.0"])
def test_a_new_enough_version_stays(version: str, python: Python, ensure: Callable[..., None]) -> None:
    python.installed.update({"torch": "2.4.0", "ddfm-monai": version})
    ensure()
    assert (python.calls, python.questions) == ([], [])


def test_it_can_be_upgraded_and_repaired(python: Python, ensure: Callable[..., None]) -> None:
    python.installed.update({"torch": "2.4.0", "ddfm-monai": "0.1.0"})
    python.offers = "0.2.0"
    sys.modules["ddfm_monai.left_over"] = types.ModuleType("ddfm_monai.left_over")
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "ddfm_monai"}
    try:
        ensure(again=True)
        assert "ddfm_monai.left_over" not in sys.modules  # the next import takes the new files
    finally:
        kept.pop("ddfm_monai.left_over")
        sys.modules.update(kept)
    assert [call[0] for call in python.calls] == ["--upgrade", "--force-reinstall"]
    assert "--no-deps" in python.calls[1]  # torch is not fetched again
    assert python.installed["ddfm-monai"] == "0.2.0"


# -- from where ---------------------------------------------------------------------------------------


def test_places_are_tried_in_their_order(python: Python, ensure: Callable[..., None], tmp_path: Path) -> None:
    from DDFMFusionLib.dependencies import find_sources

    own = python.requirements.parent / "Wheels"
    python.add_wheel(own, "ddfm_monai-0.9.0-py3-none-any.whl")
    newest = python.add_wheel(own, "ddfm_monai-0.10.0-py3-none-any.whl")
    folder = tmp_path / "wheels"
    python.add_wheel(folder, "ddfm_monai-0.3.0-py3-none-any.whl")
    url = "https://example.org/files/ddfm_monai-0.4.0-py3-none-any.whl"
    python.requirements.with_name("wheel_url.txt").write_text(f"# a comment\n\n{url}\n")
    assert [(source.package, source.offers) for source in find_sources(python.requirements)] == [
        (str(newest), "0.10.0"),
        (url, "0.4.0"),
        ("ddfm-monai>=0.1", None),
    ]
    assert [(source.package, source.offers) for source in find_sources(python.requirements, folder)] == [
        (str(newest), "0.10.0"),
        ("ddfm-monai>=0.1", "0.3.0"),
    ]
    python.installed["torch"] = "2.6.0"
    lost = "HTTPSConnectionPool: Max retries exceeded"
    python.failures = {str(newest): "ERROR: not a supported wheel on this platform", url: lost}
    ensure()
    assert python.packages == [str(newest), url, "ddfm-monai>=0.1"]
    assert len(python.questions) == 1


def test_a_folder_of_wheels_is_enough_for_torch_as_well(
    python: Python, torch_extension: Any, ensure: Callable[..., None], tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels from IT"
    python.add_wheel(wheels, "ddfm_monai-0.1.0-py3-none-any.whl")
    python.add_wheel(wheels, "torch-2.9.0-cp312-cp312-win_amd64.whl")
    ensure(wheels)
    assert python.packages == ["ddfm-monai>=0.1"]
    assert torch_extension.seen == ""
    offline = {key: python.environment[key] for key in ("PIP_NO_INDEX", "PIP_FIND_LINKS")}
    assert offline == {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.as_uri()}
    assert " " not in python.environment["PIP_FIND_LINKS"]
    assert "PIP_NO_INDEX" not in os.environ
    python.installed.pop("ddfm-monai")
    assert "does not exist" in problem(ensure, tmp_path / "nowhere")


def test_the_panel_tells_what_there_is(python: Python, tmp_path: Path) -> None:
    from DDFMFusionLib.dependencies import state_text

    assert state_text(python.requirements).splitlines() == [
        "ddfm-monai is not installed yet; the first fusion asks for it.",
        "PyTorch is missing.",
        "To be had from the package index: version unknown until it is asked.",
    ]
    python.installed.update({"torch": "2.6.0", "ddfm-monai": "0.1.0"})
    python.add_wheel(python.requirements.parent / "Wheels", "ddfm_monai-0.2.0-py3-none-any.whl")
    assert state_text(python.requirements).splitlines() == [
        "ddfm-monai 0.1.0 is installed.",
        "PyTorch 2.6.0.",
        "To be had from the extension's folder: 0.2.0.",
    ]


def test_the_button_repairs_what_is_installed(slicer: Any, python: Python, monkeypatch: pytest.MonkeyPatch) -> None:
    QtWidgets = pytest.importorskip("PySide6.QtWidgets")
    from DDFMFusion import DDFMFusionWidget

    window = QtWidgets.QWidget()
    window.setLayout(QtWidgets.QVBoxLayout())
    window.isEntered = True
    widget = DDFMFusionWidget(window)
    widget.setup()
    widget.logic.requirements = python.requirements
    widget.enter()
    assert widget.ui.installButton.text == "Install"
    python.installed["torch"] = "2.6.0"
    widget.onInstallButton()
    assert widget.ui.installedLabel.text.startswith("ddfm-monai 0.1.0 is installed.")
    assert widget.ui.installButton.text == "Reinstall or upgrade"
    assert "Collecting ddfm-monai>=0.1" in widget.ui.logBox.plainText
    widget.onInstallButton()
    assert python.calls[1][0] == "--upgrade"
    boxes: list[str] = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **_: boxes.append(text))
    python.failures = {"ddfm-monai>=0.1": "ERROR: No space left on device"}
    widget.onInstallButton()
    assert len(boxes) == 1
    assert slicer.app.cursors == []
    widget.cleanup()
    window.findChild(slicer.qMRMLWidget).setMRMLScene(None)


# -- what can fail, and what is said ------------------------------------------------------------------

LOST = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)'
ERROR: Could not find a version that satisfies the requirement ddfm-monai>=0.1 (from versions: none)
ERROR: No matching distribution found for ddfm-monai>=0.1"""
CONFLICT = """ERROR: Cannot install ddfm-monai because these package versions have conflicting dependencies.
The conflict is caused by:
    ddfm-monai 0.1.0 depends on pydicom>=3
    The user requested (constraint) pydicom==2.4.4
ERROR: ResolutionImpossible: for help visit ..."""
FAILURES = {
    "network": (LOST, "no connection"),
    "certificate": ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "PIP_CERT"),
    "proxy": ("ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407'))", "HTTPS_PROXY=http"),
    "disk": ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left", "disk is full"),
    "rights": ("ERROR: Could not install: [WinError 5] Access is denied: 'C:\\\\Program Files'", "administrator"),
    "conflict": (CONFLICT, "numpy 2.4.6, SimpleITK 2.5.5, pydicom 3.0.2"),
    "missing": ("ERROR: No matching distribution found for einops (from ddfm-monai)", "einops was not found"),
    "other": ("Traceback\nERROR: Exception:\nERROR: the sky fell", "pip said: ERROR: the sky fell."),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_every_way_to_fail_has_its_own_message(kind: str, python: Python, ensure: Callable[..., None]) -> None:
    output, words = FAILURES[kind]
    python.installed["torch"] = "2.6.0"
    python.failures = {"ddfm-monai>=0.1": output}
    message = problem(ensure)
    assert message.startswith("ddfm-monai could not be installed: ")
    assert words in message
    assert not any(others in message for other, (_, others) in FAILURES.items() if other != kind)


def test_a_failing_torch_is_said_once(python: Python, torch_extension: Any, ensure: Callable[..., None]) -> None:
    torch_extension.error = subprocess.CalledProcessError(1, "light_the_torch", output=LOST)
    message = problem(ensure)
    assert message.startswith("PyTorch could not be installed: there is no connection")
    assert python.packages == ["light-the-torch>=0.5"]


def real_pip(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    from DDFMFusionLib.process import run

    return run([sys.executable, "-m", "pip", "install", "--no-cache-dir", *arguments], environment=environment)


def test_pip_itself_without_a_network(slicer: Any, tmp_path: Path) -> None:
    """What pip really prints when nobody answers, is understood."""
    from DDFMFusionLib.pip_failures import explain

    nobody = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
    nobody |= {"PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "NO_PROXY": "*"}
    code, output = real_pip(["--target", str(tmp_path), "einops"], nobody)
    assert code != 0
    assert "there is no connection" in explain("einops", output), output


def test_pip_itself_takes_a_wheel_from_a_folder_and_misses_another(slicer: Any, tmp_path: Path) -> None:
    """pip with the environment that the module sets, on a folder whose name has a space."""
    from DDFMFusionLib.dependencies import find_sources
    from DDFMFusionLib.pip_failures import explain

    wheels = tmp_path / "my wheels"
    wheels.mkdir()
    info = "ddfm_monai-1.0.dist-info"
    with zipfile.ZipFile(wheels / "ddfm_monai-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: ddfm-monai\nVersion: 1.0\nRequires-Dist: not-there>=2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    module = Python(tmp_path / "module")
    (source,) = find_sources(module.requirements, wheels)
    assert source.offers == "1.0"
    to = ["--target", str(tmp_path / "to")]
    code, output = real_pip(["--no-deps", *to, source.package], source.environment)
    assert code == 0, output
    assert (tmp_path / "to" / info).is_dir()
    code, output = real_pip([*to, source.package], source.environment)
    assert code != 0
    assert "not-there" in explain("ddfm-monai", output)
    assert "is missing: get it with" in explain("ddfm-monai", output)


# -- what Slicer brings along -------------------------------------------------------------------------

SLICERS: dict[str, tuple[str, dict[str, str]]] = {
    # docs/slicer.md says where these come from. Of 5.10.0 only pydicom is known to matter.
    "5.10.0": ("3.12.10", {"pydicom": "2.4.4"}),
    "5.12.3": (
        "3.12.10",
        {"numpy": "2.4.6", "scipy": "1.17.1", "pillow": "12.2.0", "pydicom": "3.0.2", "simpleitk": "2.5.5"},
    ),
}


def needs_of(requirements: list[Requirement], python_version: str) -> dict[str, list[Requirement]]:
    """By package: what these requirements, and theirs as they are installed here, ask of it."""
    environment = {"python_version": python_version.rsplit(".", 1)[0], "python_full_version": python_version}
    wanted: dict[str, list[Requirement]] = {}
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        is_new = name not in wanted
        wanted.setdefault(name, []).append(requirement)
        if is_new:
            try:
                waiting += [Requirement(text) for text in importlib.metadata.requires(name) or []]
            except importlib.metadata.PackageNotFoundError:
                continue  # not needed on this system
    return wanted


@pytest.mark.parametrize("version", SLICERS)
def test_the_requirements_fit_what_slicer_brings_along(version: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python_version, pins = SLICERS[version]
    assert SpecifierSet(project["requires-python"]).contains(python_version)
    wanted = needs_of([Requirement(text) for text in project["dependencies"]], python_version)
    assert {"torch", "monai", "numpy", "pydicom"} <= set(wanted)
    for name, pin in pins.items():
        for requirement in wanted[name]:
            assert requirement.specifier.contains(pin), f"Slicer {version} has {name} {pin}; asked for: {requirement}"


def test_pydicom_3_is_what_a_fresh_environment_gets_and_the_extra_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (plain,) = [Requirement(text) for text in project["dependencies"] if text.startswith("pydicom")]
    assert plain.specifier.contains("3.0.2")  # pip takes the newest that fits
    (extra,) = [Requirement(text) for text in project["optional-dependencies"]["dicom"] if text.startswith("pydicom")]
    assert not extra.specifier.contains("2.4.4")


# -- sample data --------------------------------------------------------------------------------------


def test_sample_data_are_registered_at_start_up(slicer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import DDFMFusion

    registered: list[dict[str, Any]] = []
    logic = types.SimpleNamespace(registerCustomSampleDataSource=lambda **source: registered.append(source))
    monkeypatch.setitem(sys.modules, "SampleData", types.SimpleNamespace(SampleDataLogic=logic))
    slicer.app.started.clear()
    module = DDFMFusion.DDFMFusion(types.SimpleNamespace(path=DDFMFusion.__file__))
    assert (module.parent.title, module.parent.categories) == ("DDFM Fusion", ["Filtering"])
    (start,) = slicer.app.started
    start()
    (source,) = registered
    assert len({len(source[key]) for key in ("uris", "fileNames", "nodeNames")}) == 1
    assert Path(source["thumbnailFileName"]).is_file()
    monkeypatch.setattr(DDFMFusion.DDFMFusionLogic, "ensureInstalled", lambda self: None)
    monkeypatch.setattr(DDFMFusion.DDFMFusionLogic, "loadSamplePair", lambda self: ["mri", "ct"])
    assert source["customDownloader"](source) == ["mri", "ct"]
