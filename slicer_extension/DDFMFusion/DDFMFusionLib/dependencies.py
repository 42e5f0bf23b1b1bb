"""Install ddfm-monai into Slicer's Python when it is first needed, without touching what Slicer brought along.

pip runs in a process of its own and not through ``slicer.packaging``: of a failure that knows only the exit status, and
shows a box before the module can say what to do. Here every way to fail has one message.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import slicer

from .command import slicer_python
from .i18n import _
from .pip_failures import explain
from .problem import FusionProblem
from .process import run

__all__ = [
    "Source",
    "dicom_is_possible",
    "ensure_installed",
    "find_sources",
    "installed_version",
    "is_installed",
    "state_text",
    "why_impossible",
]

OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = "2.4"
OLDEST_PYDICOM = (3,)
GOOD_SLICER = "5.12.3"
# Bundled with Slicer, or put there by the PyTorch extension: pip may use them but not replace them.
PROTECTED = ("numpy", "scipy", "SimpleITK", "pydicom", "pillow", "requests", "setuptools", "torch", "torchvision")


@dataclass(frozen=True)
class Source:
    """A place to install ddfm-monai from.

    Args:
        label: what the panel calls it.
        package: what pip is asked for: a requirement, a file, or an address.
        offers: the version that lies there, if that is known without asking.
        environment: pip's environment variables for this place.
    """

    label: str
    package: str
    offers: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


# -- What is there ---------------------------------------------------------------------------------


def why_impossible() -> str:
    """Why ddfm-monai cannot work on this computer or in this Slicer, or an empty text. Nothing is downloaded for it."""
    if _python_version() < OLDEST_PYTHON:
        return _(
            "This Slicer's Python is {found}; ddfm-monai needs {needed} or newer. Use Slicer {slicer} or newer."
        ).format(found=_dotted(_python_version()), needed=_dotted(OLDEST_PYTHON), slicer=GOOD_SLICER)
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        return _(
            "There is no PyTorch {needed} or newer for macOS on Intel processors, nor for a Slicer that was built for "
            "them and runs on Apple silicon. Use Slicer on Windows or Linux, or a Slicer built for Apple silicon."
        ).format(needed=OLDEST_TORCH)
    return ""


def installed_version() -> str | None:
    """The installed version of ddfm-monai, or None."""
    importlib.invalidate_caches()
    return _version("ddfm-monai")


def is_installed(requirements: Path) -> bool:
    """Whether a fusion can start: torch is there, and ddfm-monai at the version that the module asks for."""
    version = installed_version()
    return version is not None and _torch_is_new_enough() and _as_numbers(version) >= _minimum(requirements)


def dicom_is_possible() -> bool:
    """Whether this Slicer brings a pydicom that ddfm-monai can write DICOM with."""
    return _as_numbers(_version("pydicom") or "") >= OLDEST_PYDICOM


def find_sources(requirements: Path, wheels: Path | None = None) -> list[Source]:
    """Where ddfm-monai can be had, in the order in which it is tried.

    First a wheel in the extension's folder, then the chosen folder; with a folder nothing else is asked, neither for
    ddfm-monai nor for what it needs. Without one: the address in ``wheel_url.txt``, then pip's package index.

    Args:
        requirements: the module's requirements.txt; ``wheel_url.txt`` and ``Wheels`` lie beside it.
        wheels: a folder of wheel files, or None.

    Raises:
        FusionProblem: the folder does not exist.
    """
    requirement = _lines(requirements)[0]
    offline = {}
    if wheels is not None:
        if not wheels.is_dir():
            raise FusionProblem(_("The folder of wheels does not exist: {folder}").format(folder=wheels))
        # a URL, for spaces split the value
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.resolve().as_uri()}
    sources = []
    own = _newest_wheel(requirements.parent / "Wheels")
    if own is not None:
        sources.append(Source(_("the extension's folder"), str(own), _wheel_version(own.name), offline))
    if wheels is not None:
        there = _newest_wheel(wheels)
        offers = _wheel_version(there.name) if there else None
        return [*sources, Source(_("the folder of wheels"), requirement, offers, offline)]
    for address in _lines(requirements.with_name("wheel_url.txt")):
        offers = _wheel_version(unquote(address.rsplit("/", 1)[-1]))
        sources.append(Source(_("the address in wheel_url.txt"), address, offers))
    return [*sources, Source(_("the package index"), requirement)]


def state_text(requirements: Path, wheels: Path | None = None) -> str:
    """What is installed and what would be installed, for the panel."""
    version = installed_version()
    lines = [
        _("ddfm-monai {version} is installed.").format(version=version)
        if version
        else _("ddfm-monai is not installed yet; the first fusion asks for it."),
        _("PyTorch {version}.").format(version=_version("torch")) if _version("torch") else _("PyTorch is missing."),
    ]
    try:
        source = find_sources(requirements, wheels)[0]
    except FusionProblem as problem:
        return "\n".join([*lines, str(problem)])
    offers = source.offers or _("version unknown until it is asked")
    lines.append(_("To be had from {place}: {offers}.").format(place=source.label, offers=offers))
    impossible = why_impossible()
    return "\n".join([*lines, impossible] if impossible else lines)


# -- Installing ------------------------------------------------------------------------------------


def ensure_installed(
    requirements: Path,
    wheels: Path | None = None,
    *,
    again: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
) -> None:
    """Install what is missing; the user is asked first, once.

    Args:
        requirements: the module's requirements.txt.
        wheels: a folder of wheel files to install from without a network, or None.
        again: upgrade to the newest version, or install the same version anew.
        on_line: is given what pip prints.

    Raises:
        FusionProblem: it could not be installed; the message says what to do.
    """
    if is_installed(requirements) and not again:
        return
    _stop_if(why_impossible())
    _stop_if(_why_not_this_torch())
    sources = find_sources(requirements, wheels)
    torch_by_pip = _version("torch") is None and wheels is not None and _newest_wheel(wheels, "torch") is not None
    torch_utils = None if torch_by_pip or _version("torch") is not None else _torch_utils()
    _stop_if(_why_not_now())
    _ask(sources[0], torch_by_pip or torch_utils is not None)
    if torch_utils is not None:
        _install_torch(torch_utils, sources[0], on_line)
    _install_from_first(sources, again, on_line)
    _forget_imported()
    if not is_installed(requirements):
        raise FusionProblem(
            _(
                "pip reported success, but ddfm-monai {version} and PyTorch {torch} are not what is needed. "
                "Restart Slicer and press Install in the section Installation."
            ).format(version=installed_version() or "-", torch=_version("torch") or "-")
        )


def _stop_if(reason: str) -> None:
    if reason:
        raise FusionProblem(reason)


def _why_not_now() -> str:
    """Slicer's own tests must not change its Python."""
    if slicer.app.testingEnabled():
        return _("ddfm-monai is not installed, and Slicer runs in testing mode, in which nothing is installed.")
    return ""


