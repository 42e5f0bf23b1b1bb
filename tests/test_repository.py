"""Rules about the repository itself: who may import whom, what importing costs, what never goes in."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddfm_monai"
LARGEST_FILE = 40_000_000
"""Bytes: the shipped prior's weights may have that many, nothing else comes near."""

_DATA = {"space", "volume", "settings", "rules"}
_BELOW_FUSION = _DATA | {"dicom", "volumes", "method", "priors"}
_SURFACES = _BELOW_FUSION | {"fusion"}
ARROWS = {
    # room -> rooms of the package that its files may import (DESIGN: the direction of the arrows)
    "settings": set(),
    "space": set(),
    "volume": {"space"},
    "rules": set(),
    "method": set(),
    "priors": {"method"},
    "dicom": _DATA,
    "volumes": _DATA | {"dicom"},  # a folder with a series is read there
    "viewer": _DATA | {"volumes"},
    "fusion": _BELOW_FUSION | {"viewer"},
    "training": {"volumes", "priors", "method"},
    "metrics": _DATA | {"volumes", "dicom"},
    "phantom": set(),
    "transforms": _SURFACES,
    "bundle": _SURFACES,
    "batch": _SURFACES,
    "cli": _SURFACES | {"batch", "bundle", "metrics", "phantom"},
}
FOR_EVERYBODY = {"_version", "errors", "files", "lock", "progress", "protocol", "pages", "switches"}


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git clone")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "ddfm_monai"}
    return found


def files_of(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py")) if (PACKAGE / room).is_dir() else [PACKAGE / f"{room}.py"]


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_rooms_import_only_what_lies_below_them(room: str) -> None:
    for path in files_of(room):
        allowed = ARROWS[room] | FOR_EVERYBODY | {room}
        rooms = {name.split(".")[1] for name in imports_of(path) if name.startswith("ddfm_monai.")}
        assert rooms <= allowed, f"{path.relative_to(ROOT)} imports {sorted(rooms - allowed)}"


def module_graph() -> dict[str, set[str]]:
    """Module of the package -> modules of the package that it imports, anywhere in it."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        # "from package import module" is an arrow to the module, not to the package that it lies in
        graph[name] = {
            x for x in found & modules.keys() if not any(y.startswith(f"{x}.") for y in found & modules.keys())
        }
    return graph


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = module_graph()
    while leaves := {name for name, below in graph.items() if not below & graph.keys()}:
        graph = {name: below for name, below in graph.items() if name not in leaves}
    assert not graph, f"each of these leads back to itself: {sorted(graph)}"


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ}
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_or_asking_for_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "monai", "numpy", "scipy", "SimpleITK", "nibabel", "pydicom", "PIL"}
    assert not modules_after("import ddfm_monai; dir(ddfm_monai)") & heavy
    assert not modules_after("import ddfm_monai.cli.main") & heavy


@pytest.mark.parametrize("room", ["method", "priors"])
def test_the_model_rooms_need_torch_numpy_monai_and_safetensors_only(room: str) -> None:
    known = {"torch", "numpy", "monai", "safetensors", "ddfm_monai", "einops"}
    for path in files_of(room):
        foreign = {name.split(".")[0] for name in imports_of(path)} - known - set(sys.stdlib_module_names)
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_no_machine_is_named() -> None:
    """Paths of somebody's machine and addresses of package registries have no place in a repository."""
    hosts = ["py" + "pi.org", "files.python" + "hosted.org", "download.py" + "torch.org", "deb.deb" + "ian.org"]
    hosts.append("registry.npm" + "js.org")
    homes = re.compile(r"(?<![\w.])/(?:ro" + r"ot|ho" + r"me/\w+|wo" + r"rk|Us" + r"ers/\w+)/[\w.]")
    for path in tracked_files():
        if path.suffix in {".npz", ".png", ".pt", ".safetensors", ".icns", ".ico", ".gz"}:
            continue
        text = path.read_text(errors="replace")
        assert not any(host in text for host in hosts), f"{path.relative_to(ROOT)} names a package registry"
        place = homes.search(text)
        assert place is None, f"{path.relative_to(ROOT)} names a path of one machine: {place and place.group()}"


def test_no_file_is_too_large() -> None:
    for path in tracked_files():
        limit = LARGEST_FILE if path.suffix in {".safetensors", ".pt"} else 1_000_000
        assert path.stat().st_size <= limit, f"{path.relative_to(ROOT)} has {path.stat().st_size} bytes"


def test_documents_link_to_files_that_exist() -> None:
    for path in tracked_files():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target and not target.startswith("mailto:"):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_documents_name_files_that_exist() -> None:
    """Paths between backticks, from the root of the repository."""
    rooms = "|".join(sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name.isidentifier()))
    for path in tracked_files():
        if path.suffix == ".md":
            for named in re.findall(rf"`((?:{rooms})/[\w./-]*\w)`", path.read_text(encoding="utf-8")):
                assert (ROOT / named).exists(), f"{path.relative_to(ROOT)} names {named}"
