"""The published code's numbers (tests/golden/README.md says where they come from)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddfm_monai.method import DDFMInferer, kept_timesteps
from ddfm_monai.method.published import PublishedEM
from ddfm_monai.priors import ADMUNet

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from golden_weights import golden_state_dict  # noqa: E402


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module", params=["adm_a", "adm_b"])
def golden(request):
    config = json.loads((GOLDEN / f"{request.param}.json").read_text())
    with np.load(GOLDEN / f"{request.param}.npz") as file:
        return config, {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def network(golden):
    config, _ = golden
    net = ADMUNet(**config["config"]).eval()
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    net.load_state_dict(golden_state_dict(shapes, config["weights_seed"]))
    return net


def test_unet_output(golden, network):
    _, data = golden
    with torch.no_grad():
        assert relative_error(network(data["unet_x"], data["unet_t"]), data["unet_out"]) < 1e-4


def test_three_em_steps(golden):
    config, data = golden
    em = PublishedEM(psi=config["lamb"], eta=config["rho"])
    state = em.prepare(data["I"], data["V"])
    for i in range(3):
        f = em.rectify(data[f"em_in{i}"], state)
        assert relative_error(f, data[f"em_out{i}"]) < 1e-4
        assert float(state.gamma) == pytest.approx(float(data[f"em_tau_a{i}"]), rel=1e-5)
        assert float(state.rho) == pytest.approx(float(data[f"em_tau_b{i}"]), rel=1e-5)


def test_whole_runs(golden, network):
    config, data = golden
    lengths = [int(name.split("_")[1]) for name in data if name.startswith("sample_")]
    assert lengths
    for steps in lengths:
        assert kept_timesteps(steps).tolist() == data[f"timesteps_{steps}"].tolist()
        inferer = DDFMInferer(steps, likelihood="published", psi=config["lamb"], eta=config["rho"])
        sources = torch.cat([data["I"], data["V"]], dim=1)
        fused, sample = inferer(sources, network, noise=data["x_start"], return_sample=True)
        assert relative_error(sample, data[f"sample_{steps}"]) < 1e-4
        assert fused.shape == data["I"].shape


def test_published_checkpoint_fits_by_name_and_shape():
    with torch.device("meta"):
        net = ADMUNet(
            image_size=256,
            num_channels=256,
            num_res_blocks=2,
            attention_resolutions="32,16,8",
            num_head_channels=64,
            learn_sigma=True,
            use_scale_shift_norm=True,
            resblock_updown=True,
        )
    expected = json.loads((GOLDEN / "adm256_uncond_state_dict_shapes.json").read_text())
    assert {name: list(value.shape) for name, value in net.state_dict().items()} == expected
    assert sum(p.numel() for p in net.parameters()) == 552_814_086
