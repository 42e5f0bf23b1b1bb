"""Several networks as one prior, each for its own range of noise: little and much noise ask for different things.

At little noise the picture is known and its texture is to be told from noise: that takes resolution, and can be learned
on crops. At much noise only the largest shapes are left, and what matters is where a head and its parts lie: that takes
the whole slice, but not its pixels, so that a network which works on blocks of 4 x 4 or 8 x 8 pixels is enough, and
quick. One network for all learned none of it well in the time that a CPU allows (docs/prior.md). The idea is that of
expert denoisers (Balaji et al., eDiff-I, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ddfm_monai.priors.slice_unet import SliceUNet

__all__ = ["ExpertUNet"]


class ExpertUNet(nn.Module):
    """Noise prediction ``(x (B, C, H, W), timesteps (B,)) -> eps (B, C, H, W)`` by the expert for each timestep.

    Args:
        experts: constructor arguments of the :class:`~ddfm_monai.priors.SliceUNet`, that for the least noise first.
        switches: the first timestep of every expert but the first, increasing.

    Attributes:
        config: these arguments.
        in_channels, num_train_timesteps: of all experts.
        stride: of the first expert; heights and widths must be multiples of this. For an expert that needs more,
            slices are continued periodically.

    Raises:
        ValueError: if the experts do not agree about channels or timesteps, or the switches do not fit them.
    """

    def __init__(self, experts: Sequence[Mapping[str, Any]], switches: Sequence[int]) -> None:
        super().__init__()
        if len(switches) != len(experts) - 1 or any(low >= high for low, high in pairwise((0, *switches))):
            raise ValueError(f"{len(experts)} experts need {len(experts) - 1} increasing switches, found {switches}.")
        networks = [SliceUNet(**arguments) for arguments in experts]
        for name in ("in_channels", "num_train_timesteps"):
            found = [getattr(network, name) for network in networks]
            if len(set(found)) > 1:
                raise ValueError(f"The experts differ in {name}: {found}.")
        self.experts = nn.ModuleList(networks)
        self.config = {"experts": [network.config for network in networks], "switches": list(switches)}
        self.in_channels, self.num_train_timesteps = networks[0].in_channels, networks[0].num_train_timesteps
        self.stride = networks[0].stride
        self.register_buffer("switches", torch.tensor(switches, dtype=torch.long), persistent=False)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        whose = torch.bucketize(timesteps, self.get_buffer("switches"), right=True)
        asked = whose.unique().tolist()
        if len(asked) == 1:
            return self._ask(asked[0], x, timesteps)
        noise = torch.empty_like(x)
        for index in asked:
            mine = whose == index
            noise[mine] = self._ask(index, x[mine], timesteps[mine]).to(x.dtype)
        return noise

    def _ask(self, index: int, x: Tensor, timesteps: Tensor) -> Tensor:
        expert, (height, width) = cast(SliceUNet, self.experts[index]), x.shape[-2:]
        noise: Tensor = expert(_continued(x, expert.stride), timesteps)
        return noise[..., :height, :width]


def _continued(x: Tensor, stride: int) -> Tensor:
    """``x``, continued periodically where its height or width is no multiple of the stride."""
    for dim in (-2, -1):
        length = x.shape[dim]
        if length % stride:
            x = x.index_select(dim, torch.arange(length + -length % stride, device=x.device) % length)
    return x
