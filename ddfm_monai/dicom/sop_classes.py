"""The SOP classes that are told apart (PS3.4 B.5, PS3.6 A)."""

from __future__ import annotations

__all__ = ["MEDIA_STORAGE_DIRECTORY", "MODALITY_OF_CLASS", "MR", "NUCLEAR", "PET", "SPATIAL_REGISTRATION"]

MR = "1.2.840.10008.5.1.4.1.1.4"
PET = "1.2.840.10008.5.1.4.1.1.128"
NUCLEAR = "1.2.840.10008.5.1.4.1.1.20"
SPATIAL_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # Enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # Legacy Converted Enhanced
    MR: "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    PET: "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    NUCLEAR: "NM",
}
"""The SOP classes that are read. The class decides, not the attribute Modality, which is free to be wrong."""
