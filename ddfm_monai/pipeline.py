"""The way of the data, from two volumes to a fused one, in one function that every surface calls."""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor

from ddfm_monai._version import __version__
from ddfm_monai.errors import UsageError
from ddfm_monai.files import sha256_of
from ddfm_monai.method import DDFMInferer, Likelihood
from ddfm_monai.priors import Prior, load_prior
from ddfm_monai.priors.precision import PRECISIONS, choose_precision
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.sampling import Chains
from ddfm_monai.volumes import (
    Registration,
    Scaling,
    affine_of,
    check_volume,
    choose_scaling,
    common_foreground,
    guess_kind,
    is_picture,
    overlap_fraction,
    plan_slices,
    read_volume,
    register_rigid,
    resample_to,
    same_grid,
    slice_axis,
)
from ddfm_monai.volumes.colour import colour_map, to_luma, with_luma

__all__ = ["NOTICE", "FusionResult", "fuse_volumes"]

NOTICE = (
    "Not for diagnostic use. The fused values are one grey scale without units (not HU, not SUV); "
    "parts of the image were made by a generative model. Keep the sources."
)


@dataclass(frozen=True)
class FusionResult:
    """What a fusion gives.

    Args:
        fused: (1, X, Y, Z) float32 in [0, 1], or (3, X, Y, Z) RGB in 0..255, on the reference's grid.
        provenance: how it was made, JSON-able.
        uncertainty: (1, X, Y, Z) standard deviation of the samples in units of the fused grey scale, if several
            samples were drawn.
        registration: the transform that was found, if registration was asked for.
        reference01, second01: (1, X, Y, Z) in [0, 1], the sources as they entered the fusion, on the same grid.
    """

    fused: MetaTensor
    provenance: dict[str, Any]
    uncertainty: MetaTensor | None
    registration: Registration | None
    reference01: MetaTensor
    second01: MetaTensor


def fuse_volumes(
    reference: MetaTensor | str | Path,
    second: MetaTensor | str | Path,
    *,
    prior: Prior | str | Path = "medical",
    steps: int | None = None,
    likelihood: str | Likelihood = "default",
    seed: int = 3407,
    reference_kind: str = "auto",
    second_kind: str = "auto",
    window: str | tuple[float, float] | None = None,
    register: str = "none",
    colour: bool = False,
    samples: int = 1,
    device: str | torch.device | None = None,
    precision: str = "auto",
    batch_size: int | None = None,
    progress: ProgressCallback = silent,
) -> FusionResult:
    """Fuse two co-registered volumes of one patient, slice by slice, on the reference's grid.

    Args:
        reference: (C, X, Y, Z) volume with its affine in RAS mm, or a path; usually the MRI. C is 1, or 3 for colour.
        second: the other volume, on any grid that overlaps; CT, PET, SPECT, another MRI, or a picture.
        prior: a loaded prior, a known name, or a weight file.
        steps: network evaluations per slice; by default the likelihood's.
        likelihood: ``"default"``, ``"published"``, or a likelihood object.
        seed: seed of the start noise.
        reference_kind, second_kind: ``"mr"``, ``"ct"``, ``"pet"``, ``"spect"``, ``"picture"`` or ``"auto"``.
        window: for CT, a name (brain, soft, bone), ``"L,W"`` or ``(level, width)`` in HU.
        register: ``"none"``, or ``"rigid"`` to align the second volume first.
        colour: keep or give colour: the result is RGB. Colour pictures always give colour.
        samples: how many chains are drawn; more than one gives the mean and its uncertainty.
        device: for the network; by default CUDA where there is one, else the CPU.
        precision: of the network: ``"float32"``, ``"bfloat16"``, ``"float16"``, or ``"auto"``: bfloat16 where the
            device is quicker with it.
        batch_size: slices at a time; by default chosen for the device. The result does not depend on it.
        progress: called after every step; raising :class:`~ddfm_monai.errors.Cancelled` in it stops the fusion.

    Raises:
        UsageError: for arguments that cannot be met.
        InputError: for volumes that cannot be fused (not finite, constant, no overlap, ...).
    """
    if register not in ("none", "rigid"):
        raise UsageError(f"register is {register!r}; 'none' or 'rigid' is expected.")
    if samples < 1:
        raise UsageError(f"samples is {samples}; at least 1 is expected.")
    started = time.monotonic()
    a = _prepare(reference, "reference", reference_kind, window, progress)
    b = _prepare(second, "second", second_kind, window, progress)
    if window is not None and "ct" not in (a.scaling.kind, b.scaling.kind):
        raise UsageError(f"window is {window!r}, but neither source is a CT (name it by --second-kind ct).")
    registration = None
    if register == "rigid":
        progress(Progress("register", 0, 1))
        registration = register_rigid(a.grey, b.grey)
        progress(Progress("register", 1, 1))
    transform = registration.matrix if registration else None
    overlap = overlap_fraction(a.volume, b.volume, transform)
    b = b.onto(a, transform)
    keeps_colour = colour or (is_picture(a.volume) and 3 in (a.volume.shape[0], b.volume.shape[0]))
    coloured = _colour_source(a, b) if keeps_colour else None  # before the long work, since there may be none

    inferer = _make_inferer(steps, likelihood, seed)
    network = _make_prior(prior, device, precision)
    axis = slice_axis(a.volume)
    foreground = common_foreground(a.grey, b.grey, a.scaling.air, b.scaling.air, axis)
    plan = plan_slices(foreground, network.stride, axis)
    chains = Chains(inferer, network, plan, samples, batch_size, progress)
    sampled = chains.fuse(a.grey, b.grey, foreground)

    provenance = {
        "notice": NOTICE,
        "software": _software(),
        "prior": {"name": network.name, "sha256": network.sha256},
        "likelihood": {"name": inferer.likelihood.name, **inferer.likelihood.settings()},
        "sampling": {
            "steps": inferer.num_inference_steps,
            "start_timestep": int(inferer.scheduler.model_timesteps[-1]),
            "seed": seed,
            "samples": samples,
            "device": network.device.type,
            "precision": str(network.precision).removeprefix("torch."),
        },
        "reference": a.describe(),
        "second": {**b.describe(), "overlap": round(overlap, 4)},
        "registration": registration.describe() if registration else None,
        "slices": {"axis": axis, "total": plan.shape[axis], "fused": len(plan.boxes)},
        "voxels_brought_back_into_range": sampled.outside,
        "colour": keeps_colour,
        "seconds": round(time.monotonic() - started, 2),
    }
    return FusionResult(
        fused=_in_colours_of(coloured, sampled.mean) if coloured else sampled.mean,
        provenance=provenance,
        uncertainty=sampled.deviation,
        registration=registration,
        reference01=a.grey,
        second01=b.grey,
    )


