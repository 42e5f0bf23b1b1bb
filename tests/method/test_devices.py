"""Everything is computed where the sources are, without a look at the device's values.

Torch's ``meta`` device stands for a GPU: it has shapes, types and devices, but no values. What mixes devices is an
error there as on a GPU, and so is every question for a value, which would make the processor wait for the GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddfm_monai.method import DDFMInferer, Noise, inferer

SHAPE = (2, 2, 64, 48)
NOISE = Noise(torch.linspace(0.0, 0.01, 64 * 64).view(64, 64), "made up")


class Network:
    in_channels = 1

    def __init__(self) -> None:
        self.evaluations = 0

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        assert (x.device.type, timesteps.device.type) == ("meta", "meta")
        assert timesteps.shape == x.shape[:1]
        self.evaluations += 1
        return 0.1 * x


@pytest.mark.parametrize("source_noise", [(None, None), (NOISE, None), (NOISE, NOISE)])
@pytest.mark.parametrize("draw", [False, True])
@pytest.mark.parametrize("likelihood", ["default", "paper", "published"])
def test_a_chain_stays_on_the_device_of_its_sources(monkeypatch, likelihood, draw, source_noise):
    monkeypatch.setattr(inferer, "_checked", lambda inputs: inputs)  # the one question for values: are they in range?
    network = Network()
    fuse = DDFMInferer(num_inference_steps=3, likelihood=likelihood, draw=draw)

    fused = fuse(
        torch.empty(SHAPE, device="meta"),
        network,
        source_noise=source_noise,
        seen=torch.empty(2, 1, 64, 48, dtype=torch.bool, device="meta"),
    )

    assert fused.device.type == "meta"
    assert fused.shape == (2, 1, 64, 48)
    noisy = sum(n is not None for n in source_noise) if likelihood == "default" else 0
    assert network.evaluations > 3 if noisy else network.evaluations == 3