def _why_not_this_torch() -> str:
    found = _version("torch")
    if found is None or _torch_is_new_enough():
        return ""
    return _(
        "PyTorch {found} is too old; {needed} or newer is needed. Open the module PyTorch Utils, press Uninstall "
        "PyTorch, restart Slicer, and press Fuse again. Other extensions that use PyTorch will use the new version."
    ).format(found=found, needed=OLDEST_TORCH)


def _ask(source: Source, with_torch: bool) -> None:
    what = _("ddfm-monai and PyTorch (some hundred megabytes to some gigabytes)") if with_torch else _("ddfm-monai")
    question = _(
        "{what} will be installed into Slicer's Python, from {place}. What Slicer brought along is not replaced. "
        "This can take some minutes. Continue?"
    ).format(what=what, place=source.label)
    if not slicer.util.confirmOkCancelDisplay(question):
        raise FusionProblem(
            _("You declined the installation, so nothing was installed. Press Fuse or Install to be asked again.")
        )


def _torch_utils() -> object:
    """The PyTorch extension, which chooses the build that fits the graphics card."""
    try:
        return importlib.import_module("PyTorchUtils").PyTorchUtilsLogic()
    except ImportError as error:
        raise FusionProblem(
            _(
                "The PyTorch extension is needed. Install it with the Extensions Manager (search for PyTorch), "
                "restart Slicer and try again. Without a connection to the internet, choose a folder of wheels that "
                "holds torch as well."
            )
        ) from error


