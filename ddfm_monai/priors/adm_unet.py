"""The UNet of Dhariwal and Nichol, "Diffusion Models Beat GANs on Image Synthesis" (NeurIPS 2021).

Parameter names and shapes are those of OpenAI's published checkpoints, so their weights load unchanged; attention is
``scaled_dot_product_attention``, whose memory does not grow with the square of the number of pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ADMUNet"]

_DEFAULT_CHANNEL_MULT = {512: "0.5,1,1,2,2,4,4", 256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4"}
_GROUPS = 32


class ADMUNet(nn.Module):
    """Noise-prediction UNet with guided diffusion's configuration keys.

    Args:
        image_size: nominal side of the training images, pixels; places attention and chooses the default
            ``channel_mult``. Other sizes work if they are multiples of :attr:`stride`.
        num_channels: width of the first level (a multiple of 32).
        num_res_blocks: residual blocks per level.
        channel_mult: comma-separated width factors per level, "" for the default of ``image_size``.
        attention_resolutions: comma-separated feature-map sides (at ``image_size``) that get attention.
        num_heads, num_head_channels, num_heads_upsample: attention heads, or channels per head if not -1.
        learn_sigma: the network also outputs variances: 2 * in_channels outputs.
        class_cond: must be False; a prior is unconditional.
        use_scale_shift_norm: time enters as scale and shift after the second normalisation.
        resblock_updown: resample inside residual blocks instead of by plain convolution or pooling.
        use_new_attention_order: q, k, v are split before heads instead of after.
        dropout: dropout rate in residual blocks.
        use_checkpoint, use_fp16: accepted for compatible configurations and without effect; memory is saved by the
            attention kernel, precision is chosen by the caller.
        in_channels: image channels.

    Attributes:
        stride: heights and widths must be multiples of this.
    """

    def __init__(
        self,
        image_size: int = 256,
        num_channels: int = 256,
        num_res_blocks: int = 2,
        channel_mult: str = "",
        attention_resolutions: str = "32,16,8",
        num_heads: int = 4,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        learn_sigma: bool = False,
        class_cond: bool = False,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        dropout: float = 0.0,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if class_cond:
            raise ValueError("class_cond is True; DDFM needs an unconditional network.")
        self.in_channels = in_channels
        self.num_channels = num_channels
        multipliers = _parse_channel_mult(channel_mult, image_size)
        self.stride = 2 ** (len(multipliers) - 1)
        attention_at = {image_size // int(side) for side in attention_resolutions.split(",")}
        embedding = 4 * num_channels

        def resblock(c_in: int, c_out: int, resample: str = "") -> _ResBlock:
            return _ResBlock(c_in, c_out, embedding, dropout, use_scale_shift_norm, resample)

        def attention(channels: int, heads: int) -> _Attention:
            if num_head_channels != -1:
                heads = channels // num_head_channels
            return _Attention(channels, heads, use_new_attention_order)

        def resampler(channels: int, resample: str) -> nn.Module:
            if resblock_updown:
                return resblock(channels, channels, resample)
            return _Downsample(channels) if resample == "down" else _Upsample(channels)

        self.time_embed = nn.Sequential(nn.Linear(num_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))

        width = int(multipliers[0] * num_channels)
        self.input_blocks = nn.ModuleList([_Block(nn.Conv2d(in_channels, width, 3, padding=1))])
        skips = [width]
        factor = 1
        for level, multiplier in enumerate(multipliers):
            for _ in range(num_res_blocks):
                layers: list[nn.Module] = [resblock(width, width := int(multiplier * num_channels))]
                if factor in attention_at:
                    layers.append(attention(width, num_heads))
                self.input_blocks.append(_Block(*layers))
                skips.append(width)
            if level < len(multipliers) - 1:
                self.input_blocks.append(_Block(resampler(width, "down")))
                skips.append(width)
                factor *= 2

        self.middle_block = _Block(resblock(width, width), attention(width, num_heads), resblock(width, width))

        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(num_res_blocks + 1):
                layers = [resblock(width + skips.pop(), width := int(multiplier * num_channels))]
                if factor in attention_at:
                    layers.append(attention(width, heads_up))
                if level > 0 and i == num_res_blocks:
                    layers.append(resampler(width, "up"))
                    factor //= 2
                self.output_blocks.append(_Block(*layers))

        out_channels = in_channels * (2 if learn_sigma else 1)
        self.out = nn.Sequential(_norm(width), nn.SiLU(), _zeroed(nn.Conv2d(width, out_channels, 3, padding=1)))

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predict the noise (and, with ``learn_sigma``, variances after it).

        Args:
            x: (B, in_channels, H, W), image values in [-1, 1] plus noise; H, W multiples of :attr:`stride`.
            timesteps: (B,), 0..999.

        Returns:
            (B, in_channels or 2 * in_channels, H, W), dtype of x.

        Raises:
            ValueError: if H or W is not a multiple of :attr:`stride`.
        """
        if x.shape[-2] % self.stride or x.shape[-1] % self.stride:
            raise ValueError(f"image size {tuple(x.shape[-2:])} must be a multiple of {self.stride}.")
        embedding = self.time_embed(_sinusoids(timesteps, self.num_channels).to(x.dtype))
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


