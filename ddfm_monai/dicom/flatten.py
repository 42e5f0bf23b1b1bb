"""Headers for a derived series: without private or unreadable elements, one per slice whatever the source object."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DSfloat

from ddfm_monai.dicom.frames import FRAME_TYPE_MACROS, NM_VECTORS, frame_group
from ddfm_monai.dicom.subseries import Slice
from ddfm_monai.dicom.values import items, number, texts

__all__ = ["flat_header", "keep_readable"]

# Attribute of the flat header: functional group and attribute there (PS3.3 C.7.6.16.2, C.8.13.5).
NUMBERS = {
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices"),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime"),
    "FlipAngle": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "EchoTrainLength": ("MRTimingAndRelatedParametersSequence", "EchoTrainLength"),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
}
MULTI_FRAME_ONLY = (
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
    "DimensionOrganizationType",
    "FrameIncrementPointer",
    "DetectorInformationSequence",
    *NM_VECTORS,
    "SliceVector",
)


def keep_readable(ds: Dataset) -> None:
    """Remove private elements, and those whose value cannot be converted (in sequences too), in place.

    pydicom converts an element when it is first used; after this, using any of them cannot fail.
    """
    for tag in list(ds.keys()):
        try:
            element = None if tag.is_private else ds[tag]
        except Exception:  # pydicom raises almost anything on broken values
            element = None
        if element is None:
            del ds[tag]
        elif element.VR == "SQ":
            for item in element.value:
                keep_readable(item)


def flat_header(ds: Dataset, item: Slice) -> Dataset:
    """The header of one slice as of a single-frame image.

    Of a multi-frame object, Image Position, Image Orientation, Pixel Spacing, Slice Thickness, Spacing Between Slices,
    Image Type and, for MR, the times stand at the top level, and functional groups, dimensions and vectors are gone.
    A single-frame header is returned as it is, so that its values stay exactly as they were written.

    Args:
        ds: the file's header, without pixels.
        item: the slice.
    """
    if item.frame is None:
        return ds
    flat = Dataset()
    flat.update({element.tag: element for element in ds if element.keyword not in MULTI_FRAME_ONLY})
    flat.ImagePositionPatient = [_decimal(value) for value in item.position or ()]
    flat.InstanceNumber = item.frame + 1
    if items(ds, "PerFrameFunctionalGroupsSequence"):
        _from_groups(flat, ds, item.frame)
    elif detectors := items(ds, "DetectorInformationSequence"):
        flat.ImageOrientationPatient = detectors[0].ImageOrientationPatient
        if spacing := number(ds, "SpacingBetweenSlices"):
            flat.SpacingBetweenSlices = abs(spacing)
    return flat


def _from_groups(flat: Dataset, ds: Dataset, frame: int) -> None:
    flat.ImageOrientationPatient = frame_group(ds, frame, "PlaneOrientationSequence").ImageOrientationPatient
    flat.PixelSpacing = frame_group(ds, frame, "PixelMeasuresSequence").PixelSpacing
    for keyword, (macro, attribute) in NUMBERS.items():
        value = number(frame_group(ds, frame, macro), attribute)
        if value is not None:
            setattr(flat, keyword, int(value) if keyword == "EchoTrainLength" else _decimal(value))
    for macro in FRAME_TYPE_MACROS.values():
        if frame_type := texts(frame_group(ds, frame, macro), "FrameType"):
            flat.ImageType = list(frame_type)


def _decimal(value: float) -> DSfloat:
    """A number as a Decimal String of at most 16 characters (PS3.5 6.2)."""
    return DSfloat(float(np.round(value, 9)) + 0.0, auto_format=True)
