"""Denoising of white noise with the prior itself: Tweedie's formula, one evaluation of the network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddfm_monai.method.luma import MEAN_GREY
from ddfm_monai.method.schedule import alphas_cumprod, noise_levels

__all__ = ["tweedie"]


def tweedie(network: Callable[[Tensor, Tensor], Tensor], image: Tensor, sd: float) -> Tensor:
    """``E[clean | image]``: one evaluation of the network at the timestep whose noise is ``sd``.

    Args:
        network: ``(x, timesteps) -> noise``, on ``in_channels`` (default 1) channels.
        image: (B, 1, H, W) in [-1, 1] with noise.
        sd: standard deviation of the noise, above 0.
    """
    channels = getattr(network, "in_channels", 1)
    t = int((noise_levels() - sd).abs().argmin())
    alpha_bar = alphas_cumprod()[t]
    x = (alpha_bar.sqrt() * image).expand(-1, channels, -1, -1).contiguous()
    epsilon = network(x, torch.full((len(x),), t, device=x.device))[:, :channels].float()
    clean = (x - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
    return MEAN_GREY.of(clean).clamp(-1, 1)
