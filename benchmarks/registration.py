"""How far registration ends from the truth, and what it refuses: ddfm against plain SimpleITK and elastix.

    python benchmarks/registration.py DATA_DIR [--methods ddfm simpleitk elastix] [--moves 8] [--log FILE]

DATA_DIR holds one folder per case with ``mri.nii.gz`` and one of ``ct``, ``pet``, ``spect``, aligned with each other
(atlas stacks: to some mm). The phantom's MRI and CT, whose alignment is exact, are one more pair. Each second volume is
cut to seven covers and moved by up to eight moves; ``--moves 2`` tries two of them for each pair and cover. The target
registration error is the mean over points of the head that the cut volume covers. Unrelated pairs: the second volume
of every other case, and smooth noise of four scales. A log that exists already is gone on with; the tables at the end
are of the whole log. elastix: ``pip install itk-elastix``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from ddfm_monai import space
from ddfm_monai.phantom import write_phantom
from ddfm_monai.volumes import affine_of, make_volume, read_source, spacing_of
from ddfm_monai.volumes.formats.itk import to_sitk
from ddfm_monai.volumes.registration.rigid import doubts_about, examine, needless

SECONDS = ("ct", "pet", "spect")
COVERS = {  # axis of the volume, from, to
    "full": (2, 0.0, 1.0),
    "lower half": (2, 0.0, 0.5),
    "upper half": (2, 0.5, 1.0),
    "one side": (0, 0.0, 0.5),
    "front": (1, 0.0, 0.5),
    "middle slab": (2, 0.25, 0.75),
    "a fifth missing": (2, 0.2, 1.0),
}
MOVES = ((0, 0), (5, 10), (10, 5), (12, 20), (20, 10), (8, 40), (20, 30), (30, 40))  # degrees, mm
NOISE = (2.0, 8.0, 20.0, 40.0)  # mm
GOAL = 6.0  # mm
HEAD = 0.15

Transform = NDArray[np.float64]  # (4, 4) RAS mm, fixed to moving
Answer = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    name: str
    fixed: MetaTensor
    moving: MetaTensor


@dataclass(frozen=True)
class Trial:
    """One registration: names of the pair, of the cover and the move (or of what was put in the second's place)."""

    pair: str
    what: str
    fixed: MetaTensor
    moving: MetaTensor
    truth: Transform | None
    head: NDArray[np.float64]


def by_ddfm(fixed: MetaTensor, moving: MetaTensor) -> tuple[Transform, Answer]:
    examination = examine(fixed, moving)
    evidence = examination.evidence
    aligned = needless(examination)
    answer = {
        "refused": "; ".join(doubts_about(evidence)),
        "refused of one patient": "; ".join(doubts_about(evidence, same_patient=True)),
        "aligned": aligned,
        "match": evidence.match,
        "rival": evidence.rival,
        "agreeing": evidence.agreeing,
        "parts": evidence.parts_mm,
        "stretch": evidence.stretch_mm,
        "misfit": evidence.misfit_mm,
        "cover": evidence.cover,
    }
    return np.eye(4) if aligned else examination.matrix, answer


def by_simpleitk(fixed: MetaTensor, moving: MetaTensor) -> tuple[Transform, Answer]:
    """The recipe of SimpleITK's own example: centres on each other, mutual information, gradient descent."""
    a, b = to_sitk(fixed), to_sitk(moving)
    start = sitk.CenteredTransformInitializer(
        a, b, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.01, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(start, inPlace=False)
    found = method.Execute(a, b)
    return _matrix(found.TransformPoint), {}


def by_elastix(fixed: MetaTensor, moving: MetaTensor) -> tuple[Transform, Answer]:
    """The default rigid parameter map, from the coordinates in the headers."""
    import itk

    images = []
    for volume in (fixed, moving):
        source = to_sitk(volume)
        image = itk.image_from_array(np.ascontiguousarray(sitk.GetArrayFromImage(source)))
        image.SetSpacing(source.GetSpacing())
        image.SetOrigin(source.GetOrigin())
        image.SetDirection(np.array(source.GetDirection()).reshape(3, 3))
        images.append(image)
    parameters = itk.ParameterObject.New()
    default = parameters.GetDefaultParameterMap("rigid")
    default["AutomaticTransformInitialization"] = ["false"]
    parameters.AddParameterMap(default)
    _, found = itk.elastix_registration_method(
        *images, parameter_object=parameters, log_to_console=False, number_of_threads=1
    )
    last = found.GetParameterMap(0)
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(v) for v in last["CenterOfRotationPoint"]])
    transform.SetParameters([float(v) for v in last["TransformParameters"]])
    return _matrix(transform.TransformPoint), {}


