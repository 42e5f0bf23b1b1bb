"""A digital head: the same anatomy seen by an MRI, a CT and a PET scanner, each on its own grid.

It exists so that anybody can see a fusion without anybody's data. The head is a set of shapes in RAS millimetres,
painted one over the other with soft edges; each scanner then samples it with its own spacing, rotation and field of
view. Two lesions have known places: an oedema that only the MRI shows and a calcification that only the CT shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter

__all__ = ["LESIONS", "Lesion", "PhantomPaths", "phantom_paths", "write_phantom"]

Array: TypeAlias = NDArray[np.float32]
Point: TypeAlias = tuple[float, float, float]
Noise: TypeAlias = Literal["none", "little", "scanner"]


@dataclass(frozen=True)
class Lesion:
    """A sphere that lies wholly inside one lesion.

    Args:
        name: what it is.
        centre: RAS, in mm.
        radius: in mm.
        shown_by: the kind of the one source that shows it, ``"mr"`` or ``"ct"``.
    """

    name: str
    centre: Point
    radius: float
    shown_by: str


LESIONS = (
    Lesion("oedema", (31.0, -2.0, 25.0), 8.0, "mr"),
    Lesion("calcification", (-29.0, 3.0, 25.0), 4.5, "ct"),
)


@dataclass(frozen=True)
class PhantomPaths:
    """Where the phantom's files are, and where its lesions lie (in the common RAS space of all its files).

    Args:
        mri: T2-weighted, float32, arbitrary units, 0.9 x 0.9 x 4 mm.
        ct: int16, Hounsfield units, its own grid: finer, turned by some degrees, ending above the MRI's lowest slices.
        pet: FDG-like uptake, float32, Bq/ml, 2.5 mm.
        lesions: one that only `mri` shows and one that only `ct` shows.
    """

    mri: Path
    ct: Path
    pet: Path
    lesions: tuple[Lesion, ...] = LESIONS


class _Tissue(NamedTuple):
    """How bright a tissue is: T2-weighted MRI (arbitrary units), CT (HU), PET (kBq/ml)."""

    mr: float
    ct: float
    pet: float


_AIR = _Tissue(0, -1000, 0)
_FAT = _Tissue(640, -90, 1)
_SKIN = _Tissue(250, 20, 2)
_MUSCLE = _Tissue(190, 55, 4)
_COMPACT_BONE = _Tissue(25, 1350, 1)
_DIPLOE = _Tissue(230, 620, 2)
_CSF = _Tissue(930, 6, 1)
_GREY = _Tissue(470, 38, 22)
_WHITE = _Tissue(330, 29, 7)
_DEEP_GREY = _Tissue(385, 37, 23)
_CEREBELLUM = _Tissue(430, 36, 19)
_VITREOUS = _Tissue(980, 8, 1)
_LENS = _Tissue(150, 70, 1)


def phantom_paths(folder: Path | str) -> PhantomPaths:
    """Where :func:`write_phantom` puts its files."""
    mri, ct, pet = (Path(folder, f"{name}.nii.gz") for name in ("mri", "ct", "pet"))
    return PhantomPaths(mri, ct, pet)


def write_phantom(
    folder: Path | str,
    *,
    resolution: float = 0.9,
    slice_distance: float = 4.0,
    ct_resolution: float | None = None,
    noise: Noise = "little",
) -> PhantomPaths:
    """Write ``mri.nii.gz``, ``ct.nii.gz`` and ``pet.nii.gz``; the same bytes on every call.

    Args:
        folder: created if missing; files of these names are replaced.
        resolution: in-plane spacing of the MRI in mm. The default gives an MRI of 214 x 249 x 40 voxels.
        slice_distance: of the MRI, in mm.
        ct_resolution: in-plane spacing of the CT in mm, by default 0.85 of the MRI's.
        noise: ``"little"``; ``"none"``; or ``"scanner"``: as much as in ordinary scans and with their spectra. The MRI
            then has Rician noise of 4 % from a k-space that was filled up with zeros to twice its size, the CT noise
            of 5 HU after filtered back-projection with a soft kernel.

    Returns:
        The paths and the lesions.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head, to_ras = _head(resolution)
    paths = phantom_paths(folder)
    mri = _scan_mri(head.mr, to_ras, resolution, slice_distance, noise)
    _write(mri, paths.mri, "phantom T2w MRI, arbitrary units")
    ct_spacing = 0.85 * resolution if ct_resolution is None else ct_resolution
    _write(_scan_ct(head.ct, to_ras, ct_spacing, noise), paths.ct, "phantom CT, Hounsfield units")
    _write(_scan_pet(head.pet, to_ras, noise), paths.pet, "phantom FDG-PET, Bq/ml")
    return paths


