"""DDFM as a MONAI inferer: what stands around the sampling loop (start noise, luma, draws, counting)."""

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

from ddfm_monai.method.algorithm import sample
from ddfm_monai.method.foreign import check_scheduler, on_linear_schedule
from ddfm_monai.method.likelihoods import Likelihood, State, make_likelihood
from ddfm_monai.method.luma import FULL_RANGE_LUMA
from ddfm_monai.method.noise import Noise, Observed, denoise
from ddfm_monai.method.noise_estimate import estimate_noise
from ddfm_monai.method.schedule import RespacedDDIM

__all__ = ["DDFMInferer", "Step", "noise_field"]

_ROUNDING = 1e-4  # sources that were scaled in half precision may miss the ends of their range by as much


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


SourceNoise = tuple[Noise | None, Noise | None]
"""Of the first and of the second source; None: clean."""


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
        num_inference_steps: network evaluations per slice, and up to five more for each source that holds noise; by
            default the likelihood's own.
        likelihood: ``"default"``, ``"paper"`` (Algorithm 1 as printed), ``"published"`` (the published code with its
            quirks), or a :class:`~ddfm_monai.method.likelihoods.Likelihood`.
        seed: seed of the start noise.
        start_timestep: noisiest timestep, 0..999; by default the likelihood's own.
        scheduler: MONAI's scheduler that the network was trained with, where that is not the linear schedule (1000
            steps, beta 1e-4 to 2e-2) with noise prediction that is assumed otherwise: see
            :func:`~ddfm_monai.method.foreign.on_linear_schedule`.
        draw: the M-step draws f from its conditional distribution instead of taking the mean: for several chains, whose
            spread then is the model's uncertainty. The draw is one smooth field per chain, made from the start noise.
        settings: further settings of a likelihood given by name, for example ``psi=0.5, eta=0.001``.

    Raises:
        ValueError: for an unknown likelihood, impossible step counts, or a scheduler that cannot be followed.
        TypeError: for a setting that the likelihood does not have.
    """

    def __init__(
        self,
        num_inference_steps: int | None = None,
        likelihood: str | Likelihood = "default",
        seed: int = 3407,
        start_timestep: int | None = None,
        draw: bool = False,
        scheduler: Any = None,
        **settings: Any,
    ) -> None:
        if isinstance(likelihood, str):
            likelihood = make_likelihood(likelihood, **settings)
        elif settings:
            raise TypeError(f"{', '.join(settings)}: settings go with a likelihood that is given by name.")
        self.likelihood = likelihood
        self.seed = seed
        self.draw = draw
        self.network_scheduler = scheduler
        if scheduler is not None:
            check_scheduler(scheduler)  # refused now rather than at the first slice
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
        source_noise: SourceNoise | None = None,
        seen: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Fuse a batch.

        Args:
            inputs: (B, 2, H, W), reference and second source in [-1, 1].
            network: ``(x, timesteps) -> noise`` (variances after it are ignored); its attribute ``in_channels``
                (default 1) says whether it works on grey or on three-channel images.
            noise: start noise, (C, H, W) for all or (B, C, H, W); by default from the seed.
            callback: called after each step; an exception raised in it stops the sampling.
            return_sample: also return the sample itself, (B, C, H, W), not clamped.
            source_noise: the noise of the first and of the second source, None for a clean one; by default it is
                estimated from each slice by itself, which is less steady than an estimate from a whole scan.
            seen: (B, 1, H, W) bool, the second source's field of view: outside it the reference stands alone. By
                default everywhere.

        Returns:
            (B, 1, H, W) float32 in [-1, 1], and the sample if asked for.

        Raises:
            ValueError: if inputs are not (B, 2, H, W), or hold NaN or values outside [-1, 1].
        """
        inputs = _checked(inputs)
        if self.network_scheduler is not None:
            network = on_linear_schedule(network, self.network_scheduler)
        channels = getattr(network, "in_channels", 1)
        noise = self._noise(noise, inputs, channels)
        denoiser = partial(_denoised, network, noise[:, :1], source_noise)
        state = self.likelihood.prepare(inputs[:, :1], inputs[:, 1:], denoiser, seen)
        f_0 = sample(
            self._start(state, noise),
            partial(predicted_noise, network, channels),
            partial(self._rectify, state, _smooth_field(noise) if self.draw else None),
            self.scheduler,
            callback and partial(self._report, state, callback),
        )
        fused = self.likelihood.finish(FULL_RANGE_LUMA.of(f_0), state).clamp(-1, 1)
        return (fused, f_0) if return_sample else fused

    def _noise(self, noise: Tensor | None, inputs: Tensor, channels: int) -> Tensor:
        batch, _, height, width = inputs.shape
        if noise is None:
            noise = noise_field((channels, height, width), self.seed)
        return noise.to(inputs).expand(batch, channels, height, width)

    def _start(self, state: State, noise: Tensor) -> Tensor:
        """``f_T``: pure noise, or the likelihood's first image at the start timestep's noise."""
        first = self.likelihood.initial(state)
        if first is None:
            return noise.contiguous()
        alpha_bar = self.scheduler.alphas_cumprod[-1]
        return alpha_bar.sqrt() * first + (1 - alpha_bar).sqrt() * noise

    def _rectify(self, state: State, chance: Tensor | None, f: Tensor) -> Tensor:
        """The likelihood's EM step on the luma of ``f̃0`` (B, C, H, W); where chains are drawn, a draw."""
        luma = self.likelihood.luma.of(f)
        corrected = self.likelihood.rectify(luma, state)
        if chance is not None and state.deviation is not None:
            corrected = corrected + state.deviation * chance
        return self.likelihood.luma.replace(f, luma, corrected)

    def _report(self, state: State, callback: Callable[[Step], None], i: int, f: Tensor) -> None:
        total, timestep = self.num_inference_steps, int(self.scheduler.model_timesteps[i])
        callback(Step(total - i, total, timestep, self.likelihood.luma.of(f), state.outside))


