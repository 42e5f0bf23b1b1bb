"""Draw docs/images/blend.png: what a 50:50 blend of two layers hides and the fusion shows.

    python scripts/blend_picture.py docs/images/blend.png

The phantom gets one more lesion: an infarct in the white matter of the left frontal lobe, brighter than what surrounds
it on the T2-weighted MRI and darker on the CT, as infarcts are. Prints each lesion's contrast in every picture: mean
inside less the mean of a ring around it, in the grey levels 0 to 255 that are shown.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddfm_monai import fuse_volumes
from ddfm_monai.phantom import LESIONS, Lesion, write_phantom

INFARCT = Lesion("infarct", (-20.0, 31.0, 25.0), 5.5, "both")
MR_RISE, CT_FALL = 200.0, -16.0
"""Arbitrary units (white matter has 330) and HU (29)."""
HEAD = ((-84, 84), (-104, 100))
CLOSE = ((-52, 14), (-20, 52))
"""What is shown, from the patient's left to the right and from behind to the front, in mm."""
WIDTH, GAP, TITLE = 400, 12, 44


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_phantom(folder)
        add_lesion(paths.mri, MR_RISE)
        add_lesion(paths.ct, CT_FALL)
        result = fuse_volumes(paths.mri, paths.ct)
        grid = nib.load(paths.mri)
    a, b, fused = (volume.numpy()[0] for volume in (result.reference01, result.second01, result.fused))
    pictures = {"MRI": a, "CT": b, "Blend 50:50": (a + b) / 2, "Fused": fused}
    for lesion in (*LESIONS, INFARCT):
        away = distances(grid, lesion)
        print(lesion.name, {name: round(contrast(values, away, lesion.radius)) for name, values in pictures.items()})
    sheet([(name, part(values, grid.affine, HEAD), part(values, grid.affine, CLOSE)) for name, values in
           pictures.items()]).save(target, optimize=True)  # fmt: skip


def distances(image: nib.Nifti1Image, lesion: Lesion) -> np.ndarray:
    """``(X, Y, Z)`` mm from the lesion's centre."""
    places = np.moveaxis(np.indices(image.shape), 0, -1) @ image.affine[:3, :3].T + image.affine[:3, 3]
    return np.linalg.norm(places - lesion.centre, axis=-1)


def add_lesion(path: Path, change: float) -> None:
    """Add a ball with a soft edge to a file."""
    image = nib.load(path)
    share = np.clip(0.5 + (INFARCT.radius + 1 - distances(image, INFARCT)) / 3, 0, 1)
    changed = image.get_fdata() + change * share
    nib.save(nib.Nifti1Image(changed.astype(image.get_data_dtype()), image.affine, image.header), path)


def contrast(values: np.ndarray, away: np.ndarray, radius: float) -> float:
    ring = (away > radius + 4) & (away < radius + 8)
    return 255 * float(values[away < radius].mean() - values[ring].mean())


def part(values: np.ndarray, affine: np.ndarray, box: tuple[tuple[int, int], tuple[int, int]]) -> Image.Image:
    """A part of the axial slice through the lesions, the front on top and the patient's right on the left."""
    (i0, j0, k), (i1, j1, _) = (
        np.rint((np.array([x, y, INFARCT.centre[2]]) - affine[:3, 3]) / np.diag(affine)[:3]).astype(int)
        for x, y in zip(*box, strict=True)
    )
    shown = np.rot90(values[i0:i1, j0:j1, k])[:, ::-1]
    picture = Image.fromarray((255 * shown).round().astype(np.uint8))
    return picture.resize((WIDTH, round(WIDTH * shown.shape[0] / shown.shape[1])), Image.Resampling.BICUBIC)


def sheet(columns: list[tuple[str, Image.Image, Image.Image]]) -> Image.Image:
    upper, lower = columns[0][1].height, columns[0][2].height
    canvas = Image.new("L", (len(columns) * (WIDTH + GAP) - GAP, TITLE + upper + GAP + lower), 13)
    draw = ImageDraw.Draw(canvas)
    for number, (name, head, close) in enumerate(columns):
        left = number * (WIDTH + GAP)
        draw.text((left + WIDTH / 2, TITLE / 2), name, fill=230, anchor="mm", font=ImageFont.load_default(26))
        canvas.paste(head, (left, TITLE))
        canvas.paste(close, (left, TITLE + upper + GAP))
        point_at(draw, left, TITLE + upper + GAP, close)
    return canvas


def point_at(draw: ImageDraw.ImageDraw, left: int, top: int, close: Image.Image) -> None:
    """An arrowhead whose point is just outside the infarct."""
    (x0, x1), (y0, y1) = CLOSE
    x = left + close.width * (x1 - INFARCT.centre[0] + INFARCT.radius + 4) / (x1 - x0)
    y = top + close.height * (y1 - INFARCT.centre[1]) / (y1 - y0)
    draw.polygon([(x, y), (x + 26, y - 11), (x + 26, y + 11)], fill=255)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
