"""The way of the data, from two volumes to a fused one, in one function that every surface calls."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from ddfm_monai import rules
from ddfm_monai._version import __version__
from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.fusion.chains import Chains
from ddfm_monai.fusion.source_noise import as_cut, carried, describe_noise, noise_of
from ddfm_monai.method import DDFMInferer
from ddfm_monai.method.noise import Noise
from ddfm_monai.priors import Prior, as_prior
from ddfm_monai.priors.precision import choose_precision
from ddfm_monai.priors.prior import usable
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.settings import DEFAULT_PRIOR, FusionSettings, takes_settings
from ddfm_monai.switches import META_TRACKED, SINGLE_PRECISION
from ddfm_monai.volume import in_space_of, name_of, spacing_of
from ddfm_monai.volumes import (
    Alignment,
    Registration,
    SlicePlan,
    Source,
    colour_source,
    is_picture,
    look_at_alignment,
    overlap_fraction,
    plan_pair,
    read_source,
    register_rigid,
    resample_to,
)
from ddfm_monai.volumes.colour import with_luma
from ddfm_monai.volumes.suv import suv_of

__all__ = ["NOTICE", "FusionResult", "Meeting", "fuse_volumes", "prepare"]

_HEAD_LENGTH = 350.0  # mm; heads with necks are shorter
_HEAD_AREA = 45_000.0  # mm2 of a slice; the largest heads have 33,000, narrow chests 60,000

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
        second_before01: where registration was asked for, the second source as it lay, on the same grid.
        check: (1, X, Y, Z), where a reader should look at the sources, and why, if a check was asked for.
        page: the HTML document to look at it, if one was asked for (:func:`ddfm_monai.fusion.page.page_of`).
    """

    fused: MetaTensor
    provenance: dict[str, Any]
    uncertainty: MetaTensor | None
    registration: Registration | None
    reference01: MetaTensor
    second01: MetaTensor
    second_before01: MetaTensor | None = None
    check: MetaTensor | None = None
    page: str | None = None


@takes_settings
def fuse_volumes(
    reference: MetaTensor | str | Path | Source,
    second: MetaTensor | str | Path | Source,
    *,
    prior: nn.Module | str | Path = DEFAULT_PRIOR,
    settings: FusionSettings | None = None,
    progress: ProgressCallback = silent,
    begin: Callable[[Meeting], None] = lambda meeting: None,
    **changes: Any,
) -> FusionResult:
    """Fuse two co-registered volumes of one patient, slice by slice, on the reference's grid.

    Args:
        reference: (C, X, Y, Z) volume with its affine in RAS mm, or a path; usually the MRI. C is 1, or 3 for colour.
            One that :func:`~ddfm_monai.volumes.read_source` has read already keeps the kind and window of then.
        second: the other volume, on any grid that overlaps; CT, PET, SPECT, another MRI, or a picture.
        prior: a loaded prior or a network of one's own (:func:`~ddfm_monai.priors.prior_of`), which both stay as they
            are; a known name; or a weight file.
        settings: all settings at once; those that are named besides replace its own.
        progress: called after every step; raising :class:`~ddfm_monai.errors.Cancelled` in it stops the fusion.
        begin: told how the two lie, before the work.
        {settings}

    Raises:
        UsageError: for settings that cannot be met.
        InputError: for volumes that cannot be fused (not finite, constant, no overlap, ...).
        TypeError: for a setting that does not exist.
    """
    chosen = replace(settings or FusionSettings(), **changes)
    with META_TRACKED.held(), SINGLE_PRECISION.held():
        return _fuse(reference, second, prior, chosen, progress, begin)


