"""What may be fused with what: one answer for two files, two series, a whole folder and a manifest.

Every surface asks the same functions, and each answer is a list of findings: a code, and what was found. A finding that
is an obstacle stops the pair; a remark goes into the provenance and onto the screen. What a volume's file says about
its patient, study and coordinates is its :class:`Origin`; a NIfTI file says nothing, so nothing is held against it.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from ddfm_monai.errors import Explanation, UsageError

__all__ = [
    "ENOUGH_OVERLAP",
    "EXPLANATIONS",
    "LEAST_OVERLAP",
    "Finding",
    "Identity",
    "Origin",
    "days_between",
    "kind_of",
    "of_alignment",
    "of_colour",
    "of_order",
    "of_origins",
    "of_overlap",
    "same_patient",
]

LEAST_OVERLAP = 0.1
"""Two volumes whose boxes share less than this part of the smaller box are not of one body part."""

ENOUGH_OVERLAP = 0.5
"""With less than this the coordinates are in doubt: fused only where somebody vouches for them."""

EXPLANATIONS: dict[str, Explanation] = {
    "E_SAME_SERIES": Explanation(
        "The two sources are one and the same series.",
        "two series",
        "Give another series as the second.",
    ),
    "E_DIFFERENT_PATIENTS": Explanation(
        "The two series carry different patient IDs.",
        "two series of one patient",
        "Give two series of one patient. If the IDs differ by mistake, correct them at their source.",
    ),
    "S_DEIDENTIFICATION_DIFFERS": Explanation(
        "One series says that the patient's identity was removed, the other says that it was not.",
        "the same state in both",
        "De-identify both with the same tool, or neither.",
    ),
    "S_SAME_KIND": Explanation(
        "Both series are of one modality.",
        "an MR with a CT, PET or NM series, unless two of a kind are asked for",
        "Pass --second-kind with the kind of the second (for two MRs: --second-kind mr), or list the pair in the "
        "manifest.",
    ),
    "S_DIFFERENT_FRAME": Explanation(
        "The two series have different frames of reference (or one has none) and no registration object relates them.",
        "the same Frame of Reference UID, or a Spatial Registration object",
        "Pass --register rigid to align them, or --register trust if their coordinates are known to agree; in the "
        "manifest, relation register or trust.",
    ),
    "S_SEVERAL_REGISTRATIONS": Explanation(
        "Several registration objects relate the two series, with different matrices.",
        "one registration",
        "List the pair in the manifest with relation reg and the wanted reg_sop_uid.",
    ),
    "S_TOO_FAR_APART": Explanation(
        "The two series were acquired too many days apart to be paired without being asked for.",
        "the same study, or at most --max-days between them (30 unless said otherwise)",
        "Raise --max-days, or list the pair in the manifest.",
    ),
    "W_REGISTRATION_NOT_USED": Explanation(
        "A registration object relates the two series although they share a frame of reference; it is not used.",
        "-",
        "List the pair in the manifest with relation reg if the object is to be used.",
    ),
    "S_LITTLE_OVERLAP": Explanation(
        "The two volumes share less than half of the smaller one's space.",
        "an overlap of at least 50 %",
        "Check that both show the same part of the body. If their coordinates are right, pass --register trust "
        "(relation trust in the manifest), if not, --register rigid.",
    ),
    "E_NO_OVERLAP": Explanation(
        "The two volumes share next to nothing of their space.",
        "an overlap of at least 50 %, and never below 10 %",
        "Check that both show the same part of one patient's body; if their scanners' coordinates differ, register "
        "them (--register rigid).",
    ),
    "E_NO_COLOUR": Explanation(
        "Colour was asked for, but neither source has any.",
        "a source in RGB, or PET or SPECT",
        "Fuse without --colour, or name the kind of the second (--second-kind pet or spect).",
    ),
    "W_NO_COLOUR": Explanation(
        "Colour was asked for, but neither source is PET or SPECT.",
        "a PET or SPECT source",
        "Nothing to do: the grey series was written.",
    ),
    "W_PATIENT_UNKNOWN": Explanation(
        "The patient IDs tell nobody apart (empty, ANON, UNKNOWN...) and the studies differ.",
        "equal patient IDs, or one study",
        "Check that both belong to one patient: only you have said so.",
    ),
    "W_NAME_DIFFERS": Explanation(
        "The two series share the patient ID but not the patient's name.",
        "the same name",
        "Check that both belong to one patient.",
    ),
    "W_COORDINATES_TRUSTED": Explanation(
        "The coordinates were taken as they are (--register trust), although the files do not say that they agree.",
        "the same Frame of Reference UID",
        "Look at the result: the same anatomical point must be at the same place in both sources.",
    ),
    "W_LITTLE_OVERLAP": Explanation(
        "The two volumes share less than half of the smaller one's space, and were fused because that was asked for.",
        "an overlap of at least 50 %",
        "Look at the result: outside the common part it shows one source only.",
    ),
    "W_SAME_SOURCE": Explanation(
        "The two sources hold the same image (the same file, a copy of it, or a link to it).",
        "two different images of one patient",
        "Name the other image; of an image with itself the result is that image.",
    ),
    "W_ORDER": Explanation(
        "The two are probably named the wrong way round: the result lies on the first one's grid.",
        "the MRI (or else the CT) first",
        "Exchange the two, unless the result shall lie on the grid of the first.",
    ),
    "W_ALIGNMENT_DOUBTFUL": Explanation(
        "The two volumes fit clearly better if the second is moved: they may not lie on each other.",
        "the same anatomical point at the same place in both",
        "Look at the result. Align them first (--register rigid; in a manifest, relation register), or vouch for the "
        "coordinates (--register trust, relation trust).",
    ),
    "W_ALREADY_ALIGNED": Explanation(
        "Registration found no gain over the volumes as they lie, so nothing was moved.",
        "a better match than that of the coordinates in the files",
        "Nothing, if the two lie on each other in the picture of the registration.",
    ),
    "W_SHAPES_DIFFER": Explanation(
        "The shapes of the two differ as those of two patients may; they were aligned because somebody knows that both "
        "are of one.",
        "shapes that differ no more than one patient's do",
        "Look at the picture of the registration before using the result.",
    ),
    "W_REGISTRATION_LIKELY": Explanation(
        "The registration passed its tests, but not all of them with room to spare.",
        "all starts agree, and no other place fits nearly as well",
        "Look at the picture of the registration before using the result.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One answer of a rule.

    Args:
        code: a key of :data:`EXPLANATIONS`.
        found: what was found, without patient data, not ending in a full stop.
        option: the command-line option that would remove the obstacle, or ``""``.
    """

    code: str
    found: str
    option: str = ""

    @property
    def obstacle(self) -> bool:
        """Whether it stops the pair; else it is a remark."""
        return not self.code.startswith("W_")

    def text(self) -> str:
        """The sentence for people: found, expected, what to do."""
        explanation = EXPLANATIONS[self.code]
        return f"{self.found}. Expected: {explanation.expected}. {explanation.remedy}"


