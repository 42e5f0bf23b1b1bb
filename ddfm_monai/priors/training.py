"""Training a prior: slices out of volumes, batches that depend on (seed, iteration) only, and the trainer's handlers.

The training bundle ``bundles/ddfm_prior`` puts these on MONAI's ``SupervisedTrainer``. The loss is the mean squared
error of the velocity ``v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0`` (Salimans and Ho, "Progressive Distillation",
ICLR 2022): at little noise it equals the error of the noise, at much noise the error of the image, so every noise level
counts about equally. The network itself predicts the noise, as everything in :mod:`ddfm_monai` expects.
"""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.meta_tensor import MetaTensor
from monai.engines.utils import DiffusionPrepareBatch, IterationEvents
from monai.inferers import Inferer
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.files import atomic_path, sha256_of
from ddfm_monai.priors.expert_unet import ExpertUNet
from ddfm_monai.priors.precision import bf16_pays
from ddfm_monai.priors.slice_unet import SliceUNet

__all__ = [
    "Checkpoints",
    "CsvLog",
    "ExponentialMovingAverage",
    "ExportAtEnd",
    "GradientClipping",
    "LearningRate",
    "NoisePredictionError",
    "NoisePrepareBatch",
    "ResumableSampler",
    "SliceBatches",
    "VelocityInferer",
    "alphas_cumprod",
    "bf16_pays",
    "export_prior",
    "load_weights",
    "read_slices",
    "to_network",
    "write_report",
]

_LOG = logging.getLogger(__name__)
_BACKGROUND = 8  # grey levels: brighter pixels count as the object
VALIDATION_COLUMNS = ("mean", *(f"t{decade}00" for decade in range(10)))
Slices = dict[str, list[np.ndarray]]


# --- data -------------------------------------------------------------------------------------------------------------


def read_slices(dataset_dir: str | Path | None) -> Slices:
    """All axial slices of the grey NIfTI volumes under a folder, by modality.

    Volumes of 8 bits (0..255) are taken as they are; others are scaled to 0..255 by the rules that fusion uses
    (:func:`ddfm_monai.volumes.choose_scaling`). Colour volumes and slices without any signal are left out.

    Returns:
        ``"mr"``, ``"ct"``, ``"pet"`` or ``"spect"`` (:func:`ddfm_monai.volumes.guess_kind` tells which, from a file's
        values and name) -> list of ``(H, W)`` uint8 arrays, anterior on top, patient's right on the left.

    Raises:
        UsageError: the folder does not exist or holds no NIfTI volume.
        InputError: a volume cannot be read, is not three-dimensional or has values that are not finite.
    """
    if not dataset_dir:
        raise UsageError("No data. Pass a folder of NIfTI volumes as --dataset_dir.", "E_NO_DATA")
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Pass a folder of NIfTI volumes as --dataset_dir.", "E_NO_DATA")
    slices: Slices = {}
    for path in sorted(p for p in folder.rglob("*") if p.name.endswith((".nii", ".nii.gz"))):
        pixels = _read_grey(path)
        if pixels is not None:
            modality, grey = _to_grey_levels(pixels, path)
            found = [np.ascontiguousarray(grey[:, :, k].T) for k in range(grey.shape[2])]
            slices.setdefault(modality, []).extend(s for s in found if s.max() > _BACKGROUND)
    if not any(slices.values()):
        raise UsageError(f"{folder}: no grey NIfTI volume (.nii, .nii.gz) with any signal in it.", "E_NO_DATA")
    return slices