# --- shapes: signed distances in mm, positive inside ------------------------------------------------------------


class _Space(NamedTuple):
    """The coordinates of all points, broadcastable against one another: (X, 1, 1), (1, Y, 1), (1, 1, Z), in mm."""

    x: Array
    y: Array
    z: Array


def _ellipsoid(p: _Space, centre: Point, radii: Point) -> Array:
    scaled = [(axis - c) / r for axis, c, r in zip(p, centre, radii, strict=True)]
    value = np.sqrt(sum(s**2 for s in scaled)) + 1e-6
    slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True))) / value + 1e-6
    return ((1 - value) / slope).astype(np.float32)


def _capsule(p: _Space, start: Point, end: Point, radius: float) -> Array:
    axis = np.subtract(end, start)
    offsets = [c - s for c, s in zip(p, start, strict=True)]
    along = np.clip(sum(o * a for o, a in zip(offsets, axis, strict=True)) / np.dot(axis, axis), 0, 1)
    return (radius - np.sqrt(sum((o - along * a) ** 2 for o, a in zip(offsets, axis, strict=True)))).astype(np.float32)


def _pair(p: _Space) -> _Space:
    """The space folded at the midline: a shape at positive x becomes a pair."""
    return p._replace(x=np.abs(p.x))


def _waves(p: _Space, wavelength: float, count: int, seed: int) -> tuple[Array, Array]:
    """A random smooth field with structure of one size only, and the length of its gradient per mm.

    A sum of plane waves of equal length and random direction; its zero level is a labyrinth of sheets half a
    wavelength apart, much like the folds of a cortex.
    """
    random = np.random.default_rng(seed)
    directions = random.normal(size=(count, 3))
    directions *= 2 * np.pi / wavelength / np.linalg.norm(directions, axis=1, keepdims=True)
    value: Array = np.float32(0) * (p.x + p.y + p.z)
    gradient = [value.copy() for _ in range(3)]
    for direction, phase in zip(directions.astype(np.float32), random.uniform(0, 6.28, count), strict=True):
        angle = sum(axis * k for axis, k in zip(p, direction, strict=True)) + np.float32(phase)
        value += np.cos(angle)
        sine = np.sin(angle)
        for part, k in zip(gradient, direction, strict=True):
            np.add(part, k * sine, out=part)
    scale = np.float32(np.sqrt(2 / count))
    return value * scale, np.sqrt(sum(part**2 for part in gradient)) * scale


class _Head:
    """Three pictures of one head that are painted together."""

    def __init__(self, shape: tuple[int, ...], edge: float) -> None:
        self.mr, self.ct, self.pet = (np.full(shape, value, np.float32) for value in _AIR)
        self._edge = edge

    def paint(self, distance: Array, tissue: _Tissue) -> None:
        """Put ``tissue`` where the signed distance is positive; the edge is as soft as a voxel is wide."""
        share = np.clip(0.5 + distance / self._edge, 0, 1)
        for picture, value in zip((self.mr, self.ct, self.pet), tissue, strict=True):
            np.add(picture, share * (np.float32(value) - picture), out=picture)


# --- anatomy -----------------------------------------------------------------------------------------------------


