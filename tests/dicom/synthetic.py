"""Small real DICOM series made on the fly: a head phantom as CT, MR, PET, NM, single-frame or enhanced multi-frame.

Every series is a list of datasets in spatial order, plus the values and the affine that a right reader must give back.
Tests spoil the datasets as they like and then `save` them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

SOP_CLASS = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "NM": "1.2.840.10008.5.1.4.1.1.20",
}
ENHANCED_SOP_CLASS = {
    "CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "MR": "1.2.840.10008.5.1.4.1.1.4.1",
    "PT": "1.2.840.10008.5.1.4.1.1.130",
}
REGISTRATION_SOP_CLASS = "1.2.840.10008.5.1.4.1.1.66.1"
SERIES_NUMBER = {"MR": 3, "CT": 5, "PT": 7, "NM": 9, "REG": 11}


def uid(*names: object) -> str:
    """The same UID for the same names."""
    return str(generate_uid(entropy_srcs=[str(name) for name in names]))


@dataclass
class Made:
    """A series and the truth about it.

    Args:
        datasets: one per file, in order along the slice normal.
        values: ``(X, Y, Z)`` float64, rescaled as the datasets say.
        affine: 4x4, voxel index to RAS mm.
    """

    datasets: list[Dataset]
    values: np.ndarray
    affine: np.ndarray

    def save(self, folder: Path, prefix: str = "IM", order: Sequence[int] | None = None) -> list[Path]:
        """Write all files, without extension; ``order`` gives each dataset's place in the names."""
        return save(self.datasets, folder, prefix, order)


@dataclass
class Layout:
    """Where a series lies and who it is of. Rows, columns and the pixel spacings differ: a transposed reader fails.

    Args:
        slices, rows, columns: matrix.
        pixel_spacing: between rows (y), between columns (x), mm.
        slice_spacing: between slice planes, mm.
        angle: oblique rotation about the x axis, degrees.
        centre: of the volume, LPS mm.
        patient_id, patient_name, study, frame: who, and names that UIDs are made from.
        series: name that the series and instance UIDs are made from; default the modality.
        date: of study, series and acquisition.
        extra: attributes set on every dataset at the end.
    """

    slices: int = 12
    rows: int = 64
    columns: int = 56
    pixel_spacing: tuple[float, float] = (1.5, 1.25)
    slice_spacing: float = 4.0
    angle: float = 15.0
    centre: tuple[float, float, float] = (3.0, -8.0, 21.0)
    patient_id: str = "P001"
    patient_name: str = "Müller^Jürgen"
    study: str = "study"
    frame: str = "frame"
    series: str = ""
    date: str = "20240105"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def orientation(self) -> np.ndarray:
        """Row and column direction, six numbers."""
        a = np.deg2rad(self.angle)
        return np.array([1.0, 0.0, 0.0, 0.0, np.cos(a), np.sin(a)]).round(8)

    @property
    def lps(self) -> np.ndarray:
        """Voxel index to LPS mm."""
        row, column = self.orientation[:3], self.orientation[3:]
        matrix = np.eye(4)
        matrix[:3, 0] = row * self.pixel_spacing[1]
        matrix[:3, 1] = column * self.pixel_spacing[0]
        matrix[:3, 2] = np.cross(row, column) * self.slice_spacing
        middle = (np.array([self.columns, self.rows, self.slices]) - 1) / 2
        matrix[:3, 3] = np.array(self.centre) - matrix[:3, :3] @ middle
        return matrix

    @property
    def positions(self) -> np.ndarray:
        """Image Position (Patient) of each slice, as it is written (rounded)."""
        return (self.lps[:3, 3] + np.arange(self.slices)[:, None] * self.lps[:3, 2]).round(6)

    @property
    def affine(self) -> np.ndarray:
        """Voxel index to RAS mm, from the rounded positions."""
        matrix = self.lps
        matrix[:3, 3] = self.positions[0]
        if self.slices > 1:
            matrix[:3, 2] = (self.positions[-1] - self.positions[0]) / (self.slices - 1)
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix

    def world(self) -> np.ndarray:
        """LPS position of every voxel, ``(X, Y, Z, 3)``."""
        index = np.stack(
            np.meshgrid(np.arange(self.columns), np.arange(self.rows), np.arange(self.slices), indexing="ij"), axis=-1
        )
        return index @ self.lps[:3, :3].T + self.lps[:3, 3]


