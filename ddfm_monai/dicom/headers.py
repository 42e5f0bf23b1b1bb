"""One file's header to the few values that sorting, pairing and geometry need.

A file is described as a list of frames, whether it is a single slice, an enhanced multi-frame object (functional
groups, PS3.3 C.7.6.16) or a nuclear medicine object (vectors, PS3.3 C.8.4.8), so that everything after this module
treats them alike.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ddfm_monai.dicom.attributes import plain_date
from ddfm_monai.dicom.codes import FUSION, OWN_MODEL_NAME, OWN_SCHEME
from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.dicom.geometry import Vector3
from ddfm_monai.dicom.subseries import Patient, SeriesHeader

__all__ = ["FrameHeader", "ImageHeader", "frame_group", "image_header", "open_dataset", "quiet_pydicom", "sniff"]

MODALITY_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",  # Enhanced
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",  # Legacy Converted Enhanced
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.20": "NM",
}
"""The SOP classes that are read. The class decides, not the attribute Modality, which is free to be wrong."""

MR = "1.2.840.10008.5.1.4.1.1.4"
PET = "1.2.840.10008.5.1.4.1.1.128"
UNDEFINED_LENGTH = 0xFFFFFFFF
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
NUCLEAR = ("1.2.840.10008.5.1.4.1.1.20",)
SPATIAL_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

# These make a different image of the same place.
CONTRAST = ("EchoTime", "DiffusionBValue", "InversionTime", "KVP", "ConvolutionKernel")

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
)

NM_VECTORS = (
    "EnergyWindowVector",
    "PhaseVector",
    "RRIntervalVector",
    "TimeSlotVector",
)

ARCHIVE_MAGIC = (
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\x00",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"\x28\xb5\x2f\xfd",
)

T1_TEXT = re.compile(r"(?<![a-z0-9])t1|mp-?rage|bravo|spgr|fspgr|mp2rage|thrive|vibe", re.I)


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


@dataclass(frozen=True, slots=True)
class ImageHeader(SeriesHeader):
    """One image file.

    ``frames`` is empty when ``problem`` says that the header cannot be used. ``other_quantity`` says in words that the
    values are not what images of this modality show, or ``""``. ``stated_slices`` is Number of Slices of a PET volume
    (PS3.3 C.8.9.1), or 0.
    """

    path: Path
    patient_key: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    instance_number: int | None
    photometric: str
    own_output: bool
    other_quantity: str
    stated_slices: int
    frames: tuple[FrameHeader, ...]
    problem: Problem | None
    warnings: tuple[Problem, ...]


T = TypeVar("T")


class HeaderError(ValueError):
    """An attribute has a value that cannot be used; the text names the attribute and never its value."""


@contextmanager
def quiet_pydicom() -> Iterator[list[str]]:
    """Keep warnings of pydicom and its decoders, which may quote patient data, off the console; yields their texts."""
    texts: list[str] = []
    loggers = [logging.getLogger(name) for name in ("pydicom", "openjpeg", "pylibjpeg")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield texts
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            texts.extend(str(item.message) for item in caught)


# ------------------------------------------------------------------------------------------------ one file


def sniff(path: Path) -> Problem | None:
    """Why a file is no DICOM file by its first bytes, or None if it may be one.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(264)
    if not start:
        return Problem("E_EMPTY_FILE", "the file is empty", path)
    if len(start) < 132 and not any(start):
        return Problem("E_HEADER", "the file ends within the preamble", path)
    if not any(start) and _only_zeros(path):
        return Problem("E_EMPTY_FILE", "the file holds nothing but zeros", path)
    if start[128:132] == b"DICM" or _starts_like_dataset(start):
        return None
    if start.startswith(ARCHIVE_MAGIC) or start[257:262] == b"ustar":
        return Problem("S_ARCHIVE", "the file is an archive", path)
    return Problem("S_NOT_DICOM", "the file is not DICOM", path)


def _only_zeros(path: Path) -> bool:
    """Whether that is all that a file holds: a copy that was interrupted after its place on the disk was taken."""
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if any(block):
                return False
    return True


def _starts_like_dataset(start: bytes) -> bool:
    """Whether bytes without a preamble begin with a tag of group 0002 or 0008 (the lowest groups, PS3.5 7.1)."""
    little, big = start[:2] in (b"\x02\x00", b"\x08\x00"), start[:2] in (b"\x00\x02", b"\x00\x08")
    return len(start) >= 8 and (little or big)


