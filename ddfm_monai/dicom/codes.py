"""The coded values that `ddfm_monai` writes, each with its place in the standard."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

__all__ = [
    "ACQUISITION_EQUIPMENT",
    "FUSION",
    "OWN_MODEL_NAME",
    "OWN_SCHEME",
    "PROCESSING_EQUIPMENT",
    "SOURCE_IMAGE",
    "SPATIAL_RESAMPLING",
    "Code",
    "own_scheme_item",
]

OWN_MODEL_NAME = "ddfm_monai"
"""Manufacturer's Model Name (0008,1090) of everything written here; a scan recognises its own results by it."""

OWN_SCHEME = "99DDFM"
"""Coding Scheme Designator (0008,0102) of the private codes; "99" marks a private scheme (PS3.16 section 8.2)."""


@dataclass(frozen=True)
class Code:
    """One coded concept (PS3.3 section 8.8).

    Args:
        value: Code Value (0008,0100), at most 16 characters.
        scheme: Coding Scheme Designator (0008,0102).
        meaning: Code Meaning (0008,0104), at most 64 characters.
    """

    value: str
    scheme: str
    meaning: str

    def item(self) -> Dataset:
        """The code as an item of a code sequence."""
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = self.value, self.scheme, self.meaning
        return item


SPATIAL_RESAMPLING = Code("113085", "DCM", "Spatial resampling")
"""CID 7203 Image Derivation."""

# CID 7203 has no code for a model-based fusion: "Pixel by pixel mean" and "Deformed for Registration" would be untrue,
# and SCT 129379006 "Fusion" is surgical. The context group is extensible, so a private code is allowed.
FUSION = Code("FUSION", OWN_SCHEME, "Model-based image fusion")

SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
"""CID 7202 Source Image Purposes of Reference."""

ACQUISITION_EQUIPMENT = Code("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
"""CID 7005 Contributing Equipment Purposes of Reference."""


def own_scheme_item() -> Dataset:
    """The item of Coding Scheme Identification Sequence (0008,0110) that explains the private scheme."""
    item = Dataset()
    item.CodingSchemeDesignator = OWN_SCHEME
    item.CodingSchemeName = "Private codes of ddfm_monai"
    item.CodingSchemeResponsibleOrganization = "ddfm-monai authors"
    return item
