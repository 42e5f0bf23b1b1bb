"""Networks that were trained on another noise schedule, or to predict something else than the noise.

The loop and the likelihoods ask for the noise ``ε_θ(f_t, t)`` on the linear schedule of the published prior
(:mod:`ddfm_monai.method.schedule`). A level of noise is the same thing on every variance-preserving schedule up to a
scale: ``f_t / sqrt(ā_t) = f_0 + σ_t ε``. So the network is asked at its own timestep of the same σ, with its own scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddfm_monai.method.schedule import alphas_cumprod

__all__ = ["ForeignNetwork", "check_scheduler", "on_linear_schedule"]

_PREDICTIONS = ("epsilon", "sample", "v_prediction")


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of another schedule as ``(x, timesteps) -> noise`` on the linear one.

    Args:
        network: ``(x, timesteps) -> prediction``, timesteps of its own schedule.
        alphas_cumprod: ``ā`` of its schedule, (T,).
        prediction: ``"epsilon"``, ``"sample"`` (the clean image) or ``"v_prediction"``
            (``v = sqrt(ā) ε - sqrt(1 - ā) f_0``; Salimans and Ho, ICLR 2022).
    """

    network: Callable[[Tensor, Tensor], Tensor]
    alphas_cumprod: Tensor
    prediction: str

    @property
    def in_channels(self) -> int:
        return int(getattr(self.network, "in_channels", 1))

    def __call__(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """``ε``, (B, C, H, W), for ``x`` of that shape and timesteps (B,) of the linear schedule."""
        own = self.alphas_cumprod.to(x.device, torch.float64)
        here = alphas_cumprod().to(x.device)[timesteps]
        t = (_log_snr(own)[None, :] - _log_snr(here)[:, None]).abs().argmin(1)
        a, b = (v.to(x.dtype).view(-1, 1, 1, 1) for v in (own[t], here))
        scaled = x * (a / b).sqrt()
        prediction = self.network(scaled, t)[:, : x.shape[1]].float()
        if self.prediction == "sample":
            clean = prediction
        elif self.prediction == "v_prediction":
            clean = a.sqrt() * scaled - (1 - a).sqrt() * prediction
        else:
            clean = (scaled - (1 - a).sqrt() * prediction) / a.sqrt()
        # by way of the clean image, so that the step between two timesteps of its own does no harm
        return (x - b.sqrt() * clean) / (1 - b).sqrt()


def on_linear_schedule(network: Callable[[Tensor, Tensor], Tensor], scheduler: Any) -> Callable[..., Tensor]:
    """The network as it is if it predicts the noise on the linear schedule, else a :class:`ForeignNetwork`.

    Args:
        network: ``(x, timesteps) -> prediction``.
        scheduler: MONAI's scheduler that it was trained with (``DDPMScheduler``, ``DDIMScheduler``, ...), for its
            ``alphas_cumprod`` and ``prediction_type``.

    Raises:
        ValueError: as :func:`check_scheduler`.
    """
    own, prediction = check_scheduler(scheduler)
    ours = alphas_cumprod()
    if prediction == "epsilon" and own.shape == ours.shape and torch.allclose(own.double().cpu(), ours, rtol=1e-4):
        return network
    return ForeignNetwork(network, own, prediction)


def check_scheduler(scheduler: Any) -> tuple[Tensor, str]:
    """``ā`` of a scheduler's training schedule, (T,), and what its network predicts.

    Raises:
        ValueError: it has no variance-preserving schedule (``RFlowScheduler``), or predicts something else.
    """
    own = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(own, Tensor):
        raise ValueError(
            f"scheduler is a {type(scheduler).__name__}, which has no alphas_cumprod; expected a scheduler of a "
            "variance-preserving diffusion, such as MONAI's DDPMScheduler or DDIMScheduler."
        )
    prediction = str(getattr(scheduler.prediction_type, "value", scheduler.prediction_type))
    if prediction not in _PREDICTIONS:
        raise ValueError(f"prediction_type is {prediction!r}; expected one of {', '.join(_PREDICTIONS)}.")
    return own, prediction


def _log_snr(alpha_bar: Tensor) -> Tensor:
    return (alpha_bar / (1 - alpha_bar)).clamp(min=1e-12).log()
