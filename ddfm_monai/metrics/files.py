"""Metrics of files: a fused picture or volume and its two sources, or folders of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from ddfm_monai.dicom.write import GREY_MAXIMUM
from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.metrics.check import check_fusion
from ddfm_monai.metrics.coherence import through_plane_coherence
from ddfm_monai.metrics.colour import hue_error
from ddfm_monai.metrics.lesions import Fuse
from ddfm_monai.metrics.pair import evaluate_slice
from ddfm_monai.metrics.slices import Grey8, foreground_slices, luma
from ddfm_monai.metrics.study import LesionStudy, study_lesions
from ddfm_monai.settings import FusionSettings
from ddfm_monai.space import covered_fraction
from ddfm_monai.volume import grid_of, is_picture, place_is_unknown
from ddfm_monai.volumes import (
    PICTURE_SUFFIXES,
    READABLE_SUFFIXES,
    SlicePlan,
    affine_of,
    by_stem,
    colour_source,
    is_volume_file,
    make_volume,
    plan_pair,
    read_source,
    read_volume,
    register_rigid,
    resample_to,
    same_grid,
    stem_of,
    suffix_of,
)
from ddfm_monai.volumes.kind import spoken

__all__ = [
    "BASELINES",
    "Evaluation",
    "PairFiles",
    "Triple",
    "check_result",
    "evaluate_files",
    "match_files",
    "mean_metrics",
    "read_triple",
]

BASELINES: dict[str, Callable[[Grey8, Grey8], Grey8]] = {
    "maximum": np.maximum,
    "mean": lambda a, b: np.rint((a.astype(np.float64) + b) / 2).astype(np.uint8),
}
"""What every fusion should be compared with: the pixelwise maximum and mean of the same sources."""


@dataclass(frozen=True)
class PairFiles:
    """One fused file and its sources."""

    name: str
    fused: Path
    a: Path
    b: Path


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one fused file.

    Attributes:
        name: of the pair.
        metrics: as `evaluate_pair`, and ``"coherence"`` for several slices, ``"hue_error"`` for colour results.
        baselines: `BASELINES` names to the same metrics of the maximum and the mean of the same sources.
        slices: slice index to its metrics.
        pictures: slice index to what is to be looked at: ``"A"``, ``"B"``, ``"fused"`` and the names of `BASELINES`,
            ``(H, W)`` uint8, ``(H, W, 3)`` in colour.
        flags: slice index to what `check_fusion` flags, ``(H, W)``.
        check: share of the head of each kind of flag.
        notes: what the reader of the figures should know, a sentence each.
        sources: ``"A"``, ``"B"`` and ``"fused"`` to what was read: kind and file name.
        lesions: method to what it keeps of lesions that are put in, if that was asked for.
    """

    name: str
    metrics: dict[str, float]
    baselines: dict[str, dict[str, float]]
    slices: dict[int, dict[str, float]]
    pictures: dict[int, dict[str, NDArray[np.uint8]]]
    notes: list[str]
    flags: dict[int, NDArray[np.uint8]]
    check: dict[str, float]
    sources: dict[str, str]
    lesions: dict[str, LesionStudy]


def match_files(fused: Path, a: Path, b: Path) -> tuple[list[PairFiles], list[str]]:
    """The pairs that three paths stand for, and the names that are not in all three folders.

    Three files (or DICOM series folders) are one pair. Three folders of pictures or volumes are matched by file name
    without suffix; beside a fused volume, the picture of the same name is passed over, and what has its name and more
    (``case1_check`` beside ``case1``).

    Raises:
        UsageError: a path does not exist, or folders and files are mixed.
    """
    for path in (fused, a, b):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.", "E_NOT_FOUND")
    folders = [_is_collection(path) for path in (fused, a, b)]
    if not any(folders):
        return [PairFiles(stem_of(fused), fused, a, b)], []
    if not all(folders):
        empty = [str(path) for path, is_one in zip((fused, a, b), folders, strict=True) if path.is_dir() and not is_one]
        found = f" No picture or volume lies in {' or '.join(empty)} itself." if empty else ""
        raise UsageError(
            f"FUSED, A and B: give three files or three folders whose files match by name.{found}", "E_MIXED"
        )
    files = [_by_stem(folder) for folder in (fused, a, b)]
    common = sorted(set.intersection(*map(set, files)))
    beside = {stem for stem in files[0] if any(stem.startswith(f"{name}_") for name in common)}
    lonely = sorted({*files[0], *files[1], *files[2]}.difference(common, beside))
    return [PairFiles(stem, *(by_stem[stem] for by_stem in files)) for stem in common], lonely


_BYTE = 255.0
_BEYOND = 0.05  # of a scale: what an interpolation may put beyond its ends


def _is_collection(path: Path) -> bool:
    return path.is_dir() and any(suffix_of(file) in READABLE_SUFFIXES for file in path.iterdir())


