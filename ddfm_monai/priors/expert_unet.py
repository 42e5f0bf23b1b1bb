"""Two networks as one prior: where there is little noise, and where there is much, different things matter.

At little noise the picture is known and its texture is to be told from noise: that takes resolution, and can be learned
on crops. At much noise only the largest shapes are left, and what matters is where a head and its parts lie: that takes
the whole slice, but not its pixels, so that a network which works on blocks of 8 x 8 pixels is enough, and quick. One
network for both learned neither well in the time that a CPU allows (docs/prior.md). The idea is that of expert
denoisers (Balaji et al., eDiff-I, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ddfm_monai.priors.slice_unet import SliceUNet

__all__ = ["ExpertUNet"]


class ExpertUNet(nn.Module):
    """Noise prediction ``(x (B, C, H, W), timesteps (B,)) -> eps (B, C, H, W)`` by the expert for each timestep.

    Args:
        fine, coarse: constructor arguments of the two :class:`~ddfm_monai.priors.SliceUNet`.
        switch: the first timestep that is the coarse expert's.

    Attributes:
        config: these arguments.
        in_channels, num_train_timesteps: of both experts.
        stride: heights and widths must be multiples of this; for the coarse expert, which needs more, slices are
            continued periodically.

    Raises:
        ValueError: if the experts do not agree about channels or timesteps.
    """

    def __init__(self, fine: Mapping[str, Any], coarse: Mapping[str, Any], switch: int = 500) -> None:
        super().__init__()
        self.fine, self.coarse, self.switch = SliceUNet(**fine), SliceUNet(**coarse), switch
        self.config = {"fine": self.fine.config, "coarse": self.coarse.config, "switch": switch}
        for name in ("in_channels", "num_train_timesteps"):
            one, other = getattr(self.fine, name), getattr(self.coarse, name)
            if one != other:
                raise ValueError(f"{name} is {one} in the fine expert and {other} in the coarse one.")
        self.in_channels, self.num_train_timesteps = self.fine.in_channels, self.fine.num_train_timesteps
        self.stride = self.fine.stride

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        much = timesteps >= self.switch
        if much.all():
            return self._coarse(x, timesteps)
        if not much.any():
            return self.fine(x, timesteps)
        noise = torch.empty_like(x)
        noise[much] = self._coarse(x[much], timesteps[much]).to(x.dtype)
        noise[~much] = self.fine(x[~much], timesteps[~much]).to(x.dtype)
        return noise

    def _coarse(self, x: Tensor, timesteps: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = (torch.arange(n + -n % self.coarse.stride, device=x.device) % n for n in (height, width))
        noise: Tensor = self.coarse(x[..., rows[:, None], columns], timesteps)
        return noise[..., :height, :width]
