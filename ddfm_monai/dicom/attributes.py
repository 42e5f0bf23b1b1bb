"""Which attributes a derived image takes over from its source: an allow-list, so that nothing else can leak.

Private groups, overlays, icons, lookup tables, rescale, dose, radiopharmaceutical, operators' names, signatures and
references to localizers are not copied because they are not listed here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import date
from functools import partial
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.valuerep import DSfloat, format_number_as_ds

__all__ = [
    "BODY",
    "EQUIPMENT",
    "MR_ACQUISITION",
    "PATIENT_STUDY_OPTIONAL",
    "PATIENT_STUDY_REQUIRED",
    "SERIES",
    "copy_attributes",
    "copy_body_part",
    "decimal_string",
    "plain_date",
]

# Patient, General Study and Frame of Reference modules, type 2: present even if empty (C.7.1.1, C.7.2.1, C.7.4.1).
PATIENT_STUDY_REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PositionReferenceIndicator",
)

# Patient, Patient Study (C.7.2.2) and General Study modules, type 3: present only if the source has a value.
PATIENT_STUDY_OPTIONAL = (
    "IssuerOfPatientID",
    "OtherPatientIDsSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientSpeciesDescription",
    "StudyDescription",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
)

# General Series and General Image modules; the body part and its side by copy_body_part.
SERIES = ("PatientPosition", "AcquisitionNumber")
BODY = (*SERIES, "BodyPartExamined", "Laterality")

# MR Image module (C.8.3.1). Types 1 and 2 that the member lacks are filled by the writer.
MR_ACQUISITION = (
    "ScanningSequence",
    "SequenceVariant",
    "ScanOptions",
    "MRAcquisitionType",
    "RepetitionTime",
    "EchoTime",
    "InversionTime",
    "EchoTrainLength",
    "MagneticFieldStrength",
)

# Items of Contributing Equipment Sequence (C.12.1.1.5).
EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "InstitutionName", "StationName", "SoftwareVersions")

# The values that the standard defines. Others tell a reader nothing, and validators object to them.
_TERMS = {
    "PatientSex": {"M", "F", "O"},  # C.7.1.1
    "PatientPosition": {  # C.7.3.1.1.2
        "HFP", "HFS", "HFDR", "HFDL", "FFDR", "FFDL", "FFP", "FFS", "LFP", "LFS", "RFP", "RFS",
        "AFDR", "AFDL", "PFDR", "PFDL",
    },
    "ScanningSequence": {"SE", "IR", "GR", "EP", "RM"},  # C.8.3.1
    "SequenceVariant": {"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"},
    "ScanOptions": {"PER", "RG", "CG", "PPG", "FC", "PFF", "PFP", "SP", "FS"},
    "MRAcquisitionType": {"2D", "3D"},
}  # fmt: skip

# Body Part Examined (PS3.16 Annex L). Of those in the second set there are two, so that the side belongs to it.
_UNPAIRED = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CEREBELLUM", "CERVIX", "CHEST", "CHESTABDPELVIS",
    "CIRCLEOFWILLIS", "COCCYX", "COLON", "CORONARYARTERY", "CSPINE", "CTSPINE", "DUODENUM", "ESOPHAGUS", "FACE",
    "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "ILEUM", "ILIUM", "JAW", "JEJUNUM", "LARYNX", "LIVER", "LSPINE",
    "LSSPINE", "MAXILLA", "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE",
    "PANCREAS", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SCALP", "SKULL", "SPINE", "SPLEEN", "SSPINE",
    "STERNUM", "STOMACH", "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE", "URETER", "URETHRA", "UTERUS",
    "VAGINA", "VULVA", "WHOLEBODY",
))  # fmt: skip
_PAIRED = frozenset((
    "ADRENAL", "ANKLE", "ARM", "AXILLA", "BREAST", "BRONCHUS", "BUTTOCK", "CALCANEUS", "CALF", "CAROTID", "CHEEK",
    "CLAVICLE", "CORNEA", "EAR", "ELBOW", "EXTREMITY", "EYE", "EYELID", "FEMUR", "FINGER", "FOOT", "HAND", "HIP",
    "HUMERUS", "KIDNEY", "KNEE", "LEG", "LUNG", "ORBIT", "OVARY", "PAROTID", "PATELLA", "RIB", "SCAPULA", "SCLERA",
    "SCROTUM", "SHOULDER", "SUBMANDIBULAR", "TESTIS", "THIGH", "THUMB", "TMJ", "TOE", "WRIST", "ZYGOMA",
))  # fmt: skip

_CODE = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")

# What an item of a copied sequence may hold.
_NESTED = {
    "OtherPatientIDsSequence": ("PatientID", "IssuerOfPatientID", "TypeOfPatientID"),
    "DeidentificationMethodCodeSequence": _CODE,
}


def copy_attributes(target: Dataset, source: Dataset, keywords: Iterable[str], *, required: bool = False) -> None:
    """Copy the named attributes that ``source`` has a value for.

    Text becomes plain Unicode, so that the target's own Specific Character Set applies to it. A value that its VR does
    not allow is mended where only one thing can be meant (``1970-01-31``), else left out; what identifies the patient
    stays as it is. With ``required`` an attribute that is missing or cannot be read becomes empty (type 2) instead of
    absent (type 3).
    """
    for keyword in keywords:
        value = _value(source, keyword)
        if value is not None:
            setattr(target, keyword, value)
        elif required:
            setattr(target, keyword, [] if dictionary_VR(keyword) == "SQ" else "")


def copy_body_part(target: Dataset, *sources: Dataset) -> None:
    """Body Part Examined of the first source that has one of the standard's, and Laterality where it belongs to it.

    Laterality is absent for an unpaired part, and empty where the part or its side is not known (C.7.3.1, type 2C).
    """
    for source in sources:
        part, side = _value(source, "BodyPartExamined"), _value(source, "Laterality")
        if part in _UNPAIRED:
            target.BodyPartExamined = part
            return
        if part in _PAIRED:
            target.BodyPartExamined, target.Laterality = part, side if side in ("L", "R") else None
            return
    target.Laterality = None


def decimal_string(value: Any) -> DSfloat:
    """A number as a Decimal String of at most 16 characters: the source's own characters where they fit (PS3.5 6.2)."""
    original = getattr(value, "original_string", None)
    text = str(original).strip() if original is not None else ""
    return DSfloat(text if 0 < len(text) <= 16 else format_number_as_ds(float(value)))


