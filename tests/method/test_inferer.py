"""The sampling loop: what a result depends on, what a callback sees, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import Inferer

from ddfm_monai.method import LIKELIHOODS, DDFMInferer, RespacedDDIM, kept_timesteps, make_likelihood, noise_field


class Blur(torch.nn.Module):
    """A network without weights: predicts as noise what a 5x5 mean would take away."""

    def __init__(self, channels: int = 1):
        super().__init__()
        self.in_channels = channels

    def forward(self, x, timesteps):
        return x - torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)


def slices(batch: int, seed: int = 0, size: tuple[int, int] = (32, 40)) -> torch.Tensor:
    """(batch, 2, H, W) in [-1, 1] with a common background of -1 at the border."""
    inputs = torch.rand(batch, 2, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    inputs[..., :4, :] = inputs[..., :4] = -1
    return inputs


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_slice_does_not_know_its_batch(likelihood):
    inputs = slices(7)
    inferer = DDFMInferer(5, likelihood=likelihood)
    together = inferer(inputs, Blur())
    assert together.shape == (7, 1, 32, 40)
    for k in (0, 3, 6):
        assert torch.allclose(inferer(inputs[k : k + 1], Blur()), together[k : k + 1], atol=1e-5)
    shuffled = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(inferer(inputs[shuffled], Blur()), together[shuffled], atol=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_three_channel_networks_give_one_grey_image_in_range(likelihood):
    fused, sample = DDFMInferer(5, likelihood=likelihood)(slices(2), Blur(3), return_sample=True)
    assert fused.shape == (2, 1, 32, 40) and sample.shape == (2, 3, 32, 40)
    assert float(fused.abs().max()) <= 1


def test_it_is_a_monai_inferer():
    assert isinstance(DDFMInferer(), Inferer)


def test_callback_sees_every_step_and_can_stop():
    seen = []
    DDFMInferer(6, likelihood="published")(slices(2), Blur(), callback=seen.append)
    assert [step.index for step in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[0].timestep == 999 and seen[-1].timestep == 0
    assert seen[0].estimate.shape == (2, 1, 32, 40)

    def stop(step):
        if step.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        DDFMInferer(6)(slices(1), Blur(), callback=stop)


def test_start_noise_from_the_seed_or_given():
    inputs = slices(2)
    inferer = DDFMInferer(3, likelihood="published", seed=5)
    given_noise = noise_field((1, 32, 40), 5)
    assert torch.equal(inferer(inputs, Blur()), inferer(inputs, Blur(), noise=given_noise))
    assert not torch.equal(inferer(inputs, Blur()), inferer.with_seed(6)(inputs, Blur()))


@pytest.mark.parametrize("shape", [(2, 32, 32), (1, 1, 32, 32), (1, 3, 32, 32), (2,)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="is expected"):
        DDFMInferer(3)(torch.zeros(shape), Blur())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.01, -1.01, 255.0])
def test_values_that_are_no_picture_are_refused(value):
    inputs = slices(2)
    inputs[1, 0, 7, 9] = value
    with pytest.raises(ValueError, match="-1 to 1 is expected"):
        DDFMInferer(3)(inputs, Blur())


def test_unknown_likelihoods_and_settings_are_refused():
    with pytest.raises(ValueError, match="published"):
        DDFMInferer(likelihood="best")
    with pytest.raises(TypeError):
        DDFMInferer(likelihood="published", temperature=3)
    with pytest.raises(TypeError, match="psi"):
        DDFMInferer(likelihood=make_likelihood("published"), psi=0.5)


@given(steps=st.integers(1, 100), start=st.integers(99, 999))
@settings(max_examples=50, deadline=None)
def test_respaced_schedule_walks_from_the_start_to_the_clean_image(steps, start):
    timesteps = kept_timesteps(steps, start)
    assert len(timesteps) == steps and timesteps[-1] == start
    assert (np.diff(timesteps) > 0).all() and (steps == 1 or timesteps[0] == 0)
    scheduler = RespacedDDIM(steps, start)
    assert bool((scheduler.alphas_cumprod.diff() < 0).all())
    clean, noise = torch.full((1, 1, 2, 2), 0.3), torch.full((1, 1, 2, 2), 1.5)
    f_t = scheduler.add_noise(clean, noise, torch.tensor([steps - 1]))
    for i in reversed(range(steps)):
        f_t, _ = scheduler.step(clean, i, f_t)
    assert torch.allclose(f_t, clean, atol=1e-5)


@pytest.mark.parametrize(("steps", "start"), [(0, 999), (1001, 999), (12, 10)])
def test_impossible_step_counts_are_refused(steps, start):
    with pytest.raises(ValueError, match="steps"):
        kept_timesteps(steps, start)