METHODS: dict[str, Callable[[MetaTensor, MetaTensor], tuple[Transform, Answer]]] = {
    "ddfm": by_ddfm,
    "simpleitk": by_simpleitk,
    "elastix": by_elastix,
}


def _matrix(transform_point: Callable[[Any], Any]) -> Transform:
    """(4, 4) RAS mm of a rigid map of points in LPS mm."""
    origin = np.array(transform_point((0.0, 0.0, 0.0)))
    lps = np.eye(4)
    lps[:3, :3] = np.stack([np.array(transform_point(tuple(axis))) - origin for axis in np.eye(3)], axis=1)
    lps[:3, 3] = origin
    return space.flip_transform(lps)


def pairs(data: Path) -> list[Pair]:
    found = []
    for folder in sorted(data.iterdir()):
        for kind in SECONDS:
            if (folder / f"{kind}.nii.gz").is_file():
                fixed = read_source(folder / "mri.nii.gz", "mri", "mr").grey
                found.append(Pair(folder.name, fixed, read_source(folder / f"{kind}.nii.gz", kind, kind).grey))
    with tempfile.TemporaryDirectory() as folder_name:
        paths = write_phantom(Path(folder_name))
        fixed, moving = read_source(paths.mri, "mri", "mr").grey, read_source(paths.ct, "ct", "ct").grey
    return [*found, Pair("phantom", fixed, moving)]


