"""Draw docs/images/comparison.png: slices of the phantom, both sources, and three ways to fuse them.

    python scripts/comparison_picture.py docs/images/comparison.png

Columns: MRI, second source, pixelwise maximum, published likelihood (25 steps), default. Rows: three slices of MRI with
CT, three of MRI with PET.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from monai.data.meta_tensor import MetaTensor
from PIL import Image, ImageDraw, ImageFont

from ddfm_monai import fuse_volumes, load_prior
from ddfm_monai.phantom import write_phantom
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.volumes import affine_of, make_volume, read_volume

SLICES = [17, 21, 25]
TITLES = ("MRI", "CT or PET", "maximum", "published", "default")
TILE = 150


def some_slices(volume: MetaTensor, step: int = SLICES[1] - SLICES[0]) -> MetaTensor:
    affine = affine_of(volume)
    affine[:3, 3] += affine[:3, 2] * SLICES[0]
    affine[:3, 2] *= step
    return make_volume(volume.as_tensor()[..., SLICES[0] : SLICES[-1] + 1 : step].clone(), affine)


def rows(mri: MetaTensor, second: MetaTensor, kind: str) -> list[list[np.ndarray]]:
    prior = load_prior(DEFAULT_PRIOR)
    default = fuse_volumes(mri, second, prior=prior, reference_kind="mr", second_kind=kind)
    published = fuse_volumes(
        mri, second, prior=prior, reference_kind="mr", second_kind=kind, likelihood="published", steps=25
    )
    a, b = default.reference01.numpy()[0], default.second01.numpy()[0]
    columns = (a, b, np.maximum(a, b), published.fused.numpy()[0], default.fused.numpy()[0])
    # RAS: anterior up, the patient's right on the left
    return [[np.rot90(column[..., k])[:, ::-1] for column in columns] for k in range(len(SLICES))]


def tile(picture: np.ndarray) -> Image.Image:
    grey = Image.fromarray((255 * picture).round().astype(np.uint8))
    grey.thumbnail((TILE, TILE))
    square = Image.new("L", (TILE, TILE))
    square.paste(grey, ((TILE - grey.width) // 2, (TILE - grey.height) // 2))
    return square


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_phantom(Path(folder))
        mri, ct, pet = (read_volume(path) for path in (paths.mri, paths.ct, paths.pet))
    table = [*rows(some_slices(mri), ct, "ct"), *rows(some_slices(mri), pet, "pet")]
    sheet = Image.new("L", (TILE * len(TITLES), TILE * len(table) + 24))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(TITLES):
        draw.text((column * TILE + TILE / 2, 12), title, fill=220, anchor="mm", font=ImageFont.load_default(14))
        for row, pictures in enumerate(table):
            sheet.paste(tile(pictures[column]), (column * TILE, 24 + row * TILE))
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