@dataclass(frozen=True)
class Identity:
    """Who a series is of, in keys that can be compared but not read.

    Args:
        patient: of a Patient ID that tells patients apart; ``""`` if there is none.
        issuer: of the Issuer of Patient ID; ``""`` if there is none.
        name: of the Patient's Name, spelling of separators and case aside.
        study: Study Instance UID.
    """

    patient: str
    issuer: str
    name: str
    study: str


@dataclass(frozen=True)
class Origin:
    """What a DICOM volume's files say about where it comes from.

    Args:
        who: whose it is.
        kind: ``"mr"``, ``"ct"``, ``"pet"`` or ``"spect"``, by Modality.
        series: names the sub-series.
        frame: Frame of Reference UID, ``""`` if absent.
        acquired: ``YYYYMMDDHHMMSS`` or ``""``.
        identity_removed: Patient Identity Removed: ``"YES"``, ``"NO"`` or ``""``.
    """

    who: Identity
    kind: str
    series: str
    frame: str
    acquired: str = ""
    identity_removed: str = ""

    def as_meta(self) -> dict[str, Any]:
        """Nested dictionaries of texts, so that volumes that carry it in their meta collate."""
        return asdict(self)

    @classmethod
    def from_meta(cls, meta: dict[str, Any] | None) -> Origin | None:
        """The inverse of :meth:`as_meta`; None for a volume that carries none."""
        return cls(**{**meta, "who": Identity(**meta["who"])}) if meta else None


def same_patient(first: Identity, second: Identity) -> bool | None:
    """Whether two series are of one patient; None where the files cannot tell.

    Patient IDs that tell patients apart decide. Issuers count only where both have one: an absent issuer contradicts
    nothing. Without such IDs the series of one study are one patient's.
    """
    if first.patient and second.patient:
        issuers = {first.issuer, second.issuer} - {""}
        return first.patient == second.patient and len(issuers) < 2
    return True if first.study and first.study == second.study else None


def days_between(first: Origin, second: Origin) -> float | None:
    """Days between two series, None if a date is missing or impossible."""
    try:
        times = [datetime.strptime(item.acquired, "%Y%m%d%H%M%S") for item in (first, second)]
    except ValueError:
        return None
    return abs((times[0] - times[1]).total_seconds()) / 86400


