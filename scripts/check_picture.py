"""Draw docs/images/check.png: what the check flags in a fusion of the phantom, and in three that were made wrong.

    python scripts/check_picture.py docs/images/check.png

MRI, CT, the default's fusion; the same with a lesion pasted in, without the oedema, with a region smoothed. Prints the
share of the head that is flagged.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from blend_picture import distances
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ddfm_monai import fuse_volumes
from ddfm_monai.metrics import FLAGS, check_fusion
from ddfm_monai.phantom import LESIONS, Lesion, write_phantom
from ddfm_monai.volumes.colour import FLAG_COLOURS

OEDEMA = LESIONS[0]
PASTED = Lesion("pasted", (-17.0, -44.0, 25.0), 4.0, "neither")
SMOOTHED = Lesion("smoothed", (30.0, 38.0, 25.0), 14.0, "both")
LEVEL = 25.0  # mm, the plane that goes through both lesions
GAP, TITLE = 10, 20


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_phantom(Path(folder))
        whole = nib.load(paths.mri)
        k = round((LEVEL - whole.affine[2, 3]) / whole.affine[2, 2])
        grid = whole.slicer[:, :, k : k + 1]
        nib.save(grid, Path(folder) / "plane.nii.gz")
        result = fuse_volumes(Path(folder) / "plane.nii.gz", paths.ct)
    a, b = (grey(volume.numpy()[0]) for volume in (result.reference01, result.second01))
    fused = result.fused.numpy()[0]
    unflagged = np.zeros_like(a)
    tiles = [("MRI", coloured(a, unflagged)), ("CT", coloured(b, unflagged))]
    for name, values in {"as fused": fused, **made_wrong(fused, grid)}.items():
        picture = grey(values)
        check = check_fusion(picture, a, b)
        print(name, {kind: f"{100 * share:.2f} %" for kind, share in check.shares.items()})
        tiles.append((name, coloured(picture, check.flags)))
    sheet(tiles).save(target, optimize=True)


def made_wrong(fused: np.ndarray, grid: nib.Nifti1Image) -> dict[str, np.ndarray]:
    """A lesion that no source has; one of a source left out; texture lost. All in [0, 1], as ``fused``."""
    pasted, oedema, smoothed = (distances(grid, lesion) for lesion in (PASTED, OEDEMA, SMOOTHED))
    around = fused[(oedema > OEDEMA.radius + 2) & (oedema < OEDEMA.radius + 5)].mean()
    inside, region = np.clip(OEDEMA.radius + 1 - oedema, 0, 1), np.clip(SMOOTHED.radius + 1 - smoothed, 0, 1)
    smooth = ndimage.gaussian_filter(fused, (2.5, 2.5, 0))
    return {
        "lesion pasted in": fused + 50 / 255 * np.exp(-(pasted**2) / (2 * PASTED.radius**2)),
        "oedema removed": (1 - inside) * fused + inside * around,
        "region smoothed": (1 - region) * fused + region * smooth,
    }


def grey(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)


def coloured(picture: np.ndarray, flags: np.ndarray) -> Image.Image:
    """One plane ``(X, Y, 1)``, anterior up, the patient's right on the left; flags at 60 %."""
    rgb = np.repeat(picture, 3, axis=-1).astype(float)
    for name, value in FLAGS.items():
        there = flags[..., 0] == value
        rgb[there] = 0.4 * rgb[there] + 0.6 * np.array(FLAG_COLOURS[name])
    return Image.fromarray(np.rot90(rgb)[:, ::-1].round().astype(np.uint8))


def sheet(tiles: list[tuple[str, Image.Image]]) -> Image.Image:
    width, height = tiles[0][1].size
    page = Image.new("RGB", (3 * width + 2 * GAP, 2 * (height + TITLE) + GAP))
    draw = ImageDraw.Draw(page)
    for number, (title, tile) in enumerate(tiles):
        place = number % 3 * (width + GAP), number // 3 * (height + TITLE + GAP)
        draw.text((place[0] + width / 2, place[1] + TITLE / 2), title, fill=(220, 220, 220), anchor="mm",
                  font=ImageFont.load_default(14))  # fmt: skip
        page.paste(tile, (place[0], place[1] + TITLE))
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
