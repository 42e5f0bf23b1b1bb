"""How well two volumes match under a rigid transform: normalised mutual information where both fields of view are."""

from __future__ import annotations

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai import space
from ddfm_monai.volume import affine_of, is_picture

__all__ = ["BODY", "FEWEST_SLICES", "Similarity", "WorkingImage", "can_be_matched"]

BODY = 0.1
"""Grey in [0, 1] above which a voxel counts as the patient's body."""

FEWEST_SLICES = 4
"""With fewer voxels along an axis there is nothing to be matched along it."""

_WORKING_SPACING = 2.5  # mm; averaging to about this grid loses nothing for a rigid fit and bounds the time
_BINS = 32
_MINIMUM_COVER = 0.1
_MINIMUM_PART_COVER = 0.7
_SEED = 3407

Points = NDArray[np.float32]


def can_be_matched(volume: MetaTensor) -> bool:
    """Whether a volume can be matched with another: it is no picture, and thick enough along every axis."""
    return not is_picture(volume) and min(volume.shape[1:]) >= FEWEST_SLICES


class WorkingImage:
    """A grey volume averaged to about 2.5 mm and blurred.

    Args:
        volume: ``(1, X, Y, Z)`` in [0, 1].
        blur: standard deviation of the Gaussian, mm.
    """

    def __init__(self, volume: MetaTensor, blur: float) -> None:
        data, self.affine = _averaged(volume)
        self.data = ndimage.gaussian_filter(data, blur / space.spacing_of(self.affine), mode="nearest")
        self._flat = self.data.ravel()
        self._to_index = np.linalg.inv(self.affine)

    @property
    def centre(self) -> NDArray[np.float64]:
        """(3,) of the field of view, RAS mm."""
        return space.apply(self.affine, (np.array([self.data.shape]) - 1) / 2)[0]

    @property
    def centre_of_mass(self) -> NDArray[np.float64]:
        """(3,) RAS mm."""
        return space.apply(self.affine, np.array([ndimage.center_of_mass(self.data)]))[0]

    @property
    def extent(self) -> NDArray[np.float64]:
        """(2, 3) lowest and highest corner of the field of view, RAS mm."""
        corners = space.apply(self.affine, space.corners(self.data.shape))
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    def scattered_points(self, count: int) -> Points:
        """``(3, count)`` RAS mm, evenly at random over the field of view, the same in every run.

        Points between the voxels: on a grid, the match of two volumes is best where the grids coincide.
        """
        drawn = np.random.default_rng(_SEED).random((count, 3)) * self.data.shape - 0.5
        return np.ascontiguousarray(space.apply(self.affine, drawn).T, dtype=np.float32)

    def at(self, points: Points, transform: space.Affine) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Values at those of ``(3, N)`` points that the transform takes into the field of view; and ``(N,)`` which.

        Linear interpolation; within half a voxel of the outermost centres the outermost value holds. (SciPy's takes
        four times as long, and nearly all of a registration's time is spent here.)
        """
        matrix = (self._to_index @ transform).astype(np.float32)
        index = matrix[:3, :3] @ points + matrix[:3, 3:]
        sizes = np.array(self.data.shape, dtype=np.float32)[:, None]
        inside: NDArray[np.bool_] = np.logical_and.reduce((index >= -0.5) & (index <= sizes - 0.5), axis=0)
        index = np.clip(index[:, inside], 0, sizes - 1)
        lower = np.minimum(index, sizes - 2).astype(np.int32)
        x, y, z = index - lower
        rows, columns = self.data.shape[1:]
        corner = (lower[0] * rows + lower[1]) * columns + lower[2]

        def line(start: int) -> NDArray[np.float32]:
            first, second = self._flat.take(corner + start), self._flat.take(corner + (start + 1))
            return first + z * (second - first)

        def plane(start: int) -> NDArray[np.float32]:
            first, second = line(start), line(start + columns)
            return first + y * (second - first)

        first, second = plane(0), plane(rows * columns)
        return first + x * (second - first), inside


def _averaged(volume: MetaTensor) -> tuple[NDArray[np.float32], space.Affine]:
    """Blocks of voxels averaged, ``(X', Y', Z')`` float32, and the affine of the blocks."""
    data = volume.as_tensor()[0].detach().cpu().numpy()
    affine = affine_of(volume)
    factors = np.maximum(1, np.rint(_WORKING_SPACING / space.spacing_of(affine)).astype(int))
    factors = np.maximum(1, np.minimum(factors, np.array(data.shape) // FEWEST_SLICES))
    counts = np.array(data.shape) // factors
    data = data[tuple(slice(n) for n in counts * factors)]
    blocks = data.reshape([int(n) for pair in zip(counts, factors, strict=True) for n in pair])
    affine[:3, 3] += affine[:3, :3] @ ((factors - 1) / 2)
    affine[:3, :3] *= factors
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32), affine


class Similarity:
    """The match of two volumes as a function of the rigid transform between them.

    Points scattered over the smaller field of view are looked up in the larger one. Only points that lie in both
    count: what is outside a field of view is unknown, not air. With joint histogram :math:`h` of their grey values,

    .. math:: S = \\frac{H(A) + H(B) - H(A, B)}{H(A, B)} \\sqrt{c}

    the normalised mutual information (Studholme et al., Pattern Recognition 32, 1999, less 1) times the root of the
    cover :math:`c`, the part of the points that lie in both: without it, pushing all but the neck out of the field of
    view can look like a gain.

    Args:
        small, large: ``(1, X, Y, Z)`` in [0, 1]; the points are in ``small``.
        blur: of both, mm.
        count: of points.
    """

    def __init__(self, small: MetaTensor, large: MetaTensor, blur: float, count: int) -> None:
        self.small, self.large = WorkingImage(small, blur), WorkingImage(large, blur)
        self.points = self.small.scattered_points(count)
        self.values, _ = self.small.at(self.points, np.eye(4))
        self._bins = np.rint(np.clip(self.values, 0, 1) * (_BINS - 1)).astype(np.intp)

    def __call__(self, transform: space.Affine) -> float:
        """The match, 0 to 1, under a (4, 4) transform, RAS mm: a point of the small volume to one of the large one."""
        values, inside = self.large.at(self.points, transform)
        cover = len(values) / len(self._bins)
        if cover < _MINIMUM_COVER:
            return 0.0
        joint = _joint_histogram(self._bins[inside], values)
        together = _entropy(joint)
        if together <= 0:
            return 0.0
        shared = _entropy(joint.sum(axis=1)) + _entropy(joint.sum(axis=0)) - together
        return float(shared / together * np.sqrt(cover))

    def log_ratios(self, transform: space.Affine) -> NDArray[np.float64]:
        """``(bins, bins)`` of :math:`\\log p(a, b) / p(a) p(b)` under a transform, of a histogram smoothed by a bin."""
        values, inside = self.large.at(self.points, transform)
        joint = ndimage.gaussian_filter(_joint_histogram(self._bins[inside], values), 1.0) + 1e-7
        joint /= joint.sum()
        return np.log(joint / (joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)))

    def mean_ratio(
        self,
        ratios: NDArray[np.float64],
        transform: space.Affine,
        shift: NDArray[np.float64],
        part: NDArray[np.intp],
    ) -> float:
        """The mean of ``ratios`` over the points ``part``, moved by ``shift`` (mm, in the large volume's space)."""
        shifted = transform.copy()
        shifted[:3, 3] += shift
        values, inside = self.large.at(self.points[:, part], shifted)
        if inside.mean() < _MINIMUM_PART_COVER:
            return 0.0
        lower, share = _place(values)
        bins = self._bins[part][inside]
        return float((ratios[bins, lower] * (1 - share) + ratios[bins, lower + 1] * share).mean())

    def cover(self, transform: space.Affine) -> float:
        """The part of the small volume's body that lies in the large one's field of view, 0 to 1."""
        body = self.points[:, self.values > BODY]
        return float(self.large.at(body, transform)[1].mean()) if body.size else 0.0


def _joint_histogram(bins: NDArray[np.intp], values: NDArray[np.float32]) -> NDArray[np.float64]:
    """``(bins, bins)``, sums to 1; each value is shared out between its two nearest bins."""
    lower, share = _place(values)
    cell = bins * _BINS + lower
    counts = np.bincount(cell, 1 - share, _BINS**2) + np.bincount(cell + 1, share, _BINS**2)
    return counts.reshape(_BINS, _BINS) / len(values)


def _place(values: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The lower of the two nearest bins of each value, and the share of the upper one."""
    place = np.clip(values, 0, 1) * (_BINS - 1)
    lower = np.minimum(place.astype(np.intp), _BINS - 2)
    return lower, place - lower


def _entropy(probabilities: NDArray[np.float64]) -> float:
    """In nats."""
    found = probabilities[probabilities > 0]
    return float(-(found * np.log(found)).sum())
