"""The sampling loop of DDFM: Algorithm 1 of the paper (Zhao et al., ICCV 2023).

Notation: ``f_t`` is the fused image at noise level t, ``ā_t`` the cumulative product of ``1 - β``, ``ε_θ`` the network,
``f̃0`` its estimate of the clean image, ``f̂0`` that estimate corrected by one EM step against the two sources.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ddfm_monai.method.schedule import RespacedDDIM

__all__ = ["sample"]


def sample(
    f_t: Tensor,
    epsilon: Callable[[Tensor, Tensor], Tensor],
    rectify: Callable[[Tensor], Tensor],
    schedule: RespacedDDIM,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """From ``f_T`` to ``f_0``.

    Args:
        f_t: ``f_T``, (B, C, H, W): noise, or a first image with the noise of the schedule's start.
        epsilon: ``ε_θ(f_t, t)``, the noise in ``f_t``; t is an int64 tensor of one element.
        rectify: the E-step and the M-step, ``f̃0 -> f̂0``.
        schedule: the N kept noise levels, walked from N - 1 down to 0.
        callback: called after each step with its index and ``f̂0``; an exception raised in it stops the sampling.

    Returns:
        ``f_0``, (B, C, H, W), not clamped.
    """
    for i in reversed(range(schedule.num_train_timesteps)):
        t, alpha_bar = schedule.model_timesteps[i], schedule.alphas_cumprod[i]
        # the clean image that the network sees in f_t
        f_tilde = ((f_t - (1 - alpha_bar).sqrt() * epsilon(f_t, t)) / alpha_bar.sqrt()).clamp(-1, 1)
        # EM: the clean image that explains both sources
        f_hat = rectify(f_tilde)
        # down to the next noise level, with f̂0 in place of f̃0
        f_t, _ = schedule.step(f_hat, i, f_t)
        if callback is not None:
            callback(i, f_hat)
    return f_t
