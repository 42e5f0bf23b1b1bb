"""A rigid registration as a Spatial Registration object (PS3.3 A.39)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SpatialRegistrationStorage, generate_uid

from ddfm_monai._version import __version__
from ddfm_monai.dicom.attributes import (
    PATIENT_STUDY_OPTIONAL,
    PATIENT_STUDY_REQUIRED,
    copy_attributes,
    copy_body_part,
    decimal_string,
)
from ddfm_monai.dicom.codes import OWN_MODEL_NAME
from ddfm_monai.dicom.headers import quiet_pydicom
from ddfm_monai.dicom.read import DicomVolume
from ddfm_monai.dicom.references import SourceImages, frame_of_reference, instances_of, reference_series
from ddfm_monai.dicom.write import Derivation, save

__all__ = ["nearest_rigid", "write_registration"]

_SERIES_OFFSET = 2
"""Series Number of the object: grey is +0, colour +1."""


@quiet_pydicom()
def write_registration(derivation: Derivation, path: Path) -> str:
    """Write the rigid registration of a result.

    The matrix takes a point of the second's space to the base's (PS3.3 C.20.2.1.1: from the source to the registered
    coordinate system). ``derivation.base_to_second`` leads the other way, as a resampling transform does, so its
    inverse is written. Images are referenced, not only frames of reference: both series may share one frame.

    Args:
        derivation: with ``base_to_second`` rigid up to rounding.
        path: the file to make.

    Returns:
        The SOP Instance UID of the object.
    """
    assert derivation.second is not None  # what is registered is a series
    matrix = nearest_rigid(np.linalg.inv(derivation.base_to_second).astype(np.float64))
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.SOPClassUID = SpatialRegistrationStorage
    ds.SOPInstanceUID = generate_uid(prefix=None)
    ds.SeriesInstanceUID = generate_uid(prefix=None)
    header = derivation.base.headers[0]
    copy_attributes(ds, header, PATIENT_STUDY_REQUIRED, required=True)
    ds.FrameOfReferenceUID = frame_of_reference(derivation.base)
    copy_attributes(ds, header, PATIENT_STUDY_OPTIONAL)
    copy_attributes(ds, header, ["PatientPosition"])
    copy_body_part(ds, *(source.headers[0] for source in derivation.sources))
    ds.Modality = "REG"
    ds.SeriesNumber = derivation.series_number + _SERIES_OFFSET
    ds.SeriesDescription = "Rigid registration for fusion"
    ds.InstanceNumber = 1
    ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = derivation.created.strftime("%Y%m%d")
    ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = derivation.created.strftime("%H%M%S.%f")
    ds.Manufacturer, ds.ManufacturerModelName, ds.SoftwareVersions = "ddfm-monai", OWN_MODEL_NAME, __version__
    ds.DeviceSerialNumber = derivation.provenance["prior"]["sha256"]
    ds.ContentLabel = "DDFM_RIGID"
    ds.ContentDescription = "Normalised mutual information, second onto base"
    ds.ContentCreatorName = ""
    ds.RegistrationSequence = [
        _registration_item(derivation.base, np.eye(4)),
        _registration_item(derivation.second, matrix),
    ]
    images = SourceImages(
        derivation.base.subseries.key.study_uid, instances_of(derivation.base), instances_of(derivation.second)
    )
    reference_series(ds, images)
    save(ds, path)
    return str(ds.SOPInstanceUID)


def nearest_rigid(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 4x4 rigid matrix closest to ``matrix``: rotation re-orthonormalised by SVD, determinant +1."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    rotation = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
    rigid = np.eye(4)
    rigid[:3, :3], rigid[:3, 3] = rotation, matrix[:3, 3]
    return rigid


def _registration_item(source: DicomVolume, matrix: NDArray[np.float64]) -> Dataset:
    item = Dataset()
    item.FrameOfReferenceUID = frame_of_reference(source)
    item.ReferencedImageSequence = [
        instance.item() for instance in {i.sop_instance_uid: i for i in instances_of(source)}.values()
    ]
    inner = Dataset()
    inner.FrameOfReferenceTransformationMatrixType = "RIGID"
    inner.FrameOfReferenceTransformationMatrix = [decimal_string(value) for value in matrix.ravel()]
    outer = Dataset()
    outer.MatrixSequence = [inner]
    outer.RegistrationTypeCodeSequence = []
    item.MatrixRegistrationSequence = [outer]
    return item
