"""What a registration gives: the transform, how sure it is, and what was held against it."""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk

from ddfm_monai import space
from ddfm_monai.files import atomic_path

__all__ = ["Evidence", "Registration"]


@dataclass(frozen=True)
class Evidence:
    """What speaks for a transform.

    Args:
        match: normalised mutual information times the root of the cover, 0 to 1, at the transform.
        match_before: the same with the volumes as they lie.
        rival: the best match more than 10 mm away from the transform and not turned 60 degrees further, as a part of
            ``match``.
        starts: how many searches were begun, all over some 12 mm and 9 degrees away from each other.
        agreeing: how many of them ended within 3 mm of the transform.
        spread_mm: how far apart the body lies under those that agree, at most.
        parts_mm: balls of the body of 30 mm radius, each shifted alone for a better match: how far, median.
        stretch_mm: how far the body moves if it may be stretched for a better match, mean.
        cover: the part of the smaller volume's body that lies in the other's field of view, 0 to 1.
    """

    match: float
    match_before: float
    rival: float
    starts: int
    agreeing: int
    spread_mm: float
    parts_mm: float
    stretch_mm: float
    cover: float

    @property
    def misfit_mm(self) -> float:
        """How much the shapes of the two bodies differ, mm."""
        return self.parts_mm + self.stretch_mm


@dataclass(frozen=True)
class Registration:
    """A rigid transform found between two volumes.

    Args:
        matrix: ``(4, 4)`` float64, RAS mm, takes a point of the fixed volume (the reference) to the matching point of
            the moving volume; what ``resample_to`` takes as ``transform``.
        centre: ``(3,)`` RAS mm, the middle of the fixed volume's body; the shift is counted there.
        found_mm: how far the best match moves the body, mean in mm; ``matrix`` is the identity where that is no gain.
        already_aligned: the volumes match as they lie, and nothing was moved.
        confidence: ``"sure"``, or ``"likely"`` for a result that a person should look at.
        evidence: what this rests on.
        warnings: sentences for the person who gets the result.
    """

    matrix: np.ndarray
    centre: np.ndarray
    found_mm: float
    already_aligned: bool
    confidence: Literal["sure", "likely"]
    evidence: Evidence
    warnings: tuple[str, ...]

    @property
    def correction(self) -> np.ndarray | None:
        """``matrix``, or None where nothing was moved: then a second volume on the reference's grid stays as it is."""
        return None if self.already_aligned else self.matrix

    @property
    def before(self) -> float:
        """The match of the two volumes as they lay."""
        return self.evidence.match_before

    @property
    def after(self) -> float:
        """The match with the transform."""
        return self.evidence.match_before if self.already_aligned else self.evidence.match

    @property
    def transform(self) -> sitk.Euler3DTransform:
        """The same as SimpleITK's resampling wants it, LPS mm, about the body's centre."""
        lps = space.flip_transform(self.matrix)
        centre = self.centre * (-1, -1, 1)
        transform = sitk.Euler3DTransform()
        transform.SetCenter(centre.tolist())
        transform.SetMatrix(lps[:3, :3].ravel().tolist(), 1e-6)
        transform.SetTranslation((lps[:3, :3] @ centre + lps[:3, 3] - centre).tolist())
        return transform

    @property
    def rotation_degrees(self) -> float:
        """The angle of the rotation, 0 to 180 degrees."""
        return space.rotation_degrees(self.matrix)

    @property
    def shift_mm(self) -> float:
        """How far the middle of the fixed volume's body moves, mm."""
        return float(np.linalg.norm(space.apply(self.matrix, self.centre[None])[0] - self.centre))

    def sentence(self) -> str:
        """What was done and how sure it is, in plain words."""
        if self.already_aligned:
            return (
                f"aligned already, nothing moved: the best match lies {self.found_mm:.1f} mm away and is no better "
                "than the volumes as they lie"
            )
        seen = self.evidence
        return (
            f"moved by {self.shift_mm:.1f} mm and turned by {self.rotation_degrees:.1f} degrees; {self.confidence}: "
            f"{seen.agreeing} of {seen.starts} starts agree to {seen.spread_mm:.1f} mm"
        )

    def save(self, path: str | Path) -> None:
        """Write an ITK transform file (``.tfm``, fixed to moving, LPS mm), as 3D Slicer and ANTs read it."""
        with atomic_path(Path(path)) as temporary:
            sitk.WriteTransform(self.transform, str(temporary))
            if temporary.stat().st_size == 0:  # ITK does not tell that the disk is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def describe(self) -> dict[str, Any]:
        """A JSON-able account for the provenance file."""
        return {
            "method": "rigid, normalised mutual information where both fields of view are",
            "direction": "point of the reference to point of the second volume, RAS mm",
            "matrix": self.matrix.tolist(),
            "rotation_degrees": self.rotation_degrees,
            "shift_mm": self.shift_mm,
            "already_aligned": self.already_aligned,
            "confidence": self.confidence,
            "sentence": self.sentence(),
            "warnings": list(self.warnings),
            "metric_before": self.before,
            "metric_after": self.after,
            "evidence": {name: round(value, 4) for name, value in asdict(self.evidence).items()},
        }
