"""Weights from files into networks: the one place where that happens. Reading runs no code from the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ddfm_monai.errors import UsageError, is_out_of_memory
from ddfm_monai.files import sha256_of

__all__ = ["fill"]


def fill(network: nn.Module, path: Path, sha256: str = "") -> str:
    """Fill a network from a plain state dict (``.pt``), a ``.safetensors`` or a training checkpoint (its average).

    Args:
        network: takes the weights.
        path: the file.
        sha256: what it must hash to; "" takes any.

    Returns:
        The SHA-256 of the file.

    Raises:
        UsageError: the file is missing (``E_PRIOR_MISSING``), has another hash (``E_PRIOR_HASH``), cannot be read
            (``E_PRIOR_FILE``) or does not fit (``E_PRIOR_CONFIG``).
    """
    if not path.is_file():
        raise UsageError(
            f"{path}: no such weight file; the weights are missing. Put them there, or name another.",
            "E_PRIOR_MISSING",
        )
    digest = sha256_of(path)
    if sha256 and digest != sha256:
        raise UsageError(
            f"{path}: the file is damaged or another one: its SHA-256 is {digest}, expected {sha256}. Replace it; for "
            "weights of your own name their hash.",
            "E_PRIOR_HASH",
        )
    weights = _read(path)
    try:
        network.load_state_dict(weights.get("ema", weights))
    except (RuntimeError, AttributeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(
            f"{path}: the weights do not fit their network ({reason}). Put the configuration of these weights beside "
            "them.",
            "E_PRIOR_CONFIG",
        ) from None
    return digest


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UsageError(
                f"{path}: not a safetensors file ({error}). Copy or export it again.", "E_PRIOR_FILE"
            ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for broken or unsafe pickles
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{path}: cannot be read as plain weights ({reason}). Save the state dict alone, or as safetensors.",
            "E_PRIOR_FILE",
        ) from None