def _by_stem(folder: Path) -> dict[str, Path]:
    """File name without suffix to file; a volume wins over a picture of the same name."""
    files = sorted(path for path in folder.iterdir() if is_volume_file(path))
    volumes = by_stem(path for path in files if suffix_of(path) not in PICTURE_SUFFIXES)
    pictures = by_stem(path for path in files if suffix_of(path) in PICTURE_SUFFIXES)
    return {**pictures, **volumes}


class Triple(NamedTuple):
    """Two sources and their fusion on one grid, upright slices along the last axis: ``(C, H, W, N)`` uint8, C = 1 or 3.

    Attributes:
        a, b, fused: grey levels 0..255 or RGB.
        colours: ``(3, H, W, N)``, what a colour result's hues should be; None where there is no colour source.
        notes: what was done to bring the three together, a sentence each.
        kinds: of a and b.
    """

    a: NDArray[np.uint8]
    b: NDArray[np.uint8]
    fused: NDArray[np.uint8]
    colours: NDArray[np.uint8] | None
    notes: list[str]
    kinds: tuple[str, str]


def read_triple(files: PairFiles, settings: FusionSettings | None = None) -> Triple:
    """Read the three and bring them to one grid and to 0..255, as the fusion does with its sources.

    Args:
        files: what to read.
        settings: of the fusion, as far as they concern its sources (kinds, window, registration).

    Raises:
        InputError: a file cannot be read, or the three do not belong together.
        UsageError: an unknown kind or window.
    """
    chosen = settings or FusionSettings()
    a = read_source(files.a, str(files.a), chosen.reference_kind, chosen.window)
    b = read_source(files.b, str(files.b), chosen.second_kind, chosen.window)
    fused, notes = _fused01(read_volume(files.fused), files.fused)
    b = b.onto(a, register_rigid(a.grey, b.grey, chosen.same_patient).correction if chosen.registers else None)
    fused, moved = _onto(fused, a.volume)
    notes += moved

    _, plan = plan_pair(a, b, stride=1)
    hue = colour_source(a, b) if fused.shape[0] == 3 else None
    return Triple(
        a=_upright(a.volume01, plan),
        b=_upright(b.volume01, plan),
        fused=_upright(fused, plan),
        colours=None if hue is None else _upright(hue.rgb() / 255, plan),
        notes=notes,
        kinds=(a.scaling.kind, b.scaling.kind),
    )


def _fused01(fused: MetaTensor, path: Path) -> tuple[MetaTensor, list[str]]:
    """What may be a fused file, in [0, 1], and what was assumed of its scale."""
    low, high = float(fused.min()), float(fused.max())
    white = _white(fused, path, high)
    if white is None or low < -_BEYOND * white or high > (1 + _BEYOND) * white:
        raise InputError(
            f"{path}: values {low:.4g} to {high:.4g}; expected a fusion on the scale 0 to 1 or 0 to 255. "
            "Is this the fused file? The order is FUSED A B. If it is, bring it to one of these scales.",
            "E_NOT_FUSED",
        )
    notes = []
    if low < 0 or high > white:
        notes.append(f"The fused file goes beyond its scale of 0 to {white:g} ({low:.4g} to {high:.4g}): clipped.")
    if white == _BYTE and high < _BYTE / 2:
        notes.append(f"The fused file is taken to be on the scale 0 to 255, of which it uses {high:.4g}.")
    return cast(MetaTensor, (fused / white).clamp(0, 1)), notes


def _white(fused: MetaTensor, path: Path, high: float) -> float | None:
    """The white of a fused file: 1 (as `ddfm` writes files), 255, or our grey DICOM series'; None: it is none of these.

    Fractions that end a little above 1 are no dark picture of 255 grey levels.
    """
    if fused.shape[0] == 3:
        return _BYTE
    if path.is_dir():
        return GREY_MAXIMUM
    values = fused.as_tensor()
    is_whole = torch.equal(values, values.round())
    if is_whole and is_picture(fused):
        return _BYTE
    if high <= 1 + _BEYOND:
        return 1.0
    return _BYTE if is_whole or high > _BYTE / 10 else None


def _onto(fused: MetaTensor, a: MetaTensor) -> tuple[MetaTensor, list[str]]:
    """A fused file on the grid of the first source, and what was done for that.

    Programs that know arrays only save a result with the identity as its affine: its voxels are the source's then.
    """
    if same_grid(a, fused):
        return fused, []
    no_place = place_is_unknown(fused) or np.array_equal(np.abs(affine_of(fused)), np.eye(4))
    if no_place and fused.shape[1:] == a.shape[1:]:
        on_it = make_volume(fused.as_tensor(), affine_of(a))
        return on_it, ["The fused file gives no position in space; its voxels are taken for those of the first source."]
    covered = covered_fraction(grid_of(a), grid_of(fused))
    return resample_to(fused, a), [
        "The fused file lies on another grid than the first source and was resampled onto it"
        + ("." if covered > 0.99 else f"; it covers {covered:.0%} of it, the rest counts as black.")
    ]


