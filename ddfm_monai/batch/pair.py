"""Two sub-series as a pair: how their coordinates relate, and what is in the way of fusing them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ddfm_monai import rules
from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Matrix4, matrix4
from ddfm_monai.dicom.registration import RegistrationObject, second_to_base
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.space import flip_transform, overlap_fraction

__all__ = [
    "ASKED",
    "REGISTER_OF",
    "OutputKind",
    "Pair",
    "PairingOptions",
    "Register",
    "Relation",
    "Select",
    "overlap_of",
    "relate",
]

Relation = Literal["for", "reg", "register", "same-patient", "trust"]
"""How the second's coordinates relate to the reference's: same frame of reference; a Spatial Registration object; a
rigid registration that is still to be run; the same where somebody knows that both are of one patient, whatever their
shapes; taken as they are because somebody vouches for them."""

OutputKind = Literal["gray", "rgb", "both"]
"""What is written: ``"both"`` is grey, and colour where there is any."""

Select = Literal["error", "best", "all"]
Register = Literal["none", "rigid", "same-patient", "trust"]

REGISTER_OF: dict[Relation, Register] = {"register": "rigid", "same-patient": "same-patient", "trust": "trust"}
"""The relations for which more is known than where the volumes lie, and the ``--register`` that asks for each."""
ASKED: dict[str, Relation] = {register: relation for relation, register in REGISTER_OF.items()}


@dataclass(frozen=True)
class PairingOptions:
    """What may be paired.

    Args:
        register: what becomes of pairs of different frames of reference: left out, registered, or taken as they lie.
        max_days: such pairs must be of one study or at most this many days apart.
        select: what to do when several series could be the one: refuse, take the best, or take all.
        reference_kind: kind of the references; ``"auto"`` is ``"mr"``.
        second_kind: kind of the seconds; ``"auto"`` is every kind but the reference's. Two of a kind are paired only
            if it is named.
        output_kind: what the pairs are to write.
    """

    register: Register = "none"
    max_days: float = 30.0
    select: Select = "error"
    reference_kind: str = "auto"
    second_kind: str = "auto"
    output_kind: OutputKind = "gray"

    def wants(self, reference: SubSeries, second: SubSeries) -> bool:
        """Whether pairs of these two kinds are looked for."""
        wanted = "mr" if self.reference_kind == "auto" else self.reference_kind
        if reference.kind != wanted:
            return False
        return second.kind != wanted if self.second_kind == "auto" else second.kind == self.second_kind


@dataclass(frozen=True)
class Pair:
    """Two sub-series of one patient that are to be fused, or what is in the way of that.

    Args:
        reference: its grid is the result's; the MR unless a manifest or an option says otherwise.
        second: is resampled onto the reference's grid.
        relation: how their coordinates relate.
        reg_matrix: for ``"reg"``, the matrix (LPS mm) that takes a point of the second's frame of reference to the
            reference's; else None.
        reg_sop_uid: SOP Instance UID of the registration object, or ``""``.
        overlap: shared part of the smaller box, 0..1, after ``reg_matrix``; None when they are to be registered
            (the boxes lie in different coordinates).
        output_kind: what to write.
        warnings: remarks, such as a name that differs.
        obstacles: why the two are not to be fused like this; empty for a pair that can run.
        options: the command-line options that would remove all obstacles; empty where one of them has none.
    """

    reference: SubSeries
    second: SubSeries
    relation: Relation
    reg_matrix: Matrix4 | None = None
    reg_sop_uid: str = ""
    overlap: float | None = None
    output_kind: OutputKind = "gray"
    warnings: tuple[Problem, ...] = ()
    obstacles: tuple[Problem, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def case_id(self) -> str:
        """A name for folders and reports: the same for the same two sub-series, without patient data."""
        digest = hashlib.sha256(repr((self.reference.key, self.second.key)).encode()).hexdigest()
        return f"{self.reference.key.patient_key}-{digest[:10]}"

    @property
    def second_to_reference(self) -> NDArray[np.float64]:
        """4x4 float64, RAS mm: takes a point of the second, as its files have it, into the reference's space."""
        return flip_transform(np.array(self.reg_matrix)) if self.reg_matrix is not None else np.eye(4)

    @property
    def problem(self) -> Problem | None:
        """All obstacles as one: the code of the first, what was found of all, and every option that is missing."""
        if not self.obstacles:
            return None
        first, *others = self.obstacles
        found = [first.found, *(f"{other.found} ({other.code})" for other in others)]
        missing = [f"missing are {' '.join(self.options)}"] if len(self.options) > 1 else []
        return Problem(first.code, "; ".join([*found, *missing]))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Codes of all remarks known from the headers: on either series, and on the two."""
        problems = (*self.reference.warnings, *self.second.warnings, *self.warnings)
        return tuple(dict.fromkeys(problem.code for problem in problems))

    @property
    def days(self) -> float | None:
        """Days between the two; None if one has no usable date."""
        return rules.days_between(self.reference.origin, self.second.origin)


def relate(
    reference: SubSeries,
    second: SubSeries,
    registrations: Sequence[RegistrationObject],
    options: PairingOptions,
    relation: Relation | None = None,
) -> Pair:
    """Two sub-series as a pair, with everything that is in the way of fusing it. Scan, manifest and `ddfm fuse` ask it.

    Args:
        reference, second: of a scan, or of two folders.
        registrations: Spatial Registration objects that may relate them.
        options: how coordinates may be related, and what is to be written. For two that a person has named,
            ``max_days`` is infinite.
        relation: as a person has named it; by default the first that holds.
    """
    how = _relation(reference, second, registrations, options, relation)
    findings = rules.of_origins(
        reference.origin,
        second.origin,
        how.register,
        related=how.relation == "reg",
        two_of_a_kind=options.second_kind == second.kind,
    )
    findings += how.findings
    overlap = None if how.relation in ("register", "same-patient") else overlap_of(reference, second, how.matrix)
    if overlap is not None:
        findings += rules.of_overlap(overlap, how.register)
    findings += rules.of_colour((reference.kind, second.kind), _COLOUR[options.output_kind])
    if how.relation in REGISTER_OF:
        findings += _too_far_apart(reference, second, options.max_days)
    problems = [(Problem(item.code, item.found), item.option) for item in findings if item.obstacle]
    problems += [(problem, "") for problem in _unusable(reference, second)]
    wanted = [option for _, option in problems]
    return Pair(
        reference,
        second,
        how.relation,
        None if how.matrix is None else matrix4(how.matrix),
        how.uid,
        overlap,
        options.output_kind,
        warnings=tuple(Problem(item.code, item.found) for item in findings if not item.obstacle),
        obstacles=tuple(problem for problem, _ in problems),
        options=tuple(dict.fromkeys(wanted)) if all(wanted) else (),
    )


_COLOUR: dict[OutputKind, rules.ColourAsked] = {"gray": "no", "both": "where possible", "rgb": "yes"}


def _unusable(reference: SubSeries, second: SubSeries) -> list[Problem]:
    """What keeps either from being read, or the reference's grid from being the result's."""
    found = [item.problem for item in (reference, second) if item.problem is not None]
    return found or ([reference.not_as_base] if reference.not_as_base is not None else [])


@dataclass(frozen=True)
class _Related:
    """How two series relate.

    Args:
        relation: as of :class:`Pair`.
        register: as of the rules: whether somebody registers, or vouches for coordinates.
        matrix, uid: of a registration object.
        findings: about registration objects.
    """

    relation: Relation
    register: Register
    matrix: NDArray[np.float64] | None = None
    uid: str = ""
    findings: tuple[rules.Finding, ...] = ()


def _relation(
    reference: SubSeries,
    second: SubSeries,
    registrations: Sequence[RegistrationObject],
    options: PairingOptions,
    asked: Relation | None,
) -> _Related:
    """The first relation that holds (frame of reference, registration object, registration to be run), or the asked."""
    if asked in REGISTER_OF:
        return _Related(asked, REGISTER_OF[asked])
    if options.register == "trust" and _overlaps_little(reference, second):
        return _Related("trust", "trust")
    known = _known_registrations(reference, second, registrations)
    same_frame = reference.frame_of_reference_uid and reference.frame_of_reference_uid == second.frame_of_reference_uid
    if asked == "for" or (same_frame and asked is None):
        moving = [name for name, matrix in known.items() if not np.allclose(matrix, np.eye(4), atol=1e-6)]
        remarks = [rules.Finding("W_REGISTRATION_NOT_USED", f"registration object ...{name[-12:]}") for name in moving]
        return _Related("for", "none", findings=tuple(remarks))
    if known:
        name, matrix = next(iter(known.items()))
        several = not all(np.allclose(other, matrix, atol=1e-4) for other in known.values())
        found = rules.Finding("S_SEVERAL_REGISTRATIONS", f"{len(known)} registration objects relate the two series")
        return _Related("reg", "none", matrix, name, (found,) if several else ())
    return _Related(ASKED.get(options.register, "register"), options.register)


def _overlaps_little(reference: SubSeries, second: SubSeries) -> bool:
    overlap = overlap_of(reference, second)
    return overlap is not None and overlap < rules.ENOUGH_OVERLAP


def _known_registrations(
    reference: SubSeries, second: SubSeries, registrations: Sequence[RegistrationObject]
) -> dict[str, NDArray[np.float64]]:
    """SOP Instance UID and matrix (second to reference, LPS mm) of each object of the patient that relates the two."""
    who = reference.origin.who
    matrices = {
        item.sop_instance_uid: second_to_base(item, reference, second)
        for item in registrations
        if rules.same_patient(item.who, who)
    }
    return {uid: matrix for uid, matrix in matrices.items() if matrix is not None}


def _too_far_apart(reference: SubSeries, second: SubSeries, limit: float) -> list[rules.Finding]:
    if reference.key.study_uid == second.key.study_uid or math.isinf(limit):
        return []
    days = rules.days_between(reference.origin, second.origin)
    if days is None:
        return [
            rules.Finding("S_TOO_FAR_APART", f"different studies, one without a usable date (limit {limit:g} days)")
        ]
    if days > limit:
        found = f"different studies, {days:.1f} days apart (limit {limit:g})"
        return [rules.Finding("S_TOO_FAR_APART", found, f"--max-days {math.ceil(days)}")]
    return []


def overlap_of(reference: SubSeries, second: SubSeries, matrix: NDArray[np.float64] | None = None) -> float | None:
    """The shared part of the smaller box, 0..1; None if one of them has no grid.

    Args:
        reference, second: sub-series.
        matrix: 4x4, LPS mm, from a point of the second to one of the reference; by default they share one space.
    """
    if reference.grid is None or second.grid is None:
        return None
    placed = second.grid.affine if matrix is None else flip_transform(matrix) @ second.grid.affine
    return overlap_fraction((reference.grid.shape, reference.grid.affine), (second.grid.shape, placed))
