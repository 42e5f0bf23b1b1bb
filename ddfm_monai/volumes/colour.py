"""Colour for fusion: luma is fused, hue is kept; and colour maps for PET and SPECT.

Luma is ITU-R BT.601's ``Y = 0.299 R + 0.587 G + 0.114 B`` on the stored (gamma-encoded) values, as in JPEG. Chroma is
the rest, ``(R - Y, G - Y, B - Y)``, which spans the same plane as JPEG's Cb and Cr: its direction is the hue.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import UsageError

__all__ = ["FLAG_COLOURS", "colour_map", "colour_table", "to_luma", "with_luma"]

FLAG_COLOURS = {"invented": (255, 60, 60), "missing": (255, 190, 0), "detail": (80, 170, 255)}
"""RGB of each flag of a check, wherever it is drawn over a picture."""

_WEIGHTS = (0.299, 0.587, 0.114)

# Colours at evenly spaced grey values 0..1; only their hue and saturation count, luma is set to the grey value.
_MAPS = {
    "pet": ((0, 0, 0), (90, 10, 20), (180, 20, 20), (235, 80, 10), (250, 150, 10), (255, 225, 80), (255, 255, 255)),
    "spect": ((0, 0, 0), (50, 10, 110), (60, 60, 190), (20, 140, 190), (40, 190, 130), (190, 225, 70), (255, 255, 255)),
}


def to_luma(rgb: torch.Tensor) -> torch.Tensor:
    """``(3, ...)`` RGB to ``(1, ...)`` luma in the same range (0..255 stays 0..255), float32, meta kept."""
    red, green, blue = (rgb[channel : channel + 1] * weight for channel, weight in enumerate(_WEIGHTS))
    return red.add_(green).add_(blue)


def with_luma(rgb: torch.Tensor, luma: torch.Tensor) -> torch.Tensor:
    """The hue of ``rgb`` with another brightness.

    Chroma is kept where the colour cube allows and scaled down, never clipped, where it does not. So the luma of the
    result is ``luma`` exactly, and the hue that of ``rgb`` exactly.

    Args:
        rgb: ``(3, ...)``, 0..255.
        luma: ``(1, ...)``, [0, 1].

    Returns:
        ``(3, ...)`` float32, 0..255, with the meta of ``luma``.
    """
    values = _plain(rgb)
    wanted = (_plain(luma) * 255).clamp_(0, 255)
    chroma = values - to_luma(values)
    # the largest part of the chroma that fits between black and white: at most all of it
    up = (255 - wanted) / chroma.amax(dim=0, keepdim=True).clamp_(min=1e-6)
    down = wanted / (-chroma.amin(dim=0, keepdim=True)).clamp_(min=1e-6)
    coloured = chroma.mul_(torch.minimum(up, down).clamp_(max=1)).add_(wanted)
    if isinstance(luma, MetaTensor):
        return MetaTensor(coloured, meta=luma.meta)
    return coloured


def colour_map(grey: torch.Tensor, kind: str) -> torch.Tensor:
    """Grey values in the colours of a modality; the luma of each colour is the grey value itself.

    So brightness rises evenly with uptake, a grey print shows the same picture, and :func:`to_luma` undoes it.
    PET runs from black through red and orange to white, SPECT from black through violet, blue and green to white.

    Args:
        grey: ``(1, ...)``, [0, 1].
        kind: ``"pet"`` or ``"spect"``.

    Returns:
        ``(3, ...)`` float32, 0..255, with the meta of ``grey``.

    Raises:
        UsageError: a kind without colours (``E_COLOUR_MAP``).
    """
    if kind not in _MAPS:
        raise UsageError(f"colour map {kind!r}: expected one of {', '.join(_MAPS)}.", "E_COLOUR_MAP")
    anchors = torch.tensor(_MAPS[kind], dtype=torch.float32)
    position = _plain(grey).clamp(0, 1)[0] * (len(anchors) - 1)
    lower = position.floor().clamp_(max=len(anchors) - 2)
    share = position - lower
    index = lower.long()
    hue = torch.stack([torch.lerp(column[index], column[index + 1], share) for column in anchors.T])
    return with_luma(hue, grey)


def colour_table(kind: str) -> np.ndarray:
    """``(256, 3)`` uint8, the colour of each grey level in :func:`colour_map`."""
    return colour_map(torch.linspace(0, 1, 256)[None], kind).round().to(torch.uint8).numpy().T.copy()


def _plain(values: torch.Tensor) -> torch.Tensor:
    return values.as_tensor() if isinstance(values, MetaTensor) else values
