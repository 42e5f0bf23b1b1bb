"""Diffusion-based fusion of two co-registered medical volumes (DDFM) for MONAI.

The public names are loaded on first use, so that ``import ddfm_monai`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ddfm_monai._version import __version__

if TYPE_CHECKING:
    from ddfm_monai.fusion.pipeline import FusionResult, fuse_volumes
    from ddfm_monai.method import DDFMInferer
    from ddfm_monai.priors import load_prior
    from ddfm_monai.transforms import DDFMFuse, DDFMFuseD, DDFMFused, DDFMFuseDict

__all__ = [
    "DDFMFuse",
    "DDFMFuseD",
    "DDFMFuseDict",
    "DDFMFused",
    "DDFMInferer",
    "FusionResult",
    "__version__",
    "fuse_volumes",
    "load_prior",
]

_HOME = {
    "DDFMFuse": "ddfm_monai.transforms",
    "DDFMFuseD": "ddfm_monai.transforms",
    "DDFMFuseDict": "ddfm_monai.transforms",
    "DDFMFused": "ddfm_monai.transforms",
    "DDFMInferer": "ddfm_monai.method",
    "FusionResult": "ddfm_monai.fusion.pipeline",
    "fuse_volumes": "ddfm_monai.fusion.pipeline",
    "load_prior": "ddfm_monai.priors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ddfm_monai' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
