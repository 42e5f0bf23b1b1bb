"""The frames of a file: one for a single slice, many for an enhanced or a nuclear medicine object, all alike.

Enhanced multi-frame objects have functional groups (PS3.3 C.7.6.16), nuclear medicine objects vectors (PS3.3 C.8.4.8).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Vector3
from ddfm_monai.dicom.sop_classes import MODALITY_OF_CLASS, NUCLEAR
from ddfm_monai.dicom.values import HeaderError, items, lenient, number, numbers, text, texts, whole

__all__ = [
    "FRAME_TYPE_MACROS",
    "NM_VECTORS",
    "FrameHeader",
    "frame_group",
    "frames_of",
    "rescale_of",
    "transformation_of",
]

# These make a different image of the same place.
CONTRAST = ("EchoTime", "DiffusionBValue", "InversionTime", "KVP", "ConvolutionKernel")

# Phases of a 4-D CT may differ in nothing but the words for them.
LAST_RESORT = ("SeriesDescription", "ImageComments")

# These may differ within one volume (some scanners number every slice), so they only count where positions repeat.
# The order is the order of trust.
REPEAT = (
    "TemporalPositionIdentifier",
    "FrameReferenceTime",
    "TriggerTime",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
    "EchoNumbers",
    "DiffusionGradientOrientation",
    "RepetitionTime",
    "FlipAngle",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "CorrectedImage",
    "SeriesNumber",  # of series that de-identification gave one UID
    *LAST_RESORT,
)

NM_VECTORS = (
    "EnergyWindowVector",
    "PhaseVector",
    "RRIntervalVector",
    "TimeSlotVector",
)


@dataclass(frozen=True, slots=True)
class FrameHeader:
    """One slice, as its header describes it.

    Args:
        frame: number within the file from 0, None for a single-frame object.
        position: Image Position (Patient), LPS mm, or None.
        orientation: Image Orientation (Patient): row direction, column direction; or None.
        pixel_spacing: distance between rows (y), between columns (x), mm; or None.
        spacing_between: Spacing Between Slices, mm, or None.
        thickness: Slice Thickness, mm, or None.
        image_type: Image Type, or the frame's Frame Type.
        contrast: name and value of what makes this another image of the same place.
        repeat: name and value of what may tell apart slices at the same position.
        rescale: Rescale Slope and Rescale Intercept, each None if absent. Copies are compared by their values.
    """

    frame: int | None
    position: Vector3 | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, float] | None
    spacing_between: float | None
    thickness: float | None
    image_type: tuple[str, ...]
    contrast: tuple[tuple[str, str], ...]
    repeat: tuple[tuple[str, str], ...]
    rescale: tuple[float | None, float | None] = field(compare=False)


def frames_of(ds: Dataset, path: Path) -> tuple[FrameHeader, ...]:
    """The frames of a file, in its order.

    Args:
        ds: its header.
        path: the file, for messages.

    Raises:
        HeaderError: functional groups, vectors or their numbers do not fit together.
        DicomError: ``E_NOT_TOMOGRAPHIC``, a nuclear medicine object that is no reconstruction.
    """
    if items(ds, "PerFrameFunctionalGroupsSequence"):
        return _enhanced_frames(ds)
    if text(ds, "SOPClassUID") == NUCLEAR:
        return _nuclear_frames(ds, path)
    if (whole(ds, "NumberOfFrames") or 1) != 1:
        raise HeaderError("NumberOfFrames is greater than 1, but there are no functional groups")
    return (_single_frame(ds),)


def _single_frame(ds: Dataset) -> FrameHeader:
    return FrameHeader(
        frame=None,
        position=_position(ds),
        orientation=_orientation(ds),
        pixel_spacing=_pixel_spacing(ds),
        spacing_between=number(ds, "SpacingBetweenSlices"),
        thickness=_thickness(ds),
        image_type=texts(ds, "ImageType"),
        contrast=_named(ds, CONTRAST),
        repeat=_named(ds, REPEAT),
        rescale=rescale_of(ds, 0),
    )


def rescale_of(ds: Dataset, frame: int) -> tuple[float | None, float | None]:
    """Rescale Slope and Rescale Intercept of one frame, each None if absent.

    Raises:
        HeaderError: one of them is no number, or the slope is 0.
    """
    holder = transformation_of(ds, frame)
    if "RescaleSlope" not in holder:
        holder = ds
    slope = number(holder, "RescaleSlope")
    if slope == 0:
        raise HeaderError("RescaleSlope is 0")
    return slope, number(holder, "RescaleIntercept")


def transformation_of(ds: Dataset, frame: int) -> Dataset:
    """What says how stored values of one frame become values: its functional group, or the header of a single slice."""
    enhanced = bool(items(ds, "PerFrameFunctionalGroupsSequence"))
    return frame_group(ds, frame, "PixelValueTransformationSequence") if enhanced else ds


def frame_group(ds: Dataset, frame: int, macro: str) -> Dataset:
    """A functional group of one frame: the frame's own, else the shared one, else an empty one (PS3.3 C.7.6.16.1)."""
    for holder in (items(ds, "PerFrameFunctionalGroupsSequence")[frame], *items(ds, "SharedFunctionalGroupsSequence")):
        found = items(holder, macro)
        if found:
            return found[0]
    return Dataset()


