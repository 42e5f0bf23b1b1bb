"""The respaced noise schedule, on MONAI's DDIM scheduler.

MONAI's ``DDIMScheduler.set_timesteps`` keeps the full schedule and steps back by ``1000 // N``, which misses the next
kept timestep for most ``N``. Here the N kept timesteps become a schedule of their own (as guided diffusion does):
``ā_i = ā(t_i)``, ``β_i = 1 - ā_i / ā_{i-1}``, and the scheduler then walks it one step at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.schedulers import DDIMScheduler
from monai.networks.schedulers.ddim import DDIMPredictionType
from monai.networks.schedulers.scheduler import NoiseSchedules

__all__ = ["NUM_TRAIN_TIMESTEPS", "RespacedDDIM", "alphas_cumprod", "kept_timesteps", "noise_levels"]

NUM_TRAIN_TIMESTEPS = 1000
_BETA_START, _BETA_END = 1e-4, 2e-2  # the linear schedule of the published prior; nothing else in the package names it


def kept_timesteps(num_inference_steps: int, start_timestep: int = 999) -> np.ndarray:
    """The timesteps that are kept, ``round(i * start / (N - 1))`` for ``i = 0..N-1``.

    Args:
        num_inference_steps: N, at least 1. One step keeps the start alone.
        start_timestep: the noisiest timestep; 999 starts from pure noise, less is a warm start.

    Returns:
        int64 array of N timesteps, ascending.

    Raises:
        ValueError: if fewer than N different timesteps lie in ``0..start_timestep``.
    """
    if not 1 <= num_inference_steps <= start_timestep + 1:
        raise ValueError(
            f"num_inference_steps is {num_inference_steps}; 1 to {start_timestep + 1} steps fit a start at "
            f"timestep {start_timestep}."
        )
    if num_inference_steps == 1:
        return np.array([start_timestep])
    # Python's round: halves go to the even timestep, as in the published code.
    return np.array([round(i * start_timestep / (num_inference_steps - 1)) for i in range(num_inference_steps)])


def noise_levels() -> torch.Tensor:
    """``sqrt((1 - ā_t) / ā_t)``, the sd of the noise in ``f_t / sqrt(ā_t)``, of all 1000 timesteps: float64 (1000,)."""
    alpha_bar = alphas_cumprod()
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def alphas_cumprod(num_train_timesteps: int = NUM_TRAIN_TIMESTEPS) -> torch.Tensor:
    """``ā_t`` of the linear schedule, float64 (T,)."""
    return torch.from_numpy(np.cumprod(1 - np.linspace(_BETA_START, _BETA_END, num_train_timesteps)))


@NoiseSchedules.add_def("respaced_linear_beta", "Linear beta schedule respaced to a subset of its timesteps")
def _respaced_linear_beta(num_train_timesteps: int, timesteps: np.ndarray) -> tuple[torch.Tensor, ...]:
    if len(timesteps) != num_train_timesteps:
        raise ValueError(f"{num_train_timesteps} steps were asked for, {len(timesteps)} timesteps given.")
    kept = alphas_cumprod()[torch.from_numpy(timesteps)]
    alphas = kept / torch.cat([kept.new_ones(1), kept[:-1]])
    return (1 - alphas).float(), alphas.float(), kept.float()


class RespacedDDIM(DDIMScheduler):
    """MONAI's DDIM on the respaced schedule, taking an estimate of the clean image instead of the noise.

    Because the noise direction is recomputed from that estimate, the EM-corrected ``f̂0`` goes straight into
    ``step(f̂0, i, f_t)`` (paper, Algorithm 1, last line).

    Args:
        num_inference_steps: N, how many of the 1000 timesteps are kept.
        start_timestep: the noisiest kept timestep.

    Attributes:
        model_timesteps: int64 tensor (N,), what the network is told at step index i.
    """

    def __init__(self, num_inference_steps: int, start_timestep: int = 999) -> None:
        timesteps = kept_timesteps(num_inference_steps, start_timestep)
        super().__init__(
            num_train_timesteps=num_inference_steps,
            schedule="respaced_linear_beta",
            timesteps=timesteps,
            prediction_type=DDIMPredictionType.SAMPLE,
            clip_sample=False,
        )
        self.model_timesteps = torch.from_numpy(timesteps)