def phantom(modality: str, world: np.ndarray) -> np.ndarray:
    """A head in LPS mm: skull, brain, an off-centre lesion, and a ramp that makes every slice different."""
    x, y, z = np.moveaxis(world, -1, 0)
    radius = np.sqrt(((x - 2) / 30) ** 2 + ((y + 6) / 38) ** 2 + ((z - 20) / 34) ** 2)
    brain, skull = radius < 0.85, (radius >= 0.85) & (radius < 1.0)
    lesion = np.sqrt((x - 12) ** 2 + (y + 14) ** 2 + (z - 26) ** 2) < 8
    ramp = 0.7 * x + 0.4 * y + 0.9 * z
    air, bone, tissue, hot = {
        "CT": (-1000, 900, 30, 75),
        "MR": (4, 40, 420, 800),
        "PT": (0, 300, 5000, 14000),
        "NM": (0, 10, 160, 500),
    }[modality]
    gain = 2.0 if modality in ("MR", "PT") else 0.3
    values = np.select([lesion, brain, skull], [hot + 0 * x, tissue + gain * ramp, bone + 0 * x], air)
    return np.round(values)


def series(
    modality: str = "CT", layout: Layout | None = None, slope: float = 1.0, intercept: float | None = None
) -> Made:
    """A single-frame series: one dataset per slice."""
    layout = layout or Layout()
    intercept = (-1024.0 if modality == "CT" else 0.0) if intercept is None else intercept
    truth = phantom(modality, layout.world())
    stored = np.round((truth - intercept) / slope)
    low, high = (-32768, 32767) if modality == "PT" else (0, 65535)
    stored = np.clip(stored, low, high).astype(np.int16 if modality == "PT" else np.uint16)
    datasets = []
    for index in range(layout.slices):
        ds = _header(modality, SOP_CLASS[modality], layout, index)
        ds.InstanceNumber = index + 1
        ds.ImagePositionPatient = [f"{v:.6f}" for v in layout.positions[index]]
        ds.ImageOrientationPatient = [f"{v:.8f}" for v in layout.orientation]
        ds.PixelSpacing = list(layout.pixel_spacing)
        ds.SliceThickness = layout.slice_spacing
        if modality != "MR":
            ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
        _pixels(ds, stored[:, :, index].T)
        datasets.append(ds)
    return Made(datasets, stored.astype(float) * slope + intercept, layout.affine)


def enhanced(
    modality: str = "MR",
    layout: Layout | None = None,
    slopes: Sequence[float] | None = None,
    volumes: int = 1,
    selector: str = "TemporalPositionIndex",
) -> Made:
    """A multi-frame object with functional groups; several ``volumes`` are told apart by ``selector``.

    ``selector`` is ``"TemporalPositionIndex"``, ``"EffectiveEchoTime"`` or ``"StackID"``. The values of volume k are
    those of the phantom times (k + 1); ``Made.values`` is the first volume. ``slopes``: one per frame.
    """
    layout = layout or Layout(series=f"enhanced {modality}")
    truth = phantom(modality, layout.world())
    offset = 1024 if modality == "CT" else 0
    slopes = slopes if slopes is not None else [1.0] * layout.slices
    frames, groups = [], []
    for volume in range(volumes):
        for index in range(layout.slices):
            frames.append(np.round((truth[:, :, index].T * (volume + 1) + offset) / slopes[index]))
            groups.append(_frame_groups(modality, layout, index, volume, slopes[index], -offset, selector))
    ds = _header(modality, ENHANCED_SOP_CLASS[modality], layout, "enhanced")
    ds.InstanceNumber = 1
    ds.NumberOfFrames = len(frames)
    ds.SharedFunctionalGroupsSequence = [_shared_groups(modality, layout)]
    ds.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    ds.DimensionIndexSequence = _dimension_indices(selector)
    _pixels(ds, np.clip(np.stack(frames), 0, 65535).astype(np.uint16))
    values = np.stack([np.clip(frames[i], 0, 65535).T * slopes[i] - offset for i in range(layout.slices)], axis=-1)
    return Made([ds], values, layout.affine)


