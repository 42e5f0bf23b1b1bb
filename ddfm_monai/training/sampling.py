"""Looking at a prior: unconditional samples, and slices as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from monai.transforms.transform import MapTransform
from PIL import Image
from torch import Tensor

from ddfm_monai.files import atomic_path
from ddfm_monai.method.algorithm import sample
from ddfm_monai.method.inferer import predicted_noise
from ddfm_monai.method.schedule import RespacedDDIM

__all__ = ["PriorSampler", "WriteSlicesd"]


class PriorSampler(Inferer):
    """Unconditional sampling: the loop of DDFM without any likelihood.

    Args:
        steps: network evaluations per sample.
    """

    def __init__(self, steps: int = 100) -> None:
        super().__init__()
        self.schedule = RespacedDDIM(steps)

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], **_: Any) -> Tensor:  # type: ignore[override]
        """Noise (B, 1, H, W) to samples of that shape in [-1, 1]."""
        epsilon = partial(predicted_noise, network, inputs.shape[1])
        return sample(inputs, epsilon, lambda f: f, self.schedule).clamp(-1, 1)


class WriteSlicesd(MapTransform):
    """Write the slice at each key, (1, H, W) in [-1, 1], to the PNG file at ``target_key``."""

    def __init__(self, keys: Any, target_key: str = "target") -> None:
        super().__init__(keys)
        self.target_key = target_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            grey = ((torch.as_tensor(d[key])[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            with atomic_path(Path(d[self.target_key])) as temporary:
                Image.fromarray(grey.cpu().numpy()).save(temporary)
        return d
