"""A fused volume to a derived DICOM series on the base's grid.

Grey is written as single-frame MR Image Storage where one of the two is an MR (its values carry no units that a reader
could take for HU or SUV), else, or on request, as Secondary Capture. Colour is written as RGB Secondary Capture with an
image plane. Everything that identifies patient, study and place is copied from the base by an allow-list; positions are
the base's own characters, never recomputed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from ddfm_monai._version import __version__
from ddfm_monai.dicom.attributes import (
    MR_ACQUISITION,
    PATIENT_STUDY_OPTIONAL,
    PATIENT_STUDY_REQUIRED,
    SERIES,
    copy_attributes,
    copy_body_part,
    decimal_string,
)
from ddfm_monai.dicom.codes import FUSION, OWN_MODEL_NAME, SPATIAL_RESAMPLING, own_scheme_item
from ddfm_monai.dicom.headers import quiet_pydicom
from ddfm_monai.dicom.read import DicomVolume
from ddfm_monai.dicom.references import contributing_equipment, frame_of_reference, reference_series, source_images
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.errors import DDFMError, InputError

__all__ = ["GREY_MAXIMUM", "Derivation", "SopClass", "WrittenSeries", "verify_series", "write_colour", "write_grey"]

SopClass = Literal["mr", "sc"]
"""What a grey result is stored as: MR Image Storage or Secondary Capture Image Storage."""

GREY_MAXIMUM = 32767
"""Stored value of fused grey 1.0: 15 of 16 bits, so that readers that take values as signed read them right."""

# Identifies this software as the creator of an instance (0008,0014); any constant UID will do.
_CREATOR_UID = "2.25.229303563204331217064390893046474108291"

_HEAD = {"HEAD", "BRAIN", "SKULL", "HEADNECK", "FACE", "ORBIT"}


@dataclass(frozen=True)
class Derivation:
    """How a result came about: what its headers say beside pixels and geometry.

    Args:
        base: the volume whose grid the result has.
        second: the other source; None where it is no DICOM series (see `provenance`).
        base_to_second: 4x4 float64, LPS mm: takes a point of the base's space to the second's (identity when both
            share one space).
        registered: a rigid registration was run for this result.
        provenance: `FusionResult.provenance`.
        series_number: Series Number of the grey series; a colour series takes the next one.
        created: date and time of creation; one for all series of a case.
    """

    base: DicomVolume
    second: DicomVolume | None
    base_to_second: NDArray[np.float64]
    registered: bool
    provenance: Mapping[str, Any]
    series_number: int
    created: datetime

    @property
    def sources(self) -> list[DicomVolume]:
        """The sources that are DICOM series, the base first."""
        return [self.base] if self.second is None else [self.base, self.second]

    @property
    def shows_mr(self) -> bool:
        """Whether one of the two is an MR. Only then may a result be called one."""
        kinds = {source.subseries.kind for source in self.sources}
        return "mr" in kinds or (self.second is None and self.provenance["second"]["kind"] == "mr")


@dataclass(frozen=True)
class WrittenSeries:
    """A series on disk.

    Args:
        kind: ``"grey"`` or ``"colour"``.
        series_uid: its Series Instance UID.
        sop_class_uid: SOP Class UID of all its instances.
        instance_uids: SOP Instance UIDs in slice order.
        files: the files in slice order.
    """

    kind: Literal["grey", "colour"]
    series_uid: str
    sop_class_uid: str
    instance_uids: tuple[str, ...]
    files: tuple[Path, ...]


@quiet_pydicom()
def write_grey(
    fused: NDArray[np.floating], derivation: Derivation, folder: Path, sop_class: SopClass = "mr"
) -> WrittenSeries:
    """Write a grey volume as one 16-bit series: 0 to 1 becomes 0 to 32767, one mapping for all slices.

    Args:
        fused: ``(X, Y, Z)``, 0..1, on the base's grid.
        derivation: where it comes from.
        folder: is created; gets ``0001.dcm`` and so on.
        sop_class: ``"mr"`` or ``"sc"``; of a pair without an MR always Secondary Capture.

    Raises:
        InputError: the volume has another shape than the base, or holds values that are not finite.
    """
    _check_shape(fused, derivation.base)
    if not np.isfinite(fused).all():
        raise InputError("The fused volume holds values that are not finite. Nothing was written.", "E_NOT_FINITE")
    stored = np.rint(np.clip(fused, 0, 1) * GREY_MAXIMUM).astype("<u2")
    common = _common(derivation, "grey")
    if sop_class == "mr" and derivation.shows_mr:
        common.SOPClassUID = MRImageStorage
        common.ImageType = ["DERIVED", "SECONDARY", "OTHER", "FUSED"]
        _mr_image(common, derivation)
    else:
        _secondary_capture(common, derivation)
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 16, 16, 15, 0
    common.PresentationLUTShape = "IDENTITY"
    low, high = np.percentile(stored, (1, 99))
    common.WindowCenter, common.WindowWidth = decimal_string((low + high) / 2), decimal_string(max(high - low, 1))
    return _write("grey", common, [plane.T for plane in np.moveaxis(stored, 2, 0)], derivation, folder)


@quiet_pydicom()
def write_colour(fused: NDArray[Any], derivation: Derivation, folder: Path) -> WrittenSeries:
    """Write a colour volume as one 8-bit RGB series of Secondary Capture images.

    Args:
        fused: ``(3, X, Y, Z)``, RGB, 0..255, on the base's grid.
        derivation: where it comes from.
        folder: is created; gets ``0001.dcm`` and so on.

    Raises:
        InputError: the volume has another shape than the base, or holds values that are not finite.
    """
    if fused.ndim != 4 or fused.shape[0] != 3:
        raise InputError(f"The fused volume has the shape {fused.shape}; expected (3, X, Y, Z) for colour.", "E_WRITE")
    _check_shape(fused[0], derivation.base)
    if not np.isfinite(fused).all():
        raise InputError("The fused volume holds values that are not finite. Nothing was written.", "E_NOT_FINITE")
    stored = np.rint(np.clip(fused, 0, 255)).astype(np.uint8)
    common = _common(derivation, "colour")
    _secondary_capture(common, derivation)
    common.SamplesPerPixel, common.PhotometricInterpretation, common.PlanarConfiguration = 3, "RGB", 0
    common.BitsAllocated, common.BitsStored, common.HighBit, common.PixelRepresentation = 8, 8, 7, 0
    return _write("colour", common, list(stored.transpose(3, 2, 1, 0)), derivation, folder)


@quiet_pydicom()
def verify_series(written: WrittenSeries, expected: NDArray[Any], base: DicomVolume) -> None:
    """Read a series back from disk and compare it with what was to be written.

    Args:
        written: the series.
        expected: stored values, ``(Z, Y, X)`` or ``(Z, Y, X, 3)``.
        base: the volume whose positions it must have.

    Raises:
        DDFMError: code ``E_VERIFY``; something differs (a full or failing disk is the usual cause).
    """
    if len(set(written.instance_uids)) != len(base.headers) or len(written.files) != len(base.headers):
        raise DDFMError("The written series does not have one instance per slice of the base.", "E_VERIFY")
    for number, (path, uid, header, plane) in enumerate(
        zip(written.files, written.instance_uids, base.headers, expected, strict=True), start=1
    ):
        found = dcmread(path)
        same = (
            str(found.SOPInstanceUID) == uid
            and str(found.SeriesInstanceUID) == written.series_uid
            and int(found.InstanceNumber) == number
            and np.allclose(found.ImagePositionPatient, header.ImagePositionPatient, rtol=0, atol=1e-6)
            and np.array_equal(found.pixel_array, plane)
        )
        if not same:
            raise DDFMError(f"Instance {number} read back from disk differs from what was written.", "E_VERIFY")


def _check_shape(fused: NDArray[Any], base: DicomVolume) -> None:
    expected = tuple(base.volume.shape[1:])
    if tuple(fused.shape) != expected:
        raise InputError(f"The fused volume has the shape {fused.shape}; the base has {expected}.", "E_WRITE")


def _common(derivation: Derivation, kind: Literal["grey", "colour"]) -> Dataset:
    """The attributes that all slices of a series share."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SeriesInstanceUID = generate_uid(prefix=None)
    _patient_and_study(ds, derivation)
    _series(ds, derivation, kind)
    _equipment(ds, derivation)
    _plane(ds, derivation.base)
    _honesty(ds, derivation)
    return ds


