"""Which two sub-series of a patient can be fused, and how their coordinates relate."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Matrix4, matrix4
from ddfm_monai.dicom.registration import RegistrationObject, second_to_base
from ddfm_monai.dicom.scan import ScanResult
from ddfm_monai.dicom.subseries import SeriesKey, SubSeries
from ddfm_monai.space import flip_transform, overlap_fraction

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
        return flip_transform(np.array(self.reg_matrix)) if self.reg_matrix is not None else np.eye(4)


@dataclass(frozen=True)
class Skipped:
    """A sub-series, or a possible pair, that is not fused, with the reason.

    Args:
        problem: the code and what was found.
        base: the sub-series (of a pair: the base).
        second: the second of the pair, or None.
        pair: what it would be as a pair, so that a manifest can offer it; or None.
    """

    problem: Problem
    base: SubSeries
    second: SubSeries | None = None
    pair: Pair | None = None


def _skip(problem: Problem, pair: Pair) -> Skipped:
    return Skipped(problem, pair.base, pair.second, pair)


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
    options = options or PairingOptions()
    skipped = [Skipped(reason, item) for item in scan.subseries if (reason := not_a_candidate(item)) is not None]
    candidates = [item for item in scan.subseries if not_a_candidate(item) is None]
    possible: list[Pair] = []
    tried: set[SeriesKey] = set()
    for base, second in product(candidates, candidates):
        if base.kind != "mr" or second.kind == "mr" or base.key.patient_key != second.key.patient_key:
            continue
        tried |= {base.key, second.key}
        outcome = relate(base, second, scan.registrations, options)
        if isinstance(outcome, Pair):
            possible.append(outcome)
        else:
            skipped.append(outcome)
    for item in candidates:
        if item.key not in tried:
            other = "CT, PET or NM series" if item.kind == "mr" else "MR series"
            skipped.append(Skipped(Problem("S_NO_PARTNER", f"the patient has no usable {other}"), item))
    closest, further = _closest_relations(possible)
    pairs, not_chosen, ambiguous = _choose(closest, options.select)
    return PairingResult(
        pairs=tuple(sorted(pairs, key=lambda pair: pair.case_id)),
        skipped=tuple(sorted([*skipped, *further, *not_chosen], key=_order)),
        ambiguous=tuple(sorted(ambiguous, key=_order)),
    )


def _order(item: Skipped) -> tuple[SeriesKey, bool, SeriesKey]:
    return item.base.key, item.second is not None, (item.second or item.base).key


def not_a_candidate(item: SubSeries) -> Problem | None:
    """Why a sub-series is not paired automatically, or None."""
    if item.exclusion is not None or item.problem is not None:
        return item.exclusion or item.problem
    return item.not_as_base if item.kind == "mr" else None


# ------------------------------------------------------------------------------------------------ one pair


def relate(
    base: SubSeries, second: SubSeries, registrations: Sequence[RegistrationObject], options: PairingOptions
) -> Pair | Skipped:
    """The pair of two candidates of one patient, or why they make none."""
    related = _related(base, second, registrations, options)
    pair = related if isinstance(related, Pair) else Pair(base, second, "register")
    pair = replace(pair, output_kind=options.output_kind, warnings=(*pair.warnings, *_name_warning(base, second)))
    if {base.identity_removed, second.identity_removed} == {"YES", "NO"}:
        return _skip(Problem("S_DEIDENTIFICATION_DIFFERS", "Patient Identity Removed is YES and NO"), pair)
    if isinstance(related, Problem):
        return _skip(related, pair)
    if pair.overlap is not None and pair.overlap < options.minimum_overlap:
        return _skip(Problem("S_LITTLE_OVERLAP", f"{pair.overlap:.0%} of the smaller volume lies in the other"), pair)
    return pair


def _related(
    base: SubSeries, second: SubSeries, registrations: Sequence[RegistrationObject], options: PairingOptions
) -> Pair | Problem:
    """The first relation that holds: frame of reference, registration object, registration to be run."""
    objects = [item for item in registrations if item.patient_key == base.key.patient_key]
    matrices = {item.sop_instance_uid: second_to_base(item, base, second) for item in objects}
    known = {name: matrix for name, matrix in matrices.items() if matrix is not None}
    if base.frame_of_reference_uid and base.frame_of_reference_uid == second.frame_of_reference_uid:
        moving = [name for name, matrix in known.items() if not np.allclose(matrix, np.eye(4), atol=1e-6)]
        warnings = [Problem("W_REGISTRATION_NOT_USED", f"registration object ...{name[-12:]}") for name in moving]
        return Pair(base, second, "for", overlap=overlap_of(base, second), warnings=tuple(warnings))
    if known:
        name, matrix = next(iter(known.items()))
        if not all(np.allclose(other, matrix, atol=1e-4) for other in known.values()):
            return Problem("S_SEVERAL_REGISTRATIONS", f"{len(known)} registration objects relate the two series")
        return Pair(base, second, "reg", matrix4(matrix), name, overlap_of(base, second, matrix))
    return _to_be_registered(base, second, options)


def _to_be_registered(base: SubSeries, second: SubSeries, options: PairingOptions) -> Pair | Problem:
    if not options.register:
        frames = [item.frame_of_reference_uid[-8:] for item in (base, second)]
        found = f"different Frame of Reference UIDs (...{frames[0]} and ...{frames[1]}), no registration object"
        return Problem("S_DIFFERENT_FRAME", found)
    days = 0.0 if base.key.study_uid == second.key.study_uid else days_between(base, second)
    if days is None or days > options.max_days:
        apart = "an unknown number of" if days is None else f"{days:.1f}"
        return Problem("S_TOO_FAR_APART", f"different studies, {apart} days apart (limit {options.max_days:g})")
    return Pair(base, second, "register")


def overlap_of(base: SubSeries, second: SubSeries, matrix: NDArray[np.float64] | None = None) -> float | None:
    """The shared part of the smaller box, 0..1; None if one of them has no grid."""
    if base.grid is None or second.grid is None:
        return None
    placed = second.grid.affine if matrix is None else flip_transform(matrix) @ second.grid.affine
    return overlap_fraction((base.grid.shape, base.grid.affine), (second.grid.shape, placed))


def days_between(first: SubSeries, second: SubSeries) -> float | None:
    """Days between the two series, None if a date is missing or impossible."""
    try:
        times = [datetime.strptime(item.acquired, "%Y%m%d%H%M%S") for item in (first, second)]
    except ValueError:
        return None
    return abs((times[0] - times[1]).total_seconds()) / 86400


def _name_warning(base: SubSeries, second: SubSeries) -> list[Problem]:
    names = {re.sub(r"[\W_]+", " ", item.patient.name).strip().casefold() for item in (base, second)}
    return [Problem("W_NAME_DIFFERS", "the patient's name is written differently")] if len(names) > 1 else []


# ------------------------------------------------------------------------------------------------ many pairs

RELATION_ORDER: tuple[Relation, ...] = ("for", "reg", "register")


def _closest_relations(possible: list[Pair]) -> tuple[list[Pair], list[Skipped]]:
    """Drop a pair when one of its series has a pair of the same kinds with a closer relation."""
    kept: list[Pair] = []
    further: list[Skipped] = []
    for pair in possible:
        rank = RELATION_ORDER.index(pair.relation)
        closer = [
            other
            for other in possible
            if RELATION_ORDER.index(other.relation) < rank
            and other.second.kind == pair.second.kind
            and (other.base.key == pair.base.key or other.second.key == pair.second.key)
        ]
        if closer:
            problem = Problem(
                "S_CLOSER_RELATION", f"relation {pair.relation}, but {closer[0].relation} holds elsewhere"
            )
            further.append(_skip(problem, pair))
        else:
            kept.append(pair)
    return kept, further


def _choose(possible: list[Pair], select: Select) -> tuple[list[Pair], list[Skipped], list[Skipped]]:
    """Pairs, pairs not chosen and ambiguous pairs, cluster by cluster of pairs that compete."""
    pairs: list[Pair] = []
    not_chosen: list[Skipped] = []
    ambiguous: list[Skipped] = []
    for cluster in _clusters(possible):
        ranked = sorted(cluster, key=_preference)
        clear = len(ranked) == 1 or _preference(ranked[0]) < _preference(ranked[1])
        if select == "all" or len(ranked) == 1:
            pairs.extend(ranked)
        elif select == "best" and clear:
            pairs.append(ranked[0])
            problem = Problem("S_NOT_CHOSEN", f"{len(ranked)} candidates, another one was preferred")
            not_chosen.extend(_skip(problem, pair) for pair in ranked[1:])
        else:
            problem = Problem("S_AMBIGUOUS", f"{len(ranked)} candidates: {_listed(ranked)}")
            ambiguous.extend(_skip(problem, pair) for pair in ranked)
    return pairs, not_chosen, ambiguous


def _clusters(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs that compete: of one kind of second, linked by a series that they share."""
    clusters: list[list[Pair]] = []
    for pair in pairs:
        linked = [cluster for cluster in clusters if any(_compete(pair, other) for other in cluster)]
        clusters = [cluster for cluster in clusters if cluster not in linked]
        clusters.append([pair, *(other for cluster in linked for other in cluster)])
    return clusters


def _compete(first: Pair, second: Pair) -> bool:
    share = first.base.key == second.base.key or first.second.key == second.second.key
    return share and first.second.kind == second.second.kind


def _preference(pair: Pair) -> tuple[float, ...]:
    """Smaller is better: T1, then 3-D, then most slices, then smallest voxels; the base decides before the second."""
    return tuple(value for item in (pair.base, pair.second) for value in _series_preference(item))


def _series_preference(item: SubSeries) -> tuple[float, ...]:
    voxel = float(np.prod(item.grid.spacing)) if item.grid is not None else float("inf")
    return (not item.t1_weighted, not item.three_d, -len(item.slices), round(voxel, 6))


def _listed(pairs: list[Pair]) -> str:
    texts = [f"{_described(pair.base)} with {_described(pair.second)}" for pair in pairs[:10]]
    return "; ".join(texts) + (f"; and {len(pairs) - 10} more" if len(pairs) > 10 else "")


def _described(item: SubSeries) -> str:
    number = "?" if item.series_number is None else item.series_number
    part = "" if item.key.subseries == "all" else f" ({item.key.subseries})"
    return f"{item.modality} series {number} ...{item.key.series_uid[-8:]}{part}, {len(item.slices)} slices"
