"""Which arithmetic a device does quickest without harm."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["PRECISIONS", "bf16_pays", "choose_precision"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def bf16_pays(device: str | torch.device) -> bool:
    """Whether the device multiplies bf16 faster than fp32: a recent CUDA card, a CPU with AVX-512 BF16 or AMX."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(errors="ignore").split())


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """``"auto"`` is bfloat16 where that pays, else float32; or a key of :data:`PRECISIONS`.

    Raises:
        KeyError: for another name.
    """
    if name == "auto":
        return torch.bfloat16 if bf16_pays(device) else torch.float32
    return PRECISIONS[name]
