"""Rigid registration: search, evidence, and the rule by which a result is accepted, needless, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray

from ddfm_monai import space
from ddfm_monai.errors import InputError
from ddfm_monai.volume import name_of
from ddfm_monai.volumes.colour import to_luma
from ddfm_monai.volumes.registration.evidence import ELSEWHERE, gather
from ddfm_monai.volumes.registration.result import Evidence, Registration
from ddfm_monai.volumes.registration.search import COARSE, FINE, MIDDLE, Found, Search, displacement, volume_in_view
from ddfm_monai.volumes.registration.similarity import FEWEST_SLICES, can_be_matched

__all__ = ["Examination", "doubts_about", "examine", "needless", "register_rigid"]

_COARSE_APART, _MIDDLE_APART = 6.0, 4.0  # mm; results that are nearer to each other are one
_MIDDLE_KEPT, _FINE_KEPT = 8, 3
_LEAST_MATCH = 0.06
_STRONGEST_RIVAL = 0.97
_WEAK_RIVAL = 0.9
_FEWEST_AGREEING = 3
_LARGEST_MISFIT = 7.1  # mm; the nearest of 209 CT and PET of other patients has 7.2
_LARGEST_OF_ONE_PATIENT = 15.0  # mm; what SPECT of one patient reaches, and SPECT of two patients too
_LEAST_COVER = 0.4
_LEAST_GAIN = 0.03  # of the match: what a move of some 2 mm brings


def register_rigid(fixed01: MetaTensor, moving01: MetaTensor, same_patient: bool = False) -> Registration:
    """Find the rotation and translation that bring ``moving01`` onto ``fixed01``, or that none is needed.

    One thread and fixed random points make the result the same in every run.

    Args:
        fixed01: ``(1, X, Y, Z)`` in [0, 1], or RGB ``(3, X, Y, Z)`` in 0..255; the reference.
        moving01: ``(1 or 3, X', Y', Z')``, likewise.
        same_patient: somebody knows that both are of one patient, so that shapes may differ more where all else is
            sure; the images cannot always tell (SPECT is too smooth).

    Raises:
        InputError: pictures or very few slices (``E_REGISTRATION_INPUT``), or a result that is not sure enough to be
            used: because of the shapes alone, which ``same_patient`` would answer for (``E_SHAPES_DIFFER``), or for
            another reason (``E_REGISTRATION_UNSURE``).
    """
    for volume in (fixed01, moving01):
        _check_registrable(volume)
    examination = examine(_grey(fixed01), _grey(moving01))
    doubts = doubts_about(examination.evidence, same_patient)
    if doubts:
        word_would_do = not doubts_about(examination.evidence, same_patient=True)
        word = "If you know that they do, fuse with --register same-patient (in a manifest, relation same-patient). "
        raise InputError(
            f"{name_of(moving01)} cannot be registered to {name_of(fixed01)} surely enough: {'; '.join(doubts)}. "
            + "Check that both show the same body part of one patient. "
            + (word if word_would_do else "")
            + "If they are aligned, fuse with --register trust; "
            "if not, align them by hand (3D Slicer: General Registration) and look at both before fusing.",
            "E_SHAPES_DIFFER" if word_would_do else "E_REGISTRATION_UNSURE",
        )
    return _answer(examination)


def doubts_about(evidence: Evidence, same_patient: bool = False) -> list[str]:
    """Why a match is not to be trusted, in plain words; empty where it is.

    The limits lie between what volumes of one patient and what unrelated ones reach (docs/registration.md).

    Args:
        evidence: of the match.
        same_patient: somebody knows that both are of one patient. That answers for shapes that differ, but only where
            nothing else speaks against the match: a wrong place looks like a wrong patient too.
    """
    doubts = []
    largest_misfit = _LARGEST_OF_ONE_PATIENT if same_patient and _is_unrivalled(evidence) else _LARGEST_MISFIT
    if evidence.match < _LEAST_MATCH:
        doubts.append(
            f"the two have little in common (match {evidence.match:.3f}, at least {_LEAST_MATCH:g} is needed)"
        )
    if evidence.rival > _STRONGEST_RIVAL:
        doubts.append(
            f"a place more than {ELSEWHERE:.0f} mm away fits {evidence.rival:.0%} as well "
            f"(at most {_STRONGEST_RIVAL:.0%})"
        )
    if evidence.agreeing < _FEWEST_AGREEING:
        doubts.append(f"only {evidence.agreeing} of {evidence.starts} starts agree (at least {_FEWEST_AGREEING})")
    if evidence.misfit_mm > largest_misfit:
        doubts.append(
            f"the body's shapes differ: parts of it, shifted alone, lie {evidence.parts_mm:.1f} mm off, and stretching "
            f"it moves it by {evidence.stretch_mm:.1f} mm (together at most {largest_misfit:g} mm)"
        )
    if evidence.cover < _LEAST_COVER:
        doubts.append(f"only {evidence.cover:.0%} of the smaller body would be covered (at least {_LEAST_COVER:.0%})")
    return doubts


def _is_unrivalled(evidence: Evidence) -> bool:
    """Whether every start ends here, and no other place fits nearly as well."""
    return evidence.agreeing == evidence.starts and evidence.rival < _WEAK_RIVAL


def needless(examination: Examination) -> bool:
    """Whether the volumes match as they lie: the best match is near, and hardly better."""
    return examination.moved_mm < ELSEWHERE and examination.gain < _LEAST_GAIN


def _answer(examination: Examination) -> Registration:
    evidence = examination.evidence
    aligned = needless(examination)
    alike = evidence.misfit_mm <= _LARGEST_MISFIT
    unrivalled = _is_unrivalled(evidence)
    warnings = []
    if not alike:
        warnings.append(
            f"W_SHAPES_DIFFER: The shapes of the two differ by {evidence.misfit_mm:.1f} mm, as those of two patients "
            "may. They were taken for one patient's because you said so: look at the picture of the registration."
        )
    if aligned:
        warnings.append(
            "W_ALREADY_ALIGNED: The volumes were aligned already and were left as they lie: the best match lies "
            f"{examination.moved_mm:.1f} mm away and is {max(examination.gain, 0):.1%} better, which is no gain."
        )
    elif not unrivalled:
        warnings.append(
            "W_REGISTRATION_LIKELY: The registration is likely, not sure: look at the picture of it before using the "
            "result."
        )
    return Registration(
        matrix=np.eye(4) if aligned else examination.matrix,
        centre=examination.body.mean(axis=0),
        found_mm=examination.moved_mm,
        already_aligned=aligned,
        confidence="sure" if alike and unrivalled else "likely",
        evidence=evidence,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class Examination:
    """The best match of two volumes and what speaks for it.

    Args:
        matrix: ``(4, 4)`` RAS mm, fixed point to moving point.
        body: ``(N, 3)`` RAS mm, points of the fixed volume's side of the body.
        evidence: of that match.
    """

    matrix: space.Affine
    body: NDArray[np.float64]
    evidence: Evidence

    @property
    def moved_mm(self) -> float:
        """How far the match moves the body, mean."""
        return displacement(np.eye(4), self.matrix, self.body)

    @property
    def gain(self) -> float:
        """What the match is better than that of the volumes as they lie, as a part of it."""
        return 1 - self.evidence.match_before / self.evidence.match if self.evidence.match > 0 else 0.0


def examine(fixed: MetaTensor, moving: MetaTensor) -> Examination:
    """Find the best match of two volumes, ``(1, X, Y, Z)`` in [0, 1], and gather the evidence for it."""
    inverted = volume_in_view(moving) < volume_in_view(fixed)
    search = Search(*((moving, fixed) if inverted else (fixed, moving)))
    optima = _optima(search)
    best = optima[0]
    evidence = gather(search, best, optima)
    if inverted:
        matrix = np.asarray(np.linalg.inv(best.transform), dtype=np.float64)
        return Examination(matrix, space.apply(best.transform, search.body), evidence)
    return Examination(best.transform, search.body, evidence)


def _optima(search: Search) -> list[Found]:
    """Matches that differ, the best first, all measured at the finest level; the identity's neighbour among them."""
    coarse = [search.refine(start, COARSE) for start in search.starts()]
    promising = [found.transform for found in search.distinct(coarse, _COARSE_APART, _MIDDLE_KEPT)]
    middle = [search.refine(start, MIDDLE) for start in (np.eye(4), *promising)]
    kept = search.distinct(middle, _MIDDLE_APART, _FINE_KEPT)
    fine = [search.refine(found.transform, FINE) for found in kept]
    fine.append(search.refine(max(fine, key=lambda found: found.match).transform, FINE))  # a simplex can collapse early
    others = [Found(found.transform, search.at(FINE)(found.transform)) for found in middle]
    return sorted([*fine, *others], key=lambda found: -found.match)


def _grey(volume: MetaTensor) -> MetaTensor:
    return cast(MetaTensor, to_luma(volume) / 255) if volume.shape[0] == 3 else volume


def _check_registrable(volume: MetaTensor) -> None:
    if not can_be_matched(volume):
        raise InputError(
            f"{name_of(volume)}, {' x '.join(str(n) for n in volume.shape[1:])}, cannot be registered; expected a 3-D "
            f"volume with at least {FEWEST_SLICES} slices. Align the sources first and fuse without registration.",
            "E_REGISTRATION_INPUT",
        )