def _patient_and_study(ds: Dataset, derivation: Derivation) -> None:
    header = derivation.base.headers[0]
    copy_attributes(ds, header, PATIENT_STUDY_REQUIRED, required=True)
    copy_attributes(ds, header, PATIENT_STUDY_OPTIONAL)
    copy_attributes(ds, header, SERIES)
    copy_body_part(ds, *(source.headers[0] for source in derivation.sources))
    ds.FrameOfReferenceUID = frame_of_reference(derivation.base)


def _series(ds: Dataset, derivation: Derivation, kind: Literal["grey", "colour"]) -> None:
    # MR also of Secondary Capture: viewers reconstruct MR, CT, PT and NM only; and CT, PT, NM would promise units.
    ds.Modality = "MR" if derivation.shows_mr else "OT"
    ds.SeriesNumber = derivation.series_number + (kind == "colour")
    colour = " COLOUR" if kind == "colour" else ""
    ds.SeriesDescription = f"FUSED{colour} {'+'.join(_names(derivation))} NOT FOR DIAGNOSTIC USE"[:64]
    date, time = derivation.created.strftime("%Y%m%d"), derivation.created.strftime("%H%M%S.%f")
    ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = date
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = time
    ds.InstanceCreatorUID = _CREATOR_UID


def _names(derivation: Derivation) -> tuple[str, str]:
    """What the base and the second are called: ``("MR(3)", "CT(5)")``; ``"CT"`` for a second without a series."""
    if derivation.second is None:
        return _name(derivation.base.subseries), str(derivation.provenance["second"]["kind"]).upper()
    return _name(derivation.base.subseries), _name(derivation.second.subseries)