def _read_grey(path: Path) -> np.ndarray | None:
    """One volume ``(X, Y, Z)`` in LPS order, or None where it is a colour volume."""
    try:
        image: Any = nib.load(path)
        if image.get_data_dtype().fields is not None:
            return None
        pixels = np.asanyarray(image.dataobj)  # stays uint8 where the file has no scaling
    except (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise InputError(f"{path.name}: cannot be read as NIfTI ({error}). Replace or remove it.", "E_READ") from None
    if pixels.ndim != 3 or not np.isfinite(pixels).all():
        raise InputError(
            f"{path.name}: expected three dimensions and finite values, found shape {pixels.shape}. Remove it.",
            "E_SHAPE",
        )
    to_lps = ornt_transform(io_orientation(image.affine), axcodes2ornt(("L", "P", "S")))
    return np.ascontiguousarray(apply_orientation(pixels, to_lps))


def _to_grey_levels(pixels: np.ndarray, path: Path) -> tuple[str, np.ndarray]:
    """The modality, and the values as uint8."""
    from ddfm_monai.volumes import choose_scaling, guess_kind  # imports SimpleITK

    stored = torch.from_numpy(pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32))
    volume = MetaTensor(stored[None], meta={"filename_or_obj": str(path)})
    kind = guess_kind(volume)
    modality = "mr" if kind == "picture" else kind
    if pixels.dtype == np.uint8:
        return modality, pixels
    scaled = choose_scaling(volume, modality).apply(volume)
    return modality, np.asarray((scaled[0] * 255).round().to(torch.uint8))


class SliceBatches(Dataset):
    """Batch ``i`` of the training, a function of ``(seed, i)`` alone, so that a resumed training goes on exactly.

    Args:
        slices: what :func:`read_slices` returned.
        iterations: the number of batches in the whole training.
        views: the kinds of batches. Each has ``size`` (side of the square crops, pixels), ``batch`` (crops per batch),
            ``timesteps`` and ``power`` (timesteps are ``low + (high - low) u^power``, u uniform in [0, 1): a power
            above 1 favours little noise), ``upright`` (no quarter turns: for whole slices) and ``share``, the view's
            probability at the start and at the end of the training (linear between).
        shares: modality -> probability; of those that the data has, renormalised.
        seed: see above.

    Items are ``{"image": (B, 1, size, size) float32 in [-1, 1], "iteration": i}`` with the view's ``timesteps`` and
    ``power``.
    """

    def __init__(
        self,
        slices: Slices,
        iterations: int,
        views: Sequence[Mapping[str, Any]],
        shares: Mapping[str, float],
        seed: int = 3407,
    ) -> None:
        self.slices = {m: found for m, found in slices.items() if shares.get(m, 0) > 0 and found}
        if not self.slices:
            raise UsageError(f"None of the modalities {sorted(slices)} has a share in {dict(shares)}.", "E_NO_DATA")
        self.iterations, self.views, self.seed = iterations, views, seed
        self.modalities = sorted(self.slices)
        weights = np.array([shares[m] for m in self.modalities], dtype=float)
        self.probabilities = weights / weights.sum()

    def __len__(self) -> int:
        return self.iterations

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, index))
        view = self._view(index / self.iterations, rng)
        crops = np.stack([self._crop(view, rng) for _ in range(view["batch"])])
        return {
            "image": torch.from_numpy(crops[:, None] / 127.5 - 1),
            "iteration": index,
            "timesteps": view["timesteps"],
            "power": view["power"],
        }

    def _view(self, progress: float, rng: np.random.Generator) -> Mapping[str, Any]:
        shares = np.array([v["share"][0] + progress * (v["share"][1] - v["share"][0]) for v in self.views])
        return self.views[int(rng.choice(len(self.views), p=shares / shares.sum()))]

    def _crop(self, view: Mapping[str, Any], rng: np.random.Generator) -> np.ndarray:
        modality = self.modalities[int(rng.choice(len(self.modalities), p=self.probabilities))]
        stock = self.slices[modality]
        pixels = stock[int(rng.integers(len(stock)))]
        crop = _cut(pixels, _crop_centre(pixels, view["size"], rng), view["size"], rng)
        if rng.random() < 0.5 and not view["upright"]:
            crop = np.rot90(crop, int(rng.integers(4)))
        if rng.random() < 0.3:
            crop = _change_contrast(crop, modality, rng)
        return crop