def _head(resolution: float) -> tuple[_Head, NDArray[np.float64]]:
    """Paint the head.

    Returns:
        The pictures, and the 4 x 4 matrix from their indices to RAS in mm.
    """
    low, high = np.array([-96.0, -112.0, -66.0]), np.array([96.0, 112.0, 106.0])
    steps = resolution * np.array([1, 1, 1.5])  # every scanner's slices are thicker than that
    axes = [np.arange(*span, dtype=np.float32) for span in zip(low, high, steps, strict=True)]
    p = _Space(*np.meshgrid(*axes, indexing="ij", sparse=True))
    head = _Head(tuple(len(axis) for axis in axes), edge=resolution)
    scalp = _scalp(p)
    floor = _skull_base(p)
    cavity = np.minimum(scalp - 12 - 1.2 * _waves(p, 70, 8, seed=1)[0], floor)
    _paint_soft_tissue_and_skull(head, p, scalp, floor, cavity)
    _paint_face(head, p, scalp)
    _paint_brain(head, p, cavity)
    _paint_lesions(head, p)
    to_ras = np.diag([*steps, 1.0])
    to_ras[:3, 3] = low
    return head, to_ras


def _scalp(p: _Space) -> Array:
    """The skin: an egg, narrower in front, that goes on downwards as face and neck."""
    skull = p._replace(x=p.x / (1 - 0.0011 * p.y), z=np.where(p.z > 0, p.z, 0.45 * p.z))
    egg = _ellipsoid(skull, (0, -3, 0), (76, 96, 94))
    nose = _ellipsoid(p, (0, 94, -48), (12, 14, 20))
    ears = _ellipsoid(_pair(p), (76, -12, -34), (7, 15, 22))
    return np.maximum(np.maximum(egg, nose), ears)


def _skull_base(p: _Space) -> Array:
    """Height above the floor of the skull: three steps, from the forehead down to the back of the head."""
    step_to_middle = 1 / (1 + np.exp(-(p.y - 24) / 4))
    step_to_back = 1 / (1 + np.exp((p.y + 16) / 5))
    sella = np.exp(-((p.x / 17) ** 2)) * np.exp(-(((p.y - 8) / 16) ** 2))
    return p.z - (-38 + 24 * step_to_middle - 32 * step_to_back + 20 * sella)


def _paint_soft_tissue_and_skull(head: _Head, p: _Space, scalp: Array, floor: Array, cavity: Array) -> None:
    head.paint(scalp, _SKIN)
    head.paint(scalp - 2, _FAT)
    muscles = _waves(p, 34, 10, seed=2)[0]
    head.paint(np.minimum(scalp - 5, np.minimum(-floor, 6 * (muscles + 0.5))), _MUSCLE)
    temporal_muscle = _ellipsoid(_pair(p), (64, 18, -18), (13, 34, 38))
    head.paint(np.minimum(scalp - 3, temporal_muscle), _MUSCLE)
    skull = np.minimum(scalp - 5.5, floor + 7)
    head.paint(skull, _COMPACT_BONE)
    spongy = np.minimum(np.minimum(skull - 2, -cavity - 2), 3 * (1.3 + _waves(p, 14, 10, seed=3)[0]))
    head.paint(spongy, _DIPLOE)
    petrous = _capsule(_pair(p), (54, -26, -38), (17, 4, -32), 8)
    mastoid = _ellipsoid(_pair(p), (58, -26, -46), (13, 17, 17))
    head.paint(np.minimum(np.maximum(petrous, mastoid), scalp - 6), _COMPACT_BONE)
    cells = 2.5 * (_waves(p, 9, 12, seed=4)[0] - 0.1)
    head.paint(np.minimum(np.minimum(mastoid - 3, scalp - 9), cells), _AIR)


