"""Rigid registration of two scaled volumes by mutual information, deterministic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import InputError
from ddfm_monai.files import atomic_path
from ddfm_monai.space import flip_transform
from ddfm_monai.volume import is_picture
from ddfm_monai.volumes.formats.itk import to_sitk
from ddfm_monai.volumes.grids import check_overlap

__all__ = ["Registration", "register_rigid"]

_WORKING_SPACING = 2.5  # mm; averaging to about this grid loses nothing for a rigid fit and bounds the time
_AIR_BORDER = 60.0  # mm
_COARSE_SAMPLES = 15_000
_FINE_SAMPLES = 40_000
_BINS = 32
_SEED = 3407
_MINIMUM_SLICES = 4
_MINIMUM_GAIN = 1e-4


@dataclass(frozen=True)
class Registration:
    """A rigid transform found between two volumes.

    Args:
        transform: takes a point of the fixed volume (the reference) to the matching point of the moving volume,
            LPS mm, as SimpleITK's resampling wants it.
        before: mutual information (nats, Mattes) of the two volumes as they lay.
        after: the same with the transform.
    """

    transform: sitk.Euler3DTransform
    before: float
    after: float

    @property
    def matrix(self) -> np.ndarray:
        """``(4, 4)`` float64, RAS mm, fixed point to moving point; what ``resample_to`` takes as ``transform``."""
        rotation = np.array(self.transform.GetMatrix()).reshape(3, 3)
        centre, shift = np.array(self.transform.GetCenter()), np.array(self.transform.GetTranslation())
        lps = np.eye(4)
        lps[:3, :3] = rotation
        lps[:3, 3] = centre + shift - rotation @ centre
        return flip_transform(lps)

    @property
    def rotation_degrees(self) -> float:
        """The angle of the rotation, 0 to 180 degrees."""
        cosine = (np.trace(self.matrix[:3, :3]) - 1) / 2
        return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))

    @property
    def shift_mm(self) -> float:
        """How far the centre of the fixed volume moves, mm."""
        return float(np.linalg.norm(self.transform.GetTranslation()))

    def save(self, path: str | Path) -> None:
        """Write an ITK transform file (``.tfm``, fixed to moving, LPS mm), as 3D Slicer and ANTs read it."""
        with atomic_path(Path(path)) as temporary:
            sitk.WriteTransform(self.transform, str(temporary))

    def describe(self) -> dict[str, Any]:
        """A JSON-able account for the provenance file."""
        return {
            "method": "rigid, Mattes mutual information",
            "direction": "point of the reference to point of the second volume, RAS mm",
            "matrix": self.matrix.tolist(),
            "rotation_degrees": self.rotation_degrees,
            "shift_mm": self.shift_mm,
            "metric_before": self.before,
            "metric_after": self.after,
        }


@contextmanager
def _one_thread() -> Iterator[None]:
    """ITK on one thread, so that sums are formed in one order and every run gives the same result."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


@_one_thread()
def register_rigid(fixed01: MetaTensor, moving01: MetaTensor) -> Registration:
    """Find the rotation and translation that bring ``moving01`` onto ``fixed01``.

    Three starts are compared by the metric: the volumes as they lie, their boxes' centres on each other, their centres
    of mass on each other. The best is refined at three resolutions. One thread and a fixed seed make the result the
    same in every run.

    Args:
        fixed01: ``(1, X, Y, Z)`` in [0, 1], the reference.
        moving01: ``(1, X', Y', Z')`` in [0, 1].

    Raises:
        InputError: pictures or very few slices (``E_REGISTRATION_INPUT``), no common part under any start
            (``E_NO_OVERLAP``), or a result that does not improve the metric (``E_REGISTRATION_NO_GAIN``).
    """
    for volume in (fixed01, moving01):
        _check_registrable(volume)
    fixed, moving = (_working_image(volume) for volume in (fixed01, moving01))
    moving = _in_air(moving)
    identity = sitk.Euler3DTransform()
    identity.SetCenter(_centre(fixed))
    starts = [identity, *(_centred_start(fixed, moving, how) for how in (_INITIALISER.GEOMETRY, _INITIALISER.MOMENTS))]
    scores = [_information(fixed, moving, start) for start in starts]
    best = int(np.argmax(scores))
    if scores[best] <= 0:
        check_overlap(fixed01, moving01)
    found = _refine(fixed, moving, starts[best])
    result = Registration(found, before=scores[0], after=_information(fixed, moving, found))
    if result.after <= result.before + _MINIMUM_GAIN:
        raise InputError(
            f"rigid registration does not improve the match of the two volumes (mutual information {result.before:.4f} "
            f"before, {result.after:.4f} after). They are aligned already, or show different things: look at both, and "
            "fuse without registration if they are aligned.",
            "E_REGISTRATION_NO_GAIN",
        )
    check_overlap(fixed01, moving01, result.matrix)
    return result


