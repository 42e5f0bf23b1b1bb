"""Denoising of white noise with the prior itself: Tweedie's formula, one evaluation of the network."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ddfm_monai.method.luma import MEAN_GREY
from ddfm_monai.method.schedule import noise_levels

__all__ = ["tweedie"]


def tweedie(network: Callable[[Tensor, Tensor], Tensor], image: Tensor, sd: float) -> Tensor:
    """``E[clean | image]``: one evaluation of the network at the timestep whose noise is ``sd``.

    Args:
        network: ``(x, timesteps) -> noise``, on ``in_channels`` (default 1) channels.
        image: (B, 1, H, W) in [-1, 1] with noise.
        sd: standard deviation of the noise, above 0.
    """
    channels = getattr(network, "in_channels", 1)
    levels = noise_levels().to(image)
    nearest = (levels - sd).abs().argmin()
    timestep = nearest.expand(len(image))
    alpha_bar = 1 / (1 + levels[nearest] ** 2)
    x = (alpha_bar.sqrt() * image).expand(-1, channels, -1, -1).contiguous()
    epsilon = network(x, timestep)[:, :channels].float()
    clean = (x - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()
    return MEAN_GREY.of(clean).clamp(-1, 1)
