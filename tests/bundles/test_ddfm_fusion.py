"""The fusion bundle as MONAI's tools and users see it: complete, equal to `fuse_volumes`, and never silently wrong."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, create_workflow, load, verify_metadata, verify_net_in_out
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from monai.transforms import Compose

from ddfm_monai import fuse_volumes
from ddfm_monai.bundle import bundle_folder, reason_of
from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.files import sha256_of
from ddfm_monai.priors import find_prior, load_prior
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.volumes import read_volume

BUNDLE = Path(__file__).parents[2] / "bundles" / "ddfm_fusion"
CONFIG = BUNDLE / "configs" / "inference.json"
METADATA = BUNDLE / "configs" / "metadata.json"
SCHEMA = Path(__file__).parent / "meta_schema_20240725.json"


@pytest.fixture
def settings(tiny_prior_path: Path, tmp_path: Path) -> dict[str, Any]:
    """Overrides that make the bundle small: the tiny network, its weights, two steps."""
    card = json.loads(tiny_prior_path.with_suffix(".json").read_text())
    return {
        "network_def": {"_target_": f"ddfm_monai.priors.{card['architecture']}", **card["config"]},
        "weights": str(tiny_prior_path),
        "weights_sha256": card["sha256"],
        "steps": 2,
        "device": "cpu",
        "output_dir": str(tmp_path / "out"),
    }


def workflow(*configs: str, **overrides: Any) -> ConfigWorkflow:
    files = [str(BUNDLE / "configs" / name) for name in configs or ("inference.json",)]
    return ConfigWorkflow(files, workflow_type="infer", logging_file=False, **overrides)


def run(**overrides: Any) -> ConfigWorkflow:
    made = workflow(**overrides)
    made.initialize()
    made.run()
    made.finalize()
    return made


def fails(error_type: type[Exception], **overrides: Any) -> str:
    """Run the bundle, expect an error of ours inside MONAI's, and return its message."""
    with pytest.raises(RuntimeError) as caught:
        run(**overrides)
    reason = reason_of(caught.value)
    assert isinstance(reason, error_type), caught.value
    return str(reason)


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *arguments],
        capture_output=True, text=True, cwd=cwd, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip


def as_options(overrides: dict[str, Any]) -> list[str]:
    return [word for key, value in overrides.items() for word in (f"--{key}", str(value))]


def folders_of(pair: tuple[Path, Path], tmp_path: Path, names: tuple[list[str], list[str]]) -> tuple[str, str]:
    """Two folders with copies of the pair under the given names."""
    for source, folder, wanted in zip(pair, ("a", "b"), names, strict=True):
        (tmp_path / folder).mkdir()
        for name in wanted:
            shutil.copy(source, tmp_path / folder / name)
    return str(tmp_path / "a"), str(tmp_path / "b")


# --- complete --------------------------------------------------------------------------------------------------------


def test_every_property_is_there_and_of_its_type(settings: dict[str, Any], pair: tuple[Path, Path]) -> None:
    made = workflow(reference=str(pair[0]), second=str(pair[1]), **{**settings, "device": "$torch.device('cpu')"})
    made.initialize()
    assert made.check_properties() == []
    assert made.bundle_root == str(BUNDLE)
    assert made.dataset_dir == str(BUNDLE / "data")
    assert made.device == torch.device("cpu")
    assert isinstance(made.dataset, Dataset)
    assert set(made.dataset[0]) == {"reference", "second", "target"}
    assert made.dataset[0]["reference"].shape == (1, *nib.load(pair[0]).shape)
    assert list(made.dataset_data) == [made.dataset.data[0]]
    assert isinstance(made.evaluator, SupervisedEvaluator)
    assert isinstance(made.network_def, torch.nn.Module)
    assert isinstance(made.inferer, Inferer)
    assert isinstance(made.preprocessing, Compose)
    assert isinstance(made.postprocessing, Compose)
    for name in ("version", "monai_version", "pytorch_version", "numpy_version", "description"):
        assert isinstance(getattr(made, name), str)
    assert made.spatial_shape == ["16*n", "16*n"]
    assert made.channel_def == {"0": "noise"}


def test_metadata_is_valid(tmp_path: Path) -> None:
    schema = shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=str(METADATA), filepath=str(schema))
    metadata = json.loads(METADATA.read_text())
    assert metadata["version"] in metadata["changelog"]


def test_network_takes_and_gives_what_metadata_says() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(METADATA),
        config_file=str(CONFIG),
        device="cpu",
        n=2,
        extra_forward_args={"timesteps": torch.tensor([5])},
    )


def test_files_of_the_specification_are_there() -> None:
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "models/model.pt"):
        assert (BUNDLE / name).stat().st_size > 0, name
    assert all(path.stat().st_size < 25_000_000 for path in BUNDLE.rglob("*") if path.is_file())


def test_weights_are_those_of_the_shipped_prior() -> None:
    config, card = json.loads(CONFIG.read_text()), find_prior(DEFAULT_PRIOR)
    assert config["network_def"] == {"_target_": f"ddfm_monai.priors.{card.architecture}", **card.config}
    assert sha256_of(BUNDLE / "models" / "model.pt") == config["weights_sha256"]
    weights = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    shipped = load_prior(DEFAULT_PRIOR).network.state_dict()
    assert weights.keys() == shipped.keys()
    assert all(torch.equal(weights[name].float(), shipped[name]) for name in shipped)