def _paint_face(head: _Head, p: _Space, scalp: Array) -> None:
    sides = _pair(p)
    orbit = np.minimum(_ellipsoid(sides, (31, 62, -33), (19, 29, 18)), scalp - 2)
    nose = np.minimum(_ellipsoid(p, (0, 62, -42), (15, 34, 24)), scalp - 4)
    sphenoid = _ellipsoid(p, (0, 20, -36), (15, 15, 11))
    for cave in (orbit, nose, sphenoid):
        head.paint(np.minimum(cave + 2.2, scalp - 5), _COMPACT_BONE)
    septa = np.abs(_waves(p, 20, 10, seed=5)[0]) * 3 - 0.9
    head.paint(np.minimum(np.minimum(nose, np.abs(p.x) - 1.2), septa), _AIR)
    head.paint(np.minimum(sphenoid, np.abs(p.x - 2) - 1), _AIR)
    head.paint(orbit, _FAT)
    head.paint(_capsule(sides, (31, 60, -33), (9, 24, -24), 2.3), _MUSCLE)
    for side in (-10, 10):
        head.paint(np.minimum(orbit, _capsule(sides, (31 + side, 68, -33), (16, 34, -31), 2)), _MUSCLE)
    globe = _ellipsoid(sides, (32, 73, -33), (12, 12, 12))
    head.paint(globe + 1, _SKIN)
    head.paint(globe, _VITREOUS)
    head.paint(_ellipsoid(sides, (32, 82.5, -33), (4.5, 2.2, 4.5)), _LENS)


def _paint_brain(head: _Head, p: _Space, cavity: Array) -> None:
    head.paint(cavity, _CSF)
    tentorium = p.z + 11 + 0.0035 * p.x**2 + 0.1 * (p.y + 50)  # height above the tent over the cerebellum
    behind = -(p.y + 20)
    hull = cavity - 1.8
    cistern = np.maximum(_ellipsoid(p, (0, 6, -16), (16, 16, 9)), _ellipsoid(p, (0, -24, -12), (17, 8, 12)))
    cerebrum = np.minimum(np.minimum(hull, np.maximum(tentorium - 1.2, -behind)), -cistern)
    _paint_cerebrum(head, p, cerebrum, hull)
    _paint_deep_structures(head, p)
    _paint_hindbrain(head, p, np.minimum(hull, np.minimum(-tentorium - 1.2, behind)))


def _paint_cerebrum(head: _Head, p: _Space, depth: Array, hull: Array) -> None:
    """Grey matter as a ribbon of 3 mm along every surface, the walls of the furrows included.

    Args:
        depth: below the brain's own surface, in mm.
        hull: below the inside of the skull, in mm; furrows start there.
    """
    falx = p.x - 1.5 * _waves(p, 55, 6, seed=10)[0]
    midline = np.maximum(np.abs(falx) - 0.6, -_above_callosum(p))
    surface = np.minimum(np.minimum(depth, _furrows(p, hull)), midline)
    ribbon = 2.8 + 0.4 * _waves(p, 40, 6, seed=7)[0]
    head.paint(surface, _GREY)
    head.paint(surface - ribbon, _WHITE)


def _furrows(p: _Space, hull: Array) -> Array:
    """Distance to the nearest furrow; furrows run down from the hull, each to its own depth."""
    length = np.sqrt(p.x**2 + p.y**2 + p.z**2) + 1
    stretch = (68 / length) ** 0.5  # folds stand upright on the hull: the pattern hardly changes along a radius
    pattern, slope = _waves(_Space(p.x * stretch, p.y * stretch, p.z * stretch), 23, 24, seed=6)
    sheet = np.abs(pattern) / (slope + 0.03) / stretch
    reach = 19 + 7 * _waves(p, 60, 6, seed=8)[0]
    sides = _pair(p)
    sylvian = np.abs(0.8 * (p.y - 6) + 0.6 * (p.z - 4)) - 0.8
    sylvian = np.maximum(np.maximum(sylvian, hull - 24), np.maximum(np.abs(p.z - 4) - 16, 30 - sides.x))
    around_insula = -_ellipsoid(sides, (41, 4, 4), (1.6, 17, 12))
    return np.minimum(np.minimum(np.maximum(sheet - 0.7, hull - reach), sylvian), around_insula)


def _above_callosum(p: _Space) -> Array:
    """Positive where the two halves of the brain are apart: above, before and behind the corpus callosum."""
    return -_ellipsoid(p, (0, -8, 4), (90, 46, 28))


