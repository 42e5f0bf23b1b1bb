"""Which attributes a derived image takes over from its source: an allow-list, so that nothing else can leak.

Private groups, overlays, icons, lookup tables, rescale, dose, radiopharmaceutical, operators' names, signatures and
references to localizers are not copied because they are not listed here.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    "copy_attributes",
    "decimal_string",
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

# General Series and General Image modules. A Laterality that is present but empty is an error.
BODY = ("Laterality", "BodyPartExamined", "AnatomicRegionSequence", "PatientPosition", "AcquisitionNumber")

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

_CODE = ("CodeValue", "LongCodeValue", "URNCodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")

# What an item of a copied sequence may hold.
_NESTED = {
    "OtherPatientIDsSequence": ("PatientID", "IssuerOfPatientID", "TypeOfPatientID"),
    "DeidentificationMethodCodeSequence": _CODE,
    "AnatomicRegionSequence": (*_CODE, "AnatomicRegionModifierSequence"),
    "AnatomicRegionModifierSequence": _CODE,
}


def copy_attributes(target: Dataset, source: Dataset, keywords: Iterable[str], *, required: bool = False) -> None:
    """Copy the named attributes that ``source`` has a value for.

    Text becomes plain Unicode, so that the target's own Specific Character Set applies to it. With ``required`` an
    attribute that is missing or cannot be read becomes empty (type 2) instead of absent (type 3).
    """
    for keyword in keywords:
        value = _value(source, keyword)
        if value is not None:
            setattr(target, keyword, value)
        elif required:
            setattr(target, keyword, [] if dictionary_VR(keyword) == "SQ" else "")


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


def _clean(keyword: str, vr: str, value: Any) -> Any:
    if vr == "SQ":
        return Sequence([_item(keyword, item) for item in value])
    if isinstance(value, MultiValue):
        return [_clean(keyword, vr, part) for part in value]
    if vr == "DS":
        return decimal_string(value)
    if vr == "PN":
        return str(value)
    return value


def _item(sequence: str, source: Dataset) -> Dataset:
    item = Dataset()
    copy_attributes(item, source, _NESTED[sequence])
    return item