# --- right -----------------------------------------------------------------------------------------------------------


def test_result_is_that_of_fuse_volumes(
    settings: dict[str, Any], pair: tuple[Path, Path], tiny_prior_path: Path, tmp_path: Path
) -> None:
    run(reference=str(pair[0]), second=str(pair[1]), seed=5, window="40,300", **settings)
    expected = fuse_volumes(*pair, prior=tiny_prior_path, steps=2, seed=5, window="40,300", device="cpu")
    written = read_volume(tmp_path / "out" / "head_mri_fused.nii.gz")
    assert torch.equal(written.as_tensor(), expected.fused.as_tensor())
    assert np.allclose(written.affine, nib.load(pair[0]).affine)
    provenance = json.loads((tmp_path / "out" / "head_mri_fused.json").read_text())
    for name in ("reference", "second", "likelihood", "sampling"):
        assert provenance[name] == expected.provenance[name], name
    assert provenance["prior"]["sha256"] == settings["weights_sha256"]
    assert (tmp_path / "out" / "head_mri_fused.png").stat().st_size > 0


def test_folders_are_fused_by_name_and_lists_one_by_one(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    a, b = folders_of(pair, tmp_path, (["p1.nii.gz", "p2.nii.gz"], ["p2.nii.gz", "p1.nii.gz"]))
    run(reference=a, second=b, **{**settings, "steps": 1})
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"p1_fused.nii.gz", "p2_fused.nii.gz"}
    run(reference=[f"{a}/p1.nii.gz"], second=[f"{b}/p2.nii.gz"], output_postfix="_x", **{**settings, "steps": 1})
    assert (tmp_path / "out" / "p1_x.nii.gz").is_file()


