"""Tier A: the extension's files by themselves, without slicer-core and Qt."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

EXTENSION = Path(__file__).parents[2] / "slicer_extension"
MODULE = EXTENSION / "DDFMFusion"
STUB = Path(__file__).parent / "stub_slicer"
SOURCES = sorted(MODULE.rglob("*.py"))
UI = MODULE / "Resources" / "UI" / "DDFMFusion.ui"
TEXT_SUFFIXES = {".py", ".txt", ".md", ".json", ".ui", ".cmake"}


def parse(path: Path) -> ast.Module:
    # ddfm-monai needs Python 3.10; in a Slicer with 3.9 the module must come up to say so.
    return ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 9))


def is_translation(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "translate")


def parameters() -> set[str]:
    tree = parse(MODULE / "DDFMFusionLib" / "parameters.py")
    (node_class,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {node.target.id for node in node_class.body if isinstance(node, ast.AnnAssign)}


# -- Python -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_translated_texts_are_plain_constants(path: Path) -> None:
    """An f-string or a sum cannot be translated; placeholders are filled in after the translation."""
    for node in ast.walk(parse(path)):
        if is_translation(node):
            assert all(isinstance(argument, ast.Constant) for argument in node.args), ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_heavy_is_imported_when_the_module_is_loaded(path: Path) -> None:
    imported = set()
    for node in parse(path).body:
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add((node.module or "").split(".")[0])
    assert not imported & {"torch", "monai", "ddfm_monai", "SimpleITK", "nibabel", "SampleData", "scipy"}


def test_no_child_process_opens_a_console_on_windows() -> None:
    """Only `process.py` starts processes, and says CREATE_NO_WINDOW for each."""
    calls = []
    for path in SOURCES:
        if "Testing" in path.parts:
            continue
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call) and re.match(r"(subprocess|os)\.(run|call|check_\w+|Popen|system|popen)$",
                                                       ast.unparse(node.func)):  # fmt: skip
                calls.append((path.name, ast.unparse(node)))
    assert {name for name, _ in calls} == {"process.py"}
    assert all("_own_process_tree()" in call or "creationflags=_CREATE_NO_WINDOW" in call for _, call in calls)


def test_placeholders_of_translated_texts_are_filled_in() -> None:
    for path in SOURCES:
        tree = parse(path)
        formatted = {
            id(node.func.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format"
        }
        for node in ast.walk(tree):
            if is_translation(node) and re.search(r"\{\w+\}", node.args[-1].value):
                assert id(node) in formatted, ast.unparse(node)


# -- the panel's description --------------------------------------------------------------------------


def test_each_bound_widget_names_a_parameter_and_each_parameter_has_a_widget() -> None:
    bound = [
        prop.findtext("string")
        for prop in ElementTree.parse(UI).iter("property")
        if prop.get("name") == "SlicerParameterName"
    ]
    assert len(bound) == len(set(bound))
    assert set(bound) == parameters()


def test_each_mrml_widget_gets_the_scene() -> None:
    tree = ElementTree.parse(UI)
    connected = {
        connection.findtext("receiver")
        for connection in tree.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    selectors = {widget.get("name") for widget in tree.iter("widget") if widget.get("class") == "qMRMLNodeComboBox"}
    assert connected == selectors


def test_names_of_widgets_are_unique_and_the_code_uses_only_existing_ones() -> None:
    names = [widget.get("name") for widget in ElementTree.parse(UI).iter("widget")]
    assert len(names) == len(set(names))
    used = {
        node.attr
        for node in ast.walk(parse(MODULE / "DDFMFusion.py"))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self.ui"
    }
    assert used <= set(names)


def test_custom_widgets_are_declared() -> None:
    tree = ElementTree.parse(UI)
    declared = {widget.findtext("class") for widget in tree.iter("customwidget")}
    used = {widget.get("class") for widget in tree.iter("widget")}
    assert {name for name in used if not name.startswith("Q")} == declared


def test_everything_to_be_set_has_a_tool_tip() -> None:
    silent = {"QLabel", "QProgressBar", "QPlainTextEdit", "ctkCollapsibleButton", "qMRMLWidget"}
    for widget in ElementTree.parse(UI).iter("widget"):
        tips = [prop for prop in widget.findall("property") if prop.get("name") == "toolTip"]
        # fuseButton's tool tip is the reason why it is disabled
        assert widget.get("class") in silent or tips or widget.get("name") == "fuseButton", widget.get("name")


# -- CMake --------------------------------------------------------------------------------------------


def cmake_list(name: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    entries = re.search(rf"set\({name}\s+(.*?)\)", text, re.DOTALL).group(1).split()
    return {entry.replace("${MODULE_NAME}", "DDFMFusion") for entry in entries}


def files_under(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(MODULE).as_posix() for path in folder.rglob(pattern) if path.is_file()}


def test_cmake_lists_what_is_there() -> None:
    scripts = files_under(MODULE, "DDFMFusion.py") | files_under(MODULE / "DDFMFusionLib", "*.py")
    assert cmake_list("MODULE_PYTHON_SCRIPTS") == scripts
    resources = {name for name in files_under(MODULE / "Resources", "*") if not name.endswith(".whl")}
    assert cmake_list("MODULE_PYTHON_RESOURCES") == resources


def test_a_wheel_in_the_extensions_folder_is_packaged(tmp_path: Path) -> None:
    shutil.copytree(EXTENSION, tmp_path / "ext")
    wheel = tmp_path / "ext/DDFMFusion/Resources/Wheels/ddfm_monai-9.9-py3-none-any.whl"
    wheel.write_bytes(b"")
    done = configure(tmp_path / "ext", tmp_path / "build")
    assert done.returncode == 0, done.stderr
    assert "resource Resources/Wheels/ddfm_monai-9.9-py3-none-any.whl" in done.stdout


def configure(source: Path, build: Path) -> subprocess.CompletedProcess[str]:
    beside_python = str(Path(sys.executable).parent)
    cmake = shutil.which("cmake", path=beside_python) or shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed (pip install ddfm-monai[test])")
    arguments = [f"-DSlicer_DIR={STUB}", "-DBUILD_TESTING=ON", "-DCMAKE_SUPPRESS_DEVELOPER_WARNINGS=1"]
    # No compiler is needed for a scripted module, nor should the test wait for one to be examined.
    for language in ("C", "CXX"):
        arguments += [f"-DCMAKE_{language}_COMPILER_FORCED=1", f"-DCMAKE_{language}_COMPILER={shutil.which('true')}"]
    return subprocess.run(
        [cmake, "-S", str(source), "-B", str(build), *arguments], capture_output=True, text=True, check=False
    )


def test_cmake_configures(tmp_path: Path) -> None:
    done = configure(EXTENSION, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "module DDFMFusion" in done.stdout
    for test in ("DDFMFusion.py", "test_ddfm_fusion_lib.py"):
        assert f"test {test}" in done.stdout


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("CMakeLists.txt", "set(EXTENSION_ICONURL", "set(SOMETHING", "EXTENSION_ICONURL is missing"),
        ("DDFMFusion/CMakeLists.txt", "Lib/job.py", "Lib/jobs.py", "Listed file does not exist: DDFMFusionLib/jobs.py"),
        ("DDFMFusion/CMakeLists.txt", "WITH_GENERIC_TESTS", "WITH_TESTS", "Listed file does not exist: WITH_TESTS"),
    ],
)
def test_the_stub_notices_mistakes(file: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    shutil.copytree(EXTENSION, tmp_path / "ext")
    path = tmp_path / "ext" / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    done = configure(tmp_path / "ext", tmp_path / "build")
    assert done.returncode != 0
    assert message in done.stderr


# -- the Extensions Index's rules ---------------------------------------------------------------------


def test_index_entry() -> None:
    entry = json.loads((EXTENSION / "DDFM.json").read_text(encoding="utf-8"))
    assert {"$schema", "category", "scm_url"} <= set(entry)
    allowed = {"$schema", "build_dependencies", "build_subdirectory", "category", "enabled"}
    assert set(entry) <= allowed | {"scm_revision", "scm_type", "scm_url", "tier"}
    assert re.fullmatch(
        r"https://raw\.githubusercontent\.com/Slicer/Slicer/main/Schemas/.*-v1\.0\.\d\.json#", entry["$schema"]
    )
    assert entry["category"] in ("Filtering", "Nuclear Medicine")
    assert entry["scm_url"].removesuffix(".git").rsplit("/", 1)[1].startswith("Slicer")
    assert entry["build_dependencies"] == ["PyTorch"]
    assert 1 <= entry["tier"] <= 5


def test_project_is_named_like_the_index_entry_and_depends_on_the_same() -> None:
    text = (EXTENSION / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"^project\((\w+)\)$", text, re.MULTILINE).group(1) == "DDFM"
    assert 'set(EXTENSION_DEPENDS "PyTorch")' in text


def test_licence_readme_and_pictures_are_there() -> None:
    assert "Apache License" in (EXTENSION / "LICENSE").read_text(encoding="utf-8")
    cmake = (EXTENSION / "CMakeLists.txt").read_text(encoding="utf-8")
    readme = (EXTENSION / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"/main/([\w/]+\.png)", cmake) + re.findall(r"!\[[^\]]*\]\(([^)]+)\)", readme)
    assert len(set(pictures)) >= 3
    for picture in pictures:
        assert (EXTENSION / picture).read_bytes().startswith(b"\x89PNG"), picture
        assert (EXTENSION / picture).stat().st_size < 250_000
    for link in re.findall(r"\]\((?!http|#)([^)]+)\)", readme):
        assert (EXTENSION / link).exists(), link


def test_requirements_have_lower_bounds_only() -> None:
    lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").split()
    assert lines
    assert all(re.fullmatch(r"[\w-]+>=[\d.]+", line) for line in lines)


def test_text_files_end_lines_with_lf() -> None:
    for path in EXTENSION.rglob("*"):
        if path.suffix in TEXT_SUFFIXES:
            assert b"\r" not in path.read_bytes(), path