def _fuse(
    reference: MetaTensor | str | Path | Source,
    second: MetaTensor | str | Path | Source,
    prior: nn.Module | str | Path,
    chosen: FusionSettings,
    progress: ProgressCallback,
    begin: Callable[[Meeting], None],
) -> FusionResult:
    """The way of the data, step by step."""
    started = time.monotonic()
    a = _read(reference, "reference", chosen, progress)
    b = _read(second, "second", chosen, progress)
    ready = prepare(a, b, prior, chosen, progress, begin)
    met, plan, inferer, network, foreground = ready.meeting, ready.plan, ready.inferer, ready.network, ready.foreground
    b = met.second
    keeps_colour = chosen.colour or (is_picture(a.volume) and (a.is_colour or b.is_colour))
    coloured = colour_source(a, b) if keeps_colour else None
    warnings = [*_told(a, b), *met.remarks, *_beyond_heads(foreground, plan.axis)]
    source_noise = as_cut(met.noise[0], plan), as_cut(met.noise[1], plan)
    chains = Chains(inferer, network, plan, source_noise, chosen.samples, chosen.batch_size, progress)
    sampled = chains.fuse(a.grey, b.grey, foreground, b.seen)

    provenance = {
        "notice": NOTICE,
        "software": _software(),
        **_made_by(network, inferer, chosen),
        "settings": chosen.identity(),
        "reference": {**a.describe(), "noise": met.accounts[0]},
        "second": {**b.describe(), "noise": met.accounts[1], "overlap": round(met.overlap, 4)},
        **({"values": ready.values} if ready.values else {}),
        "registration": met.registration.describe() if met.registration else None,
        "alignment": met.alignment.describe() if met.alignment else None,
        "slices": {"axis": plan.axis, "total": plan.shape[plan.axis], "fused": len(plan.boxes)},
        "voxels_brought_back_into_range": sampled.outside,
        "colour": keeps_colour,
        "warnings": warnings,
        "seconds": round(time.monotonic() - started, 2),
    }
    fused = cast(MetaTensor, with_luma(coloured.rgb(), sampled.mean)) if coloured else sampled.mean
    return FusionResult(
        fused=in_space_of(fused, a.volume),
        provenance=provenance,
        uncertainty=None if sampled.deviation is None else in_space_of(sampled.deviation, a.volume),
        registration=met.registration,
        reference01=a.grey,
        second01=b.grey,
        second_before01=met.before,
    )


def _made_by(network: Prior, inferer: DDFMInferer, chosen: FusionSettings) -> dict[str, Any]:
    """The part of the provenance that says which model made the result, and how."""
    return {
        "prior": {"name": network.name, "sha256": network.sha256},
        "likelihood": {"name": inferer.likelihood.name, **inferer.likelihood.settings()},
        "sampling": {
            "steps": inferer.num_inference_steps,
            "start_timestep": int(inferer.scheduler.model_timesteps[-1]),
            "seed": chosen.seed,
            "samples": chosen.samples,
            "device": network.device.type,
            "precision": str(network.precision).removeprefix("torch."),
        },
    }


@dataclass(frozen=True)
class Meeting:
    """The second source on the reference's grid, and what became of it on the way.

    Args:
        reference: gives the grid.
        second: on the reference's grid.
        before: the same as it lay, where a registration has moved it; else None.
        registration: what was found, if it was asked for.
        alignment: how the two lie, where it was looked at.
        overlap: shared part of the smaller volume, 0..1.
        noise: of the reference and of the second as they are now.
        accounts: of the noise of both as they were read, JSON-able.
        remarks: what a person should know.
    """

    reference: Source
    second: Source
    before: MetaTensor | None
    registration: Registration | None
    alignment: Alignment | None
    overlap: float
    noise: tuple[Noise | None, Noise | None]
    accounts: tuple[dict[str, Any] | None, dict[str, Any] | None]
    remarks: list[str]

    def sentence(self) -> str:
        """Grid, overlap and registration, in one line for people."""
        shape = " x ".join(str(n) for n in self.reference.volume.shape[1:])
        spacing = " x ".join(f"{mm:.3g}" for mm in spacing_of(self.reference.volume))
        grid = f"the reference's grid, {shape}" + ("" if is_picture(self.reference.volume) else f", {spacing} mm")
        moved = "resampled onto it" if self.second.resampled else "on it already"
        how = "registered" if self.registration else "not registered, coordinates taken as they are"
        return f"{grid}; second {moved}; overlap {self.overlap:.0%}; {how}"


