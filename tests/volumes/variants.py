"""The same head stored in forty ways; run as a script it prints the table of docs/inputs.md."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from ddfm_monai.volumes import Source, read_source

SHAPE, SPACING = (44, 52, 12), (4.0, 4.0, 8.0)
AFFINE = np.diag([*SPACING, 1.0])
AFFINE[:3, 3] = -AFFINE[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
X, Y, Z = np.moveaxis(
    np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3], -1, 0
)
DEPTH = np.sqrt((X / 74) ** 2 + (Y / 90) ** 2 + (Z / 70) ** 2)
LESION = {
    "mr": (X - 30) ** 2 + (Y - 30) ** 2 + Z**2 < 18**2,
    "other": (X + 30) ** 2 + (Y + 40) ** 2 + Z**2 < 16**2,
}
CIRCLE = np.hypot(X, Y) > 92  # outside a scanner's circle


@cache
def head(kind: str) -> np.ndarray:
    """MR in arbitrary units, CT in HU, PET and SPECT in Bq/ml; with noise, air around it and a lesion."""
    random = np.random.default_rng(0)
    body, inside, core = DEPTH < 1, DEPTH < 0.82, DEPTH < 0.4
    if kind == "mr":
        values = np.select([LESION["mr"], core, inside, DEPTH < 0.9, body], [1000, 300, 500, 100, 700], 0.0)
        return np.hypot(values + random.normal(0, 6, SHAPE), random.normal(0, 6, SHAPE))
    lesion = LESION["other"]
    if kind == "ct":
        values = np.select([lesion, core, inside, DEPTH < 0.93, body], [70, 8, 35, 900, 20], -1000.0)
        return values + random.normal(0, 3, SHAPE)
    values = np.select([lesion, core, inside, body], [22000, 5000, 12000, 2000], 0.0)
    return np.maximum(values + random.normal(0, 100, SHAPE) * (values > 0), 0)


REGIONS: dict[str, Callable[[str], np.ndarray]] = {
    "air": lambda kind: (DEPTH > 1.1) & ~CIRCLE,
    "brain": lambda kind: (DEPTH < 0.75) & (DEPTH > 0.48) & ~(LESION["mr"] | LESION["other"]),
    "lesion": lambda kind: LESION["mr" if kind == "mr" else "other"],
    "outside": lambda kind: CIRCLE,
}


def levels(source: Source, kind: str) -> dict[str, float]:
    """Mean grey level, 0 to 255, of each region."""
    grey = source.grey[0].numpy()
    return {name: 255 * float(grey[where(kind)].mean()) for name, where in REGIONS.items()}


@dataclass(frozen=True)
class Variant:
    """One way to store a head.

    Args:
        kind: of :func:`head`.
        words: what is special, for the table.
        change: from the head's values to those that are stored.
        dtype: of the file.
        slope, intercept: of the header (``scl_slope``, ``scl_inter``).
        close: grey levels by which brain and lesion may differ from those of the plain head.
    """

    kind: str
    words: str
    change: Callable[[np.ndarray], np.ndarray] = lambda v: v
    dtype: str = "f4"
    slope: float = 1.0
    intercept: float = 0.0
    close: float = 4.0

    def save(self, folder: Path) -> Path:
        values = self.change(head(self.kind).copy())
        if np.dtype(self.dtype).kind in "iu":
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        image = nib.Nifti1Image(values.astype(self.dtype), AFFINE)
        image.header.set_slope_inter(self.slope, self.intercept)
        path = folder / f"head_{self.kind}.nii.gz"
        nib.save(image, path)
        return path

    def source(self) -> Source:
        with tempfile.TemporaryDirectory() as folder:
            return read_source(self.save(Path(folder)), "second")


def outside(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Padding outside the circle."""
    return lambda v: np.where(CIRCLE, value, v)


def plus(offset: float, padding: float | None = None) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: np.where(CIRCLE, padding, v + offset) if padding is not None else v + offset


def times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: v * factor