def open_dataset(source: Path | BinaryIO, path: Path, stop_before_pixels: bool) -> FileDataset:
    """Read one DICOM file; a file without preamble is accepted only if it has UIDs and Rows.

    The transfer syntax is filled in from the encoding where the file does not say it.

    Raises:
        DicomError: ``S_NOT_DICOM`` or ``E_HEADER``.
        OSError: the file cannot be read.
    """
    try:
        ds = pydicom.dcmread(source, stop_before_pixels=stop_before_pixels, force=True)
        missing = [name for name in ("SOPClassUID", "SOPInstanceUID", "Rows") if not ds.get(name)]
        if ds.preamble is None and missing:
            if ds.get("SOPClassUID") in MODALITY_OF_CLASS:
                raise Problem("E_HEADER", f"there is no preamble and no {missing[0]}", path).error()
            raise Problem("S_NOT_DICOM", "the file is not DICOM", path).error()
        if not ds.file_meta.get("TransferSyntaxUID"):
            ds.file_meta.TransferSyntaxUID = _encoding(ds)
    except DicomError:
        raise
    except Exception as error:  # pydicom raises almost anything on broken bytes
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's; without a number it is pydicom's
        raise Problem("E_HEADER", f"the header cannot be parsed ({type(error).__name__})", path).error() from error
    return ds


def _encoding(ds: FileDataset) -> UID:
    implicit, little = ds.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def image_header(ds: FileDataset, path: Path, after_header: bytes | None, remaining: int) -> ImageHeader:
    """Describe an image file.

    Args:
        ds: its header.
        path: the file.
        after_header: the bytes at which reading stopped (the Pixel Data element), None if not known (deflated).
        remaining: number of bytes from there to the end of the file.

    Raises:
        DicomError: ``E_HEADER``, when not even patient, study and series can be read.
    """
    try:
        patient = Patient(text(ds, "PatientID"), text(ds, "IssuerOfPatientID"), text(ds, "PatientName"))
        study_uid, series_uid = required(ds, "StudyInstanceUID"), required(ds, "SeriesInstanceUID")
        sop_class_uid, instance_uid = text(ds, "SOPClassUID"), required(ds, "SOPInstanceUID")
        frame_of_reference_uid = text(ds, "FrameOfReferenceUID")
    except HeaderError as error:
        raise Problem("E_HEADER", str(error), path).error() from error
    rows, columns, frames, problem = _content(ds, path, after_header, remaining)
    remarks = []
    if ds.preamble is None:
        remarks.append(Problem("W_NO_PREAMBLE", "the file has no preamble", path))
    if frames and sop_class_uid in NUCLEAR and "SliceVector" not in ds:
        remarks.append(Problem("W_NO_SLICE_VECTOR", "Slice Vector is missing", path))
    return ImageHeader(
        path=path,
        patient=patient,
        patient_key=patient_key(patient, study_uid),
        study_uid=study_uid,
        series_uid=series_uid,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=instance_uid,
        frame_of_reference_uid=frame_of_reference_uid,
        instance_number=lenient(lambda: whole(ds, "InstanceNumber"), None),
        series_number=lenient(lambda: whole(ds, "SeriesNumber"), None),
        rows=rows,
        columns=columns,
        photometric=lenient(lambda: text(ds, "PhotometricInterpretation"), ""),
        t1_weighted=lenient(lambda: _t1_weighted(ds), False),
        three_d=lenient(lambda: text(ds, "MRAcquisitionType").startswith("3D"), False),
        description=lenient(lambda: text(ds, "SeriesDescription"), ""),
        acquired=lenient(lambda: _acquired(ds), ""),
        identity_removed=lenient(lambda: text(ds, "PatientIdentityRemoved").upper(), ""),
        own_output=lenient(lambda: _own_output(ds), False),
        other_quantity=lenient(lambda: _other_quantity(ds), ""),
        stated_slices=lenient(lambda: whole(ds, "NumberOfSlices") or 0, 0) if sop_class_uid == PET else 0,
        frames=frames,
        problem=problem,
        warnings=tuple(remarks),
    )


