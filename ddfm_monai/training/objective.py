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
from torch.utils.data import Dataset

from ddfm_monai.method.schedule import NUM_TRAIN_TIMESTEPS, alphas_cumprod
from ddfm_monai.training.data import Slices, to_network

__all__ = ["NoisePredictionError", "NoisePrepareBatch", "NoisyCases", "VelocityInferer", "prepare_noisy"]


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


class NoisyCases(Dataset):
    """Validation slices with noise of every tenth of the noise levels; the noise is fixed by the seed.

    Args:
        data: slices, what :func:`read_slices` returned for the validation folder.
        per_modality: slices taken from each modality, evenly spaced.
        stride: slices are padded with background to multiples of this.
        num_train_timesteps: of the schedule.
        seed: of the noise.

    Items are ``{"image": noisy slice, "noise", "timesteps", "modality", "tenth"}``: (1, H, W) float32 twice, int64 (),
    text, and 0 to 9.
    """

    def __init__(
        self,
        data: Slices,
        per_modality: int = 3,
        stride: int = 16,
        num_train_timesteps: int = NUM_TRAIN_TIMESTEPS,
        seed: int = 3407,
    ) -> None:
        chosen = [(m, pixels) for m, found in sorted(data.items()) for pixels in _evenly(found, per_modality)]
        self.images = [to_network(pixels, stride)[0] for _, pixels in chosen]
        self.data = [(number, m, tenth) for number, (m, _) in enumerate(chosen) for tenth in range(10)]
        generator = torch.Generator().manual_seed(seed)
        self.noise = [torch.randn((10, *image.shape), generator=generator) for image in self.images]
        self.timesteps = torch.arange(10) * (num_train_timesteps // 10) + num_train_timesteps // 20
        self.abar = alphas_cumprod(num_train_timesteps).float()[self.timesteps]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, modality, tenth = self.data[index]
        noise, a = self.noise[number][tenth], self.abar[tenth]
        noisy = a.sqrt() * self.images[number] + (1 - a).sqrt() * noise
        return {
            "image": noisy,
            "noise": noise,
            "timesteps": self.timesteps[tenth],
            "modality": modality,
            "tenth": tenth,
        }


def prepare_noisy(
    batch: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, Tensor, tuple, dict]:
    """A batch of :class:`NoisyCases` for MONAI's evaluator: the noise is the label, the timesteps go to the network."""
    image, noise, timesteps = (
        batch[key].to(device, non_blocking=non_blocking) for key in ("image", "noise", "timesteps")
    )
    return image, noise, (timesteps,), {}


class NoisePredictionError:
    """Mean squared error of the predicted noise on whole slices, by tenth of the noise levels and by modality.

    Args:
        network: predicts noise; evaluated as it is when called.
        cases: noisy slices.
        device: where to compute.

    Calling it returns ``{"mean": ..., "t000": ..., ..., "t900": ..., "ct": ..., ...}``.
    """

    def __init__(self, network: nn.Module, cases: NoisyCases, device: str | torch.device = "cpu") -> None:
        self.network, self.cases, self.device = network, cases, torch.device(device)

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        errors: dict[str, list[float]] = {"mean": [], **{f"t{tenth}00": [] for tenth in range(10)}}
        for case in (self.cases[i] for i in range(len(self.cases))):
            error = float((self._predict(case) - case["noise"]).square().mean())
            for group in ("mean", f"t{case['tenth']}00", case["modality"]):
                errors.setdefault(group, []).append(error)
        return {group: float(np.mean(found)) for group, found in errors.items()}

    def _predict(self, case: dict[str, Any]) -> Tensor:
        image, timestep = (case[key][None].to(self.device) for key in ("image", "timesteps"))
        predicted: Tensor = self.network(image, timestep)
        return predicted[0].float().cpu()


def _evenly(found: list[np.ndarray], count: int) -> list[np.ndarray]:
    """``count`` elements at the middles of as many equal stretches."""
    return [found[int((i + 0.5) * len(found) / count)] for i in range(min(count, len(found)))]