def test_volumes_in_memory_are_fused_without_files(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    made = workflow(**settings)
    made.dataset_data = [{"reference": read_volume(pair[0]), "second": read_volume(pair[1])}]
    made.initialize()
    made.run()
    assert made.evaluator.state.output["pred"].shape == (1, *nib.load(pair[0]).shape)
    assert not (tmp_path / "out").exists()


def test_command_runs_from_any_directory(settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    options = ["--config_file", str(CONFIG), "--reference", str(pair[0]), "--second", str(pair[1])]
    done = command(*options, *as_options(settings), cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "head_mri_fused.nii.gz").is_file()
    assert not list(elsewhere.iterdir())


def test_two_processes_share_the_pairs(settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = folders_of(pair, tmp_path, (["p1.nii.gz", "p2.nii.gz"],) * 2)
    configs = [str(BUNDLE / "configs" / name) for name in ("inference.json", "multi_gpu_inference.json")]
    options = as_options({**{k: v for k, v in settings.items() if k != "device"}, "steps": 1})
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         "-m", "monai.bundle", "run", "--config_file", str(configs), "--reference", a, "--second", b, *options],
        capture_output=True, text=True, cwd=tmp_path, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").glob("*.nii.gz")} == {"p1_fused.nii.gz", "p2_fused.nii.gz"}
    assert done.stdout.count("p1_fused.nii.gz") == 1  # each pair was fused once


# --- never silently wrong --------------------------------------------------------------------------------------------


def test_mistyped_setting_stops_the_command_with_a_clear_last_line(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--config_file", str(CONFIG), "--reference", str(pair[0]), "--second", str(pair[1])]
    failed = command(*options, *as_options(settings), "--ouput_postfix", "zzz", cwd=tmp_path)
    assert failed.returncode != 0
    last = failed.stderr.strip().splitlines()[-1]
    assert "'ouput_postfix'" in last
    assert "output_postfix" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("setting", "value"), [("steps", "abc"), ("register", "affine"), ("samples", "0"),
                                                ("device", "cuda")])  # fmt: skip
def test_an_impossible_override_ends_the_command_with_a_reason(
    setting: str, value: str, settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--config_file", str(CONFIG), "--reference", str(pair[0]), "--second", str(pair[1])]
    failed = command(*options, *as_options({**settings, setting: value}), cwd=tmp_path)
    assert failed.returncode != 0
    last = failed.stderr.strip().splitlines()[-1]
    assert setting in last and value in last


def test_a_mistyped_argument_of_a_component_is_named_in_the_last_line(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ["--config_file", str(CONFIG), "--reference", str(pair[0]), "--second", str(pair[1])]
    failed = command(*options, *as_options(settings), "--inferer#stepz", "3", cwd=tmp_path)
    assert failed.returncode != 0 and "'stepz'" in failed.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("setting", ["infrer#steps", "inferer#no_such"])
def test_mistyped_nested_setting_is_refused(setting: str, settings: dict[str, Any], pair: tuple[Path, Path]) -> None:
    with pytest.raises((RuntimeError, KeyError)) as caught:
        run(reference=str(pair[0]), second=str(pair[1]), **{**settings, setting: 1})
    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__
    assert any(name in text for name in setting.split("#") for text in chain)


def test_a_key_of_the_users_own_is_fine_when_something_uses_it(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    run(reference="@mine", second=str(pair[1]), mine=str(pair[0]), **{**settings, "steps": 1})
    assert (tmp_path / "out" / "head_mri_fused.nii.gz").is_file()


def test_missing_input_is_named(settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.nii.gz")
    assert absent in fails(UsageError, reference=str(pair[0]), second=absent, **settings)
    assert str(BUNDLE / "data" / "reference") in fails(UsageError, **settings)  # the default folder


def test_empty_folders_and_lists_are_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert "nothing to fuse" in fails(UsageError, reference=[], second=[], **settings)
    assert "is empty" in fails(UsageError, reference=str(tmp_path / "a"), second=str(tmp_path / "b"), **settings)
    assert not (tmp_path / "out").exists()


def test_unmatched_files_are_listed(settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = folders_of(pair, tmp_path, (["p1.nii.gz", "p2.nii.gz"], ["p1.nii.gz", "p3.nii.gz"]))
    message = fails(UsageError, reference=a, second=b, **settings)
    assert "p2.nii.gz" in message
    assert "p3.nii.gz" in message
    assert "p1" not in message


def test_lists_of_different_lengths_are_refused(settings: dict[str, Any], pair: tuple[Path, Path]) -> None:
    message = fails(UsageError, reference=[str(pair[0])], second=[str(pair[1])] * 2, **settings)
    assert "1 entries" in message
    assert "2" in message


def test_two_results_of_one_name_are_refused(settings: dict[str, Any], pair: tuple[Path, Path]) -> None:
    message = fails(UsageError, reference=[str(pair[0])] * 2, second=[str(pair[1])] * 2, **settings)
    assert "head_mri" in message


def test_missing_damaged_and_misfit_weights_are_refused(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    sources = {"reference": str(pair[0]), "second": str(pair[1])}
    absent = {**settings, "weights": str(tmp_path / "absent.pt")}
    assert "absent.pt" in fails(UsageError, **sources, **absent)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(Path(settings["weights"]).read_bytes()[:-1] + b"x")
    assert settings["weights_sha256"] in fails(UsageError, **sources, **{**settings, "weights": str(damaged)})
    wider = {**settings, "network_def": {**settings["network_def"], "channels": [32, 32]}}
    assert "do not fit" in fails(UsageError, **sources, **wider)
    assert not (tmp_path / "out").exists()


def test_earlier_results_are_kept_unless_told_otherwise(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    kept = tmp_path / "out" / "head_mri_fused.nii.gz"
    kept.write_text("precious")
    assert kept.name in fails(UsageError, reference=str(pair[0]), second=str(pair[1]), **settings)
    assert kept.read_text() == "precious"
    run(reference=str(pair[0]), second=str(pair[1]), overwrite=True, **{**settings, "steps": 1})
    assert kept.stat().st_size > 1000


def test_a_damaged_volume_leaves_nothing_behind(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pair[1].write_bytes(pair[1].read_bytes()[:2000])
    assert "head_ct.nii.gz" in fails(InputError, reference=str(pair[0]), second=str(pair[1]), **settings)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_data_list_of_the_users_own_is_written_too(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    listed = tmp_path / "datalist.json"
    listed.write_text(json.dumps({"test": [{"reference": str(pair[0]), "second": str(pair[1])}]}))
    expression = f"$monai.data.load_decathlon_datalist('{listed}', True, 'test', '/')"
    run(**{**settings, "steps": 1, "dataset#data": expression})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"head_mri_fused.{suffix}" for suffix in ("nii.gz", "json", "png")
    }


def test_two_items_of_a_data_list_never_write_one_file(
    settings: dict[str, Any], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = shutil.copy(pair[0], tmp_path / "other" / pair[0].name)
    items = [{"reference": str(path), "second": str(pair[1])} for path in (pair[0], other)]
    message = fails(UsageError, overwrite=True, **{**settings, "steps": 1, "dataset#data": items})
    assert "two references are called 'head_mri'" in message


def test_the_bundle_loads_without_data_as_monais_clients_do_it() -> None:
    network = load("ddfm_fusion", bundle_dir=str(BUNDLE.parent), workflow_type="inference", source="monaihosting")
    assert isinstance(network, torch.nn.Module)
    made = create_workflow(config_file=str(CONFIG), workflow_type="infer", logging_file=False)
    assert isinstance(made.network_def, torch.nn.Module)


def test_without_the_package_the_last_line_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.modules['ddfm_monai'] = None; "
        f"sys.argv = ['monai.bundle', 'run', '--config_file', {str(CONFIG)!r}]; "
        "runpy.run_module('monai.bundle', run_name='__main__')"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert failed.returncode != 0
    assert "pip install ddfm-monai" in failed.stderr.strip().splitlines()[-1]


def test_the_bundle_is_found_beside_the_package() -> None:
    assert bundle_folder("ddfm_fusion") == BUNDLE
    with pytest.raises(UsageError, match="no_such"):
        bundle_folder("no_such")
