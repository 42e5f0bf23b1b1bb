"""One file's header to the few values that sorting, pairing and geometry need.

A file is described as a list of frames (:mod:`ddfm_monai.dicom.frames`), whether it is a single slice or a multi-frame
object, so that everything after this module treats them alike.
"""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ddfm_monai.dicom.attributes import plain_date
from ddfm_monai.dicom.codes import FUSION, OWN_MODEL_NAME, OWN_SCHEME
from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.dicom.frames import FrameHeader, frames_of, transformation_of
from ddfm_monai.dicom.sop_classes import MODALITY_OF_CLASS, MR, NUCLEAR, PET
from ddfm_monai.dicom.subseries import Patient, SeriesHeader
from ddfm_monai.dicom.values import HeaderError, items, lenient, number, required, text, texts, whole

__all__ = [
    "JPEG_EXTENDED",
    "ImageHeader",
    "contradicting_syntax",
    "image_header",
    "known_syntax",
    "open_dataset",
    "patient_key",
    "quiet_pydicom",
    "samples_per_pixel",
    "sniff",
]

UNDEFINED_LENGTH = 0xFFFFFFFF
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"

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

    Args:
        source: the file, or a file object that is read from where it stands.
        path: of the file, for messages.
        stop_before_pixels: leave Pixel Data unread.

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
    if frames and sop_class_uid == NUCLEAR and "SliceVector" not in ds:
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
        frames = frames_of(ds, path)
        problem = _unusable(ds, path, frames) or _wrong_pixels(ds, path, rows, columns, frames, after_header, remaining)
    except DicomError as error:
        problem = error.problem
    except HeaderError as error:
        problem = Problem("E_HEADER", str(error), path)
    return rows, columns, frames, problem


# ------------------------------------------------------------------------------------------------ what spoils a file


def known_syntax(ds: FileDataset) -> bool:
    """Whether the Transfer Syntax UID is one of the standard's."""
    syntax = ds.file_meta.TransferSyntaxUID
    return not syntax.is_private and syntax.is_transfer_syntax


def _missing_decoder(ds: FileDataset, path: Path) -> Problem | None:
    """The problem of a compression for which no decoder is installed; None if there is one."""
    syntax = ds.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
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
    return _missing_decoder(ds, path) if ds.file_meta.TransferSyntaxUID.is_encapsulated else None


def _mosaic(ds: Dataset, frames: tuple[FrameHeader, ...]) -> str:
    """Words for an image whose tiles are slices, as some vendors store 4-D MR; "" for any other."""
    for word, vendor in (("MOSAIC", "Siemens mosaic"), ("VFRAME", "UIH grid")):
        if any(word in frame.image_type for frame in frames):
            return f"Image Type says {word} ({vendor})"
    if (tiles := _siemens_tiles(ds)) > 1:
        return f"Siemens' Number of Images in Mosaic (0019,xx0A) is {tiles}"
    tiles = lenient(lambda: whole(ds, "NumberOfSlices"), None) or 0
    if tiles > 1 and len(frames) == 1 and frames[0].position is None and text(ds, "SOPClassUID") == MR:
        return f"one image without a position holds {tiles} slices"
    return ""


def _siemens_tiles(ds: Dataset) -> int:
    """What Siemens says of its mosaics beside Image Type, which de-identification may have shortened; 0 if absent."""
    try:
        value = ds.private_block(0x0019, "SIEMENS MR HEADER")[0x0A].value
        return int.from_bytes(value, "little") if isinstance(value, bytes) else int(value or 0)
    except (KeyError, ValueError, TypeError):
        return 0


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
        found = text(ds, "RescaleType") or text(transformation_of(ds, 0), "RescaleType")
        return f"Rescale Type is {found}" if found.upper() in NO_ATTENUATION else ""
    if modality == "PT" and text(ds, "Units").upper() == "1CM":
        return "Units is 1CM (an attenuation map)"
    if modality == "PT" and text(ds, "CountsSource").upper() == "TRANSMISSION":
        return "Counts Source is TRANSMISSION"
    if modality == "NM" and "TRANSMISSION" in texts(ds, "ImageType"):
        return "Image Type says TRANSMISSION"
    return ""


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
