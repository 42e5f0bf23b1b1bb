"""What the Model Zoo's own checks ask of both bundles, as far as they can be asked without its repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigWorkflow

BUNDLES = Path(__file__).parents[2] / "bundles"
CONFIGS = sorted(BUNDLES.glob("*/configs/*.json"))
BOTH = ["ddfm_fusion", "ddfm_prior"]


def metadata(name: str) -> dict:
    return json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_json_is_formatted_as_the_zoos_hook_does_it(path: Path) -> None:
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=4, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("name", BOTH)
def test_files_that_every_bundle_has_are_there_and_small_enough(name: str) -> None:
    for file in ("LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", "models/model.pt"):
        assert 0 < (BUNDLES / name / file).stat().st_size < 25_000_000, file


@pytest.mark.parametrize("name", BOTH)
def test_pinned_versions_are_plain_numbers(name: str) -> None:
    """An index has no local versions such as 2.13.0+cpu."""
    said = metadata(name)
    versions = [said["monai_version"], said["pytorch_version"], said["numpy_version"]]
    for version in (*versions, *said["required_packages_version"].values()):
        assert all(part.isdigit() for part in version.split(".")), version


def test_both_bundles_name_the_same_versions() -> None:
    first, second = (metadata(name) for name in BOTH)
    for key in ("monai_version", "pytorch_version", "numpy_version", "required_packages_version"):
        assert first[key] == second[key], key


@pytest.mark.parametrize("name", BOTH)
def test_no_bundle_is_offered_as_a_segmentation_model(name: str) -> None:
    """MONAI Label offers bundles whose output it takes for labels; it would feed one image where two are needed."""
    outputs = metadata(name)["network_data_format"]["outputs"]["pred"]
    assert outputs["type"] != "probabilities" and outputs["format"] != "segmentation"
    assert metadata(name)["supported_apps"] == {}


def test_scripting_fails_for_the_reason_that_the_documents_give() -> None:
    """The zoo's ckpt_export check scripts the network (one for both bundles); docs/bundle.md says why it cannot be."""
    config = str(BUNDLES / "ddfm_fusion" / "configs" / "inference.json")
    network = ConfigWorkflow(config, workflow_type="infer", logging_file=False).parser.get_parsed_content("network_def")
    with pytest.raises(Exception, match="LayerNorm"):
        torch.jit.script(network)