def _name(source: SubSeries) -> str:
    # Modality and number only: a Series Description is free text and may name the patient.
    return source.modality if source.series_number is None else f"{source.modality}({source.series_number})"


def _equipment(ds: Dataset, derivation: Derivation) -> None:
    ds.Manufacturer = "ddfm-monai"
    ds.ManufacturerModelName = OWN_MODEL_NAME
    ds.SoftwareVersions = __version__
    # Software has no serial number; the hash of the weights tells one instance of the algorithm from another.
    ds.DeviceSerialNumber = derivation.provenance["prior"]["sha256"]
    ds.ContributingEquipmentSequence = contributing_equipment(
        derivation.base.headers[0],
        derivation.second.headers[0] if derivation.second is not None else None,
        derivation.provenance,
        derivation.created,
    )


def _plane(ds: Dataset, base: DicomVolume) -> None:
    """Image Plane module (PS3.3 C.7.6.2), but for what differs between slices."""
    header = base.headers[0]
    ds.Rows, ds.Columns = int(header.Rows), int(header.Columns)
    ds.PixelSpacing = [decimal_string(value) for value in header.PixelSpacing]
    # One text for all slices: 3D Slicer splits a series whose orientations differ in the seventh digit.
    ds.ImageOrientationPatient = [decimal_string(value) for value in header.ImageOrientationPatient]
    copy_attributes(ds, header, ["SliceThickness"], required=True)
    assert base.subseries.grid is not None  # a base that was read has a grid
    step = base.subseries.grid.spacing[2]
    stated = header.get("SpacingBetweenSlices")
    agrees = stated is not None and abs(float(stated) - step) < 1e-3 * step
    # A source may contradict its own positions; the positions are right.
    ds.SpacingBetweenSlices = decimal_string(stated if agrees else step)


def _honesty(ds: Dataset, derivation: Derivation) -> None:
    """What tells a reader that these pixels were computed, from what, and how far to trust them."""
    headers = [source.headers[0] for source in derivation.sources]
    ds.DerivationDescription = _description(derivation)
    resampling = [SPATIAL_RESAMPLING.item()] if _resampled(derivation) else []
    ds.DerivationCodeSequence = [*resampling, FUSION.item()]
    ds.CodingSchemeIdentificationSequence = [own_scheme_item()]
    ds.SyntheticData = "YES"
    ds.ContentQualification = "RESEARCH"
    ds.ImageComments = "NOT FOR DIAGNOSTIC USE"
    ds.BurnedInAnnotation = "YES" if any(h.get("BurnedInAnnotation") == "YES" for h in headers) else "NO"
    if visible := _recognizable(ds, headers):
        ds.RecognizableVisualFeatures = visible
    _compression(ds, derivation)


def _description(derivation: Derivation) -> str:
    (base, second), prior = _names(derivation), derivation.provenance["prior"]
    sampling = derivation.provenance["sampling"]
    grid = ", after rigid registration" if derivation.registered else ""
    resampled = f"; second resampled onto the grid of the base{grid}" if _resampled(derivation) else ""
    return (
        f"Diffusion-model-based fusion (DDFM) of {base} (base) and {second} (second)"
        f"{resampled}. Values are one grey scale without units (0 to {GREY_MAXIMUM}, or RGB). "
        f"Model {prior['name'][:64]}, SHA-256 {prior['sha256']}, steps {sampling['steps']}, seed {sampling['seed']}, "
        f"ddfm-monai {__version__}. Not for diagnostic use."
    )


def _resampled(derivation: Derivation) -> bool:
    return bool(derivation.provenance["second"]["resampled"])


