"""Slices rendered from label maps: MRI, CT, PET and SPECT of heads that nobody owns.

A label map says which tissue every voxel is. A slice is drawn through it at random (pose, size, thickness, a slight
warp), every tissue gets a value (a grey value for MRI, Hounsfield units for CT, an uptake for PET and SPECT) and some
texture, and the values are averaged over the slice's thickness and pixels, blurred, disturbed and scaled as a scanner
and this software would do it. The idea is that of Billot et al., "SynthSeg" (Medical Image Analysis 2023): a network
that has seen every contrast needs no picture of a patient. Slices drawn through a few real volumes beside them give the
texture that a label map does not have (:mod:`ddfm_monai.training.reslicing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import ndimage

from ddfm_monai.errors import UsageError
from ddfm_monai.training.data import Slices
from ddfm_monai.training.drawing import SIZE, Array, Rng, random_plane, smooth_noise, top_of
from ddfm_monai.training.label_maps import CODE, NAMES, LabelMap

__all__ = ["render_slices"]

_HEAD_REST = 0.4  # share of CT slices with the arc of a head rest

# Grey values of MRI where fat is near 1, by weighting. "random" (below) draws one for every tissue instead.
_MR: dict[str, dict[str, float]] = {
    "t1": {
        "white": 0.70, "grey": 0.50, "deep grey": 0.54, "thalamus": 0.59, "pallidum": 0.62, "stem": 0.62, "csf": 0.14,
        "cerebellar white": 0.67, "cerebellar grey": 0.52, "vessel": 0.25, "plexus": 0.40, "lesion": 0.42, "eye": 0.15,
        "soft": 0.42, "muscle": 0.45, "mucosa": 0.42, "skin": 0.55, "bone": 0.06, "marrow": 0.60, "nerve": 0.55,
        "fat": 1.05,
    },
    "t2": {
        "white": 0.36, "grey": 0.50, "deep grey": 0.42, "thalamus": 0.42, "pallidum": 0.28, "stem": 0.38, "csf": 1.00,
        "cerebellar white": 0.34, "cerebellar grey": 0.48, "vessel": 0.10, "plexus": 0.75, "lesion": 0.75, "eye": 1.05,
        "soft": 0.22, "muscle": 0.22, "mucosa": 0.85, "skin": 0.35, "bone": 0.04, "marrow": 0.40, "nerve": 0.40,
        "fat": 0.62,
    },
    "flair": {
        "white": 0.45, "grey": 0.58, "deep grey": 0.52, "thalamus": 0.52, "pallidum": 0.42, "stem": 0.50, "csf": 0.12,
        "cerebellar white": 0.45, "cerebellar grey": 0.55, "vessel": 0.12, "plexus": 0.45, "lesion": 0.90, "eye": 0.15,
        "soft": 0.30, "muscle": 0.30, "mucosa": 0.75, "skin": 0.40, "bone": 0.04, "marrow": 0.40, "nerve": 0.45,
        "fat": 0.75,
    },
    "pd": {
        "white": 0.55, "grey": 0.70, "deep grey": 0.66, "thalamus": 0.64, "pallidum": 0.56, "stem": 0.58, "csf": 0.62,
        "cerebellar white": 0.56, "cerebellar grey": 0.68, "vessel": 0.12, "plexus": 0.70, "lesion": 0.80, "eye": 0.60,
        "soft": 0.50, "muscle": 0.50, "mucosa": 0.75, "skin": 0.60, "bone": 0.06, "marrow": 0.60, "nerve": 0.60,
        "fat": 0.90,
    },
}  # fmt: skip
_HU: dict[str, tuple[float, float]] = {  # mean and how much it differs between people and kilovoltages
    "air": (-1000, 0), "white": (29, 2), "grey": (38, 2), "deep grey": (38, 2), "thalamus": (35, 2),
    "pallidum": (40, 6), "stem": (31, 3), "csf": (8, 4), "cerebellar white": (31, 2), "cerebellar grey": (38, 2),
    "vessel": (50, 12), "plexus": (45, 40), "lesion": (22, 12), "eye": (12, 6), "soft": (45, 15), "muscle": (52, 10),
    "mucosa": (40, 15), "skin": (15, 35), "bone": (1000, 250), "marrow": (450, 200), "nerve": (35, 6),
    "fat": (-90, 15),
}  # fmt: skip
_UPTAKE: dict[str, float] = {  # of a flow or sugar tracer, cortex is 1
    "air": 0.0, "white": 0.32, "grey": 1.0, "deep grey": 1.05, "thalamus": 0.95, "pallidum": 0.7, "stem": 0.55,
    "csf": 0.06, "cerebellar white": 0.45, "cerebellar grey": 0.95, "vessel": 0.25, "plexus": 0.2, "lesion": 0.2,
    "eye": 0.08, "soft": 0.16, "muscle": 0.45, "mucosa": 0.4, "skin": 0.12, "bone": 0.06, "marrow": 0.14,
    "nerve": 0.2, "fat": 0.06,
}  # fmt: skip
_ROUGH: dict[str, float] = {"soft": 1.8, "fat": 1.5, "muscle": 1.6, "mucosa": 2.5, "skin": 1.5, "marrow": 2.0, "air": 0}
"""How much texture a tissue has, brain 1."""


# --- rendering --------------------------------------------------------------------------------------------------------


def render_slices(maps: Sequence[LabelMap], counts: Mapping[str, int], seed: int = 3407) -> Slices:
    """Slices through label maps, each with a pose, a contrast and faults of its own.

    Args:
        maps: what :func:`read_label_maps` returned.
        counts: modality (``"mr"``, ``"ct"``, ``"pet"`` or ``"spect"``) -> number of slices.
        seed: slice ``i`` of a modality depends on (seed, modality, i) and the maps only.

    Returns:
        modality -> list of ``(256, 256)`` uint8 arrays, most of them axial, anterior on top.

    Raises:
        UsageError: an unknown modality.
    """
    unknown = set(counts) - set(_RENDERERS)
    if unknown:
        raise UsageError(f"Cannot render {sorted(unknown)}; known are {sorted(_RENDERERS)}.", "E_KIND")
    if not maps:
        return {}
    return {
        modality: [
            render_slice(maps, modality, np.random.default_rng((seed, list(_RENDERERS).index(modality), i)))
            for i in range(count)
        ]
        for modality, count in counts.items()
    }


def render_slice(maps: Sequence[LabelMap], modality: str, rng: Rng) -> Array:
    """One slice with any signal in it, ``(256, 256)`` uint8."""
    while True:
        head = maps[int(rng.integers(len(maps)))]
        tissues = _draw_tissues(head, rng)
        if (tissues != CODE["air"]).mean() > 0.02 and (modality not in _BRAIN_SCANS or _shows_brain(tissues, rng)):
            picture = _RENDERERS[modality](tissues, rng)
            return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _shows_brain(tissues: Array, rng: Rng) -> bool:
    """PET and SPECT of the head are taken of the brain: one slice in seven may lie elsewhere."""
    return bool(_IN_BRAIN[tissues[0]].mean() > 0.04 or rng.random() < 0.15)


def _draw_tissues(head: LabelMap, rng: Rng) -> Array:
    """Tissue codes ``(4 depths, 2 SIZE, 2 SIZE)`` of a slice: two samples a pixel each way, four through the slice."""
    depths = (np.arange(4) - 1.5) / 4 * rng.choice([1.0, 3.0, 5.0])
    plane = random_plane(head.tissues.shape, head.spacing, 2 * SIZE, 0.5, rng)
    points = plane.points()
    for step in (plane.rows, plane.columns):  # a slight warp within the slice; the finest hides the label map's grid
        points += (step / np.linalg.norm(step))[:, None, None].astype(np.float32) * _warp(2 * SIZE, rng)
    return np.stack([_looked_up(head.tissues, points + (d * plane.normal)[:, None, None]) for d in depths])


def _looked_up(tissues: Array, points: Array) -> Array:
    """The nearest voxels' codes, air outside; ``points`` (3, H, W) in voxels whose corners are whole numbers."""
    index = np.floor(points).astype(np.int32)
    inside = np.logical_and.reduce([(i >= 0) & (i < n) for i, n in zip(index, tissues.shape, strict=True)])
    flat = (index[0] * tissues.shape[1] + index[1]) * tissues.shape[2] + index[2]
    return np.where(inside, tissues.ravel().take(flat, mode="clip"), np.uint8(CODE["air"]))


