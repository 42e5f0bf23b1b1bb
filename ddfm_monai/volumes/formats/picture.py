"""Pictures, by Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from monai.data.meta_tensor import MetaTensor
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from ddfm_monai.errors import InputError
from ddfm_monai.volumes.formats.common import Contents, check_opaque, to_byte, unreadable

__all__ = ["SUFFIXES", "WRITABLE_SUFFIXES", "read", "write"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
WRITABLE_SUFFIXES = (".png", ".jpg", ".jpeg")

_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # nominal: see ddfm_monai.volume


def read(path: Path) -> Contents:
    """One picture, grey or colour."""
    try:
        with Image.open(path) as file:
            frames = getattr(file, "n_frames", 1)
            if frames != 1:
                raise InputError(
                    f"{path}: holds {frames} pictures; expected one. Save each as a file of its own, or the stack as "
                    "NIfTI.",
                    "E_DIMENSIONS",
                )
            picture = ImageOps.exif_transpose(file)
            array = _channels(path, picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unreadable(path, "a picture", error) from error
    return array[..., None], _AFFINE.copy(), {"picture": True}


def _channels(path: Path, picture: Image.Image) -> np.ndarray:
    """``(1 or 3, columns, rows)`` float32; a colour file whose three channels are equal is grey."""
    if picture.mode in ("L", "I", "F", "I;16", "I;16B", "I;16L"):
        return np.asarray(picture, dtype=np.float32).T[None]
    if picture.mode == "1":
        return np.asarray(picture.convert("L"), dtype=np.float32).T[None]
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        check_opaque(path, rgba[..., 3])
        rgb = rgba[..., :3]
    else:
        rgb = np.asarray(picture.convert("RGB"))
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
        rgb = rgb[..., :1]
    return rgb.astype(np.float32).transpose(2, 1, 0)


def write(volume: MetaTensor, temporary: Path, path: Path, description: str) -> None:
    """One slice only, grey ``[0, 1]`` as 0..255; PNG or JPEG."""
    if volume.shape[3] != 1:
        raise InputError(
            f"{path}: a picture holds one slice, this volume has {volume.shape[3]}. Write NIfTI (.nii.gz) instead.",
            "E_DIMENSIONS",
        )
    data = volume.as_tensor().detach().cpu().numpy()[..., 0]
    if data.shape[0] == 1:
        if data.min() < 0 or data.max() > 1:
            raise InputError(
                f"{path}: grey values from {data.min():g} to {data.max():g} do not fit a picture; expected 0 to 1. "
                "Scale them first, or write NIfTI.",
                "E_RANGE",
            )
        picture = Image.fromarray(to_byte(data[0] * 255).T)
    else:
        picture = Image.fromarray(np.ascontiguousarray(to_byte(data).transpose(2, 1, 0)))
    if path.suffix.lower() == ".png":
        note = PngImagePlugin.PngInfo()
        note.add_text("Comment", description)
        picture.save(temporary, pnginfo=note)
    else:
        picture.save(temporary, quality=95, subsampling=0, comment=description.encode())
