"""The network of the shipped prior: a UNet for slices that is quick on a CPU and knows no global statistics.

What differs from MONAI's ``DiffusionModelUNet``: the picture enters by pixel-unshuffle; layers are normalised per pixel
over the channels (as in ConvNeXt), so that a pixel's result does not depend on how much background the slice has and
training on crops carries over to whole slices; and the last layer gives the velocity, from which the predicted noise
follows in closed form, so that at high noise the network need not copy its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SliceUNet"]

_EMBEDDING = 256


class SliceUNet(nn.Module):
    """Noise prediction ``(x (B, C, H, W), timesteps (B,)) -> eps (B, C, H, W)``.

    Inside, the memory format is that of the weights: channels-last is quicker.

    Args:
        in_channels: image channels.
        channels: width of each level; each level halves height and width.
        down_blocks, up_blocks: residual blocks of each level on the way down and up, finest level first.
        patch: side of the pixel blocks that are folded into channels at the entrance.
        num_heads: attention heads at the coarsest level, where alone there is attention.
        middle_blocks: residual blocks, each with attention after it, between the way down and the way up.
        num_train_timesteps: length of the linear schedule (beta 1e-4 to 2e-2).

    Attributes:
        config: these arguments.
        stride: heights and widths must be multiples of this.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (64, 96, 128, 192),
        down_blocks: Sequence[int] = (2, 2, 2, 2),
        up_blocks: Sequence[int] = (2, 2, 2, 2),
        patch: int = 2,
        num_heads: int = 4,
        middle_blocks: int = 0,
        num_train_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        if not len(channels) == len(down_blocks) == len(up_blocks):
            raise ValueError("channels, down_blocks and up_blocks must have one entry per level.")
        self.config = {
            "in_channels": in_channels,
            "channels": list(channels),
            "down_blocks": list(down_blocks),
            "up_blocks": list(up_blocks),
            "patch": patch,
            "num_heads": num_heads,
            "middle_blocks": middle_blocks,
            "num_train_timesteps": num_train_timesteps,
        }
        self.in_channels, self.patch, self.num_train_timesteps = in_channels, patch, num_train_timesteps
        self.stride = patch * 2 ** (len(channels) - 1)
        beta = torch.linspace(1e-4, 2e-2, num_train_timesteps, dtype=torch.float64)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - beta, 0).float(), persistent=False)
        self.time = nn.Sequential(nn.Linear(128, _EMBEDDING), nn.SiLU(), nn.Linear(_EMBEDDING, _EMBEDDING), nn.SiLU())
        self.stem = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_Level(c, n) for c, n in zip(channels, down_blocks, strict=True))
        self.reduce = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairwise(channels))
        self.attention = _Attention(channels[-1], num_heads)
        self.middle = _Middle(channels[-1], num_heads, middle_blocks)
        self.expand = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairwise(channels)
        )
        self.up = nn.ModuleList(_Level(c, n) for c, n in zip(channels, up_blocks, strict=True))
        self.head_norm = nn.LayerNorm(channels[0])
        self.head = _zero(nn.Conv2d(channels[0], in_channels * patch**2, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        if x.shape[-1] % self.stride or x.shape[-2] % self.stride:
            raise ValueError(f"Height and width {tuple(x.shape[-2:])} must be multiples of {self.stride}.")
        embedding = self.time(_sinusoids(timesteps))
        h = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = []
        for level, blocks in enumerate(self.down):
            if level:
                skips.append(h)
                h = self.reduce[level - 1](h)
            h = blocks(h, embedding)
        h = self.middle(self.attention(h), embedding)
        for level in reversed(range(len(self.up))):
            h = self.up[level](h, embedding)
            if level:
                h = self.expand[level - 1](h).add_(skips.pop())
        h = self.head(F.silu(_norm_channels(self.head_norm, h), inplace=True))
        velocity = F.pixel_shuffle(h, self.patch).float()
        abar = self.get_buffer("alphas_cumprod")[timesteps][:, None, None, None]
        return (1 - abar).sqrt() * x + abar.sqrt() * velocity


class _Block(nn.Module):
    """x + conv(silu(scale * conv(norm(x)) + shift)), scale and shift from the timestep."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = _zero(nn.Linear(_EMBEDDING, 2 * channels))
        self.conv2 = _zero(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(_norm_channels(self.norm, x))
        h = F.silu(torch.addcmul(shift, h, 1 + scale), inplace=True)
        return self.conv2(h).add_(x)


class _Level(nn.ModuleList):
    """Residual blocks in a row."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(_Block(channels) for _ in range(count))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedding)
        return x


class _Attention(nn.Module):
    """Self-attention between all pixels of a feature map, added to it."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = _zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        qkv = self.qkv(self.norm(tokens)).reshape(batch, height * width, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(tokens.shape)
        return x + self.out(mixed).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class _Middle(nn.ModuleList):
    """Residual blocks and attention by turns, which is where a slice is understood as a whole, at little cost."""

    def __init__(self, channels: int, num_heads: int, count: int) -> None:
        layers = ((_Block(channels), _Attention(channels, num_heads)) for _ in range(count))
        super().__init__(layer for pair in layers for layer in pair)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, _Block) else layer(x)
        return x


def _norm_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Layer norm over the channels of each pixel; the permuted view is contiguous in channels-last memory."""
    normalised: Tensor = norm(x.permute(0, 2, 3, 1))
    return normalised.permute(0, 3, 1, 2)


def _sinusoids(timesteps: Tensor) -> Tensor:
    """The usual 128 sines and cosines of the timestep, ``(B, 128)``."""
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(64, device=timesteps.device) / 64)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with weights and bias zero, so that what it adds starts as nothing."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
