"""Install the torch that suits this machine: no multi-gigabyte CUDA build where there is no GPU and a CPU build exists.

Run by the interpreter of the environment to install into; standard library only.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--constraint", required=True, help="pip constraints that name torch's version")
    parser.add_argument("--index", default="", help="package index to take torch from")
    arguments = parser.parse_args()
    if importlib.util.find_spec("torch"):
        print("torch is installed already.")
        return
    install = ["install", "-q", "-c", arguments.constraint, "torch"]
    if arguments.index:
        subprocess.run([*PIP, *install, "--index-url", arguments.index], check=True)
    elif _has_gpu() or not _would_bring_cuda(install):
        subprocess.run([*PIP, *install], check=True)
    elif not _install_cpu_build(arguments.constraint):
        print(
            "No GPU was found, but pip's index offers CUDA builds of torch only. Installing one of several gigabytes; "
            "to avoid that, stop and run make again with TORCH_INDEX=<PyTorch's CPU index>.",
            file=sys.stderr,
        )
        subprocess.run([*PIP, *install], check=True)


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    return subprocess.run(["nvidia-smi"], capture_output=True, check=False).returncode == 0


def _would_bring_cuda(install: list[str]) -> bool:
    """Whether pip, left alone, would install NVIDIA's libraries along with torch."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run([*PIP, *install, "--dry-run", "--report", str(report)], check=True)
        chosen = [item["metadata"]["name"] for item in json.loads(report.read_text())["install"]]
    return any(name.startswith("nvidia-") for name in chosen)


def _install_cpu_build(constraint: str) -> bool:
    """uv knows PyTorch's own indexes, which pip does not."""
    if subprocess.run([*PIP, "install", "-q", "uv"], check=False).returncode != 0:
        return False
    uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable]
    return subprocess.run([*uv, "-c", constraint, "--torch-backend", "cpu", "torch"], check=False).returncode == 0


if __name__ == "__main__":
    main()