def _crop_centre(pixels: np.ndarray, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Somewhere such that the crop holds a random pixel of the object, but not off the picture where it fits."""
    rows, columns = np.nonzero(pixels > _BACKGROUND)
    pick = int(rng.integers(len(rows)))
    centre = []
    for pixel, extent in zip((rows[pick], columns[pick]), pixels.shape, strict=True):
        at = int(pixel + rng.integers(-(size // 2), size // 2 + 1))
        low, high = size // 2, extent - size // 2
        # Pictures that are smaller than the crop are centred within a few pixels.
        centre.append(int(np.clip(at, low, high)) if low < high else extent // 2 + int(rng.integers(-4, 5)))
    return centre[0], centre[1]


def _cut(pixels: np.ndarray, centre: tuple[int, int], size: int, rng: np.random.Generator) -> np.ndarray:
    """A ``(size, size)`` float32 crop: a third a little turned and scaled, half of them mirrored left to right."""
    top, left = centre[0] - size // 2, centre[1] - size // 2
    if rng.random() < 0.3:
        crop = _cut_affine(pixels, (top + size / 2, left + size / 2), size, rng)
    else:
        crop = np.zeros((size, size), np.float32)
        rows, columns = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        part = pixels[rows, columns]
        crop[rows.start - top :, columns.start - left :][: part.shape[0], : part.shape[1]] = part
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.ascontiguousarray(crop)


def _cut_affine(pixels: np.ndarray, centre: tuple[float, float], size: int, rng: np.random.Generator) -> np.ndarray:
    """A crop turned by up to 15 degrees and magnified 0.85 to 1.25 times; bicubic, so that little detail is lost."""
    angle, magnification = np.deg2rad(rng.uniform(-15, 15)), rng.uniform(0.85, 1.25)
    axis = (torch.arange(size, dtype=torch.float32) + 0.5 - size / 2) / magnification
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    rows = centre[0] + math.cos(angle) * y - math.sin(angle) * x
    columns = centre[1] + math.sin(angle) * y + math.cos(angle) * x
    height, width = pixels.shape
    grid = torch.stack([2 * columns / width - 1, 2 * rows / height - 1], dim=-1)[None]
    source = torch.from_numpy(pixels.astype(np.float32))[None, None]
    crop = F.grid_sample(source, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
    return crop[0, 0].clamp(0, 255).numpy()


def _change_contrast(crop: np.ndarray, modality: str, rng: np.random.Generator) -> np.ndarray:
    """Gamma 0.7 to 1.4; for MRI also a smooth bias field of up to 20 %. Black stays black, white stays white."""
    crop = 255 * (crop / 255) ** np.float32(np.exp(rng.uniform(-0.35, 0.35)))
    if modality == "mr":
        y, x = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in crop.shape), indexing="ij")
        a, b, c = rng.uniform(-0.1, 0.1, 3).astype(np.float32)
        crop = np.clip(crop * np.exp(a * x + b * y + c * x * y), 0, 255)
    return crop.astype(np.float32)


class ResumableSampler(Sampler[int]):
    """The indices from ``start`` on; a resumed training sets ``start`` to the iterations already done."""

    def __init__(self, data: SliceBatches) -> None:
        self.length, self.start = len(data), 0

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.length))

    def __len__(self) -> int:
        return self.length


# --- what the trainer computes ----------------------------------------------------------------------------------------


def alphas_cumprod(num_train_timesteps: int = 1000) -> Tensor:
    """``abar_t`` of the linear schedule (beta 1e-4 to 2e-2), float32 ``(T,)``, computed in float64."""
    beta = torch.linspace(1e-4, 2e-2, num_train_timesteps, dtype=torch.float64)
    return torch.cumprod(1 - beta, 0).float()


class NoisePrepareBatch(DiffusionPrepareBatch):
    """Draws timesteps and noise for a batch from ``(seed, iteration)``; the target is the velocity."""

    def __init__(self, num_train_timesteps: int = 1000, seed: int = 3407) -> None:
        super().__init__(num_train_timesteps)
        self.seed = seed
        self.abar = alphas_cumprod(num_train_timesteps)

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

    def __init__(self, num_train_timesteps: int = 1000, bf16: bool = False) -> None:
        super().__init__()
        self.abar = alphas_cumprod(num_train_timesteps)
        self.bf16 = bf16

    def __call__(
        self, inputs: Tensor, network: Callable[..., Tensor], noise: Tensor, timesteps: Tensor, **_: Any
    ) -> Tensor:
        abar = self.abar.to(inputs.device)[timesteps][:, None, None, None]
        noisy = abar.sqrt() * inputs + (1 - abar).sqrt() * noise
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.bf16):
            predicted = network(noisy, timesteps)
        return (predicted.float() - (1 - abar).sqrt() * noisy) / abar.sqrt()


# --- handlers ---------------------------------------------------------------------------------------------------------


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
            raise UsageError(f"{self.resume}: no such checkpoint to resume from.", "E_NO_CHECKPOINT")

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
        num_train_timesteps: int = 1000,
        seed: int = 3407,
    ) -> None:
        self.network, self.stride, self.device, self.seed = network, stride, torch.device(device), seed
        self.steps = num_train_timesteps
        self.slices = {m: _evenly(found, per_modality) for m, found in sorted(slices.items())}

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        abar = alphas_cumprod(self.steps)
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


def to_network(pixels: np.ndarray, stride: int) -> Tensor:
    """A uint8 slice ``(H, W)`` as ``(1, 1, H', W')`` float32 in [-1, 1], padded with background to multiples."""
    height, width = pixels.shape
    image = torch.from_numpy(pixels.astype(np.float32))[None, None] / 127.5 - 1
    return F.pad(image, (0, -width % stride, 0, -height % stride), value=-1.0)


def export_prior(network: ExpertUNet | SliceUNet, path: str | Path, card: Mapping[str, Any]) -> Path:
    """Write what ``load_prior`` reads: weights in half precision or less, and beside them the card with their hash.

    Args:
        network: usually the moving average.
        path: the ``.safetensors`` file; the card is written last, as ``.json`` beside it.
        card: what a reader should know: data, terms, recipe, compute, figures.
    """
    target = Path(path)
    weights = {name: _to_storage(name, value).cpu().contiguous() for name, value in network.state_dict().items()}
    with atomic_path(target) as temporary:
        save_file(weights, temporary)
    about = {
        "name": target.stem,
        "architecture": type(network).__name__,
        "config": network.config,
        "in_channels": network.in_channels,
        "stride": network.stride,
        "num_train_timesteps": network.num_train_timesteps,
        "schedule": "linear_beta",
        "value_range": [-1, 1],
        "sha256": sha256_of(target),
        "card": dict(card),
    }
    with atomic_path(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(about, indent=2) + "\n")
    return target


def _to_storage(name: str, value: Tensor) -> Tensor:
    """Half precision; 8 bits for the matrices of experts that see much noise only, where it costs nothing."""
    sees_much_noise = name.startswith("experts.") and not name.startswith("experts.0.")
    return value.detach().to(torch.float8_e4m3fn if sees_much_noise and value.ndim > 1 else torch.float16)


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill a network from a plain state dict (``.pt``), a ``.safetensors`` or a training checkpoint (its average).

    Raises:
        UsageError: if the file is missing or does not fit.
    """
    source = Path(path)
    weights: Any
    if not source.is_file():
        raise UsageError(f"{source}: no such weight file. Train first, or name one with --weights.", "E_PRIOR_MISSING")
    if source.suffix == ".safetensors":
        weights = load_file(source)
    else:
        weights = torch.load(source, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(weights.get("ema", weights))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UsageError(f"{source}: the weights do not fit network_def ({reason}).", "E_PRIOR_CONFIG") from None
    return network.eval().requires_grad_(False)


def write_report(figures: Mapping[str, float], path: str | Path) -> None:
    """Print figures and keep them as JSON."""
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(json.dumps(dict(figures), indent=2) + "\n")
    for name, value in figures.items():
        _LOG.info("%s %.5f", name, value)


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
