"""What the trainer computes: noise from (seed, iteration), the loss on the velocity, and the validation error.

The loss is the mean squared error of the velocity ``v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0`` (Salimans and Ho,
"Progressive Distillation", ICLR 2022): at little noise it equals the error of the noise, at much noise the error of the
image, so every noise level counts about equally. The network itself predicts the noise, as everything in
:mod:`ddfm_monai` expects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.engines.utils import DiffusionPrepareBatch
from monai.inferers import Inferer
from torch import Tensor, nn

from ddfm_monai.method.schedule import NUM_TRAIN_TIMESTEPS, alphas_cumprod
from ddfm_monai.training.data import Slices, to_network

__all__ = ["NoisePredictionError", "NoisePrepareBatch", "VelocityInferer"]


class NoisePrepareBatch(DiffusionPrepareBatch):
    """Draws timesteps and noise for a batch from ``(seed, iteration)``; the target is the velocity."""

    def __init__(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, seed: int = 3407) -> None:
        super().__init__(num_train_timesteps)
        self.seed = seed
        self.abar = alphas_cumprod(num_train_timesteps).float()

    def __call__(
        self,
        batchdata: dict[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor, tuple, dict]:
        image = batchdata["image"].to(device, non_blocking=non_blocking)
        generator = torch.Generator(image.device).manual_seed(self.seed * 1_000_003 + int(batchdata["iteration"]))
        u = torch.rand(image.shape[0], generator=generator, device=image.device)
        low, high = batchdata["timesteps"]
        timesteps = (low + (high - low) * u ** batchdata["power"]).long().clamp(max=self.num_train_timesteps - 1)
        noise = torch.randn(image.shape, generator=generator, device=image.device)
        abar = self.abar.to(image.device)[timesteps][:, None, None, None]
        target = abar.sqrt() * noise - (1 - abar).sqrt() * image
        return image, target, (), {"noise": noise, "timesteps": timesteps}


class VelocityInferer(Inferer):
    """Adds the noise, lets the network predict it (in bf16 where asked) and returns the velocity that follows."""

    def __init__(self, num_train_timesteps: int = NUM_TRAIN_TIMESTEPS, bf16: bool = False) -> None:
        super().__init__()
        self.abar = alphas_cumprod(num_train_timesteps).float()
        self.bf16 = bf16

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], noise: Tensor, timesteps: Tensor, **_: Any
    ) -> Tensor:
        abar = self.abar.to(inputs.device)[timesteps][:, None, None, None]
        noisy = abar.sqrt() * inputs + (1 - abar).sqrt() * noise
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            predicted = network(noisy, timesteps)
        return (predicted.float() - (1 - abar).sqrt() * noisy) / abar.sqrt()


class NoisePredictionError:
    """Mean squared error of the predicted noise on whole slices, by tenth of the noise levels and by modality.

    Args:
        network: predicts noise; evaluated as it is when called.
        slices: what :func:`read_slices` returned for the validation folder.
        per_modality: slices taken from each modality, evenly spaced.
        stride: slices are padded with background to multiples of this.
        device: where to compute.

    Calling it returns ``{"mean": ..., "t000": ..., ..., "t900": ..., "ct": ..., ...}``. Noise is fixed by the seed.
    """

    def __init__(
        self,
        network: nn.Module,
        slices: Slices,
        per_modality: int = 3,
        stride: int = 16,
        device: str | torch.device = "cpu",
        num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
        seed: int = 3407,
    ) -> None:
        self.network, self.stride, self.device, self.seed = network, stride, torch.device(device), seed
        self.steps = num_train_timesteps
        self.slices = {m: _evenly(found, per_modality) for m, found in sorted(slices.items())}

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        abar = alphas_cumprod(self.steps).float()
        timesteps = torch.arange(10) * (self.steps // 10) + self.steps // 20
        generator = torch.Generator().manual_seed(self.seed)
        errors: dict[str, list[Tensor]] = {}
        for modality, found in self.slices.items():
            for pixels in found:
                image = to_network(pixels, self.stride)
                noise = torch.randn((len(timesteps), *image.shape[1:]), generator=generator)
                a = abar[timesteps][:, None, None, None]
                noisy = a.sqrt() * image + (1 - a).sqrt() * noise
                predicted = torch.cat([self._predict(n, t) for n, t in zip(noisy, timesteps, strict=True)])
                errors.setdefault(modality, []).append((predicted - noise).square().mean((1, 2, 3)))
        each = torch.stack([e for found in errors.values() for e in found])
        by_time = {f"t{decade}00": float(error) for decade, error in enumerate(each.mean(0))}
        by_modality = {m: float(torch.stack(found).mean()) for m, found in errors.items()}
        return {"mean": float(each.mean()), **by_time, **by_modality}

    def _predict(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        predicted: Tensor = self.network(noisy[None].to(self.device), timestep[None].to(self.device))
        return predicted.float().cpu()


def _evenly(found: list[np.ndarray], count: int) -> list[np.ndarray]:
    """``count`` elements at the middles of as many equal stretches."""
    return [found[int((i + 0.5) * len(found) / count)] for i in range(min(count, len(found)))]
