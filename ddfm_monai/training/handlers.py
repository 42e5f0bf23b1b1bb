"""What hangs on MONAI's trainer: learning rate, moving average, checkpoints, log, export."""

from __future__ import annotations

import copy
import csv
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor, nn

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.files import atomic_path
from ddfm_monai.training.data import ResumableSampler, Slices
from ddfm_monai.training.export import export_prior

__all__ = [
    "Checkpoints",
    "CsvLog",
    "ExponentialMovingAverage",
    "ExportAtEnd",
    "GradientClipping",
    "LearningRate",
]

_LOG = logging.getLogger(__name__)
VALIDATION_COLUMNS = ("mean", *(f"t{decade}00" for decade in range(10)))


class GradientClipping:
    """Scales gradients whose total norm exceeds ``max_norm``."""

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, _: Engine) -> None:
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class LearningRate:
    """Linear warm-up, a constant stretch, cosine decay to zero over the last ``decay`` of the training.

    Because the rate is constant before the decay, a training may be cut short or prolonged by resuming it with another
    number of iterations.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, iterations: int, peak: float, warmup: int, decay: float
    ) -> None:
        self.optimizer, self.iterations, self.peak, self.warmup, self.decay = optimizer, iterations, peak, warmup, decay

    def at(self, iteration: int) -> float:
        """The rate of (zero-based) ``iteration``."""
        left = max(0.0, 1 - iteration / self.iterations) / self.decay
        return self.peak * min(1.0, (iteration + 1) / self.warmup) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.at(engine.state.iteration - 1)


class ExponentialMovingAverage:
    """Keeps ``average``, a copy of the network whose weights follow the trained ones slowly.

    The decay grows as ``(1 + n) / (10 + n)`` up to ``decay``, so that the start is forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.average: Any = copy.deepcopy(network).eval().requires_grad_(False)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self)

    @torch.no_grad()
    def __call__(self, engine: Engine) -> None:
        n = engine.state.iteration
        decay = min(self.decay, (1 + n) / (10 + n))
        average: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(average, current, 1 - decay)


class Checkpoints:
    """Saves ``last.pt`` at the end of every epoch and, if asked, goes on from one.

    Args:
        folder: where ``last.pt`` and, every ``keep_every`` epochs, ``epoch_<n>.pt`` go.
        states: name -> object with ``state_dict``.
        sampler: is told how many iterations are done.
        resume: a file written earlier, or None.
    """

    def __init__(
        self,
        folder: str | Path,
        states: Mapping[str, Any],
        sampler: ResumableSampler,
        resume: str | Path | None = None,
        keep_every: int = 0,
    ) -> None:
        self.folder, self.states, self.sampler, self.keep_every = Path(folder), states, sampler, keep_every
        self.resume = Path(resume) if resume else None
        if self.resume and not self.resume.is_file():
            raise UsageError(
                f"{self.resume}: no such checkpoint to resume from. Check the path, or leave --resume out.",
                "E_NO_CHECKPOINT",
            )

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        if self.resume is None:
            return
        saved = torch.load(self.resume, map_location="cpu", weights_only=True)
        for name, state in self.states.items():
            state.load_state_dict(saved[name])
        engine.state.iteration = self.sampler.start = saved["iteration"]
        engine.state.epoch = saved["epoch"]
        _LOG.info("resumed %s at iteration %d", self.resume.name, self.sampler.start)

    def save(self, engine: Engine) -> None:
        content = {name: state.state_dict() for name, state in self.states.items()}
        content |= {"iteration": engine.state.iteration, "epoch": engine.state.epoch}
        names = ["last.pt"]
        if self.keep_every and engine.state.epoch % self.keep_every == 0:
            names.append(f"epoch_{engine.state.epoch:04d}.pt")
        for name in names:
            with atomic_path(self.folder / name) as temporary:
                torch.save(content, temporary)


class ExportAtEnd:
    """Writes the moving average as a prior when the training is complete; ``ddfm fuse --prior FILE`` takes it."""

    def __init__(self, ema: ExponentialMovingAverage, path: str | Path, slices: Slices) -> None:
        self.ema, self.path, self.slices = ema, path, slices

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        card = {
            "training_slices": {modality: len(found) for modality, found in self.slices.items()},
            "iterations": engine.state.iteration,
            "trained_on": engine.state.device.type,
        }
        _LOG.info("wrote %s", export_prior(self.ema.average, self.path, card))


class CsvLog:
    """One line per epoch: iteration, seconds, mean training loss, learning rate, and the validation's metrics.

    Args:
        path: appended to, so that a resumed training continues its log.
        validate: called every ``every`` epochs; its result is logged under names that start with ``val_``.
    """

    def __init__(
        self, path: str | Path, validate: Callable[[], Mapping[str, float]] | None = None, every: int = 1
    ) -> None:
        self.path, self.validate, self.every = Path(path), validate, every
        self.losses: list[float] = []
        self.start = time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self.note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def note(self, engine: Any) -> None:
        loss = engine.state.output["loss"].item()
        if not math.isfinite(loss):
            raise InputError(f"The loss became {loss} at iteration {engine.state.iteration}; lower the learning rate.")
        self.losses.append(loss)

    def write(self, engine: Any) -> None:
        row: dict[str, Any] = {
            "iteration": engine.state.iteration,
            "seconds": round(time.monotonic() - self.start),
            "loss": f"{np.mean(self.losses):.5f}",
            "learning_rate": f"{engine.optimizer.param_groups[0]['lr']:.2e}",
        }
        self.losses.clear()
        if self.validate is not None:
            due = engine.state.epoch % self.every == 0
            figures = self.validate() if due else {}
            row |= {f"val_{name}": f"{figures[name]:.5f}" if due else "" for name in VALIDATION_COLUMNS}
        _LOG.info(" ".join(f"{name}={value}" for name, value in row.items() if value))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