def _parse_channel_mult(channel_mult: str, image_size: int) -> list[float]:
    if not channel_mult and image_size not in _DEFAULT_CHANNEL_MULT:
        raise ValueError(f"image_size {image_size} has no default channel_mult; give one, such as '1,2,2'.")
    return [float(part) for part in (channel_mult or _DEFAULT_CHANNEL_MULT[image_size]).split(",")]


def _sinusoids(timesteps: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of the timesteps at ``dim / 2`` frequencies from 1 down to 1/10000; (B, dim)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps[:, None].float() * frequencies
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels)


def _zeroed(module: nn.Module) -> nn.Module:
    """Zero a layer's parameters, so that its residual branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class _Block(nn.Sequential):
    """Layers in a row, of which residual blocks also take the time embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, _ResBlock) else layer(x)
        return x


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def _resample(x: Tensor, how: str) -> Tensor:
    if how == "down":
        return F.avg_pool2d(x, 2)
    return F.interpolate(x, scale_factor=2, mode="nearest") if how == "up" else x


class _ResBlock(nn.Module):
    """Two normalised convolutions beside a skip; time enters between them; may halve or double the resolution."""

    def __init__(self, c_in: int, c_out: int, embedding: int, dropout: float, scale_shift: bool, resample: str) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.resample = resample
        self.in_layers = nn.Sequential(_norm(c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * c_out if scale_shift else c_out))
        self.out_layers = nn.Sequential(
            _norm(c_out), nn.SiLU(), nn.Dropout(dropout), _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        normalise, activate, convolve = self.in_layers
        h = convolve(_resample(activate(normalise(x)), self.resample))
        time = self.emb_layers(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            h = self.out_layers[0](h) * (1 + scale) + shift
            h = self.out_layers[1:](h)
        else:
            h = self.out_layers(h + time)
        return self.skip_connection(_resample(x, self.resample)) + h


class _Attention(nn.Module):
    """Self-attention over all pixels, added to its input."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads = heads
        self.new_order = new_order
        self.norm = _norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        flat = x.reshape(batch, channels, height * width)
        qkv = self.qkv(self.norm(flat))
        size = channels // self.heads
        if self.new_order:  # (q k v) (head size)
            q, k, v = qkv.view(batch, 3, self.heads, size, -1).transpose(-1, -2).unbind(1)
        else:  # head (q k v) size
            q, k, v = qkv.view(batch, self.heads, 3, size, -1).transpose(-1, -2).unbind(2)
        h = F.scaled_dot_product_attention(q, k, v)
        h = self.proj_out(h.transpose(-1, -2).reshape(batch, channels, -1))
        return (flat + h).view(batch, channels, height, width)
