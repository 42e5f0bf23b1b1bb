"""Networks of other schedules and predictions: asked at the same level of noise, they say the same as ours."""

from __future__ import annotations

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from torch import Tensor

from ddfm_monai import DDFMInferer
from ddfm_monai.method import on_linear_schedule
from ddfm_monai.method.schedule import alphas_cumprod

CLEAN = 0.3 * torch.linspace(-1, 1, 32 * 32).view(1, 1, 32, 32)
SCALED = {"schedule": "scaled_linear_beta", "beta_start": 0.0005, "beta_end": 0.0195}


class Ideal(torch.nn.Module):
    """What a perfect network would predict if every clean image were CLEAN."""

    def __init__(self, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.alpha_bar, self.prediction = scheduler.alphas_cumprod, str(scheduler.prediction_type)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        a = self.alpha_bar[timesteps].view(-1, 1, 1, 1)
        epsilon = (x - a.sqrt() * CLEAN) / (1 - a).sqrt()
        if self.prediction == "epsilon":
            return epsilon
        return CLEAN.expand_as(x) if self.prediction == "sample" else a.sqrt() * epsilon - (1 - a).sqrt() * CLEAN


@pytest.mark.parametrize("schedule", [{}, SCALED, {"schedule": "cosine"}], ids=["linear", "scaled", "cosine"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_the_noise_is_found_whatever_was_trained(schedule: dict, prediction: str) -> None:
    scheduler = DDPMScheduler(1000, prediction_type=prediction, **schedule)
    network = on_linear_schedule(Ideal(scheduler), scheduler)
    ours = alphas_cumprod().float()
    noise = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([20, 150, 500, 850])
    a = ours[t].view(-1, 1, 1, 1)
    found = network(a.sqrt() * CLEAN + (1 - a).sqrt() * noise, t)
    assert (found - noise).abs().max() < 1e-3


def test_noise_prediction_on_the_linear_schedule_is_taken_as_it_is() -> None:
    scheduler = DDIMScheduler(1000)
    network = Ideal(scheduler)
    assert on_linear_schedule(network, scheduler) is network


def test_the_inferer_gives_the_same_with_an_equal_network_of_another_schedule() -> None:
    linear, other = DDPMScheduler(1000), DDPMScheduler(1000, prediction_type="v_prediction", **SCALED)
    sources = torch.cat([CLEAN, CLEAN.flip(-1)], 1)
    settings = {"num_inference_steps": 4, "likelihood": "paper"}
    expected = DDFMInferer(**settings)(sources, Ideal(linear))
    assert torch.allclose(DDFMInferer(scheduler=other, **settings)(sources, Ideal(other)), expected, atol=1e-4)
    wrong = DDFMInferer(**settings)(sources, Ideal(other))  # what would come out without being told
    assert (wrong - expected).abs().max() > 0.01


def test_schedules_that_cannot_be_followed_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="RFlowScheduler"):
        DDFMInferer(scheduler=RFlowScheduler(1000))
