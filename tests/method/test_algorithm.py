"""The loop: the chain is at the noise levels that the schedule states; each step goes on from the corrected image."""

from __future__ import annotations

import pytest
import torch

from ddfm_monai.method import LIKELIHOODS, DDFMInferer, Step, kept_timesteps, noise_field
from ddfm_monai.method.schedule import alphas_cumprod


class Recorder(torch.nn.Module):
    """Predicts the start noise, whatever it is shown, and keeps what it was shown."""

    def __init__(self, noise: torch.Tensor) -> None:
        super().__init__()
        self.noise = noise
        self.shown: list[tuple[int, torch.Tensor]] = []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self.shown.append((int(timesteps[0]), x))
        return self.noise.expand_as(x)


def pair() -> torch.Tensor:
    """(1, 2, 64, 64) in [-1, 1]: smooth, so that no noise is found in it."""
    ramp = torch.linspace(-0.6, 0.6, 64)
    return torch.stack([ramp[:, None].expand(64, 64), ramp[None, :].expand(64, 64)])[None]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("steps", [2, 5])
def test_the_chain_visits_the_stated_noise_levels(likelihood, steps):
    inferer = DDFMInferer(steps, likelihood=likelihood)
    noise = noise_field((1, 64, 64), inferer.seed)
    network, seen = Recorder(noise), list[Step]()
    inferer(pair(), network, callback=seen.append)
    start = inferer.likelihood.start_timestep
    assert [t for t, _ in network.shown] == kept_timesteps(steps, start).tolist()[::-1]
    assert [step.timestep for step in seen] == [t for t, _ in network.shown]
    for (t, f_t), before in zip(network.shown[1:], seen[:-1], strict=True):
        alpha_bar = float(alphas_cumprod()[t])
        left = f_t - alpha_bar**0.5 * before.estimate  # DDIM without added noise: what f̂0 does not explain
        assert float(left.std()) == pytest.approx((1 - alpha_bar) ** 0.5, rel=0.3)
        assert float(torch.corrcoef(torch.stack([left.flatten(), noise.flatten()]))[0, 1]) > 0.7


def test_the_default_starts_from_its_first_image_with_the_start_s_noise():
    inferer = DDFMInferer()
    noise = noise_field((1, 64, 64), inferer.seed)
    network = Recorder(noise)
    inferer(pair(), network)
    likelihood = inferer.likelihood
    first = likelihood.initial(likelihood.prepare(pair()[:, :1], pair()[:, 1:]))
    t, f_t = network.shown[0]
    alpha_bar = float(alphas_cumprod()[t])
    assert t == likelihood.start_timestep
    assert torch.allclose(f_t, alpha_bar**0.5 * first + (1 - alpha_bar) ** 0.5 * noise, atol=1e-5)
