"""What a likelihood is to the sampling loop, and the ones that can be asked for by name."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from ddfm_monai.method.luma import Luma
from ddfm_monai.method.noise import Denoiser
from ddfm_monai.method.paper import PaperEM
from ddfm_monai.method.published import PublishedEM
from ddfm_monai.method.two_scale import TwoScaleEM

__all__ = ["LIKELIHOODS", "Likelihood", "State", "make_likelihood"]


class State(Protocol):
    """What the sampling loop reads of a likelihood's state after each EM step; the rest is the likelihood's own.

    Attributes:
        deviation: (B, 1, H, W), standard deviation of f given everything else, or None if it is not modelled.
        outside: (B,), pixels that the step had to bring back into the range of the sources, or None if not checked.
    """

    outside: Tensor | None

    @property
    def deviation(self) -> Tensor | None: ...


class Likelihood(Protocol):
    """The EM side of DDFM: two sources a, b and, at each step, a correction of the network's clean estimate.

    What libraries for inverse problems call a data fidelity: how well an image explains the data, its value
    (:meth:`objective`) and a step that lowers it (:meth:`rectify`).

    All state is per slice (dimension 0), so that batch-mates never meet. Attributes: ``name``; ``luma``, how a
    three-channel network's estimate becomes grey; ``default_steps``, network evaluations, and ``start_timestep``, where
    sampling begins, both by default.
    """

    name: str
    luma: Luma
    default_steps: int
    start_timestep: int

    def settings(self) -> dict[str, Any]:
        """Everything a result depends on, JSON-able, for the provenance."""

    def prepare(self, a: Tensor, b: Tensor, denoise: Denoiser | None = None, seen: Tensor | None = None) -> State:
        """Constant parts and EM state for sources a, b: (B, 1, H, W) in [-1, 1]; denoise: what the prior makes of them.

        A likelihood that takes its sources as they are does not call denoise, which then costs nothing. seen: (B, 1, H,
        W) bool, the field of view of b; None: everywhere.
        """

    def initial(self, state: Any) -> Tensor | None:
        """(B, 1, H, W) to be noised to the start timestep, or None to start from pure noise."""

    def rectify(self, f: Tensor, state: Any) -> Tensor:
        """One EM step: ``f̃0 -> f̂0``, both (B, 1, H, W)."""

    def objective(self, f: Tensor, state: Any) -> Tensor | None:
        """What an EM step never raises, (B,), or None where no such function is known."""

    def finish(self, f: Tensor, state: Any) -> Tensor:
        """What is done to the last estimate (B, 1, H, W)."""


LIKELIHOODS: dict[str, type[Likelihood]] = {"default": TwoScaleEM, "paper": PaperEM, "published": PublishedEM}


def make_likelihood(name: str, **settings: Any) -> Likelihood:
    """The likelihood of that name with these settings.

    Raises:
        ValueError: for a name that does not exist.
        TypeError: for a setting that the likelihood does not have.
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood is {name!r}; known are {', '.join(LIKELIHOODS)}.")
    return LIKELIHOODS[name](**settings)