def _paint_deep_structures(head: _Head, p: _Space) -> None:
    sides = _pair(p)
    for centre, radii in (((25, 4, 7), (6.5, 17, 11)), ((11, -14, 11), (8.5, 14, 9)), ((12, 14, 19), (5, 12, 8))):
        head.paint(_ellipsoid(sides, centre, radii), _DEEP_GREY)
    horns = (
        _capsule(sides, (6, 24, 14), (9, 2, 25), 5.0),
        _capsule(sides, (9, 2, 25), (14, -28, 24), 5.5),
        _capsule(sides, (14, -28, 24), (24, -42, 10), 6.5),
        _capsule(sides, (24, -42, 10), (17, -62, 8), 4.0),
        _capsule(sides, (24, -42, 10), (32, -16, -16), 3.2),
    )
    ventricle = np.maximum.reduce(np.broadcast_arrays(*horns))
    head.paint(np.minimum(ventricle, sides.x - 1.4), _CSF)  # the septum stays
    head.paint(_ellipsoid(p, (0, -6, 5), (2.4, 15, 11)), _CSF)  # third ventricle


def _paint_hindbrain(head: _Head, p: _Space, depth: Array) -> None:
    lobes = np.minimum(depth, -_ellipsoid(p, (0, -16, -34), (24, 20, 40)))
    head.paint(lobes, _CEREBELLUM)
    folia = np.abs(np.sin((np.hypot(p.y + 40, p.z + 36) + 0.12 * np.abs(p.x)) * (2 * np.pi / 9)))
    head.paint(np.minimum(lobes, 1.5 * (0.22 - folia)), _CSF)
    head.paint(np.minimum(lobes - 7, _ellipsoid(_pair(p), (18, -52, -38), (22, 15, 12))), _WHITE)
    head.paint(_capsule(p, (0, -14, -6), (0, -30, -70), 11), _WHITE)
    head.paint(_ellipsoid(p, (0, -15, -28), (17, 13, 14)), _WHITE)
    head.paint(_ellipsoid(p, (0, -36, -32), (8, 5, 9)), _CSF)


def _paint_lesions(head: _Head, p: _Space) -> None:
    """Each lesion changes one scanner's picture only."""
    oedema, calcification = LESIONS
    ragged = _ellipsoid(p, oedema.centre, (oedema.radius + 4.5,) * 3) + 2.0 * _waves(p, 16, 10, seed=9)[0]
    head.mr += np.clip(0.5 + ragged / 3, 0, 1) * (760 - head.mr)
    grain = _ellipsoid(p, calcification.centre, (calcification.radius + 0.5,) * 3)
    head.ct += np.clip(0.5 + grain, 0, 1) * (260 - head.ct)


# --- scanners ----------------------------------------------------------------------------------------------------


def _scan_mri(
    head: Array, to_ras: NDArray[np.float64], resolution: float, slice_distance: float, noise: Noise
) -> tuple[NDArray, NDArray[np.float64]]:
    """Thick axial slices, a coil that is brighter on one side, Rician noise."""
    affine = np.diag([resolution, resolution, slice_distance, 1.0])
    affine[:3, 3] = [to_ras[0, 3], to_ras[1, 3], -55.0]
    thick = gaussian_filter(head, (0, 0, slice_distance / 3 / to_ras[2, 2]))
    shape = (head.shape[0], head.shape[1], round(160 / slice_distance))
    signal = _sampled(thick, to_ras, affine, shape, outside=0.0)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    signal *= 1 + 0.10 * x - 0.06 * y + 0.05 * z - 0.06 * (x**2 + y**2)
    random = np.random.default_rng(1)
    real, imaginary = (random.normal(0, _MR_SD[noise], shape).astype(np.float32) for _ in range(2))
    if noise == "scanner":
        real, imaginary = (_with_spectrum(part, _half_of_k_space) for part in (real, imaginary))
    return np.hypot(signal + real, imaginary), affine