def masked(fill: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: np.where(DEPTH < 1, v, fill)


def zscored(v: np.ndarray) -> np.ndarray:
    body = DEPTH < 1
    return np.where(body, (v - v[body].mean()) / v[body].std(), 0)


def undershoot(v: np.ndarray) -> np.ndarray:
    ring = (np.abs(DEPTH - 1.03) < 0.02) & (np.random.default_rng(1).random(SHAPE) < 0.5)
    return np.where(ring, -620, np.where(DEPTH < 1, v, 0))


def filtered_back_projection(v: np.ndarray) -> np.ndarray:
    return v + np.random.default_rng(1).normal(0, 900, SHAPE)


VARIANTS = [
    Variant("mr", "float32"),
    Variant("mr", "int16", dtype="i2"),
    Variant("mr", "float64, in thousandths", times(1e-3), "f8"),
    Variant("mr", "times 10^6", times(1e6)),
    Variant("mr", "whole numbers to 120", times(0.12), "i2"),
    Variant("mr", "whole numbers to 200", times(0.2), "i2"),
    Variant("mr", "uint8 with slope 4", times(0.25), "u1", slope=4.0, close=5),
    Variant("mr", "int16, minus 32768", plus(-32768), "i2"),
    Variant("mr", "plus 500", plus(500), "u2"),
    Variant("mr", "masked, background 0", masked(0)),
    Variant("mr", "masked, background -1", masked(-1)),
    Variant("mr", "masked, background -1024", masked(-1024), "i2"),
    Variant("mr", "-32768 outside the circle", outside(-32768), "i2"),
    Variant("mr", "65535 outside the circle", outside(65535), "u2"),
    Variant("mr", "32767 outside the circle", outside(32767), "i2"),
    Variant("mr", "undershoot of a spline to -620", undershoot, "i2"),
    Variant("mr", "z-scored over the head, background 0", zscored, close=25),
    Variant("mr", "z-scored over the whole volume", lambda v: (v - v.mean()) / v.std()),
    Variant("ct", "float32, HU"),
    Variant("ct", "int16, HU", dtype="i2"),
    Variant("ct", "uint16, HU + 1024", plus(1024), "u2"),
    Variant("ct", "uint16, HU + 1000", plus(1000), "u2"),
    Variant("ct", "uint16, HU + 32768", plus(32768), "u2"),
    Variant("ct", "HU + 500 (nobody's offset)", plus(500), "i2"),
    Variant("ct", "HU + 1024, -2000 outside the circle", plus(1024, -2000), "i2"),
    Variant("ct", "HU + 1024, 0 outside the circle", plus(1024, 0), "u2"),
    Variant("ct", "HU + 1024, 65535 outside the circle", plus(1024, 65535), "u2"),
    Variant("ct", "HU, -2000 outside the circle", outside(-2000), "i2"),
    Variant("ct", "HU, -3024 outside the circle", outside(-3024), "i2"),
    Variant("ct", "HU, 0 outside the circle", outside(0), "i2"),
    Variant("ct", "HU, air masked to -1024", masked(-1024), "i2"),
    Variant("ct", "slope 0.5, intercept -1024", lambda v: (v + 1024) * 2, "u2", 0.5, -1024.0),
    Variant("pet", "float32, Bq/ml"),
    Variant("pet", "SUV", times(1 / 4000)),
    Variant("pet", "int16", dtype="i2"),
    Variant("pet", "whole numbers to 91", times(91 / 22500), "i2", close=5),
    Variant("pet", "filtered back-projection, negative values", filtered_back_projection, close=8),
    Variant("pet", "-1 outside the circle", outside(-1)),
    Variant("pet", "65535 outside the circle", outside(65535), "u2"),
    Variant("spect", "counts to 91", times(91 / 22500), "u1", close=5),
]


def table() -> str:
    """The variants and the grey levels that come out, as Markdown."""
    lines = ["| kind | stored as | air | brain | lesion | outside the circle | taken for |", "|" + " --- |" * 7]
    for variant in VARIANTS:
        source = variant.source()
        found = levels(source, variant.kind)
        numbers = " | ".join(f"{found[name]:.0f}" for name in REGIONS)
        lines.append(f"| {variant.kind} | {variant.words} | {numbers} | {source.decision} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
