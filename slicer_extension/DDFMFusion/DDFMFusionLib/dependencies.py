"""Install ddfm-monai into Slicer's Python when it is first needed, without touching what Slicer brought along."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import slicer

from .i18n import _
from .problem import FusionProblem

__all__ = ["ensure_installed", "installed_version", "is_installed"]

REQUESTER = "DDFM"
TORCH_REQUIREMENT = ">=2.4"
# Bundled with Slicer, or put there by the PyTorch extension: pip may use them but not replace them.
PROTECTED = ("numpy", "scipy", "SimpleITK", "pydicom", "pillow", "requests", "setuptools", "torch", "torchvision")


def installed_version() -> str | None:
    """The installed version of ddfm-monai, or None."""
    importlib.invalidate_caches()
    return _version("ddfm-monai")


def is_installed(requirements: Path) -> bool:
    """Whether a fusion can start: torch is there, and ddfm-monai at the version that the module asks for."""
    version = installed_version()
    return version is not None and _version("torch") is not None and _as_numbers(version) >= _minimum(requirements)


def ensure_installed(requirements: Path, wheels: Path | None = None) -> None:
    """Install what is missing; the user is asked first.

    Args:
        requirements: the module's requirements.txt.
        wheels: a folder of wheel files to install from without a network, or None.

    Raises:
        FusionProblem: it could not be installed; the message says what to do.
    """
    if is_installed(requirements):
        return
    with _pip_reads_from(wheels):
        _ensure_torch()
        _ensure_ddfm(requirements)
    if not is_installed(requirements):
        raise FusionProblem(
            _("ddfm-monai is not installed. Press Install in the section Installation, or restart Slicer.")
        )


def _ensure_torch() -> None:
    """PyTorch comes through its own extension only, which chooses the build that fits the graphics card."""
    if _version("torch") is not None:
        return
    try:
        torch_utils = importlib.import_module("PyTorchUtils")
    except ImportError as error:
        raise FusionProblem(
            _(
                "The PyTorch extension is needed. Install it with the Extensions Manager (search for PyTorch), "
                "restart Slicer and try again."
            )
        ) from error
    try:
        torch = torch_utils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
        )
    except Exception as error:
        raise _installation_problem("PyTorch", error) from error
    if torch is None:
        raise FusionProblem(_("PyTorch was not installed."))


def _ensure_ddfm(requirements: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="DDFM-") as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text(_protect_bundled(), encoding="utf-8")
        try:
            _pip(requirements, constraints)
        except (subprocess.CalledProcessError, RuntimeError) as error:
            raise _installation_problem("ddfm-monai", error) from error


def _pip(requirements: Path, constraints: Path) -> None:
    try:
        packaging = importlib.import_module("slicer.packaging")
        ensure, load = packaging.pip_ensure, packaging.load_requirements
    except (ImportError, AttributeError):  # Slicer before 5.11
        question = _("ddfm-monai has to be installed into Slicer's Python. This can take some minutes. Continue?")
        if not slicer.util.confirmOkCancelDisplay(question):
            raise RuntimeError(_("You declined the installation.")) from None
        slicer.util.pip_install(["-c", str(constraints), *_lines(requirements)])
        return
    ensure(load(requirements), constraints=constraints, requester=REQUESTER)


def _installation_problem(what: str, error: Exception) -> FusionProblem:
    logging.exception("Installation of %s failed", what)
    return FusionProblem(
        _(
            "{what} could not be installed: {error}\n"
            "Without a connection to the internet, choose a folder of wheels in the section Installation. "
            "Behind a proxy, set HTTPS_PROXY before Slicer starts."
        ).format(what=what, error=error),
        details=str(error),
    )


def _protect_bundled() -> str:
    """Constraints that keep the protected packages at the versions that are installed now."""
    versions = {name: _version(name) for name in PROTECTED}
    return "".join(f"{name}=={version}\n" for name, version in versions.items() if version)


@contextlib.contextmanager
def _pip_reads_from(wheels: Path | None) -> Iterator[None]:
    """pip's environment variables, which every way to start pip obeys: only this folder, no index."""
    if wheels is None:
        yield
        return
    if not wheels.is_dir():
        raise FusionProblem(_("The folder of wheels does not exist: {folder}").format(folder=wheels))
    changed = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels.resolve().as_uri()}  # a URL, for spaces split the value
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


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lines(requirements: Path) -> list[str]:
    lines = [line.strip() for line in requirements.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _minimum(requirements: Path) -> tuple[int, ...]:
    for line in _lines(requirements):
        match = re.match(r"ddfm-monai\s*>=\s*([\d.]+)", line)
        if match:
            return _as_numbers(match.group(1))
    return ()


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
