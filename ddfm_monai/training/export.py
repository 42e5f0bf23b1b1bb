"""Weights to files and back: what ``load_prior`` reads, and what the training bundle keeps."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ddfm_monai.files import atomic_path, sha256_of
from ddfm_monai.priors.expert_unet import ExpertUNet
from ddfm_monai.priors.slice_unet import SliceUNet
from ddfm_monai.priors.weights_file import fill

__all__ = ["export_prior", "load_weights", "write_report"]

_LOG = logging.getLogger(__name__)


def export_prior(network: ExpertUNet | SliceUNet, path: str | Path, card: Mapping[str, Any]) -> Path:
    """Write what ``load_prior`` reads: weights in half precision or less, and beside them the card with their hash.

    Args:
        network: usually the moving average.
        path: the ``.safetensors`` file; the card is written last, as ``.json`` beside it.
        card: what a reader should know: data, terms, recipe, compute, figures.
    """
    target = Path(path)
    weights = {name: _to_storage(name, value).cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(target) as temporary:
        save_file(weights, temporary)
    about = {
        "name": target.stem,
        "architecture": type(network).__name__,
        "config": network.config,
        "in_channels": network.in_channels,
        "stride": network.stride,
        "num_train_timesteps": network.num_train_timesteps,
        "schedule": "linear_beta",
        "value_range": [-1, 1],
        "sha256": sha256_of(target),
        "card": dict(card),
    }
    with atomic_path(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    return target


def _to_storage(name: str, value: Tensor) -> Tensor:
    """Half precision; 8 bits for the matrices of experts that see much noise only, where it costs nothing."""
    sees_much_noise = name.startswith("experts.") and not name.startswith("experts.0.")
    return value.detach().to(torch.float8_e4m3fn if sees_much_noise and value.ndim > 1 else torch.float16)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill a network from a plain state dict (``.pt``), a ``.safetensors`` or a training checkpoint (its average).

    Raises:
        UsageError: as `ddfm_monai.priors.weights_file.fill`.
    """
    fill(network, Path(path))
    return network.eval().requires_grad_(False)


def write_report(figures: Mapping[str, float], path: str | Path) -> None:
    """Print figures and keep them as JSON."""
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(dict(figures), indent=2) + "\n")
    for name, value in figures.items():
        _LOG.info("%s %.5f", name, value)