def _upright(volume01: Tensor, plan: SlicePlan) -> NDArray[np.uint8]:
    levels = torch.round(255 * torch.as_tensor(volume01).clamp(0, 1)).to(torch.uint8).numpy()
    count = plan.shape[plan.axis]
    return np.stack([np.stack([plan.slice_of(channel, k) for k in range(count)], axis=-1) for channel in levels])


def evaluate_files(
    files: PairFiles,
    *,
    settings: FusionSettings | None = None,
    pictures: int = 3,
    methods: Mapping[str, Fuse] | None = None,
    on_slice: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Read a pair and its fusion (`read_triple`) and measure.

    Args:
        files, settings: see `read_triple`.
        pictures: how many slices to keep for looking at.
        methods: fusions that are asked what they keep of lesions in these slices; `BASELINES` are asked with them.
        on_slice: called with slices done and slices in all; what it raises stops the work.
    """
    triple = read_triple(files, settings)
    a, b, fused = (_grey8(stack) for stack in (triple.a, triple.b, triple.fused))
    indices = list(foreground_slices(a, b)) or list(range(a.shape[-1]))
    candidates = {"fused": fused, **{name: fuse(a, b) for name, fuse in BASELINES.items()}}
    slices: dict[str, dict[int, dict[str, float]]] = {name: {} for name in candidates}
    for done, k in enumerate(indices):
        on_slice(done, len(indices))
        for name, stack in candidates.items():
            slices[name][k] = evaluate_slice(*(np.ascontiguousarray(v[..., k]) for v in (stack, a, b)))
    metrics = {name: mean_metrics(list(by_slice.values())) for name, by_slice in slices.items()}
    if a.shape[-1] > 1:
        for name, stack in candidates.items():
            metrics[name]["coherence"] = through_plane_coherence(stack, a, b)
    check = check_fusion(fused, a, b)
    if triple.fused.shape[0] == 3 and triple.colours is not None:
        metrics["fused"]["hue_error"] = hue_error(triple.fused, triple.colours)
    shown = _spread(indices, pictures)
    studied = {**methods, **BASELINES} if methods else {}
    return Evaluation(
        name=files.name,
        metrics=metrics.pop("fused"),
        baselines=metrics,
        slices=slices["fused"],
        pictures={k: _views(triple, k) for k in shown},
        flags={k: check.flags[..., k] for k in shown},
        check=check.shares,
        notes=triple.notes,
        sources=_called(files, triple.kinds),
        lesions={
            name: study_lesions(fuse, a[..., shown], b[..., shown], triple.kinds) for name, fuse in studied.items()
        },
    )


def _called(files: PairFiles, kinds: tuple[str, str]) -> dict[str, str]:
    """What the three were; a DICOM folder by its kind alone, since folders of exports are named after patients."""
    names = ["DICOM series" if path.is_dir() else path.name for path in (files.a, files.b, files.fused)]
    return {"A": f"{spoken(kinds[0])}: {names[0]}", "B": f"{spoken(kinds[1])}: {names[1]}", "fused": names[2]}


def check_result(
    fused: MetaTensor, reference01: MetaTensor, second01: MetaTensor, axis: int
) -> tuple[MetaTensor, dict[str, float]]:
    """`check_fusion` of a fusion's volumes.

    Args:
        fused: ``(1, X, Y, Z)`` in [0, 1], or ``(3, X, Y, Z)`` RGB, 0..255.
        reference01, second01: ``(1, X, Y, Z)`` in [0, 1], the sources on the same grid.
        axis: of the slices, 0 to 2.

    Returns:
        The flags as a volume ``(1, X, Y, Z)``, float32, and each kind's share of the head.
    """
    scaled = (fused if fused.shape[0] == 3 else 255 * fused, 255 * reference01, 255 * second01)
    grey = (_grey8(np.rint(x.detach().cpu().numpy()).clip(0, 255).astype(np.uint8)) for x in scaled)
    found = check_fusion(*(np.moveaxis(x, axis, -1) for x in grey))
    flags = np.moveaxis(found.flags, -1, axis)[None].astype(np.float32)
    return make_volume(flags, affine_of(fused)), found.shares


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def _grey8(stack: NDArray[np.uint8]) -> Grey8:
    return luma(stack).astype(np.uint8) if stack.shape[0] == 3 else stack[0]


def _spread(indices: list[int], count: int) -> list[int]:
    """At most ``count`` of the indices, evenly spread, the ends left out."""
    count = min(count, len(indices))
    return [indices[(2 * i + 1) * len(indices) // (2 * count)] for i in range(count)]


def _views(triple: Triple, k: int) -> dict[str, NDArray[np.uint8]]:
    stacks = {"A": triple.a, "B": triple.b, "fused": triple.fused}
    views = {name: np.moveaxis(s[..., k], 0, -1) if len(s) == 3 else s[0, ..., k] for name, s in stacks.items()}
    a, b = (_grey8(stack[..., k : k + 1])[..., 0] for stack in (triple.a, triple.b))
    return views | {name: fuse(a, b) for name, fuse in BASELINES.items()}