def _recognizable(ds: Dataset, headers: Iterable[Dataset]) -> str:
    stated = [str(header.get("RecognizableVisualFeatures", "")) for header in headers]
    if "YES" in stated:
        return "YES"
    if "NO" in stated:
        return "NO"
    return "YES" if str(ds.get("BodyPartExamined", "")).upper() in _HEAD else ""


def _compression(ds: Dataset, derivation: Derivation) -> None:
    """Once compressed with loss, always marked so (PS3.3 C.7.6.1.1.5)."""
    lossy = [source.headers[0] for source in derivation.sources if source.lossy]
    ds.LossyImageCompression = "01" if lossy else "00"
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        values = [value for header in lossy for value in _as_list(header.get(keyword))]
        if values:
            setattr(ds, keyword, values)


def _as_list(value: Any) -> list[Any]:
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, float)) else list(value)


def _mr_image(ds: Dataset, derivation: Derivation) -> None:
    """MR Image module (PS3.3 C.8.3.1) from the MR member of the pair; without one, "research mode"."""
    member = next((s for s in derivation.sources if s.subseries.modality == "MR"), None)
    if member is not None:
        copy_attributes(ds, member.headers[0], MR_ACQUISITION)
    for keyword, value in (("ScanningSequence", "RM"), ("SequenceVariant", "NONE")):
        if keyword not in ds:
            setattr(ds, keyword, value)
    for keyword in ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength"):
        if keyword not in ds:
            setattr(ds, keyword, None)
    if "IR" not in ds.ScanningSequence:  # type 2C
        ds.pop("InversionTime", None)
    elif "InversionTime" not in ds:
        ds.InversionTime = None
    if {"CG", "PPG"} & set(_as_list(ds.ScanOptions)):
        ds.TriggerTime = None  # type 2C with heart gating; the result has no single trigger time
    if "PatientPosition" not in ds:
        ds.PatientPosition = None


def _secondary_capture(ds: Dataset, derivation: Derivation) -> None:
    """SC Equipment and SC Image modules (PS3.3 C.8.6.1, C.8.6.2)."""
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.ConversionType = "WSD"
    ds.SecondaryCaptureDeviceManufacturer = "ddfm-monai"
    ds.SecondaryCaptureDeviceManufacturerModelName = OWN_MODEL_NAME
    ds.SecondaryCaptureDeviceSoftwareVersions = __version__
    ds.DateOfSecondaryCapture, ds.TimeOfSecondaryCapture = ds.ContentDate, ds.ContentTime
    ds.PatientOrientation = _patient_orientation(np.asarray(ds.ImageOrientationPatient, dtype=float))


def _patient_orientation(cosines: NDArray[np.float64]) -> list[str]:
    """Where rows and columns lead, as letters, the largest component first (PS3.3 C.7.6.1.1.1): ``["L", "PF"]``."""
    letters = (("L", "R"), ("P", "A"), ("H", "F"))
    return [
        "".join(
            letters[axis][int(direction[axis] < 0)]
            for axis in np.argsort(-np.abs(direction), kind="stable")
            if abs(direction[axis]) > 1e-3
        )
        for direction in (cosines[:3], cosines[3:])
    ]


def _write(
    kind: Literal["grey", "colour"],
    common: Dataset,
    planes: Sequence[NDArray[Any]],
    derivation: Derivation,
    folder: Path,
) -> WrittenSeries:
    folder.mkdir(parents=True, mode=0o700)
    uids, files = [], []
    for index, (plane, header) in enumerate(zip(planes, derivation.base.headers, strict=True)):
        ds = Dataset()
        ds.update(common)
        ds.SOPInstanceUID = generate_uid(prefix=None)
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [decimal_string(value) for value in header.ImagePositionPatient]
        copy_attributes(ds, header, ["SliceLocation"])
        used = source_images(derivation.base, derivation.second, index, derivation.base_to_second)
        ds.SourceImageSequence = used.items(second_in_place=not _resampled(derivation))
        reference_series(ds, used)
        ds.PixelData = np.ascontiguousarray(plane).tobytes() + b"\0" * (plane.nbytes % 2)
        path = folder / f"{index + 1:04d}.dcm"
        save(ds, path)
        uids.append(str(ds.SOPInstanceUID))
        files.append(path)
    written = WrittenSeries(kind, str(common.SeriesInstanceUID), str(common.SOPClassUID), tuple(uids), tuple(files))
    verify_series(written, np.stack(planes), derivation.base)
    return written


def save(ds: Dataset, path: Path) -> None:
    """Write a dataset as a new DICOM file, explicit little endian, and see it onto the disk."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with path.open("xb") as file:
        ds.save_as(file, enforce_file_format=True)
        file.flush()
        os.fsync(file.fileno())