def predicted_noise(network: Callable[[Tensor, Tensor], Tensor], channels: int, f_t: Tensor, t: Tensor) -> Tensor:
    """``ε_θ(f_t, t)``, (B, channels, H, W) float32: what the network predicts, without the variances after it."""
    return network(f_t, torch.full((len(f_t),), int(t), device=f_t.device))[:, :channels].float()


def _denoised(
    network: Callable[[Tensor, Tensor], Tensor], white: Tensor, known: SourceNoise | None, a: Tensor, b: Tensor
) -> tuple[Observed, Observed]:
    """Both sources without their noise; where it is not known it is estimated, slice by slice."""
    noise_a, noise_b = (
        ([estimate_noise(one[0]) for one in y.split(1)] for y in (a, b)) if known is None else ([one] for one in known)
    )
    return denoise(network, white, noise_a, a), denoise(network, white, noise_b, b)


def _checked(inputs: Tensor) -> Tensor:
    """Inputs as float32.

    Raises:
        ValueError: if they are not (B, 2, H, W), or hold NaN or values outside [-1, 1].
    """
    if inputs.ndim != 4 or inputs.shape[1] != 2:
        raise ValueError(f"inputs have shape {tuple(inputs.shape)}; (B, 2, H, W) is expected.")
    inputs = torch.as_tensor(inputs, dtype=torch.float32)
    lowest, highest = (float(x) for x in inputs.aminmax())
    if not (lowest >= -1 - _ROUNDING and highest <= 1 + _ROUNDING):  # false for NaN, too
        raise ValueError(
            f"inputs range from {lowest:g} to {highest:g}; -1 to 1 is expected, without NaN. Scale each source to "
            "[-1, 1] (black to white) first."
        )
    return inputs