def _value(source: Dataset, keyword: str) -> Any:
    """The attribute's value, cleaned, or None if it is absent, empty or cannot be decoded."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return None
    try:
        element = source[tag]
        if element.is_empty:
            return None
        return _clean(keyword, element.VR, element.value)
    except (ValueError, TypeError, OverflowError, NotImplementedError):
        return None  # an optional attribute that cannot be read is left out


# What identifies is never changed: a patient with another ID is another patient.
_IDENTITY = ("PatientID", "PatientName", "IssuerOfPatientID")
_LONGEST = {"LO": 64, "SH": 16, "ST": 1024, "LT": 10240}


def _clean(keyword: str, vr: str, value: Any) -> Any:
    if vr == "SQ":
        return Sequence([_item(keyword, item) for item in value])
    if isinstance(value, MultiValue):
        parts = [part for part in (_clean(keyword, vr, part) for part in value) if part is not None]
        return parts or None
    if vr == "DS":
        return decimal_string(value)
    if vr == "PN" or keyword in _IDENTITY:
        return str(value)
    mended = _MENDERS[vr](str(value).strip()) if vr in _MENDERS else value
    return mended if keyword not in _TERMS or mended in _TERMS[keyword] else None


def plain_date(text: str) -> str | None:
    """``YYYYMMDD`` (DA) of that form, ISO 8601, or with points or slashes; None for any other and for no real day."""
    found = re.fullmatch(r"(\d{4})([-./]?)(\d\d)\2(\d\d)(?:[T ].*)?", text)
    if found is None:
        return None
    year, _, month, day = found.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return None
    return f"{year}{month}{day}"


def _time(text: str) -> str | None:
    """``HHMMSS.FFFFFF`` (TM), with or without colons."""
    plain = re.fullmatch(r"([01]\d|2[0-3])(?::?([0-5]\d)(?::?([0-5]\d|60)(\.\d{1,6})?)?)?", text)
    return "".join(part or "" for part in plain.groups()) if plain else None


def _age(text: str) -> str | None:
    """``nnnD``, ``nnnW``, ``nnnM`` or ``nnnY`` (AS); a number without a unit is none."""
    found = re.fullmatch(r"(\d{1,3})\s*([DWMY])", text, re.I)
    return f"{int(found[1]):03}{found[2].upper()}" if found else None


def _code_string(text: str) -> str | None:
    upper = text.upper()
    return upper if re.fullmatch(r"[A-Z0-9_ ]{1,16}", upper) else None


def _of_length(vr: str, text: str) -> str | None:
    """Text of a length that the VR allows; a label (SH) that is longer names something else when it is cut."""
    if "\\" in text and vr not in ("ST", "LT"):
        return None
    return text if len(text) <= _LONGEST[vr] else (None if vr == "SH" else text[: _LONGEST[vr]])


_MENDERS: dict[str, Callable[[str], str | None]] = {
    "DA": plain_date,
    "TM": _time,
    "AS": _age,
    "CS": _code_string,
    **{vr: partial(_of_length, vr) for vr in _LONGEST},
}


def _item(sequence: str, source: Dataset) -> Dataset:
    item = Dataset()
    copy_attributes(item, source, _NESTED[sequence])
    return item
