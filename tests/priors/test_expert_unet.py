"""Two experts as one prior: each timestep goes to the right one; slices may have any size that the fine one takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddfm_monai.priors import ExpertUNet, load_prior
from ddfm_monai.priors.training import export_prior

FINE = {"channels": (8, 16), "down_blocks": (1, 1), "up_blocks": (1, 1), "num_heads": 2}
COARSE = {"channels": (16,), "down_blocks": (1,), "up_blocks": (1,), "patch": 8, "num_heads": 2}


@pytest.fixture
def network() -> ExpertUNet:
    torch.manual_seed(0)
    made = ExpertUNet(FINE, COARSE, switch=400).eval().requires_grad_(False)
    for weight in made.parameters():  # fresh networks end in zeros
        weight.add_(0.05 * torch.randn_like(weight))
    return made


def test_each_timestep_is_answered_by_its_expert(network: ExpertUNet) -> None:
    x, timesteps = torch.randn(4, 1, 32, 32), torch.tensor([0, 399, 400, 999])
    noise = network(x, timesteps)
    torch.testing.assert_close(noise[:2], network.fine(x[:2], timesteps[:2]))
    torch.testing.assert_close(noise[2:], network.coarse(x[2:], timesteps[2:]))
    torch.testing.assert_close(network(x[:2], timesteps[:2]), noise[:2])
    torch.testing.assert_close(network(x[3:], timesteps[3:]), noise[3:])


def test_slices_that_only_the_fine_expert_can_halve_are_answered_at_all_timesteps(network: ExpertUNet) -> None:
    assert network.stride == 4
    for shape in ((1, 1, 20, 36), (1, 1, 4, 4)):
        for step in (10, 900):
            noise = network(torch.randn(shape), torch.tensor([step]))
            assert noise.shape == shape and bool(noise.isfinite().all())


def test_it_is_exported_and_loaded_by_its_card(network: ExpertUNet, tmp_path: Path) -> None:
    path = export_prior(network, tmp_path / "pair.safetensors", {})
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["architecture"] == "ExpertUNet" and card["config"]["switch"] == 400
    prior, x = load_prior(path), torch.randn(2, 1, 16, 16)
    timesteps = torch.tensor([100, 800])
    torch.testing.assert_close(prior(x, timesteps), network(x, timesteps), atol=2e-2, rtol=2e-2)  # half precision


def test_experts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="in_channels is 1 in the fine expert and 3"):
        ExpertUNet(FINE, {**COARSE, "in_channels": 3})