def _warp(side: int, rng: Rng) -> Array:
    """Displacements in voxels: up to some of them over a tenth of the picture, half of one from pixel to pixel."""
    coarse = ndimage.zoom(smooth_noise((20, 20), 1.5, rng), side / 20, order=1) * rng.uniform(0, 2.5)
    fine = ndimage.zoom(smooth_noise((side // 4, side // 4), 1.0, rng), 4, order=1) * rng.uniform(0.2, 0.5)
    return (coarse + fine).astype(np.float32)


def _averaged(tissues: Array, table: Array) -> Array:
    """``table`` ``(tissues, C)`` looked up and averaged over each pixel and the thickness: ``(C, SIZE, SIZE)``."""
    counts = np.zeros((SIZE * SIZE, len(NAMES)), np.float32)
    side = np.arange(2 * SIZE) // 2
    pixel = (side[:, None] * SIZE + side).ravel() * len(NAMES)
    for sheet in tissues:
        counts += np.bincount(pixel + sheet.ravel(), minlength=counts.size).reshape(counts.shape)
    return np.asarray((counts @ table / (4 * len(tissues))).T.reshape(-1, SIZE, SIZE))


# --- texture ----------------------------------------------------------------------------------------------------------


def _wide_field(sigma: float, rng: Rng) -> Array:
    """Smooth noise of unit variance, ``(SIZE, SIZE)``, for a large ``sigma`` (pixels): computed on a coarse grid."""
    factor = max(1, 2 ** int(np.log2(max(sigma / 1.5, 1))))
    coarse = smooth_noise((SIZE // factor, SIZE // factor), sigma / factor, rng)
    return np.asarray(ndimage.zoom(coarse, factor, order=1))


def _lines(sigma: float, width: float, rng: Rng) -> Array:
    """Thin curved lines, 0 to 1: where smooth noise crosses zero; septa, folds and vessels look like that."""
    smooth = smooth_noise((SIZE, SIZE), sigma, rng)
    slope = np.hypot(*np.gradient(smooth)) + 0.02
    return np.clip(1 - np.abs(smooth) / (width * slope), 0, 1)


def _textures(rng: Rng) -> Array:
    """``(6, SIZE, SIZE)``: three scales of noise, dense lines, sparse lines, sparse dots."""
    sparse = _wide_field(10, rng) > rng.uniform(0.3, 1.5)
    return np.stack(
        [
            smooth_noise((SIZE, SIZE), rng.uniform(0.5, 1.1), rng),
            smooth_noise((SIZE, SIZE), rng.uniform(1.5, 3), rng),
            _wide_field(rng.uniform(5, 14), rng),
            _lines(rng.uniform(2, 6), rng.uniform(0.5, 1.2), rng),
            _lines(rng.uniform(4, 9), rng.uniform(0.6, 1.5), rng) * sparse,
            np.clip(smooth_noise((SIZE, SIZE), rng.uniform(0.8, 1.6), rng) - 2.6, 0, 1),
        ]
    )


def _amplitudes(rng: Rng) -> Array:
    """How much of each texture every tissue has, ``(tissues, 6)``, in shares of the full range."""
    scale = np.array([0.022, 0.022, 0.028, 0.035, 0.12, 0.15], np.float32)
    rough = np.array([_ROUGH.get(name, 1.0) for name in NAMES], np.float32)[:, None]
    drawn = np.abs(rng.standard_normal((len(NAMES), len(scale)))) * rng.choice([-1, 1], (len(NAMES), len(scale)))
    return (scale * rough * drawn * rng.uniform(0.4, 1.6)).astype(np.float32)


def _blobs(rng: Rng) -> Array:
    """One or two soft-edged lesions somewhere, 0 to 1; half of the slices have none."""
    total = np.zeros((SIZE, SIZE), np.float32)
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        row, column, radius = rng.uniform(60, 196), rng.uniform(70, 186), rng.uniform(2, 18)
        distance = np.hypot(y - row, (x - column) * rng.uniform(0.6, 1.6)) / radius
        edge = distance + 0.15 * _wide_field(6, rng)
        total = np.maximum(total, np.clip((1 - edge) * radius / rng.uniform(1, 6), 0, 1))
    return total


def _table(values: Mapping[str, float]) -> Array:
    return np.array([values.get(name, 0.0) for name in NAMES], np.float32)


_IN_BRAIN = np.array([name in ("white", "grey", "deep grey", "thalamus", "stem") or "cereb" in name for name in NAMES])


def _composed(tissues: Array, means: Array, scale: float, lesion: float, rng: Rng) -> Array:
    """Values of a slice with texture and lesions; ``scale`` is the full range in the unit of ``means``."""
    table = np.concatenate([means[:, None], scale * _amplitudes(rng), _IN_BRAIN[:, None]], axis=1)
    layers = _averaged(tissues, table.astype(np.float32))
    return np.asarray(layers[0] + (layers[1:-1] * _textures(rng)).sum(0) + lesion * layers[-1] * _blobs(rng))


# --- modalities -------------------------------------------------------------------------------------------------------


def _render_mr(tissues: Array, rng: Rng) -> Array:
    weighting = str(rng.choice([*_MR, "random"], p=[0.24, 0.24, 0.16, 0.12, 0.24]))
    if weighting == "random":
        means = rng.uniform(0, 1, len(NAMES)).astype(np.float32)
        means[CODE["air"]], means[CODE["bone"]] = 0, rng.choice([0.05, 0.3]) * means[CODE["bone"]]
    else:
        means = _table(_MR[weighting]) * np.exp(rng.normal(0, 0.12, len(NAMES))).astype(np.float32)
        if rng.random() < 0.2:
            means[CODE["fat"]] *= 0.25  # fat saturation
        if rng.random() < 0.2:
            means[CODE["vessel"]] = 1.1  # inflow, contrast medium
        if rng.random() < 0.3:  # many scans have little contrast in the brain
            means[_IN_BRAIN] += rng.uniform(0.3, 0.8) * (means[_IN_BRAIN].mean() - means[_IN_BRAIN])
    picture = _composed(tissues, means, 1.0, rng.uniform(-0.4, 0.5), rng)
    picture = np.clip(picture, 0, None) * _bias(rng)
    picture = _resolved(picture, rng.uniform(0.2, 0.75), rng)
    picture = np.clip(picture / top_of(picture, 99.5 if rng.random() < 0.6 else rng.uniform(95, 99.9)), 0, 1.3)
    picture = picture ** np.exp(rng.uniform(-0.3, 0.3))
    return _field_of_view(_rician(255 * picture, rng), rng)


def _bias(rng: Rng) -> Array:
    y, x = np.meshgrid(*[np.linspace(-1, 1, SIZE, dtype=np.float32)] * 2, indexing="ij")
    terms = (x, y, x * y, x * x, y * y)
    return np.exp(sum(c * t for c, t in zip(rng.normal(0, 0.12, len(terms)).astype(np.float32), terms, strict=True)))


def _resolved(picture: Array, sigma: float, rng: Rng) -> Array:
    """The point spread of the scanner, in pixels; a third of the slices is sharpened, as consoles do."""
    picture = ndimage.gaussian_filter(picture, sigma)
    if rng.random() < 0.35:
        picture = picture + rng.uniform(0.3, 1.2) * (picture - ndimage.gaussian_filter(picture, 1.0))
    return np.asarray(picture)


def _rician(picture: Array, rng: Rng) -> Array:
    """Noise of a magnitude picture, mostly of 0 to 5 grey levels; half of the slices have a background of exact 0."""
    sd = min(float(rng.exponential(2.2)), 9.0)
    correlated = rng.choice([0.0, 0.5, 0.8])
    real, imaginary = (sd * _grain(correlated, rng) for _ in range(2))
    noisy = np.hypot(np.maximum(picture, 0) + real, imaginary)
    if rng.random() < 0.6:
        noisy = np.maximum(noisy - 2 * sd * np.exp(-np.maximum(picture, 0) / (3 * sd + 1e-3)), 0)
    return np.asarray(noisy)


def _grain(sigma: float, rng: Rng) -> Array:
    if sigma:
        return smooth_noise((SIZE, SIZE), sigma, rng)
    return np.asarray(rng.standard_normal((SIZE, SIZE), dtype=np.float32))


def _field_of_view(picture: Array, rng: Rng) -> Array:
    """One slice in ten ends before the head does."""
    if rng.random() < 0.1:
        top, left = rng.integers(0, 45, 2)
        framed = np.zeros_like(picture)
        framed[top : SIZE - top, left : SIZE - left] = picture[top : SIZE - top, left : SIZE - left]
        return framed
    return picture


def _render_ct(tissues: Array, rng: Rng) -> Array:
    mean, spread = np.array([_HU[name] for name in NAMES], np.float32).T
    means = mean + spread * rng.standard_normal(len(NAMES)).astype(np.float32)
    picture = _composed(tissues, means, 70.0, rng.choice([-18, 30, 8]), rng)
    picture = picture + rng.uniform(0, 3) * _wide_field(25, rng)  # beam hardening, scatter
    if rng.random() < _HEAD_REST:
        picture = np.maximum(picture, _head_rest(rng))
    picture = _resolved(picture, rng.uniform(0.5, 1.0), rng)
    picture = picture + rng.uniform(0.3, 3.0) * _grain(rng.choice([0.5, 0.8, 1.2]), rng)
    level, width = _ct_window(rng)
    return np.clip((picture - level + width / 2) / width, 0, 1) * 255


def _ct_window(rng: Rng) -> tuple[float, float]:
    """The brain window and others that readers use, a little off each time."""
    from ddfm_monai.volumes import CT_WINDOWS  # imports SimpleITK

    if rng.random() < 0.6:
        level, width = CT_WINDOWS["brain"]
        return level + rng.normal(0, 5), width * np.exp(rng.normal(0, 0.2))
    level, width = list(CT_WINDOWS.values())[int(rng.integers(len(CT_WINDOWS)))]
    return level + rng.normal(0, 0.05 * width), width * np.exp(rng.normal(0, 0.2))


def _head_rest(rng: Rng) -> Array:
    """HU of a thin arc below the head, air elsewhere."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    radius = rng.uniform(110, 150)
    ring = np.abs(np.hypot(x - rng.uniform(115, 141), y - rng.uniform(90, 130)) - radius)
    below = y > rng.uniform(110, 200)
    return np.where((ring < rng.uniform(0.6, 2.0)) & below, rng.uniform(-200, 400), -1000.0)


def _render_pet(tissues: Array, rng: Rng) -> Array:
    return _emission(tissues, rng.uniform(1.0, 3.0), rng)


def _render_spect(tissues: Array, rng: Rng) -> Array:
    return _emission(tissues, rng.uniform(2.0, 4.5), rng)


def _emission(tissues: Array, sigma: float, rng: Rng) -> Array:
    """Uptake, blurred by a Gaussian of ``sigma`` pixels, with the grain of few counts that went through the same."""
    means = _table(_UPTAKE) * np.exp(rng.normal(0, 0.15, len(NAMES))).astype(np.float32)
    outside = ~_IN_BRAIN
    means[outside] *= rng.uniform(0.2, 1.8)
    picture = _composed(tissues, means, 0.3, rng.choice([-0.6, -0.3, 0.6]), rng)
    picture = np.clip(picture, 0, None) * np.exp(0.15 * _wide_field(22, rng))
    picture = ndimage.gaussian_filter(picture, sigma)
    picture = picture * (1 + rng.uniform(0, 0.08) * smooth_noise((SIZE, SIZE), sigma * rng.uniform(0.4, 0.8), rng))
    picture = np.clip(picture / top_of(picture, rng.uniform(97, 100)), 0, 1) ** np.exp(rng.uniform(-0.3, 0.4))
    side, order = _display_grid(rng)
    picture = ndimage.zoom(picture, side / SIZE, order=1)
    if rng.random() < 0.6:
        picture = _pseudo_colour_luma(picture, rng)
    if order == 0:
        return np.asarray(255 * picture.repeat(SIZE // side, 0).repeat(SIZE // side, 1))
    return np.asarray(255 * ndimage.zoom(picture, SIZE / side, order=order))


def _display_grid(rng: Rng) -> tuple[int, int]:
    """The scanner's own pixels on a side, and how they fill the screen: 0 repeated, 1 and 3 interpolated."""
    kind = rng.choice(["repeated", "interpolated", "own"], p=[0.6, 0.2, 0.2])
    if kind == "interpolated":
        return int(rng.uniform(0.4, 0.75) * SIZE), int(rng.choice([1, 3]))
    return (SIZE // 2, 0) if kind == "repeated" else (SIZE, 1)


def _pseudo_colour_luma(picture: Array, rng: Rng) -> Array:
    """The brightness of a random colour table, which rises and falls: colour pictures of PET turned grey.

    A table goes from black along edges of the colour cube (to blue, to cyan, to green, ...), one channel at a time, and
    ends in white; so do many of those of DICOM PS3.6 annex B. Every fifth has few steps.
    """
    colour = np.zeros(3)
    luma = [0.0]
    for _ in range(int(rng.integers(2, 7))):
        channel = int(rng.integers(3))
        colour[channel] = 1 - colour[channel]
        if not colour.any():  # not back to black
            colour[channel] = 1
        luma.append(float(colour @ [0.299, 0.587, 0.114]))
    luma.append(1.0)
    knots = np.sort(np.concatenate([[0, 1], rng.uniform(0.03, 0.97, len(luma) - 2)]))
    if rng.random() < 0.2:
        steps = int(rng.choice([16, 32, 64]))
        picture = np.rint(picture * steps) / steps
    return np.interp(picture, knots, luma)


_BRAIN_SCANS = ("pet", "spect")
_RENDERERS: dict[str, Callable[[Array, Rng], Array]] = {
    "mr": _render_mr,
    "ct": _render_ct,
    "pet": _render_pet,
    "spect": _render_spect,
}