@dataclass(frozen=True)
class Preparation:
    """All that stands before the first step of the sampling.

    Args:
        meeting: the two on one grid.
        values: what black and white of both are in their own units, where that was asked for.
        inferer, network: which sample, in the chosen place and arithmetic.
        foreground: ``(1, X, Y, Z)`` bool.
        plan: how the foreground is cut into slices.
    """

    meeting: Meeting
    values: dict[str, Any] | None
    inferer: DDFMInferer
    network: Prior
    foreground: MetaTensor
    plan: SlicePlan


def prepare(
    a: Source,
    b: Source,
    prior: nn.Module | str | Path,
    chosen: FusionSettings,
    progress: ProgressCallback = silent,
    begin: Callable[[Meeting], None] = lambda meeting: None,
) -> Preparation:
    """Everything but the sampling: what this takes can be fused, so that a rehearsal refuses what a fusion would.

    Raises:
        UsageError, InputError: as :func:`fuse_volumes`.
    """
    if chosen.window is not None and "ct" not in (a.scaling.kind, b.scaling.kind):
        raise UsageError(f"window is {chosen.window!r}, but neither source is a CT (name it by --second-kind ct).")
    values = _values(a, b) if chosen.units == "suv" else None
    met = meet(a, b, chosen, progress)
    begin(met)
    inferer = _make_inferer(chosen)
    network = _place(prior, chosen)
    foreground, plan = plan_pair(a, met.second, network.stride)
    return Preparation(met, values, inferer, network, foreground, plan)


def meet(a: Source, b: Source, chosen: FusionSettings, progress: ProgressCallback) -> Meeting:
    """Bring the second source onto the reference's grid, by registration if asked for, and its noise with it.

    Args:
        a, b: reference and second source, each on a grid of its own.
        chosen: registration, colour and what the kinds were said to be.
        progress: told when a registration begins and ends.

    Raises:
        UsageError, InputError: the two may not be fused, or cannot be registered.
    """
    remarks = _check_origins(a, b, chosen)
    registration = alignment = None
    if chosen.register == "none":
        alignment = look_at_alignment(a.grey, b.grey)
        if alignment is not None and alignment.is_doubtful:
            remarks += _remarks(rules.of_alignment(alignment.apart_mm, alignment.gain), a, b)
    elif chosen.registers:
        progress(Progress("register", 0, 1))
        registration = register_rigid(a.grey, b.grey, chosen.same_patient)
        progress(Progress("register", 1, 1, registration.sentence()))
        remarks += registration.warnings
    transform = registration.correction if registration else None
    overlap = overlap_fraction(a.volume, b.volume, transform)
    remarks += _check_overlap(a, b, overlap, chosen)
    noise_a, noise_b = noise_of(a), noise_of(b)
    before = None if registration is None else resample_to(b.grey, a.grey, needs_overlap=False)
    moved = b.onto(a, transform)
    noise_moved = carried(noise_b, b, a, transform) if moved.resampled else noise_b
    accounts = describe_noise(noise_a, a), describe_noise(noise_b, b)
    noise = noise_a, noise_moved
    return Meeting(a, moved, before, registration, alignment, overlap, noise, accounts, remarks)


def _check_origins(a: Source, b: Source, chosen: FusionSettings) -> list[str]:
    """Remarks about patient, coordinates, kinds and colour; raises what forbids the fusion."""
    in_colour = a.is_colour or b.is_colour
    for missing in rules.of_colour((a.scaling.kind, b.scaling.kind), "yes" if chosen.colour else "no", in_colour):
        raise UsageError(missing.text(), missing.code)
    named = chosen.second_kind != "auto"
    findings = rules.of_origins(a.origin, b.origin, chosen.register, two_of_a_kind=named)
    findings += rules.of_order((a.scaling.kind, b.scaling.kind), chosen.reference_kind != "auto")
    if a.sha256 == b.sha256 or torch.equal(a.volume.as_tensor(), b.volume.as_tensor()):
        findings.append(rules.Finding("W_SAME_SOURCE", f"{name_of(a.volume)} and {name_of(b.volume)} are one image"))
    return _remarks(findings, a, b)