def nuclear(layout: Layout | None = None, image_type: Sequence[str] = (), downwards: bool = False) -> Made:
    """An NM tomographic object: geometry in the Detector Information Sequence, slices by the Slice Vector."""
    layout = layout or Layout()
    stored = phantom("NM", layout.world()).astype(np.uint16)
    ds = _header("NM", SOP_CLASS["NM"], layout, "nm")
    ds.ImageType = list(image_type) or ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"]
    ds.InstanceNumber = 1
    ds.NumberOfFrames = layout.slices
    ds.FrameIncrementPointer = [0x00540080]
    ds.SliceVector = list(range(1, layout.slices + 1))
    ds.NumberOfSlices = layout.slices
    ds.PixelSpacing = list(layout.pixel_spacing)
    ds.SliceThickness = layout.slice_spacing
    ds.SpacingBetweenSlices = -layout.slice_spacing if downwards else layout.slice_spacing
    detector = Dataset()
    detector.ImagePositionPatient = [f"{v:.6f}" for v in layout.positions[-1 if downwards else 0]]
    detector.ImageOrientationPatient = [f"{v:.8f}" for v in layout.orientation]
    ds.DetectorInformationSequence = [detector]
    frames = np.moveaxis(stored, -1, 0).swapaxes(1, 2)
    _pixels(ds, frames[::-1] if downwards else frames)
    return Made([ds], stored.astype(float), layout.affine)


def registration(
    base: Dataset, second: Dataset, second_to_base: np.ndarray, reverse: bool = False, by_images: bool = False
) -> Dataset:
    """A Spatial Registration object between the frames of reference of two datasets.

    Args:
        second_to_base: 4x4 LPS mm, takes a point of the second to the base.
        reverse: the object's registered system is the second's, and the matrix is the inverse.
        by_images: name the images instead of their frame of reference.
    """
    target, source = (second, base) if reverse else (base, second)
    matrix = np.linalg.inv(second_to_base) if reverse else second_to_base
    ds = _header("REG", REGISTRATION_SOP_CLASS, Layout(patient_id=base.PatientID), "registration")
    ds.StudyInstanceUID = base.StudyInstanceUID
    ds.FrameOfReferenceUID = target.FrameOfReferenceUID
    ds.ContentDate, ds.ContentTime = "20240105", "120000"
    ds.ContentLabel, ds.ContentDescription, ds.ContentCreatorName = "REGISTRATION", "", ""
    ds.RegistrationSequence = []
    for image, entries in ((target, np.eye(4)), (source, matrix)):
        step = Dataset()
        step.FrameOfReferenceTransformationMatrixType = "RIGID"
        step.FrameOfReferenceTransformationMatrix = [f"{v:.12g}" for v in np.asarray(entries).ravel()]
        way = Dataset()
        way.MatrixSequence = [step]
        way.RegistrationTypeCodeSequence = []
        item = Dataset()
        if by_images:
            reference = Dataset()
            reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
                image.SOPClassUID,
                image.SOPInstanceUID,
            )
            item.ReferencedImageSequence = [reference]
        else:
            item.FrameOfReferenceUID = image.FrameOfReferenceUID
        item.MatrixRegistrationSequence = [way]
        ds.RegistrationSequence.append(item)
    return ds