def _install_torch(torch_utils: object, source: Source, on_line: Callable[[str], None]) -> None:
    # What the extension would install by itself, through a function of Slicer's that shows a box of its own.
    _pip(["install", "light-the-torch>=0.5"], source, on_line, "PyTorch")
    on_line(_("Installing PyTorch..."))
    try:
        with _constraints() as (file, _protected), _environment({"PIP_CONSTRAINT": file.as_uri()}):
            torch = torch_utils.installTorch(askConfirmation=False, torchVersionRequirement=f">={OLDEST_TORCH}")
    except Exception as error:
        raise FusionProblem(explain("PyTorch", f"{error}\n{getattr(error, 'output', '') or ''}"), str(error)) from error
    if torch is None:
        raise FusionProblem(
            _("The PyTorch extension did not install PyTorch. Open its module PyTorch Utils and install it there.")
        )


def _install_from_first(sources: list[Source], again: bool, on_line: Callable[[str], None]) -> None:
    """From the first place that has it. A place that fails is passed over if there is another."""
    for number, source in enumerate(sources, 1):
        on_line(_("Installing ddfm-monai from {place}...").format(place=source.label))
        try:
            _pip(["install", "--upgrade", source.package] if again else ["install", source.package], source, on_line)
            if again:
                _pip(["install", "--force-reinstall", "--no-deps", source.package], source, on_line)
            return
        except FusionProblem as problem:
            if number == len(sources):
                raise
            on_line(str(problem))


def _pip(arguments: list[str], source: Source, on_line: Callable[[str], None], what: str = "ddfm-monai") -> None:
    with _constraints() as (file, protected):
        command = [slicer_python(), "-m", "pip", *arguments, "-c", str(file), "--disable-pip-version-check"]
        try:
            code, output = run(
                [*command, "--no-input"], on_line, slicer.app.processEvents, {**source.environment, **_PLAIN_PIP}
            )
        except OSError as error:
            raise FusionProblem(_("Slicer's Python could not be started: {error}").format(error=error)) from error
    if code != 0:
        raise FusionProblem(explain(what, output, protected), output)


_PLAIN_PIP = {"PIP_PROGRESS_BAR": "off", "PIP_NO_COLOR": "1"}


@contextlib.contextmanager
def _constraints() -> Iterator[tuple[Path, dict[str, str]]]:
    """A file that keeps the protected packages at the versions that are installed now, and those versions."""
    found = {name: _version(name) for name in PROTECTED}
    protected = {name: version for name, version in found.items() if version}
    with tempfile.TemporaryDirectory(prefix="DDFM-") as folder:
        file = Path(folder) / "constraints.txt"
        file.write_text("".join(f"{name}=={version}\n" for name, version in protected.items()), encoding="utf-8")
        yield file, protected


@contextlib.contextmanager
def _environment(changed: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _forget_imported() -> None:
    """Drop modules of an earlier version, so that the next import takes the new ones. Torch is not among them."""
    importlib.invalidate_caches()
    for name in [name for name in sys.modules if name.split(".")[0] == "ddfm_monai"]:
        del sys.modules[name]


# -- Pieces ----------------------------------------------------------------------------------------


def _newest_wheel(folder: Path, name: str = "ddfm_monai") -> Path | None:
    wheels = list(folder.glob(f"{name}-*.whl"))
    return max(wheels, key=lambda path: _as_numbers(_wheel_version(path.name) or ""), default=None)


def _wheel_version(file_name: str) -> str | None:
    match = re.match(r"[\w.]+-([^-]+)-.*\.whl", file_name)
    return match.group(1) if match else None


def _torch_is_new_enough() -> bool:
    version = _version("torch")
    return version is not None and _as_numbers(version) >= _as_numbers(OLDEST_TORCH)


def _python_version() -> tuple[int, int]:
    return sys.version_info[:2]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _minimum(requirements: Path) -> tuple[int, ...]:
    for line in _lines(requirements):
        match = re.match(r"ddfm-monai\s*>=\s*([\d.]+)", line)
        if match:
            return _as_numbers(match.group(1))
    return ()


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)