def _check_overlap(a: Source, b: Source, overlap: float, chosen: FusionSettings) -> list[str]:
    """Remarks about the common part of two volumes; pictures have no place that could be compared."""
    if is_picture(a.volume) or is_picture(b.volume):
        return []
    return _remarks(rules.of_overlap(overlap, chosen.register), a, b)


def _remarks(findings: list[rules.Finding], a: Source, b: Source) -> list[str]:
    """The findings as warnings, if none is an obstacle; obstacles become one error that names them all."""
    obstacles = [finding for finding in findings if finding.obstacle]
    if obstacles:
        names = f"{name_of(a.volume)}, {name_of(b.volume)}"
        raise InputError(f"{names}: {' '.join(finding.text() for finding in obstacles)}", obstacles[0].code)
    return [f"{finding.code}: {finding.text()}" for finding in findings]


# --- sources ---------------------------------------------------------------------------------------------------------


def _read(
    source: MetaTensor | str | Path | Source, role: str, chosen: FusionSettings, progress: ProgressCallback
) -> Source:
    if isinstance(source, Source):
        return source
    progress(Progress("read", 0, 1, role))
    found = read_source(source, role, getattr(chosen, f"{role}_kind"), chosen.window)
    progress(Progress("read", 1, 1, role))
    return found


def _values(a: Source, b: Source) -> dict[str, Any]:
    """What black and white of both sources are in their own units: SUV of a PET, HU of a CT."""
    sources = {"reference": a, "second": b}
    if not any(source.scaling.kind == "pet" for source in sources.values()):
        raise UsageError("units are 'suv', but neither source is a PET (name it by --second-kind pet).", "E_NO_SUV")
    found: dict[str, Any] = {}
    for role, source in sources.items():
        scaling = source.scaling
        if scaling.kind == "pet":
            found[role] = suv_of(source, role).describe(source)
        elif scaling.zero is not None:
            found[role] = {"unit": "HU", "black": scaling.low - scaling.zero, "white": scaling.high - scaling.zero}
        else:
            found[role] = {"unit": "as stored", "black": scaling.low, "white": scaling.high}
    return found


# --- what a person should look at ------------------------------------------------------------------------------------


def _told(a: Source, b: Source) -> list[str]:
    return [f"{role}: {warning}" for role, source in (("reference", a), ("second", b)) for warning in source.warnings]


def _beyond_heads(foreground: MetaTensor, axis: int) -> list[str]:
    """A body larger than a head: the prior was trained on slices of heads."""
    spacing = spacing_of(foreground)
    slices = foreground.as_tensor().cpu()[0].movedim(axis, 0).flatten(1)
    shares = slices.float().mean(1)
    length = float((shares > 0).sum()) * spacing[axis]
    area = float(shares[shares > 0].quantile(0.75)) * slices.shape[1] * float(np.prod(np.delete(spacing, axis)))
    is_filled = bool(shares.median() > 0.9)  # noise or a cropped view: its area says nothing of the body
    if length <= _HEAD_LENGTH and (area <= _HEAD_AREA or is_filled):
        return []
    return [
        f"the body in view is larger than a head ({length:.0f} mm long, slices of {area / 100:.0f} cm2), and the prior "
        "has seen heads only: where sources are noisy its part in the result is not to be trusted."
    ]


# --- network and inferer ---------------------------------------------------------------------------------------------


def _make_inferer(chosen: FusionSettings) -> DDFMInferer:
    try:
        return DDFMInferer(chosen.steps, likelihood=chosen.likelihood, seed=chosen.seed)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _place(prior: nn.Module | str | Path, chosen: FusionSettings) -> Prior:
    """The prior on the chosen device and in the chosen arithmetic."""
    with usable(chosen.device):
        usual = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(usual if chosen.device is None else chosen.device)
        torch.zeros(1, device=device).item()  # one that is not there, or holds no values, says so here
        loaded = as_prior(prior)
        return loaded.on(device, choose_precision(chosen.precision, device))


def _software() -> dict[str, str]:
    names = ("torch", "monai", "numpy", "SimpleITK", "nibabel")
    return {"ddfm_monai": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
