"""Guess a volume's modality from what DICOM says, or from its name."""

from __future__ import annotations

import re

from .choices import Modality

__all__ = ["guess_modality"]

# DICOM PS3.3 C.7.3.1.1.1; ST is the retired code for SPECT.
_DICOM = {
    "MR": Modality.MR,
    "CT": Modality.CT,
    "PT": Modality.PET,
    "NM": Modality.SPECT,
    "ST": Modality.SPECT,
}
_WORDS = {
    Modality.MR: {"mr", "mri", "t1", "t2", "pd", "flair", "swi", "dwi", "adc", "mprage", "tof"},
    Modality.CT: {"ct", "cta", "cect", "ncct", "cbct"},
    Modality.PET: {"pet", "pt", "fdg", "suv", "psma", "amyloid"},
    Modality.SPECT: {"spect", "nm", "hmpao", "datscan", "tc99m", "perfusion"},
}


def guess_modality(dicom_modality: str | None, name: str) -> Modality:
    """The modality, or AUTOMATIC if nothing is known or a name speaks of two ("PET-CT")."""
    if dicom_modality:
        return _DICOM.get(dicom_modality.upper(), Modality.AUTOMATIC)
    # "MRHead" -> MR, Head; "sub-01_T1w" -> sub, 01, T1, w
    words = {word.lower() for word in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+\d*|[A-Z]+\d*m?|\d+", name)}
    found = [modality for modality, known in _WORDS.items() if known & words]
    return found[0] if len(found) == 1 else Modality.AUTOMATIC