# --- sources ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """One source on its way: as read (or resampled), and as grey in [0, 1]."""

    volume: MetaTensor
    grey: MetaTensor
    scaling: Scaling
    sha256: str
    resampled: bool = False

    def onto(self, reference: _Source, transform: np.ndarray | None) -> _Source:
        """This source on the reference's grid; scaled before, so that outside its field of view is air."""
        if transform is None and same_grid(reference.volume, self.volume):
            return self
        grey = resample_to(self.grey, reference.volume, transform)
        is_grey = self.volume.shape[0] == 1
        volume = grey if is_grey else resample_to(self.volume, reference.volume, transform)
        return replace(self, volume=volume, grey=grey, resampled=True)

    def describe(self) -> dict[str, Any]:
        return {
            "sha256": self.sha256,
            "shape": list(self.volume.shape[1:]),
            "scaling": self.scaling.describe(),
            "resampled": self.resampled,
        }


def _prepare(
    source: MetaTensor | str | Path, role: str, kind: str, window: str | tuple[float, float] | None,
    progress: ProgressCallback,
) -> _Source:  # fmt: skip
    progress(Progress("read", 0, 1, role))
    volume = source if isinstance(source, Tensor) else read_volume(source)
    if not isinstance(volume, MetaTensor):
        volume = MetaTensor(volume)
    check_volume(volume, role)
    kind = guess_kind(volume) if kind == "auto" else kind
    scaling = choose_scaling(volume, kind, window)
    luma = cast(MetaTensor, to_luma(volume)) if volume.shape[0] == 3 else volume
    progress(Progress("read", 1, 1, role))
    return _Source(volume, scaling.apply(luma), scaling, _digest(source, volume))


def _digest(source: MetaTensor | str | Path, volume: MetaTensor) -> str:
    """SHA-256 of the file, as its reader noted it or as found; of voxels and affine where there is no file."""
    if "sha256" in volume.meta:
        return str(volume.meta["sha256"])
    if not isinstance(source, Tensor) and Path(source).is_file():
        return sha256_of(Path(source))
    digest = hashlib.sha256(np.ascontiguousarray(volume.as_tensor().cpu().numpy()).data)
    digest.update(affine_of(volume).tobytes())
    return digest.hexdigest()


def _colour_source(a: _Source, b: _Source) -> _Source:
    """The source that gives the result its hue: one in colour, or else a functional one, by its colour map."""
    for source in (b, a):
        if source.volume.shape[0] == 3:
            return source
    for source in (b, a):
        if source.scaling.kind in ("pet", "spect"):
            return source
    raise UsageError(
        "colour was asked for, but neither source has any: one must be RGB, or PET or SPECT (name it by --second-kind)."
    )


def _in_colours_of(source: _Source, fused: MetaTensor) -> MetaTensor:
    rgb = source.volume if source.volume.shape[0] == 3 else colour_map(source.grey, source.scaling.kind)
    return cast(MetaTensor, with_luma(rgb, fused))


# --- network and inferer ---------------------------------------------------------------------------------------------


def _make_inferer(steps: int | None, likelihood: str | Likelihood, seed: int) -> DDFMInferer:
    try:
        return DDFMInferer(steps, likelihood=likelihood, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _make_prior(prior: Prior | str | Path, device: str | torch.device | None, precision: str) -> Prior:
    try:
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        network = prior.to(target) if isinstance(prior, Prior) else load_prior(prior, target)
    except (RuntimeError, AssertionError) as error:  # what torch raises for a device that is not there
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"device is {device!r}, which cannot be used here ({reason}). Use --device cpu.") from None
    if precision != "auto" and precision not in PRECISIONS:
        raise UsageError(f"precision is {precision!r}; auto, {', '.join(PRECISIONS)} are possible.")
    network.precision = choose_precision(precision, target)
    return network


def _software() -> dict[str, str]:
    names = ("torch", "monai", "numpy", "SimpleITK", "nibabel")
    return {"ddfm_monai": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