FRAME_TYPE_MACROS = {"MR": "MRImageFrameTypeSequence", "CT": "CTImageFrameTypeSequence", "PT": "PETFrameTypeSequence"}


def _enhanced_frames(ds: Dataset) -> tuple[FrameHeader, ...]:
    count = whole(ds, "NumberOfFrames")
    if count != len(items(ds, "PerFrameFunctionalGroupsSequence")):
        raise HeaderError("NumberOfFrames is not the number of items of PerFrameFunctionalGroupsSequence")
    pointers = [int(item.get("DimensionIndexPointer", 0) or 0) for item in items(ds, "DimensionIndexSequence")]
    return tuple(_enhanced_frame(ds, frame, pointers) for frame in range(count))


def _enhanced_frame(ds: Dataset, frame: int, pointers: list[int]) -> FrameHeader:
    def group(macro: str) -> Dataset:
        return frame_group(ds, frame, macro)

    modality = MODALITY_OF_CLASS[text(ds, "SOPClassUID")]
    content, measures = group("FrameContentSequence"), group("PixelMeasuresSequence")
    directions = items(group("MRDiffusionSequence"), "DiffusionGradientDirectionSequence")
    contrast = [
        *_named(content, ("StackID",)),
        *((("EchoTime", value),) if (value := _joined(group("MREchoSequence"), "EffectiveEchoTime")) else ()),
        *_named(group("MRDiffusionSequence"), ("DiffusionBValue",)),
        *_named(group("MRModifierSequence"), ("InversionTimes",)),
        *_named(group("CTReconstructionSequence"), ("ConvolutionKernel",)),
    ]
    repeat = [
        *_named(content, ("TemporalPositionIndex",)),
        *_named(
            group("CardiacSynchronizationSequence"),
            ("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase"),
        ),
        *_named(
            group("RespiratorySynchronizationSequence"),
            ("NominalRespiratoryTriggerDelayTime", "NominalPercentageOfRespiratoryPhase"),
        ),
        *(_named(directions[0], ("DiffusionGradientOrientation",)) if directions else ()),
        *_dimensions(content, pointers),
        *_named(content, ("FrameAcquisitionNumber", "FrameReferenceDateTime", "FrameAcquisitionDateTime")),
        *_named(ds, ("InstanceNumber", *LAST_RESORT)),  # each phase a file of its own
    ]
    return FrameHeader(
        frame=frame,
        position=_position(group("PlanePositionSequence")),
        orientation=_orientation(group("PlaneOrientationSequence")),
        pixel_spacing=_pixel_spacing(measures),
        spacing_between=number(measures, "SpacingBetweenSlices"),
        thickness=_thickness(measures),
        image_type=texts(group(FRAME_TYPE_MACROS.get(modality, "")), "FrameType") or texts(ds, "ImageType"),
        contrast=tuple(contrast),
        repeat=tuple(repeat),
        rescale=rescale_of(ds, frame),
    )


