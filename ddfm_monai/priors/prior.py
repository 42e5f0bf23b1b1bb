"""What a prior is: an unconditional noise-prediction network with its provenance; and networks of one's own as such."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ddfm_monai.errors import UsageError, is_out_of_memory
from ddfm_monai.method.foreign import on_linear_schedule
from ddfm_monai.method.schedule import NUM_TRAIN_TIMESTEPS

__all__ = ["Prior", "prior_of", "ready", "usable"]


class Prior(nn.Module):
    """An unconditional noise-prediction network with its provenance.

    Attributes:
        name: how it was asked for.
        sha256: hash of the weight file, 64 hex digits.
        in_channels: 1 (grey) or 3.
        stride: heights and widths must be multiples of this.
        precision: arithmetic of the network; its result is float32 all the same.
        num_train_timesteps: 1000, on the linear schedule (beta 1e-4 to 2e-2).
    """

    num_train_timesteps = NUM_TRAIN_TIMESTEPS

    def __init__(self, network: nn.Module, name: str, sha256: str) -> None:
        super().__init__()
        self.network = network
        self.precision = torch.float32
        self.name = name
        self.sha256 = sha256
        self.in_channels = int(network.in_channels)  # type: ignore[arg-type]
        self.stride = int(network.stride)  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.network.parameters()).device

    def on(self, device: torch.device, precision: torch.dtype) -> Prior:
        """The same prior on a device and in an arithmetic. This one stays as it is; weights that are there are shared.

        Raises:
            RuntimeError: torch has no such device.
        """
        other = copy.copy(self)
        other.precision = precision
        if device != self.device:
            other._modules = {"network": copy.deepcopy(self.network).to(device)}
        return other

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Predicted noise, (B, in_channels, H, W) float32, for x of that shape and timesteps (B,) in 0..999.

        On the CPU one slice is evaluated at a time: that is quicker there (a slice stays in the cache), and makes a
        slice's result the same to the last bit in every batch.
        """
        if x.device.type == "cpu" and len(x) > 1:
            return torch.cat([self(x[i : i + 1], timesteps[i : i + 1]) for i in range(len(x))])
        reduced = self.precision != torch.float32
        with torch.autocast(x.device.type, dtype=self.precision, enabled=reduced):
            return self.network(x, timesteps)[:, : self.in_channels].float()


def prior_of(network: nn.Module, scheduler: Any = None, name: str | None = None) -> Prior:
    """A network of one's own as a prior. The network is copied and stays as it is.

    Args:
        network: ``(x, timesteps) -> prediction`` on grey slices (or three-channel ones) in [-1, 1], such as MONAI's
            ``DiffusionModelUNet``. Its attributes ``in_channels`` and ``stride`` (heights and widths must be multiples
            of it) are read; of MONAI's networks the stride is known.
        scheduler: MONAI's scheduler that it was trained with; without one, noise prediction on the linear schedule
            (1000 steps, beta 1e-4 to 2e-2) is assumed.
        name: what provenance calls it; by default its class.

    Raises:
        UsageError: a network without the two attributes (``E_PRIOR_NETWORK``), or a scheduler that cannot be followed.
    """
    own = copy.deepcopy(network)
    channels, stride = getattr(own, "in_channels", None), getattr(own, "stride", None)
    blocks: Any = getattr(own, "block_out_channels", None)
    if stride is None and blocks is not None:  # MONAI's networks: every block but the last halves the size
        stride = 2 ** (len(blocks) - 1)
    if channels not in (1, 3) or not isinstance(stride, int):
        raise UsageError(
            f"{type(network).__name__}: in_channels is {channels!r} and stride is {stride!r}; expected 1 or 3, and a "
            "whole number of which heights and widths must be multiples. Set them as attributes of the network.",
            "E_PRIOR_NETWORK",
        )
    try:
        followed: Any = own if scheduler is None else _OnSchedule(own, scheduler)
    except ValueError as error:
        raise UsageError(str(error), "E_PRIOR_NETWORK") from None
    followed.in_channels, followed.stride = channels, stride
    return ready(followed, name or type(network).__name__, _digest(own))


class _OnSchedule(nn.Module):
    """`on_linear_schedule` as a module, so that it can be moved and copied with its weights."""

    def __init__(self, network: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.network = network
        self.epsilon = on_linear_schedule(network, scheduler)

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        return self.epsilon(x, timesteps)


@contextmanager
def usable(device: Any) -> Iterator[None]:
    """Say which device was asked for where torch says that it is not there.

    Raises:
        UsageError: code ``E_DEVICE``.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:  # what torch raises for it
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"device is {str(device)!r}, which cannot be used here ({reason}). Use --device cpu.", "E_DEVICE"
        ) from None


def ready(network: nn.Module, name: str, sha256: str) -> Prior:
    """A network as a prior for inference, laid out in memory for it.

    Args:
        network: noise prediction with ``in_channels`` and ``stride``; is changed in place.
        name: what provenance calls it.
        sha256: of its weights, 64 hex digits.
    """
    fast = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Prior(fast, name, sha256).eval().requires_grad_(False)


def _digest(network: nn.Module) -> str:
    """SHA-256 of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
