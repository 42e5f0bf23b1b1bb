"""The training bundle as its users run it, with a tiny network on slices made here."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from jsonschema import Draft201909Validator
from monai.bundle import ConfigWorkflow, load
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from PIL import Image
from safetensors.torch import load_file

from ddfm_monai.errors import DDFMError
from ddfm_monai.priors import ExpertUNet, find_prior, load_prior
from ddfm_monai.settings import DEFAULT_PRIOR

BUNDLE = Path(__file__).parents[2] / "bundles" / "ddfm_prior"
TINY = {
    "network_def#experts": [
        {"channels": [16, 24], "down_blocks": [1, 1], "up_blocks": [1, 1], "num_heads": 2},
        {"channels": [16], "down_blocks": [1], "up_blocks": [1], "patch": 8, "num_heads": 2, "middle_blocks": 1},
    ],
    "network_def#switches": [500],
    "views": [
        {"size": 32, "batch": 4, "power": 2.0, "timesteps": [0, 500], "upright": False, "share": [1, 1]},
        {"size": 48, "batch": 4, "power": 1.0, "timesteps": [500, 1000], "upright": True, "share": [1, 1]},
    ],
    "learning_rate": 0.004,
    "warmup": 5,
    "validation_slices": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two volumes of ellipses, MRI-like and CT-like, 48 x 40 x 4."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 40), indexing="ij")
    for case, name, levels in (("a", "mri", (60, 140)), ("b", "ct", (255, 90))):
        slices = []
        for _ in range(4):
            head = np.hypot(x / rng.uniform(0.7, 0.9), y / rng.uniform(0.8, 0.9))
            slices.append(np.select([head < 0.6, head < 0.9], [levels[1], levels[0]]) * (head < 0.9))
        (folder / case).mkdir()
        volume = np.stack(slices, axis=-1).astype(np.uint8)
        nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1, 5, 1])), folder / case / f"{name}.nii.gz")
    return folder


def workflow(config: str, kind: str = "train", **settings: Any) -> ConfigWorkflow:
    made = ConfigWorkflow(str(BUNDLE / "configs" / config), workflow_type=kind, logging_file=False, **settings)
    made.initialize()
    return made


def train(data: Path, output: Path, iterations: int, **settings: Any) -> list[dict[str, str]]:
    """Run the training and return its log."""
    settings = {**TINY, "iterations": iterations, "iterations_per_epoch": 10, **settings}
    workflow("train.json", dataset_dir=str(data), output_dir=str(output), **settings).run()
    with (output / "log.csv").open() as file:
        return list(csv.DictReader(file))


def last_weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "last.pt", weights_only=True)["network"]


def test_two_hundred_iterations_lower_the_loss_and_give_a_prior_that_denoises(data: Path, tmp_path: Path) -> None:
    log = train(data, tmp_path, 200, validation_dir=str(data), validate_every=20)
    losses = [float(row["loss"]) for row in log]
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
    assert 0 < float(log[-1]["val_mean"]) < 0.2
    prior = load_prior(tmp_path / "prior.safetensors")
    card = json.loads((tmp_path / "prior.json").read_text())["card"]
    assert card["training_slices"] == {"ct": 4, "mr": 4}
    assert card["iterations"] == 200
    x, steps = torch.randn(1, 1, 32, 32), torch.tensor([100])
    assert prior(x, steps).shape == x.shape


def test_a_resumed_training_goes_on_exactly(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "whole", 30, keep_every=2)
    train(data, tmp_path / "rest", 30, resume=str(tmp_path / "whole" / "epoch_0002.pt"))
    whole, rest = last_weights(tmp_path / "whole"), last_weights(tmp_path / "rest")
    assert all(torch.equal(whole[name], rest[name]) for name in whole)


def test_it_trains_from_label_maps_alone_and_beside_volumes(data: Path, tmp_path: Path) -> None:
    labels = np.zeros((40, 44, 40), np.uint8)
    for margin, label in ((4, 255), (7, 24), (10, 3), (14, 2)):  # FreeSurfer's numbers, in nested boxes
        labels[margin:-margin, margin:-margin, margin:-margin] = label
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(labels, np.diag([-4.0, -4, 4, 1])), tmp_path / "labels" / "head.nii.gz")
    where = {"labels_dir": str(tmp_path / "labels"), "rendered": {"mr": 2, "ct": 1}}
    for name, dataset in (("alone", None), ("both", str(data))):
        settings = {**TINY, "iterations": 10, "iterations_per_epoch": 10, "dataset_dir": dataset, **where}
        workflow("train.json", output_dir=str(tmp_path / name), **settings).run()
    alone, both = (json.loads((tmp_path / n / "prior.json").read_text())["card"] for n in ("alone", "both"))
    assert alone["training_slices"] == {"ct": 1, "mr": 2}
    assert both["training_slices"] == {"ct": 5, "mr": 6}


def test_all_configs_describe_one_network() -> None:
    networks = [
        json.loads((BUNDLE / "configs" / f"{name}.json").read_text())["network_def"]
        for name in ("train", "evaluate", "inference")
    ]
    assert networks[0] == networks[1] == networks[2]


def test_evaluate_reports_the_error_of_the_trained_weights(data: Path, tmp_path: Path) -> None:
    train(data, tmp_path, 10)
    network = {name: value for name, value in TINY.items() if name.startswith("network_def")}
    where = {"dataset_dir": str(data), "output_dir": str(tmp_path / "eval"), "slices_per_modality": 1}
    workflow("evaluate.json", weights=str(tmp_path / "prior.safetensors"), **where, **network).run()
    report = json.loads((tmp_path / "eval" / "noise_prediction_error.json").read_text())
    assert 0 < report["mean"] < 1.5
    assert {"t000", "t900", "ct", "mr"} < set(report)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_dir": None}, "--labels_dir"),
        ({"labels_dir": "absent"}, "absent: no such folder"),
        ({"dataset_dir": "absent"}, "absent: no such folder"),
        ({"resume": "absent.pt"}, "absent.pt: no such checkpoint"),
        ({"learnign_rate": 1.0}, "did you mean 'learning_rate'"),
        ({"modality_shares": {"pet": 1.0}}, "None of the modalities"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(
    data: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    settings = {"dataset_dir": str(data), "output_dir": str(tmp_path / "out"), "iterations": 10, **TINY, **settings}
    with pytest.raises(Exception, match="Failed to") as caught:  # MONAI's own error around ours
        workflow("train.json", **settings).run()
    assert message in str(_reason(caught.value))
    assert not (tmp_path / "out").exists()


def _reason(error: BaseException | None) -> BaseException | None:
    while error is not None and not isinstance(error, DDFMError):
        error = error.__cause__ or error.__context__
    return error


def test_the_command_of_the_readme_fails_loudly_on_a_mistyped_setting(data: Path, tmp_path: Path) -> None:
    config = str(BUNDLE / "configs" / "train.json")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", config, "--dataset_dir", str(data)]
    done = subprocess.run([*command, "--iteratoins", "5"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "unknown setting 'iteratoins': did you mean 'iterations'?" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_bundle_carries_the_shipped_weights() -> None:
    card = find_prior(DEFAULT_PRIOR)
    shipped = load_file(card.path)
    carried = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    assert set(carried) == set(shipped)
    assert all(torch.equal(carried[name], shipped[name]) for name in shipped)
    network = json.loads((BUNDLE / "configs" / "train.json").read_text())["network_def"]
    assert network.pop("_target_") == f"ddfm_monai.priors.{card.architecture}"
    assert ExpertUNet(**network).config == card.config


def test_metadata_follows_the_schema() -> None:
    schema = json.loads((Path(__file__).parent / "meta_schema_20240725.json").read_text())
    metadata = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    Draft201909Validator(schema).validate(metadata)
    assert metadata["version"] in metadata["changelog"]
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == ["16*n", "16*n"]


def test_the_bundle_has_every_property_of_a_training(data: Path, tmp_path: Path) -> None:
    settings = {**TINY, "iterations": 10, "iterations_per_epoch": 10}
    made = workflow("train.json", dataset_dir=str(data), output_dir=str(tmp_path), **settings)
    assert not made.check_properties()
    assert made.trainer.state.max_epochs == 1


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> dict[str, Any]:
    """Settings that make evaluation and sampling small: a tiny network with weights of a short training."""
    train(data, tmp_path / "runs", 10)
    network = {name: value for name, value in TINY.items() if name.startswith("network_def")}
    return {"weights": str(tmp_path / "runs" / "prior.safetensors"), **network}


def test_evaluation_has_every_property_and_its_evaluator_measures_the_same(
    data: Path, tmp_path: Path, trained: dict[str, Any]
) -> None:
    settings = {"dataset_dir": str(data), "output_dir": str(tmp_path), "slices_per_modality": 1, **trained}
    made = workflow("evaluate.json", "infer", **settings)
    assert not made.check_properties()
    made.evaluator.run()
    measured = made.parser.get_parsed_content("error")()["mean"]
    assert made.evaluator.state.metrics["noise_prediction_error"] == pytest.approx(measured, rel=1e-4)


def test_inference_writes_samples_that_depend_on_their_seed(tmp_path: Path, trained: dict[str, Any]) -> None:
    where = {"output_dir": str(tmp_path / "out"), "size": 32, "steps": 3, "samples": 2, "seed": 5}
    made = workflow("inference.json", "infer", **where, **trained)
    assert not made.check_properties()
    made.run()
    first, second = (np.asarray(Image.open(tmp_path / "out" / f"sample_{seed}.png")) for seed in (5, 6))
    assert first.shape == (32, 32) and first.std() > 0 and (first != second).any()
    workflow(
        "inference.json", "infer", **{**where, "samples": 1, "output_dir": str(tmp_path / "again")}, **trained
    ).run()
    assert (np.asarray(Image.open(tmp_path / "again" / "sample_5.png")) == first).all()


def test_the_bundle_loads_without_data() -> None:
    assert isinstance(load("ddfm_prior", bundle_dir=str(BUNDLE.parent), source="monaihosting"), torch.nn.Module)


def test_monais_federated_client_trains_and_evaluates(data: Path, tmp_path: Path, trained: dict[str, Any]) -> None:
    small = {**TINY, "iterations": 10, "iterations_per_epoch": 5, "dataset_dir": str(data)}
    client = MonaiAlgo(
        bundle_root=str(BUNDLE),
        train_kwargs={**small, "output_dir": str(tmp_path / "fl")},
        eval_kwargs={
            **small,
            "output_dir": str(tmp_path / "fl"),
            "weights": trained["weights"],
            "slices_per_modality": 1,
        },
    )
    client.initialize({ExtraItems.CLIENT_NAME: "hospital"})
    start = {name: value.numpy().copy() for name, value in client.trainer.network.state_dict().items()}
    client.train(ExchangeObject(weights=start))
    assert client.trainer.state.iteration == 5
    assert any(bool(change.any()) for change in client.get_weights().weights.values())  # what it sends is the change
    report = client.evaluate(ExchangeObject(weights=start))
    assert report.metrics["noise_prediction_error"] > 0