def save(
    datasets: Iterable[Dataset], folder: Path, prefix: str = "IM", order: Sequence[int] | None = None
) -> list[Path]:
    """Write datasets as files without extension; returns their paths in the order of ``datasets``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, ds in enumerate(datasets):
        path = folder / f"{prefix}{order[index] if order is not None else index:04d}"
        ds.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def save_pair(folder: Path, second: str = "CT", **layout: Any) -> tuple[Made, Made]:
    """Write an MR and a second series of one patient and one frame of reference, on different grids."""
    mr = series("MR", Layout(**layout))
    other_layout = Layout(**{"rows": 48, "columns": 52, "pixel_spacing": (2.0, 1.75), "angle": 0.0, **layout})
    other = nuclear(other_layout) if second == "NM" else series(second, other_layout)
    mr.save(folder / "mr")
    other.save(folder / second.lower())
    return mr, other


def _header(modality: str, sop_class: str, layout: Layout, instance: object) -> Dataset:
    series_name = layout.series or modality
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = sop_class
    ds.SOPInstanceUID = uid(layout.patient_id, layout.study, series_name, instance)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = layout.date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber = "A123"
    ds.Modality = modality
    ds.Manufacturer, ds.ManufacturerModelName = "Phantom Works", "P-1"
    ds.InstitutionName = "General Hospital"
    ds.ReferringPhysicianName = "Who^Doctor"
    ds.StudyDescription = "Head"
    ds.SeriesDescription = f"{modality} head"
    ds.OperatorsName = "Secret^Operator"
    ds.PatientName, ds.PatientID = layout.patient_name, layout.patient_id
    ds.PatientBirthDate, ds.PatientSex = "19700101", "M"
    ds.BodyPartExamined = "HEAD"
    if modality != "REG":
        ds.PatientPosition = "HFS"
        ds.SliceThickness = layout.slice_spacing
    ds.StudyInstanceUID = uid(layout.patient_id, layout.study)
    ds.SeriesInstanceUID = uid(layout.patient_id, layout.study, series_name, "series")
    ds.StudyID = "S1"
    ds.SeriesNumber = SERIES_NUMBER[modality]
    ds.AcquisitionNumber = 1
    ds.FrameOfReferenceUID = uid(layout.patient_id, layout.frame)
    ds.PositionReferenceIndicator = ""
    _modality_attributes(ds, modality)
    for keyword, value in layout.extra.items():
        setattr(ds, keyword, value)
    return ds


def _modality_attributes(ds: Dataset, modality: str) -> None:
    if modality == "MR":
        ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "GR", "SP", "", "3D"
        ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength, ds.MagneticFieldStrength = 9.0, 4.6, 1, 3.0
        ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        ds.SeriesDescription = "T1 3D"
    elif modality == "CT":
        ds.KVP, ds.ConvolutionKernel = 120, "H30"
    elif modality == "PT":
        ds.ImageType = ["ORIGINAL", "PRIMARY"]
        ds.Units, ds.DecayCorrection, ds.SeriesType, ds.CountsSource = (
            "BQML",
            "START",
            ["WHOLE BODY", "IMAGE"],
            "EMISSION",
        )


def _pixels(ds: Dataset, stored: np.ndarray) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = np.ascontiguousarray(stored).tobytes()


def _shared_groups(modality: str, layout: Layout) -> Dataset:
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = list(layout.pixel_spacing)
    measures.SliceThickness = layout.slice_spacing
    measures.SpacingBetweenSlices = layout.slice_spacing
    orientation.ImageOrientationPatient = [f"{v:.8f}" for v in layout.orientation]
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    if modality == "MR":
        timing = Dataset()
        timing.RepetitionTime, timing.FlipAngle, timing.EchoTrainLength = 9.0, 8.0, 1
        shared.MRTimingAndRelatedParametersSequence = [timing]
    return shared


def _frame_groups(
    modality: str, layout: Layout, index: int, volume: int, slope: float, intercept: float, selector: str
) -> Dataset:
    group, content, position, transform, kind = Dataset(), Dataset(), Dataset(), Dataset(), Dataset()
    content.StackID = str(volume + 1) if selector == "StackID" else "1"
    content.InStackPositionNumber = index + 1
    content.DimensionIndexValues = [volume + 1, index + 1]
    if selector == "TemporalPositionIndex":
        content.TemporalPositionIndex = volume + 1
    position.ImagePositionPatient = [f"{v:.6f}" for v in layout.positions[index]]
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = slope, intercept, "US"
    kind.FrameType = ["ORIGINAL", "PRIMARY", "M" if modality == "MR" else "VOLUME", "NONE"]
    group.FrameContentSequence = [content]
    group.PlanePositionSequence = [position]
    group.PixelValueTransformationSequence = [transform]
    setattr(
        group,
        {"MR": "MRImageFrameTypeSequence", "CT": "CTImageFrameTypeSequence"}.get(modality, "PETFrameTypeSequence"),
        [kind],
    )
    if modality == "MR":
        echo = Dataset()
        echo.EffectiveEchoTime = 4.6 * (volume + 1 if selector == "EffectiveEchoTime" else 1)
        group.MREchoSequence = [echo]
    return group


def _dimension_indices(selector: str) -> list[Dataset]:
    pointers = {
        "TemporalPositionIndex": (0x00209128, 0x00209111),
        "EffectiveEchoTime": (0x00189082, 0x00189114),
        "StackID": (0x00209056, 0x00209111),
    }
    indices = []
    for pointer, group in (pointers[selector], (0x00209057, 0x00209111)):
        item = Dataset()
        item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, group
        item.DimensionOrganizationUID = uid("dimensions")
        indices.append(item)
    return indices
