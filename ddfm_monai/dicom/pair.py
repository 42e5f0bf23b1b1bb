"""Which two sub-series of a patient can be fused, and how their coordinates relate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Matrix4
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.dicom.subseries import SubSeries

__all__ = ["OutputKind", "Pair", "PairingOptions", "PairingResult", "Relation", "Select", "Skipped", "find_pairs"]

Relation = Literal["for", "reg", "register", "trust"]
"""How the second's coordinates relate to the base's: same frame of reference; a Spatial Registration object; a rigid
registration that is still to be run; taken on trust (only from a manifest)."""

OutputKind = Literal["gray", "rgb", "both"]
Select = Literal["error", "best", "all"]


@dataclass(frozen=True)
class PairingOptions:
    """What may be paired.

    Args:
        register: pairs of different frames of reference may be registered (``--register rigid``).
        max_days: such pairs must be of one study or at most this many days apart.
        select: what to do when several series could be the one: refuse, take the best, or take all.
        minimum_overlap: the shared part of the smaller volume, 0..1, below which a pair is skipped.
        output_kind: what the pairs are to write.
    """

    register: bool = False
    max_days: float = 0.0
    select: Select = "error"
    minimum_overlap: float = 0.5
    output_kind: OutputKind = "gray"


@dataclass(frozen=True)
class Pair:
    """Two sub-series of one patient that are to be fused.

    Args:
        base: its grid is the result's; the MR unless a manifest says otherwise.
        second: is resampled onto the base's grid.
        relation: how their coordinates relate.
        reg_matrix: for ``"reg"``, the matrix (LPS mm) that takes a point of the second's frame of reference to the
            base's; else None.
        reg_sop_uid: SOP Instance UID of the registration object, or ``""``.
        overlap: shared part of the smaller box, 0..1, after ``reg_matrix``; None when the relation is ``"register"``
            (the boxes lie in different coordinates).
        output_kind: what to write.
        warnings: remarks, such as a name that differs.
    """

    base: SubSeries
    second: SubSeries
    relation: Relation
    reg_matrix: Matrix4 | None = None
    reg_sop_uid: str = ""
    overlap: float | None = None
    output_kind: OutputKind = "gray"
    warnings: tuple[Problem, ...] = ()

    @property
    def case_id(self) -> str:
        """A name for folders and reports: the same for the same two sub-series, without patient data."""
        digest = hashlib.sha256(repr((self.base.key, self.second.key)).encode()).hexdigest()
        return f"{self.base.key.patient_key}-{digest[:10]}"

    @property
    def second_to_base(self) -> NDArray[np.float64]:
        """4x4 float64 in RAS mm: multiply the second's affine by it from the left to place it in the base's space."""
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])
        return flip @ np.array(self.reg_matrix) @ flip if self.reg_matrix is not None else np.eye(4)


@dataclass(frozen=True)
class Skipped:
    """A sub-series, or a possible pair, that is not fused, with the reason.

    Args:
        problem: the code and what was found.
        base: the sub-series (of a pair: the base).
        second: the second of the pair, or None.
    """

    problem: Problem
    base: SubSeries
    second: SubSeries | None = None


@dataclass(frozen=True)
class PairingResult:
    """What can be fused and why the rest is not.

    Args:
        pairs: ready to run, sorted by case id.
        skipped: sub-series and pairs that a rule leaves out.
        ambiguous: pairs that would be ready if they were the only ones of their patient (code ``S_AMBIGUOUS``; the
            text lists the candidates).
    """

    pairs: tuple[Pair, ...]
    skipped: tuple[Skipped, ...]
    ambiguous: tuple[Skipped, ...]


def find_pairs(scan: ScanResult, options: PairingOptions | None = None) -> PairingResult:
    """Find the pairs of a scan by headers alone.

    The rules: one patient (Patient ID and issuer; without a usable ID, one study); one MR and one CT, PET or NM; both
    regular volumes; the same frame of reference, or a registration object between the two, or registration allowed; at
    least half of the smaller box shared; never the first of several candidates.
    """
    raise NotImplementedError