# Where in the stack a frame lies is no selector: StackID, InStackPositionNumber, ImagePositionPatient.
POSITION_POINTERS = (0x00209056, 0x00209057, 0x00200032)


def _dimensions(content: Dataset, pointers: list[int]) -> list[tuple[str, str]]:
    values = numbers(content, "DimensionIndexValues")
    if len(values) != len(pointers):
        return []
    return [
        (pydicom.datadict.keyword_for_tag(pointer) or f"{pointer:08X}", str(int(value)))
        for pointer, value in zip(pointers, values, strict=True)
        if pointer not in POSITION_POINTERS
    ]


def _nuclear_frames(ds: Dataset, path: Path) -> tuple[FrameHeader, ...]:
    """Slice k of a reconstruction lies k times Spacing Between Slices along the normal from the detector's position.

    A negative spacing stacks against the normal.
    """
    image_type = texts(ds, "ImageType")
    if not {"RECON TOMO", "RECON GATED TOMO"} & set(image_type):
        found = "\\".join(image_type) or "nothing"
        raise Problem("E_NOT_TOMOGRAPHIC", f"Image Type is {found}", path).error()
    count = whole(ds, "NumberOfFrames") or 0
    detectors = items(ds, "DetectorInformationSequence")
    slices = _slice_vector(ds, count)
    position = _position(detectors[0]) if detectors else None
    orientation = _orientation(detectors[0]) if detectors else None
    step = number(ds, "SpacingBetweenSlices") or number(ds, "SliceThickness")
    vectors = [(name, values) for name in NM_VECTORS if len(values := numbers(ds, name)) == count]
    # Of a reconstruction all detectors see every slice, so that the detector alone never makes another volume.
    seen = numbers(ds, "DetectorVector")
    rescale = rescale_of(ds, 0)
    frames = []
    for frame in range(count):
        placed = None
        if position is not None and orientation is not None and step:
            normal = np.cross(orientation[:3], orientation[3:])
            x, y, z = (float(v) for v in np.array(position) + (slices[frame] - 1) * step * normal)
            placed = (x, y, z)
        frames.append(
            FrameHeader(
                frame=frame,
                position=placed,
                orientation=orientation,
                pixel_spacing=_pixel_spacing(ds),
                spacing_between=None,
                thickness=_thickness(ds),
                image_type=image_type,
                contrast=tuple((name, str(int(values[frame]))) for name, values in vectors),
                repeat=(("DetectorVector", str(int(seen[frame]))),) if len(seen) == count else (),
                rescale=rescale,
            )
        )
    return tuple(frames)


def _slice_vector(ds: Dataset, count: int) -> tuple[float, ...]:
    """Which slice each frame is, from 1. Without Slice Vector, frames that are as many as the slices are in order."""
    slices = numbers(ds, "SliceVector")
    if not slices and count > 1 and whole(ds, "NumberOfSlices") == count:
        return tuple(range(1, count + 1))
    if count < 1 or len(slices) != count:
        raise HeaderError("SliceVector does not have one value for each of NumberOfFrames")
    # Some count from 0, which would put every slice one too far down (PS3.3 C.8.4.15: from 1).
    return tuple(number + 1 for number in slices) if min(slices) == 0 else slices


def _named(ds: Dataset, keywords: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    pairs = ((keyword, _joined(ds, keyword)) for keyword in keywords if keyword in ds)
    return tuple((keyword, value) for keyword, value in pairs if value)


def _joined(ds: Dataset, keyword: str) -> str:
    """A selector's value as text."""
    return text(ds, keyword).replace("\\", "/")


def _position(ds: Dataset) -> Vector3 | None:
    values = numbers(ds, "ImagePositionPatient")
    return (values[0], values[1], values[2]) if len(values) == 3 else None


def _orientation(ds: Dataset) -> tuple[float, ...] | None:
    values = numbers(ds, "ImageOrientationPatient")
    return values if len(values) == 6 else None


def _thickness(ds: Dataset) -> float | None:
    value = lenient(lambda: number(ds, "SliceThickness"), None)
    return value if value and value > 0 else None


def _pixel_spacing(ds: Dataset) -> tuple[float, float] | None:
    values = numbers(ds, "PixelSpacing")
    return (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None
