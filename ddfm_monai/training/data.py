"""Slices out of volumes, and batches of them that depend on (seed, iteration) only."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Sampler

from ddfm_monai.errors import InputError, UsageError

__all__ = ["ResumableSampler", "SliceBatches", "Slices", "read_slices", "to_network"]

_BACKGROUND = 8  # grey levels: brighter pixels count as the object
Slices = dict[str, list[np.ndarray]]


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
    slices: Slices = {}
    for path in nifti_files(dataset_dir, "--dataset_dir"):
        volume = read_lps(path)
        if volume is not None:
            modality, grey = to_grey_levels(volume[0], path)
            planes = [np.ascontiguousarray(grey[:, :, k].T) for k in range(grey.shape[2])]
            slices.setdefault(modality, []).extend(s for s in planes if s.max() > _BACKGROUND)
    if not any(slices.values()):
        raise UsageError(f"{dataset_dir}: no grey NIfTI volume (.nii, .nii.gz) with any signal in it.", "E_NO_DATA")
    return slices


def nifti_files(folder: str | Path | None, option: str) -> list[Path]:
    """The NIfTI files under a folder, sorted; ``option`` is how the folder is given on the command line.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder:
        raise UsageError(f"No data. Pass a folder of NIfTI volumes as {option}.", "E_NO_DATA")
    if not Path(folder).is_dir():
        raise UsageError(f"{folder}: no such folder. Pass a folder of NIfTI volumes as {option}.", "E_NO_DATA")
    found = (p for p in Path(folder).rglob("*") if p.name.endswith((".nii", ".nii.gz")))
    return sorted(p for p in found if not p.name.startswith("._"))  # macOS leaves those


def read_lps(path: Path) -> tuple[np.ndarray, tuple[float, float, float]] | None:
    """One volume ``(X, Y, Z)`` in LPS order and its spacing in mm, or None where it is a colour volume.

    Raises:
        InputError: it cannot be read, is not three-dimensional or has values that are not finite.
    """
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
    sizes = nib.affines.voxel_sizes(image.affine @ inv_ornt_aff(to_lps, image.shape))
    return np.ascontiguousarray(apply_orientation(pixels, to_lps)), (float(sizes[0]), float(sizes[1]), float(sizes[2]))


def to_grey_levels(pixels: np.ndarray, path: Path) -> tuple[str, np.ndarray]:
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
        data: slices, what :func:`read_slices` returned.
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
        data: Slices,
        iterations: int,
        views: Sequence[Mapping[str, Any]],
        shares: Mapping[str, float],
        seed: int = 3407,
    ) -> None:
        self.data = {m: found for m, found in data.items() if shares.get(m, 0) > 0 and found}
        if not self.data:
            raise UsageError(f"None of the modalities {sorted(data)} has a share in {dict(shares)}.", "E_NO_DATA")
        self.iterations, self.views, self.seed = iterations, views, seed
        self.modalities = sorted(self.data)
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
        stock = self.data[modality]
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


def to_network(pixels: np.ndarray, stride: int) -> Tensor:
    """A uint8 slice ``(H, W)`` as ``(1, 1, H', W')`` float32 in [-1, 1], padded with background to multiples."""
    height, width = pixels.shape
    image = torch.from_numpy(pixels.astype(np.float32))[None, None] / 127.5 - 1
    return F.pad(image, (0, -width % stride, 0, -height % stride), value=-1.0)
