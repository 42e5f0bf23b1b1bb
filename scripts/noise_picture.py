"""Draw docs/images/noise.png: slices of the phantom with the noise of scanners, and what the fusion makes of them.

    python scripts/noise_picture.py docs/images/noise.png

Columns: MRI (k-space filled up with zeros), CT (soft kernel, pixels of 0.5 mm, tilted), pixelwise maximum, the default
without its step against noise (which on such noise is what it was before it knew spectra), the default.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from comparison_picture import some_slices
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddfm_monai import fuse_volumes, load_prior
from ddfm_monai.method.two_scale import TwoScaleEM
from ddfm_monai.phantom import write_phantom
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.volumes import read_volume

TITLES = ("MRI", "CT", "maximum", "default, noise left", "default")
HEIGHT, WIDTH = 249, 214


class AsTheyAre(TwoScaleEM):
    """The default on the sources with their noise."""

    name = "two-scale, sources as they are"

    def prepare(self, a: Tensor, b: Tensor, denoise: object = None, seen: Tensor | None = None):
        return super().prepare(a, b, seen=seen)


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = write_phantom(Path(folder), ct_resolution=0.5, noise="scanner")
        # Five slices, of which three are shown: three alone ask for more proof of noise than a scan.
        mri, ct = some_slices(read_volume(paths.mri), step=2), read_volume(paths.ct)
    prior = load_prior(DEFAULT_PRIOR)
    kinds = {"prior": prior, "reference_kind": "mr", "second_kind": "ct"}
    default = fuse_volumes(mri, ct, **kinds)
    left = fuse_volumes(mri, ct, likelihood=AsTheyAre(), **kinds)
    for role in ("reference", "second"):
        print(role, default.provenance[role]["noise"])
    volumes = default.reference01, default.second01, left.fused, default.fused
    a, b, kept, taken = (volume.numpy()[0, ..., ::2] for volume in volumes)
    columns = (a, b, np.maximum(a, b), kept, taken)
    sheet = Image.new("L", (WIDTH * len(columns), 24 + HEIGHT * a.shape[-1]))
    draw = ImageDraw.Draw(sheet)
    for number, (column, title) in enumerate(zip(columns, TITLES, strict=True)):
        draw.text(((number + 0.5) * WIDTH, 12), title, fill=220, anchor="mm", font=ImageFont.load_default(14))
        for k in range(a.shape[-1]):
            upright = np.rot90(column[..., k])[:, ::-1]
            tile = Image.fromarray((255 * upright).round().astype(np.uint8))
            sheet.paste(tile, (number * WIDTH, 24 + k * HEIGHT))
    sheet.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