def patient_key(patient: Patient, study_uid: str) -> str:
    """A key that is equal for equal Patient ID and issuer; without a usable ID, for equal studies only."""
    who = ("id", patient.patient_id, patient.issuer) if patient.has_usable_id else ("study", study_uid)
    return "P" + hashlib.sha256(repr(who).encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------------ values


def text(ds: Dataset, keyword: str) -> str:
    """An attribute as text, ``""`` if absent or empty."""
    value = _value(ds, keyword)
    if value is None:
        return ""
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    return "\\".join(str(part).strip() for part in parts)


def texts(ds: Dataset, keyword: str) -> tuple[str, ...]:
    """A multi-valued text attribute, upper case."""
    joined = text(ds, keyword)
    return tuple(joined.upper().split("\\")) if joined else ()


def required(ds: Dataset, keyword: str) -> str:
    """An attribute that must have a value."""
    value = text(ds, keyword)
    if not value:
        raise HeaderError(f"{keyword} is missing")
    return value


def number(ds: Dataset, keyword: str) -> float | None:
    """A finite number, None if absent or empty."""
    values = numbers(ds, keyword)
    return values[0] if values else None


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """A multi-valued attribute as finite numbers, empty if absent."""
    value = _value(ds, keyword)
    if value is None or value == "":
        return ()
    parts = value if isinstance(value, (list, pydicom.multival.MultiValue)) else [value]
    try:
        result = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise HeaderError(f"{keyword} is not a number") from error
    if not all(math.isfinite(item) for item in result):
        raise HeaderError(f"{keyword} is not finite")
    return result


def whole(ds: Dataset, keyword: str) -> int | None:
    """A whole number, None if absent or empty."""
    value = number(ds, keyword)
    if value is not None and value != int(value):
        raise HeaderError(f"{keyword} is not a whole number")
    return None if value is None else int(value)


def lenient(read: Callable[[], T], default: T) -> T:
    """A value that no geometry or grey value depends on: the default if it is malformed."""
    try:
        return read()
    except HeaderError:
        return default


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        return ds.get(keyword)
    except Exception as error:  # the conversion of a raw value happens here and may raise anything
        raise HeaderError(f"{keyword} cannot be read ({type(error).__name__})") from error


def items(ds: Dataset, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, empty if absent. Not copied: one object may have tens of thousands of frames."""
    value = _value(ds, keyword)
    if value is None:
        return []
    if not isinstance(value, pydicom.sequence.Sequence):
        raise HeaderError(f"{keyword} is not a sequence")
    return value


# ------------------------------------------------------------------------------------------------ frames


def _content(
    ds: FileDataset, path: Path, after_header: bytes | None, remaining: int
) -> tuple[int, int, tuple[FrameHeader, ...], Problem | None]:
    """Rows, columns and frames, or the reason why the file cannot be used."""
    rows = columns = 0
    frames: tuple[FrameHeader, ...] = ()
    try:
        rows, columns = whole(ds, "Rows") or 0, whole(ds, "Columns") or 0
        if not (rows > 0 and columns > 0):
            raise HeaderError("Rows or Columns is missing")
        if text(ds, "SOPClassUID") not in MODALITY_OF_CLASS:
            raise HeaderError("SOPClassUID contradicts MediaStorageSOPClassUID")
        frames = _frames(ds, path)
        problem = _unusable(ds, path, frames) or _wrong_pixels(ds, path, rows, columns, frames, after_header, remaining)
    except DicomError as error:
        problem = error.problem
    except HeaderError as error:
        problem = Problem("E_HEADER", str(error), path)
    return rows, columns, frames, problem


def _frames(ds: Dataset, path: Path) -> tuple[FrameHeader, ...]:
    if items(ds, "PerFrameFunctionalGroupsSequence"):
        return _enhanced_frames(ds)
    if text(ds, "SOPClassUID") in NUCLEAR:
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
    enhanced = bool(items(ds, "PerFrameFunctionalGroupsSequence"))
    holder = frame_group(ds, frame, "PixelValueTransformationSequence") if enhanced else ds
    if "RescaleSlope" not in holder:
        holder = ds
    slope = number(holder, "RescaleSlope")
    if slope == 0:
        raise HeaderError("RescaleSlope is 0")
    return slope, number(holder, "RescaleIntercept")


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
        *_named(group("CardiacSynchronizationSequence"), ("NominalCardiacTriggerDelayTime",)),
        *(_named(directions[0], ("DiffusionGradientOrientation",)) if directions else ()),
        *_dimensions(content, pointers),
        *_named(content, ("FrameAcquisitionNumber", "FrameReferenceDateTime", "FrameAcquisitionDateTime")),
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


# ------------------------------------------------------------------------------------------------ what spoils a file


def known_syntax(ds: FileDataset) -> bool:
    """Whether the Transfer Syntax UID is one of the standard's."""
    syntax = ds.file_meta.TransferSyntaxUID
    return not syntax.is_private and syntax.is_transfer_syntax


def missing_decoder(ds: FileDataset, path: Path, find: Callable[[UID], Any] = get_decoder) -> Problem | None:
    """The problem of a compression for which no decoder is installed; None if there is one.

    Args:
        find: gives the decoder of a Transfer Syntax UID.
    """
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        decoder = find(syntax)
        available = decoder.is_available
        # Of the free decoders none that pydicom knows reads 12 bits of this syntax.
        if syntax == JPEG_EXTENDED and (whole(ds, "BitsStored") or 0) > 8:
            available = "pylibjpeg" in decoder.available_plugins
    except NotImplementedError:
        available = False
    if available:
        return None
    name = syntax.name if syntax.name != syntax else "unknown"
    return Problem("E_DECODER", f"no decoder for Transfer Syntax {syntax} ({name})", path)


def samples_per_pixel(ds: Dataset) -> int | None:
    """Samples per Pixel; a grey image that does not say it has one (old CT)."""
    samples = whole(ds, "SamplesPerPixel")
    grey = text(ds, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
    return 1 if samples is None and grey else samples


def _unusable(ds: FileDataset, path: Path, frames: tuple[FrameHeader, ...]) -> Problem | None:
    if not known_syntax(ds):
        return Problem("E_DECODER", "the Transfer Syntax UID is none of the standard's", path)
    photometric, samples = required(ds, "PhotometricInterpretation"), samples_per_pixel(ds)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        return Problem("E_COLOUR", f"Photometric Interpretation is {photometric}, Samples per Pixel {samples}", path)
    if mosaic := _mosaic(ds, frames):
        return Problem("E_MOSAIC", mosaic, path)
    return _undecodable(ds, path)


def _undecodable(ds: FileDataset, path: Path) -> Problem | None:
    """Why stored bits give no values."""
    if items(ds, "ModalityLUTSequence"):
        return Problem("E_MODALITY_LUT", "Modality LUT Sequence is present", path)
    allocated, stored, high = whole(ds, "BitsAllocated"), whole(ds, "BitsStored"), whole(ds, "HighBit")
    if allocated not in (8, 16, 32) or not stored or stored > allocated or high != stored - 1:
        return Problem(
            "E_HEADER",
            f"Bits Allocated {allocated}, Bits Stored {stored} and High Bit {high} do not fit together",
            path,
        )
    if whole(ds, "PixelRepresentation") not in (0, 1):
        return Problem("E_HEADER", "Pixel Representation is missing", path)
    return missing_decoder(ds, path) if ds.file_meta.TransferSyntaxUID.is_encapsulated else None


def _mosaic(ds: Dataset, frames: tuple[FrameHeader, ...]) -> str:
    """Words for an image whose tiles are slices, as some vendors store 4-D MR; "" for any other."""
    for word, vendor in (("MOSAIC", "Siemens mosaic"), ("VFRAME", "UIH grid")):
        if any(word in frame.image_type for frame in frames):
            return f"Image Type says {word} ({vendor})"
    tiles = lenient(lambda: whole(ds, "NumberOfSlices"), None) or 0
    if tiles > 1 and len(frames) == 1 and frames[0].position is None and text(ds, "SOPClassUID") == MR:
        return f"one image without a position holds {tiles} slices"
    return ""


def _wrong_pixels(
    ds: FileDataset,
    path: Path,
    rows: int,
    columns: int,
    frames: tuple[FrameHeader, ...],
    after_header: bytes | None,
    remaining: int,
) -> Problem | None:
    """Whether Pixel Data are other than the header says, or the file too short for them, seen without reading them."""
    if after_header is None:
        return None
    big = ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian
    tag = b"\x7f\xe0\x00\x10" if big else b"\xe0\x7f\x10\x00"
    if after_header[:4] != tag:
        return Problem("E_PIXEL_DATA", "there is no Pixel Data", path)
    # As it is encoded, not as the transfer syntax says: pydicom reads implicit data that are called explicit.
    start = 12 if after_header[4:6] in (b"OW", b"OB", b"UN") else 8
    length = int.from_bytes(after_header[start - 4 : start], "big" if big else "little")
    if (found := contradicting_syntax(ds, fragments=length == UNDEFINED_LENGTH)) is not None:
        return Problem("E_PIXEL_DATA", found, path)
    if ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return None
    one_frame = rows * columns * (whole(ds, "BitsAllocated") or 0) // 8
    expected = one_frame * len(frames)
    there = min(remaining - start, length)
    if not expected <= there < expected + one_frame:
        return Problem("E_PIXEL_DATA", f"Pixel Data has {max(there, 0)} bytes instead of {expected}", path)
    return None


def contradicting_syntax(ds: FileDataset, fragments: bool) -> str | None:
    """What is wrong if Pixel Data are in fragments but the Transfer Syntax is a native one, or the reverse (PS3.5 A.4).

    Read all the same, the heads of the fragments would be taken for pixels.
    """
    name = ds.file_meta.TransferSyntaxUID.name
    if fragments == ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return None
    return f"Pixel Data is {'' if fragments else 'not '}in fragments, but the Transfer Syntax is {name}"


# ------------------------------------------------------------------------------------------------ what it is


def _own_output(ds: Dataset) -> bool:
    return text(ds, "ManufacturerModelName") == OWN_MODEL_NAME or any(
        text(item, "CodingSchemeDesignator") == OWN_SCHEME and text(item, "CodeValue") == FUSION.value
        for item in items(ds, "DerivationCodeSequence")
    )


# Rescale Type (PS3.3 C.11.1.1.2) of maps that CT scanners compute: density, effective atomic number, fractions.
NO_ATTENUATION = {"OD", "MGML", "Z_EFF", "ED", "EDW", "PCT"}


def _other_quantity(ds: Dataset) -> str:
    """Words for a map or a transmission image that has the modality of what it was computed or corrected with."""
    modality = MODALITY_OF_CLASS.get(text(ds, "SOPClassUID"))
    if modality == "CT":
        found = text(ds, "RescaleType") or text(_first_transformation(ds), "RescaleType")
        return f"Rescale Type is {found}" if found.upper() in NO_ATTENUATION else ""
    if modality == "PT" and text(ds, "Units").upper() == "1CM":
        return "Units is 1CM (an attenuation map)"
    if modality == "PT" and text(ds, "CountsSource").upper() == "TRANSMISSION":
        return "Counts Source is TRANSMISSION"
    if modality == "NM" and "TRANSMISSION" in texts(ds, "ImageType"):
        return "Image Type says TRANSMISSION"
    return ""


def _first_transformation(ds: Dataset) -> Dataset:
    enhanced = bool(items(ds, "PerFrameFunctionalGroupsSequence"))
    return frame_group(ds, 0, "PixelValueTransformationSequence") if enhanced else Dataset()


def _t1_weighted(ds: Dataset) -> bool:
    """A guess for choosing among candidates: by name, else a spin echo of short repetition and echo time."""
    names = " ".join(text(ds, key) for key in ("SeriesDescription", "ProtocolName", "SequenceName"))
    if re.search(r"(?<![a-z0-9])(t2|flair|dwi|pd)", names, re.I):
        return False
    if T1_TEXT.search(names):
        return True
    repetition, echo = number(ds, "RepetitionTime"), number(ds, "EchoTime")
    return "SE" in texts(ds, "ScanningSequence") and 0 < (repetition or 0) < 1000 and 0 < (echo or 0) < 30


def _acquired(ds: Dataset) -> str:
    """``YYYYMMDDHHMMSS`` of the series, else the study; ``""`` if neither has a date."""
    for kind in ("Series", "Study"):
        date, time = plain_date(text(ds, f"{kind}Date")), text(ds, f"{kind}Time")
        if date is not None:
            return date + _clock(time)
    return ""


def _clock(time: str) -> str:
    """``HHMMSS`` of a time, with or without colons; midnight for none and for an impossible one: the day counts."""
    parts = [part.zfill(2) for part in time.split(".", maxsplit=1)[0].split(":")]
    digits = "".join(parts)[:6].ljust(6, "0")
    return digits if re.fullmatch(r"([01]\d|2[0-3])[0-5]\d[0-5]\d", digits) else "000000"