_INITIALISER = sitk.CenteredTransformInitializerFilter


def _check_registrable(volume: MetaTensor) -> None:
    if is_picture(volume) or min(volume.shape[1:]) < _MINIMUM_SLICES:
        raise InputError(
            f"a volume of {' x '.join(str(n) for n in volume.shape[1:])} cannot be registered; expected a 3-D volume "
            f"with at least {_MINIMUM_SLICES} slices. Align the sources first and fuse without registration.",
            "E_REGISTRATION_INPUT",
        )


def _working_image(volume: MetaTensor) -> sitk.Image:
    image = to_sitk(volume)
    factors = [max(1, round(_WORKING_SPACING / spacing)) for spacing in image.GetSpacing()]
    factors = [min(factor, size // _MINIMUM_SLICES) for factor, size in zip(factors, image.GetSize(), strict=True)]
    return sitk.BinShrink(image, factors) if max(factors) > 1 else image


def _in_air(image: sitk.Image) -> sitk.Image:
    """The image with air around it, so that the metric always sees the same voxels of the fixed image.

    Mutual information over the overlap alone can grow by pushing air out of it.
    """
    border = [round(_AIR_BORDER / spacing) for spacing in image.GetSpacing()]
    return sitk.ConstantPad(image, border, border, 0.0)


def _centre(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])


def _centred_start(fixed: sitk.Image, moving: sitk.Image, how: int) -> sitk.Euler3DTransform:
    start = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), how)
    return sitk.Euler3DTransform(start)


def _method(fixed: sitk.Image, samples: int | None = None) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.MetricUseFixedImageGradientFilterOff()  # only one search uses gradients; it takes them point by point
    method.MetricUseMovingImageGradientFilterOff()
    if samples is not None and samples < fixed.GetNumberOfPixels():
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(samples / fixed.GetNumberOfPixels(), _SEED)
    return method


def _information(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Mutual information over all voxels in nats; 0 where the two do not overlap."""
    method = _method(fixed)
    method.SetInitialTransform(transform)
    try:
        return -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # every sample lies outside the moving image
        return 0.0


def _refine(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """Two ways down: by gradient on smoothed images from afar, then by simplex search on the images themselves.

    The metric's gradient stops degrees short of the optimum where slices are thick and the volumes cover different
    parts of the body, so the end is found from values of the metric alone. (ITK's Powell search can hang there.)
    """
    coarse = _method(fixed, _COARSE_SAMPLES)
    coarse.SetShrinkFactorsPerLevel([1, 1])  # thick slices must not be thinned out; the samples are few already
    coarse.SetSmoothingSigmasPerLevel([6, 3])
    coarse.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    coarse.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=0.05, numberOfIterations=60, relaxationFactor=0.6
    )
    coarse.SetOptimizerScalesFromPhysicalShift()
    searches = []
    for size in (2.0, 0.5):  # of the simplex: degrees and millimetres
        fine = _method(fixed, _FINE_SAMPLES)
        fine.SetOptimizerAsAmoeba(
            simplexDelta=size,
            numberOfIterations=150,
            parametersConvergenceTolerance=0.01,
            functionConvergenceTolerance=1e-6,
        )
        fine.SetOptimizerScales([180 / np.pi] * 3 + [1.0] * 3)
        searches.append(fine)
    transform = start
    try:
        for method in (coarse, *searches):
            method.SetInitialTransform(transform, inPlace=False)
            transform = sitk.Euler3DTransform(sitk.CompositeTransform(method.Execute(fixed, moving)).GetBackTransform())
    except RuntimeError as error:
        raise InputError(
            "rigid registration failed: the two volumes drifted apart. Check that both show the same body part of one "
            "patient, or align them first.",
            "E_REGISTRATION_NO_GAIN",
        ) from error
    return transform
