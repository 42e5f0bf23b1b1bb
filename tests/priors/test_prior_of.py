"""Networks of one's own as priors."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler

from ddfm_monai import DDFMFuse, fuse_volumes
from ddfm_monai.errors import UsageError
from ddfm_monai.priors import ADMUNet, prior_of

SOURCES = [torch.rand(1, 40, 36, 2, generator=torch.Generator().manual_seed(seed)) * 800 for seed in (0, 1)]
SETTINGS = {"steps": 2, "reference_kind": "mr", "second_kind": "pet", "likelihood": "paper"}


@pytest.fixture(scope="module")
def monais() -> DiffusionModelUNet:
    torch.manual_seed(0)
    return DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 8, 8), attention_levels=(False, False, False),
        num_res_blocks=1, norm_num_groups=4,
    )  # fmt: skip


def test_monais_network_fuses_and_stays_as_it_is(monais: DiffusionModelUNet) -> None:
    monais.train()
    before = {name: value.clone() for name, value in monais.state_dict().items()}
    result = fuse_volumes(*SOURCES, prior=monais, **SETTINGS)
    assert result.fused.shape == SOURCES[0].shape
    assert result.provenance["prior"]["name"] == "DiffusionModelUNet"
    assert len(result.provenance["prior"]["sha256"]) == 64
    assert monais.training and all(p.requires_grad for p in monais.parameters())
    assert all(torch.equal(before[name], value) for name, value in monais.state_dict().items())
    assert prior_of(monais).stride == 4


def test_the_transform_takes_a_network(monais: DiffusionModelUNet) -> None:
    fused = DDFMFuse(prior=monais, **SETTINGS)(*SOURCES)
    assert torch.equal(fused, fuse_volumes(*SOURCES, prior=monais, **SETTINGS).fused)


def test_its_scheduler_counts_and_one_that_cannot_be_followed_is_refused(
    monais: DiffusionModelUNet,
) -> None:
    as_velocity = prior_of(monais, DDPMScheduler(1000, prediction_type="v_prediction"))
    plain, other = (fuse_volumes(*SOURCES, prior=prior, **SETTINGS).fused for prior in (monais, as_velocity))
    assert not torch.equal(plain, other)
    with pytest.raises(UsageError, match="RFlowScheduler"):
        prior_of(monais, RFlowScheduler(1000))


def test_a_three_channel_network_of_guided_diffusions_family() -> None:
    network = ADMUNet(image_size=32, num_channels=32, num_res_blocks=1, channel_mult="1,2", num_head_channels=32)
    assert fuse_volumes(*SOURCES, prior=network, **SETTINGS).fused.shape == SOURCES[0].shape


def test_a_network_that_does_not_say_what_it_takes_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"Conv2d: .*stride"):
        prior_of(torch.nn.Conv2d(1, 1, 3, padding=1, stride=(1, 1)))