def of_origins(
    reference: Origin | None,
    second: Origin | None,
    register: str,
    *,
    related: bool = False,
    two_of_a_kind: bool = False,
) -> list[Finding]:
    """What the files of two volumes say against fusing them; nothing where a file says nothing.

    Args:
        reference, second: None for a volume that is not from DICOM.
        register: one of :data:`ddfm_monai.settings.REGISTER`.
        related: a registration object leads from one to the other.
        two_of_a_kind: somebody asked for these kinds by name.
    """
    if reference is None or second is None:
        return []
    found: list[Finding] = []
    if reference.series == second.series:
        found.append(Finding("E_SAME_SERIES", "both are the same series"))
    same = same_patient(reference.who, second.who)
    if same is False:
        found.append(
            Finding("E_DIFFERENT_PATIENTS", "the two series are of different patients: the patient IDs differ")
        )
    elif same is None:
        found.append(Finding("W_PATIENT_UNKNOWN", "the patient IDs do not tell whether this is one patient"))
    elif reference.who.name != second.who.name:
        found.append(Finding("W_NAME_DIFFERS", "the patient's name is written differently"))
    if {reference.identity_removed, second.identity_removed} == {"YES", "NO"}:
        found.append(Finding("S_DEIDENTIFICATION_DIFFERS", "Patient Identity Removed is YES and NO"))
    if reference.kind == second.kind and not two_of_a_kind:
        kind = reference.kind
        found.append(Finding("S_SAME_KIND", f"both series are {kind.upper()}", f"--second-kind {kind}"))
    if not related and not (reference.frame and reference.frame == second.frame):
        frames = _frames(reference.frame, second.frame)
        if register == "none":
            found.append(Finding("S_DIFFERENT_FRAME", f"{frames}, no registration object", "--register rigid"))
        elif register == "trust":
            found.append(Finding("W_COORDINATES_TRUSTED", frames))
    return found


def _frames(reference: str, second: str) -> str:
    if reference and second:
        return f"different Frame of Reference UIDs (...{reference[-8:]} and ...{second[-8:]})"
    if not reference and not second:
        return "neither series has a Frame of Reference UID"
    return f"the {'second' if reference else 'reference'} series has no Frame of Reference UID"


def of_overlap(overlap: float, register: str) -> list[Finding]:
    """What the shared part of the smaller volume, 0 to 1, says; after registration, with its transform.

    Args:
        overlap: of :func:`ddfm_monai.space.overlap_fraction`.
        register: one of :data:`ddfm_monai.settings.REGISTER`; anything but none vouches for the coordinates.
    """
    found = f"{overlap:.0%} of the smaller volume lies in the other"
    if overlap < LEAST_OVERLAP:
        return [Finding("E_NO_OVERLAP", f"the overlap is too small: {found}")]
    if overlap < ENOUGH_OVERLAP:
        return [Finding("S_LITTLE_OVERLAP" if register == "none" else "W_LITTLE_OVERLAP", found)]
    return []


def kind_of(origin: Origin | None, asked: str) -> str:
    """The kind of a volume: what DICOM says, else what was asked for (``"auto"`` leaves it to a guess).

    Raises:
        UsageError: the two contradict each other.
    """
    if origin is None:
        return asked
    if asked not in ("auto", origin.kind):
        modality = {"mr": "MR", "ct": "CT", "pet": "PT", "spect": "NM"}[origin.kind]
        raise UsageError(f"a series is called {asked!r}, but its Modality is {modality}. Leave the kind out.", "E_KIND")
    return origin.kind


_RANK = {"mr": 0, "ct": 1, "pet": 2, "spect": 2}
"""Whose grid shows most anatomy; pictures have no order."""


def of_order(kinds: Sequence[str], named: bool) -> list[Finding]:
    """Whether reference and second were exchanged.

    Args:
        kinds: of the reference and of the second.
        named: somebody said which kind the reference is, so the order is meant.
    """
    reference, second = kinds
    if named or not {reference, second} <= _RANK.keys() or _RANK[reference] <= _RANK[second]:
        return []
    return [Finding("W_ORDER", f"the reference is {reference.upper()} and the second {second.upper()}")]


def of_alignment(apart_mm: float, gain: float) -> list[Finding]:
    """The remark for two volumes that were found not to lie on each other.

    Args:
        apart_mm: how far the second would have to be moved, mean over the body.
        gain: what the match would be better, 0 to 1.
    """
    found = f"moved by about {apart_mm:.0f} mm the second would match the reference {gain:.0%} better"
    return [Finding("W_ALIGNMENT_DOUBTFUL", found)]


ColourAsked = Literal["no", "where possible", "yes"]


def of_colour(kinds: Sequence[str], asked: ColourAsked, in_colour: bool = False) -> list[Finding]:
    """Whether there is a colour to give.

    Args:
        kinds: of both sources.
        asked: ``"where possible"`` is a batch's, whose pairs are of several kinds.
        in_colour: a source is RGB.
    """
    if asked == "no" or in_colour or {"pet", "spect"} & set(kinds):
        return []
    found = f"colour was asked for, but neither source has any ({' and '.join(kinds)})"
    return [Finding("E_NO_COLOUR" if asked == "yes" else "W_NO_COLOUR", found)]
