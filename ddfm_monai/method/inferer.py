"""The sampling loop of DDFM (paper, Algorithm 1) as a MONAI inferer."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn import functional as F

from ddfm_monai.method.likelihoods import Likelihood, make_likelihood
from ddfm_monai.method.luma import FULL_RANGE_LUMA
from ddfm_monai.method.schedule import RespacedDDIM
from ddfm_monai.method.tweedie import tweedie

__all__ = ["DDFMInferer", "Step", "noise_field"]


@dataclass(frozen=True)
class Step:
    """What a callback sees after each sampling step.

    Args:
        index: steps done so far, 1..total.
        total: number of steps.
        timestep: timestep that the network was told.
        estimate: corrected clean estimate ``f̂0``, (B, 1, H, W).
        outside: (B,), pixels that this step had to bring back into the range of the sources; None if not checked.
    """

    index: int
    total: int
    timestep: int
    estimate: Tensor
    outside: Tensor | None = None


def noise_field(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise that depends on shape and seed only; float32 on the CPU, whatever the device in use."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _smooth_field(noise: Tensor, size: int = 9) -> Tensor:
    """(B, 1, H, W) of variance 1 from white noise (B, C, H, W): decisions between sources are regional, not per pixel.

    A mean over size x size pixels, which leaves a sd of 1 / size.
    """
    return size * F.avg_pool2d(noise[:, :1], size, stride=1, padding=size // 2)


class DDFMInferer(Inferer):
    """Fuse pairs of slices by unconditional diffusion sampling corrected by an EM step (Zhao et al., ICCV 2023).

    Every slice of a batch starts from the same noise and keeps its own EM state: its result depends on that pair,
    the settings and the seed, not on its batch-mates.

    Args:
        num_inference_steps: network evaluations per slice (and one more for each source that holds noise); by default
            the likelihood's own.
        likelihood: ``"default"``, ``"published"`` (the published code with its quirks), or a
            :class:`~ddfm_monai.method.likelihoods.Likelihood`.
        seed: seed of the start noise.
        start_timestep: noisiest timestep, 0..999; by default the likelihood's own.
        draw: the M-step draws f from its conditional distribution instead of taking the mean: for several chains, whose
            spread then is the model's uncertainty. The draw is one smooth field per chain, made from the start noise.
        settings: further settings of a likelihood given by name, for example ``psi=0.5, eta=0.001``.

    Raises:
        ValueError: for an unknown likelihood or impossible step counts.
        TypeError: for a setting that the likelihood does not have.
    """

    def __init__(
        self,
        num_inference_steps: int | None = None,
        likelihood: str | Likelihood = "default",
        seed: int = 3407,
        start_timestep: int | None = None,
        draw: bool = False,
        **settings: Any,
    ) -> None:
        if isinstance(likelihood, str):
            likelihood = make_likelihood(likelihood, **settings)
        elif settings:
            raise TypeError(f"{', '.join(settings)}: settings go with a likelihood that is given by name.")
        self.likelihood = likelihood
        self.seed = seed
        self.draw = draw
        start = likelihood.start_timestep if start_timestep is None else start_timestep
        steps = likelihood.default_steps if num_inference_steps is None else num_inference_steps
        self.scheduler = RespacedDDIM(steps, start)

    @property
    def num_inference_steps(self) -> int:
        return self.scheduler.num_train_timesteps

    def with_seed(self, seed: int, draw: bool = False) -> DDFMInferer:
        """The same inferer with another start noise, drawing or not."""
        other = copy(self)
        other.seed, other.draw = seed, draw
        return other

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        inputs: Tensor,
        network: Callable[[Tensor, Tensor], Tensor],
        noise: Tensor | None = None,
        callback: Callable[[Step], None] | None = None,
        return_sample: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Fuse a batch.

        Args:
            inputs: (B, 2, H, W), reference and second source in [-1, 1].
            network: ``(x, timesteps) -> noise`` (variances after it are ignored); its attribute ``in_channels``
                (default 1) says whether it works on grey or on three-channel images.
            noise: start noise, (C, H, W) for all or (B, C, H, W); by default from the seed.
            callback: called after each step; an exception raised in it stops the sampling.
            return_sample: also return the sample itself, (B, C, H, W), not clamped.

        Returns:
            (B, 1, H, W) float32 in [-1, 1], and the sample if asked for.

        Raises:
            ValueError: if inputs are not (B, 2, H, W).
        """
        if inputs.ndim != 4 or inputs.shape[1] != 2:
            raise ValueError(f"inputs have shape {tuple(inputs.shape)}; (B, 2, H, W) is expected.")
        inputs = torch.as_tensor(inputs, dtype=torch.float32)
        channels = getattr(network, "in_channels", 1)
        state = self.likelihood.prepare(inputs[:, :1], inputs[:, 1:], partial(tweedie, network))
        start_noise = self._noise(noise, inputs, channels)
        chance = _smooth_field(start_noise) if self.draw else None
        f_t = self._start(state, start_noise)
        for i in reversed(range(self.num_inference_steps)):
            estimate = self._estimate(network, f_t, i, channels)
            luma = self.likelihood.luma.of(estimate)
            corrected = self.likelihood.rectify(luma, state)
            if chance is not None and state.deviation is not None:
                corrected = corrected + state.deviation * chance
            f_t, _ = self.scheduler.step(self.likelihood.luma.replace(estimate, luma, corrected), i, f_t)
            if callback is not None:
                timestep = int(self.scheduler.model_timesteps[i])
                callback(
                    Step(self.num_inference_steps - i, self.num_inference_steps, timestep, corrected, state.outside)
                )
        fused = self.likelihood.finish(FULL_RANGE_LUMA.of(f_t), state).clamp(-1, 1)
        return (fused, f_t) if return_sample else fused

    def _noise(self, noise: Tensor | None, inputs: Tensor, channels: int) -> Tensor:
        batch, _, height, width = inputs.shape
        if noise is None:
            noise = noise_field((channels, height, width), self.seed)
        return noise.to(inputs).expand(batch, channels, height, width)

    def _start(self, state: Any, noise: Tensor) -> Tensor:
        """``f_T``: pure noise, or the likelihood's first image at the start timestep's noise."""
        first = self.likelihood.initial(state)
        if first is None:
            return noise.contiguous()
        alpha_bar = self.scheduler.alphas_cumprod[-1]
        return alpha_bar.sqrt() * first + (1 - alpha_bar).sqrt() * noise

    def _estimate(self, network: Callable[[Tensor, Tensor], Tensor], f_t: Tensor, i: int, channels: int) -> Tensor:
        """``f̃0 = (f_t - sqrt(1 - ā_t) ε_θ(f_t, t)) / sqrt(ā_t)``, clamped to [-1, 1]."""
        timesteps = self.scheduler.model_timesteps[i].to(f_t.device).expand(len(f_t))
        epsilon = network(f_t, timesteps)[:, :channels].float()
        alpha_bar = self.scheduler.alphas_cumprod[i]
        return ((f_t - (1 - alpha_bar).sqrt() * epsilon) / alpha_bar.sqrt()).clamp(-1, 1)