def _scan_ct(
    head: Array, to_ras: NDArray[np.float64], resolution: float, noise: Noise
) -> tuple[NDArray, NDArray[np.float64]]:
    """A tilted gantry, smaller voxels, stored right to left and front to back as scanners do; 10 mm less below."""
    spacing = np.array([resolution, resolution, 4.0])
    shape = (round(214 / spacing[0]), round(236 / spacing[1]), 40)
    affine = np.eye(4)
    affine[:3, :3] = _rotation(degrees_x=6, degrees_z=4) @ np.diag(spacing * [-1, -1, 1])
    affine[:3, 3] = np.array([0.0, 0.0, 34.0]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    attenuation = _sampled(gaussian_filter(head, (0, 0, 1.2 / to_ras[2, 2])), to_ras, affine, shape, outside=-1000.0)
    random = np.random.default_rng(2).normal(0, _CT_SD[noise], shape)
    by_kernel = _with_spectrum(random, _soft_kernel) if noise == "scanner" else gaussian_filter(random, (0.7, 0.7, 0))
    return np.clip(np.rint(attenuation + by_kernel), -1024, 3071).astype(np.int16), affine


def _scan_pet(head: Array, to_ras: NDArray[np.float64], noise: Noise) -> tuple[NDArray, NDArray[np.float64]]:
    """6 mm full width at half maximum, 2.5 mm voxels, few counts."""
    blurred = gaussian_filter(head, 6 / 2.355 / np.diag(to_ras)[:3])
    affine = np.diag([2.5, 2.5, 2.5, 1.0])
    affine[:3, 3] = [-100.0, -115.0, -62.0]
    shape = (80, 92, 66)
    uptake = np.maximum(_sampled(blurred, to_ras, affine, shape, outside=0.0), 0)
    counts = uptake if noise == "none" else np.random.default_rng(3).poisson(uptake * 60) / 60
    return (gaussian_filter(counts, 0.6) * 1000).astype(np.float32), affine


_MR_SD: dict[Noise, float] = {"none": 0, "little": 6, "scanner": 37}  # of each channel, arbitrary units
_CT_SD: dict[Noise, float] = {"none": 0, "little": 6, "scanner": 5}  # HU; the little is smoothed to 2.4


def _with_spectrum(white: NDArray, power: Callable[[NDArray, NDArray], NDArray]) -> NDArray:
    """White noise ``(X, Y, Z)`` with that power at in-plane frequencies in cycles per pixel, its variance kept."""
    fx, fy = (np.fft.fftfreq(n) for n in white.shape[:2])
    wanted = power(fx[:, None], fy[None])
    spectrum = np.fft.fft2(white, axes=(0, 1)) * np.sqrt(wanted / wanted.mean())[..., None]
    return np.fft.ifft2(spectrum, axes=(0, 1)).real.astype(np.float32)


def _half_of_k_space(fx: NDArray, fy: NDArray) -> NDArray:
    return ((np.abs(fx) < 0.25) & (np.abs(fy) < 0.25)).astype(np.float64)


def _soft_kernel(fx: NDArray, fy: NDArray) -> NDArray:
    """The ramp of filtered back-projection times a smoothing kernel."""
    f = np.hypot(fx, fy)
    return f * np.exp(-2 * (f / 0.15) ** 2)


def _rotation(degrees_x: float, degrees_z: float) -> NDArray[np.float64]:
    a, c = np.radians([degrees_x, degrees_z])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return about_z @ about_x


def _sampled(
    head: Array, to_ras: NDArray[np.float64], affine: NDArray[np.float64], shape: tuple[int, ...], outside: float
) -> Array:
    """The head's picture on another grid, by linear interpolation."""
    step = np.linalg.inv(to_ras) @ affine
    return affine_transform(head, step[:3, :3], step[:3, 3], output_shape=shape, order=1, cval=outside)


def _write(scan: tuple[NDArray, NDArray[np.float64]], path: Path, description: str) -> None:
    voxels, affine = scan
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    nib.save(image, path)