def trials(found: list[Pair], moves: int) -> Iterator[Trial]:
    for place, pair in enumerate(found):
        for number, cover in enumerate(COVERS):
            cut = _cut(pair.moving, cover)
            head = _head(pair.fixed, cut)
            for step in range(moves):
                index = (place + 3 * number + step * (len(MOVES) // moves)) % len(MOVES)
                truth = _move(index, head.mean(axis=0))
                moved = make_volume(cut.as_tensor(), truth @ affine_of(cut))
                yield Trial(pair.name, f"{cover}/{index}", pair.fixed, moved, truth, head)


def unrelated(found: list[Pair]) -> Iterator[Trial]:
    for place, pair in enumerate(found):
        head = _head(pair.fixed, pair.moving)
        for other in found:
            if other is not pair:
                yield Trial(pair.name, f"unrelated/{other.name}", pair.fixed, other.moving, None, head)
        for blur in NOISE:
            noise = _noise(pair.moving, blur, place)
            yield Trial(pair.name, f"unrelated/noise {blur:g} mm", pair.fixed, noise, None, head)


def _cut(volume: MetaTensor, cover: str) -> MetaTensor:
    axis, first, last = COVERS[cover]
    part = slice(round(first * volume.shape[axis + 1]), round(last * volume.shape[axis + 1]))
    affine = affine_of(volume)
    affine[:3, 3] += affine[:3, axis] * part.start
    return make_volume(volume.as_tensor()[(slice(None),) * (axis + 1) + (part,)].clone(), affine)


def _head(fixed: MetaTensor, cut: MetaTensor) -> NDArray[np.float64]:
    """(N, 3) RAS mm, points of the fixed head that the cut volume covers."""
    index = np.argwhere(fixed[0].numpy() > HEAD)[::101]
    points = space.apply(affine_of(fixed), index)
    inside = space.apply(np.linalg.inv(affine_of(cut)), points)
    return points[((inside >= -0.5) & (inside <= np.array(cut.shape[1:]) - 0.5)).all(axis=1)]


def _move(index: int, centre: NDArray[np.float64]) -> Transform:
    """The same in every run: about the head's centre, in a direction that belongs to the number."""
    degrees, shift = MOVES[index]
    axis, direction = np.random.default_rng(100 + index).normal(size=(2, 3))
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + shift * direction / np.linalg.norm(direction)
    return matrix


def _noise(like: MetaTensor, blur: float, seed: int) -> MetaTensor:
    values = np.random.default_rng(seed).normal(size=like.shape[1:]).astype(np.float32)
    values = ndimage.gaussian_filter(values, blur / spacing_of(like))
    values = (values - values.min()) / (values.max() - values.min())
    return make_volume(values[None], affine_of(like))


def run(trial: Trial, method: str) -> Answer:
    started = time.process_time()
    row: Answer = {"method": method, "pair": trial.pair, "what": trial.what}
    try:
        found, answer = METHODS[method](trial.fixed, trial.moving)
        row |= answer
        if trial.truth is not None:
            apart = space.apply(found, trial.head) - space.apply(trial.truth, trial.head)
            row["error"] = float(np.linalg.norm(apart, axis=1).mean())
    except RuntimeError as error:  # elastix and ITK give up: a refusal too
        row["refused"] = str(error).strip().splitlines()[-1][:80]
    return row | {"seconds": time.process_time() - started}


def table(rows: list[Answer]) -> str:
    """Markdown: for each method and cover the errors of what was accepted, and how many were refused."""
    lines = [
        "| method | cover | runs | refused | median | 90 % | worst accepted | above 6 mm | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    vouched = [
        row | {"method": "ddfm, same-patient", "refused": row["refused of one patient"]}
        for row in rows
        if row["method"] == "ddfm"
    ]
    for method in (*METHODS, "ddfm, same-patient"):
        own = [row for row in [*rows, *vouched] if row["method"] == method and not row["what"].startswith("unrelated")]
        partial = [row for row in own if not row["what"].startswith("full/")]
        groups = {cover: [row for row in own if row["what"].startswith(f"{cover}/")] for cover in COVERS}
        for cover, group in (*groups.items(), ("all partial", partial), ("all", own)):
            if not group:
                continue
            errors = np.array([row["error"] for row in group if not row.get("refused")] or [np.nan])
            seconds = np.mean([row["seconds"] for row in group])
            refused = sum(bool(row.get("refused")) for row in group)
            lines.append(
                f"| {method} | {cover} | {len(group)} | {refused} | {np.median(errors):.1f} | "
                f"{np.percentile(errors, 90):.1f} | {errors.max():.1f} | {int((errors > GOAL).sum())} | {seconds:.0f} |"
            )
    return "\n".join(lines)


def distributions(rows: list[Answer]) -> str:
    """Markdown: the evidence of related and of unrelated pairs, side by side."""
    own = [row for row in rows if row["method"] == "ddfm"]
    groups = {
        "one patient": [row for row in own if not row["what"].startswith("unrelated")],
        "another patient": [row for row in own if row["what"].startswith("unrelated") and "noise" not in row["what"]],
        "noise": [row for row in own if "noise" in row["what"]],
    }
    lines = [
        "| | pairs | refused | match (min, median, max) | misfit mm | starts agreeing | rival |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, group in groups.items():
        if group:
            cells = [_spread([row[key] for row in group]) for key in ("match", "misfit", "agreeing", "rival")]
            refused = sum(bool(row["refused"]) for row in group)
            lines.append(f"| {name} | {len(group)} | {refused} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{min(values):.3g}, {np.median(values):.3g}, {max(values):.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--moves", type=int, choices=(1, 2, 4, 8), default=1)
    parser.add_argument("--only", choices=("related", "unrelated"))
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    log = arguments.log
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log and log.is_file() else []
    done = {(row["method"], row["pair"], row["what"]) for row in rows}
    found = pairs(arguments.data)
    work = [(method, trial) for trial in trials(found, arguments.moves) for method in arguments.methods]
    work = [] if arguments.only == "unrelated" else work
    if arguments.only != "related" and "ddfm" in arguments.methods:  # the others refuse nothing
        work += [("ddfm", trial) for trial in unrelated(found)]
    for method, trial in work:
        if (method, trial.pair, trial.what) in done:
            continue
        row = run(trial, method)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        if log:
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(table(rows), distributions(rows), sep="\n\n")


if __name__ == "__main__":
    main()
