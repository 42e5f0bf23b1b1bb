"""The way of the data, from two volumes to a fused one, in one function that every surface calls."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from monai.data.meta_tensor import MetaTensor

from ddfm_monai._version import __version__
from ddfm_monai.errors import UsageError
from ddfm_monai.fusion.chains import Chains
from ddfm_monai.method import DDFMInferer, Likelihood
from ddfm_monai.priors import Prior, load_prior
from ddfm_monai.priors.precision import PRECISIONS, choose_precision
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.volumes import (
    Registration,
    Source,
    colour_source,
    is_picture,
    overlap_fraction,
    plan_pair,
    read_source,
    register_rigid,
)
from ddfm_monai.volumes.colour import with_luma

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
    reference: MetaTensor | str | Path | Source,
    second: MetaTensor | str | Path | Source,
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
            One that :func:`~ddfm_monai.volumes.read_source` has read already keeps the kind and window of then.
        second: the other volume, on any grid that overlaps; CT, PET, SPECT, another MRI, or a picture.
        prior: a loaded prior, a known name, or a weight file.
        steps: network evaluations per slice; by default the likelihood's.
        likelihood: ``"default"``, ``"paper"``, ``"published"``, or a likelihood object.
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
    a = _read(reference, "reference", reference_kind, window, progress)
    b = _read(second, "second", second_kind, window, progress)
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
    keeps_colour = colour or (is_picture(a.volume) and (a.is_colour or b.is_colour))
    coloured = colour_source(a, b) if keeps_colour else None
    if keeps_colour and coloured is None:
        raise UsageError(
            "colour was asked for, but neither source has any: one must be RGB, or PET or SPECT (name it by "
            "--second-kind)."
        )

    inferer = _make_inferer(steps, likelihood, seed)
    network = _make_prior(prior, device, precision)
    foreground, plan = plan_pair(a, b, network.stride)
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
        "slices": {"axis": plan.axis, "total": plan.shape[plan.axis], "fused": len(plan.boxes)},
        "voxels_brought_back_into_range": sampled.outside,
        "colour": keeps_colour,
        "seconds": round(time.monotonic() - started, 2),
    }
    return FusionResult(
        fused=cast(MetaTensor, with_luma(coloured.rgb(), sampled.mean)) if coloured else sampled.mean,
        provenance=provenance,
        uncertainty=sampled.deviation,
        registration=registration,
        reference01=a.grey,
        second01=b.grey,
    )


# --- sources ---------------------------------------------------------------------------------------------------------


def _read(
    source: MetaTensor | str | Path | Source, role: str, kind: str, window: str | tuple[float, float] | None,
    progress: ProgressCallback,
) -> Source:  # fmt: skip
    if isinstance(source, Source):
        return source
    progress(Progress("read", 0, 1, role))
    found = read_source(source, role, kind, window)
    progress(Progress("read", 1, 1, role))
    return found


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
