"""The settings of a fusion: one declaration, one check, the same on every surface."""

from __future__ import annotations

import inspect
import json
import pickle
from dataclasses import fields

import pytest
from click import Command
from typer.main import get_command

from ddfm_monai import DDFMFuse, DDFMFused, fuse_volumes
from ddfm_monai.batch.case import CaseSettings
from ddfm_monai.bundle import PairInferer, bundle_folder
from ddfm_monai.cli.main import app
from ddfm_monai.errors import UsageError
from ddfm_monai.method import LIKELIHOODS
from ddfm_monai.priors.precision import PRECISIONS
from ddfm_monai.settings import LIKELIHOODS as LIKELIHOOD_NAMES
from ddfm_monai.settings import PRECISIONS as PRECISION_NAMES
from ddfm_monai.settings import FusionSettings

NAMES = [item.name for item in fields(FusionSettings)]
DEFAULTS = {item.name: item.default for item in fields(FusionSettings)}


def command(*path: str) -> Command:
    found = get_command(app)
    for name in path:
        found = found.commands[name]
    return found


@pytest.mark.parametrize("surface", [fuse_volumes, DDFMFuse, DDFMFused])
def test_python_shows_every_setting_by_name_with_its_default_and_its_text(surface) -> None:
    parameters = inspect.signature(surface).parameters
    assert {name: parameters[name].default for name in NAMES} == DEFAULTS
    for item in fields(FusionSettings):
        assert f"{item.name}: {item.metadata['help']}" in inspect.getdoc(surface)


def test_the_command_offers_every_setting_with_its_default() -> None:
    options = {option.name: option for option in command("fuse").params}
    for name in NAMES:
        default = options[name].default
        assert getattr(default, "value", default) == DEFAULTS[name], name


def test_dicom_run_offers_every_setting() -> None:
    """Headers say what kind a series is; the options say which kinds are wanted."""
    assert set(NAMES) <= {option.name for option in command("dicom", "run").params}


def test_the_bundle_takes_its_defaults_from_the_settings() -> None:
    config = json.loads((bundle_folder("ddfm_fusion") / "configs" / "inference.json").read_text())
    for name in NAMES:
        assert config["inferer"][name] == f"@{name}"
        if name != "device":  # MONAI's bundles have it as an object
            assert config[name] == f"$@defaults.{name}"


@pytest.mark.parametrize(
    "change",
    [
        {"register": "affine"}, {"samples": 0}, {"samples": 1.5}, {"steps": 0}, {"steps": "abc"}, {"batch_size": 0},
        {"precision": "float8"}, {"likelihood": "best"}, {"second_kind": "xray"}, {"window": "40"}, {"seed": None},
        {"window": "40,-1"}, {"second_kind": 3}, {"steps": True}, {"seed": 2**70},
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [FusionSettings, CaseSettings, DDFMFuse, PairInferer])
def test_what_no_fusion_could_take_is_refused_at_construction(make, change) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        make(**change)


def test_a_mistyped_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="stepps"):
        DDFMFuse(stepps=3)


def test_kinds_are_known_by_dicoms_names_and_in_any_case() -> None:
    settings = FusionSettings(reference_kind="MR", second_kind="PT")
    assert (settings.reference_kind, settings.second_kind) == ("mr", "pet")


def test_names_are_those_of_the_rooms_that_know_them() -> None:
    assert set(LIKELIHOOD_NAMES) == set(LIKELIHOODS)
    assert set(PRECISION_NAMES) == {"auto", *PRECISIONS}


def test_identity_is_what_a_result_depends_on() -> None:
    settings = FusionSettings(seed=7)
    assert settings.identity() == FusionSettings(seed=7, device="cpu", batch_size=3).identity()
    assert settings.identity() != FusionSettings(seed=8).identity()
    assert json.loads(json.dumps(settings.identity()))["seed"] == 7


def test_settings_travel_to_other_processes() -> None:
    for settings in (FusionSettings(steps=3, window="soft"), CaseSettings(steps=3, sop_class="sc")):
        assert pickle.loads(pickle.dumps(settings)) == settings
