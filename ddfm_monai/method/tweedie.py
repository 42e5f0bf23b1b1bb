"""Denoising with the prior itself: Tweedie's formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddfm_monai.method.luma import MEAN_GREY
from ddfm_monai.method.schedule import noise_levels

__all__ = ["Denoiser", "tweedie"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(B, 1, H, W) with white noise of sd (B, 1, 1, 1) to the expected clean images; sd 0 changes nothing."""


def tweedie(network: Callable[[Tensor, Tensor], Tensor], image: Tensor, sd: Tensor) -> Tensor:
    """``E[clean | image]``: one evaluation of the network at the timestep whose noise is ``sd``.

    Args:
        network: ``(x, timesteps) -> noise``, on ``in_channels`` (default 1) channels.
        image: (B, 1, H, W) in [-1, 1].
        sd: (B, 1, 1, 1); where it is 0 the image is returned as it is. The network is not asked if all are 0.
    """
    if not bool((sd > 0).any()):
        return image
    channels = getattr(network, "in_channels", 1)
    levels = noise_levels().to(image)
    timestep = (levels - sd.flatten()[:, None]).abs().argmin(1)
    alpha_bar = (1 / (1 + levels[timestep] ** 2)).view(-1, 1, 1, 1)
    x = (alpha_bar.sqrt() * image).expand(-1, channels, -1, -1).contiguous()
    epsilon = network(x, timestep)[:, :channels].float()
    clean = (x - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
    return torch.where(sd > 0, MEAN_GREY.of(clean).clamp(-1, 1), image)
