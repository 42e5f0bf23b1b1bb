"""``ddfm bundle path``: the folder that ``monai.bundle run`` wants, for those who installed with pip."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddfm_monai.cli.main import run


def test_the_path_holds_a_bundle(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "path"]) == 0
    assert (Path(capsys.readouterr().out.strip()) / "configs" / "inference.json").is_file()


def test_an_unknown_bundle_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bundle", "path", "no_such"]) == 2
    assert "no_such" in capsys.readouterr().err
