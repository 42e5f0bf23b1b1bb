"""Experts as one prior: each timestep goes to the right one; slices may have any size that the first one takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ddfm_monai.priors import ExpertUNet, load_prior
from ddfm_monai.training import export_prior

FINE = {"channels": (8, 16), "down_blocks": (1, 1), "up_blocks": (1, 1), "num_heads": 2}
MIDDLE = {"channels": (16,), "down_blocks": (1,), "up_blocks": (1,), "patch": 4, "num_heads": 2}
COARSE = {**MIDDLE, "patch": 8}


@pytest.fixture
def network() -> ExpertUNet:
    torch.manual_seed(0)
    made = ExpertUNet([FINE, MIDDLE, COARSE], switches=[300, 600]).eval().requires_grad_(False)
    for weight in made.parameters():  # fresh networks end in zeros
        weight.add_(0.05 * torch.randn_like(weight))
    return made


def test_each_timestep_is_answered_by_its_expert(network: ExpertUNet) -> None:
    x, timesteps = torch.randn(6, 1, 32, 32), torch.tensor([0, 299, 300, 599, 600, 999])
    noise = network(x, timesteps)
    for index, expert in enumerate(network.experts):
        its_own = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(noise[its_own], expert(x[its_own], timesteps[its_own]))
        torch.testing.assert_close(network(x[its_own], timesteps[its_own]), noise[its_own])


def test_slices_that_only_the_first_expert_can_halve_are_answered_at_all_timesteps(network: ExpertUNet) -> None:
    assert network.stride == 4
    for shape in ((1, 1, 20, 36), (1, 1, 4, 4)):
        for step in (10, 400, 900):
            noise = network(torch.randn(shape), torch.tensor([step]))
            assert noise.shape == shape and bool(noise.isfinite().all())


def test_it_is_exported_and_loaded_by_its_card(network: ExpertUNet, tmp_path: Path) -> None:
    path = export_prior(network, tmp_path / "experts.safetensors", {})
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["architecture"] == "ExpertUNet" and card["config"]["switches"] == [300, 600]
    prior, x = load_prior(path), torch.randn(3, 1, 16, 16)
    stored, meant = (network_(x, torch.tensor([100, 500, 800])) for network_ in (prior, network))
    error = (stored - meant).square().mean((1, 2, 3)).sqrt() / meant.square().mean((1, 2, 3)).sqrt()
    assert error[0] < 1e-3  # half precision
    assert bool((error < 0.05).all())  # the others' matrices have 8 bits


def test_one_expert_answers_everywhere() -> None:
    alone = ExpertUNet([FINE], switches=[])
    x, timesteps = torch.randn(2, 1, 16, 16), torch.tensor([0, 999])
    torch.testing.assert_close(alone(x, timesteps), alone.experts[0](x, timesteps))


def test_experts_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"The experts differ in in_channels: \[1, 3\]"):
        ExpertUNet([FINE, {**COARSE, "in_channels": 3}], switches=[300])
    for switches in ([], [300, 200], [0, 300], [300, 300], [1, 2, 3]):
        with pytest.raises(ValueError, match="3 experts need 2 increasing switches"):
            ExpertUNet([FINE, MIDDLE, COARSE], switches)
