"""What the package says of itself where it is published."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("tomllib came with Python 3.11", allow_module_level=True)
import tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_package_page_has_no_link_that_is_dead_outside_the_repository() -> None:
    page = (ROOT / PROJECT["readme"]).read_text()
    assert not [target for target in re.findall(r"\]\(([^)]+)\)", page) if "://" not in target]


def test_terms_of_code_and_weights_both_come_along() -> None:
    texts = [(ROOT / name).read_text() for name in PROJECT["license-files"]]
    assert "Apache License" in texts[0] and "Whole Brain Atlas" in texts[1]
    assert "LicenseRef" not in PROJECT["license"]


def test_every_extra_for_users_is_on_the_package_page() -> None:
    page = (ROOT / PROJECT["readme"]).read_text()
    for extra in set(PROJECT["optional-dependencies"]) - {"test", "slicer-test", "dev"}:
        assert f"ddfm-monai[{extra}]" in page


def test_every_page_says_how_to_avoid_gigabytes_of_cuda() -> None:
    for page in ("README.md", PROJECT["readme"]):
        assert "CUDA" in (ROOT / page).read_text()
