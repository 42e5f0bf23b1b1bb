"""Spatial Registration objects (PS3.3 A.39.1) as they are found in a folder: which matrix leads from where to where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Matrix4, matrix4
from ddfm_monai.dicom.headers import patient_key
from ddfm_monai.dicom.subseries import Patient, SubSeries
from ddfm_monai.dicom.values import HeaderError, items, numbers, required, text
from ddfm_monai.rules import Identity

__all__ = ["RegistrationObject", "registration_object", "second_to_base"]


@dataclass(frozen=True)
class RegistrationObject:
    """A Spatial Registration object.

    Args:
        path: the file.
        sop_instance_uid: its SOP Instance UID.
        patient_key: as in :class:`~ddfm_monai.dicom.subseries.SeriesKey`.
        who: whose it is.
        frame_of_reference_uid: the registered coordinate system, that all matrices lead into.
        by_frame: for each Frame of Reference UID, the matrix (LPS mm) from it to the registered system.
        by_instance: the same for each referenced SOP Instance UID.
    """

    path: Path
    sop_instance_uid: str
    patient_key: str
    who: Identity = field(repr=False)
    frame_of_reference_uid: str
    by_frame: dict[str, Matrix4]
    by_instance: dict[str, Matrix4]

    def matrix_of(self, subseries: SubSeries) -> NDArray[np.float64] | None:
        """The matrix from a sub-series to the registered system, None if the object does not speak of it.

        Matrices for images go before those for a frame of reference. The registered system's own frame of reference
        has the identity when no item says otherwise.
        """
        of_instances = {self.by_instance.get(instance) for instance in subseries.sop_instance_uids}
        if len(of_instances) == 1 and None not in of_instances:
            return np.array(of_instances.pop())
        frame = subseries.frame_of_reference_uid
        if frame in self.by_frame:
            return np.array(self.by_frame[frame])
        return np.eye(4) if frame and frame == self.frame_of_reference_uid else None


def registration_object(ds: FileDataset, path: Path) -> RegistrationObject | Problem:
    """Read the matrices of a Spatial Registration object; a problem if they cannot be used."""
    try:
        patient = Patient(text(ds, "PatientID"), text(ds, "IssuerOfPatientID"), text(ds, "PatientName"))
        by_frame: dict[str, Matrix4] = {}
        by_instance: dict[str, Matrix4] = {}
        contradictory: set[str] = set()
        for item in items(ds, "RegistrationSequence"):
            matrix = matrix4(_matrix(item))
            images = [required(image, "ReferencedSOPInstanceUID") for image in items(item, "ReferencedImageSequence")]
            by_instance.update(dict.fromkeys(images, matrix))
            frame = text(item, "FrameOfReferenceUID")
            if frame and by_frame.setdefault(frame, matrix) != matrix:
                contradictory.add(frame)  # two image sets of one frame of reference: only the images tell them apart
        return RegistrationObject(
            path=path,
            sop_instance_uid=required(ds, "SOPInstanceUID"),
            patient_key=patient_key(patient, text(ds, "StudyInstanceUID")),
            who=patient.identity(text(ds, "StudyInstanceUID")),
            frame_of_reference_uid=required(ds, "FrameOfReferenceUID"),
            by_frame={frame: matrix for frame, matrix in by_frame.items() if frame not in contradictory},
            by_instance=by_instance,
        )
    except HeaderError as error:
        return Problem("E_REGISTRATION", str(error), path)


def _matrix(item: Dataset) -> NDArray[np.float64]:
    """The product of the item's matrices; the first in the sequence is applied first (PS3.3 C.20.2)."""
    product = np.eye(4)
    for way in items(item, "MatrixRegistrationSequence"):
        for step in items(way, "MatrixSequence"):
            values = numbers(step, "FrameOfReferenceTransformationMatrix")
            if len(values) != 16:
                raise HeaderError("FrameOfReferenceTransformationMatrix does not have 16 values")
            product = np.reshape(values, (4, 4)) @ product
    if not np.allclose(product[3], (0, 0, 0, 1)) or np.linalg.det(product[:3, :3]) < 1e-6:
        raise HeaderError("FrameOfReferenceTransformationMatrix is singular, mirrors or is not affine")
    return product


def second_to_base(registration: RegistrationObject, base: SubSeries, second: SubSeries) -> NDArray[np.float64] | None:
    """The matrix (LPS mm) that takes a point of the second to the base, None if the object does not relate them."""
    of_base, of_second = registration.matrix_of(base), registration.matrix_of(second)
    if of_base is None or of_second is None:
        return None
    return np.asarray(np.linalg.inv(of_base) @ of_second)
