"""What a result refers to: the source images of each slice, their series and studies, and the equipment behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ddfm_monai.dicom.attributes import EQUIPMENT, copy_attributes
from ddfm_monai.dicom.codes import ACQUISITION_EQUIPMENT, OWN_MODEL_NAME, PROCESSING_EQUIPMENT, SOURCE_IMAGE
from ddfm_monai.dicom.read import DicomVolume
from ddfm_monai.space import flip
from ddfm_monai.volume import affine_of

__all__ = [
    "Instance",
    "SourceImages",
    "contributing_equipment",
    "frame_of_reference",
    "instances_of",
    "reference_series",
    "source_images",
]


@dataclass(frozen=True)
class Instance:
    """One referenced SOP instance, or one frame of it (``frame`` counted from 1; None: the whole instance)."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    frame: int | None = None

    def item(self) -> Dataset:
        """An item of the SOP Instance Reference Macro (PS3.3 table 10-11)."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.sop_class_uid
        item.ReferencedSOPInstanceUID = self.sop_instance_uid
        return item


@dataclass(frozen=True)
class SourceImages:
    """What one slice of the result was computed from."""

    study_uid: str
    base: tuple[Instance, ...]
    second: tuple[Instance, ...]

    def items(self, second_in_place: bool) -> list[Dataset]:
        """Items of Source Image Sequence (PS3.3 C.7.6.1.1.4); the base is in place, the second only if so."""
        return [
            *(_image_item(group, True) for group in _by_instance(self.base)),
            *(_image_item(group, second_in_place) for group in _by_instance(self.second)),
        ]


def instances_of(source: DicomVolume, first: int = 0, last: int | None = None) -> tuple[Instance, ...]:
    """The instances (or frames) of slices ``first`` to ``last`` (inclusive; default: all)."""
    chosen = source.subseries.slices[first : None if last is None else last + 1]
    key = source.subseries.key
    return tuple(
        Instance(
            key.study_uid,
            key.series_uid,
            source.subseries.sop_class_uid,
            item.sop_instance_uid,
            None if item.frame is None else item.frame + 1,
        )
        for item in chosen
    )


def source_images(
    base: DicomVolume, second: DicomVolume | None, index: int, base_to_second: NDArray[np.float64]
) -> SourceImages:
    """The base's slice ``index`` and the slices of the second that linear interpolation onto it reads.

    Args:
        second: None where the second is no DICOM series.
        base_to_second: 4x4, LPS mm, from a point of the base's space to the second's.
    """
    own = instances_of(base, index, index)
    if second is None:
        return SourceImages(base.subseries.key.study_uid, own, ())
    columns, rows = base.volume.shape[1:3]
    corners = np.array(
        [(x, y, index, 1.0) for x in (-0.5, columns - 0.5) for y in (-0.5, rows - 0.5)], dtype=np.float64
    ).T
    points = base_to_second @ _lps(base) @ corners
    depth = (np.linalg.inv(_lps(second)) @ points)[2]
    first, last = int(np.floor(depth.min() + 1e-4)), int(np.ceil(depth.max() - 1e-4))
    used = _slices_of_planes(second, first, last)
    return SourceImages(base.subseries.key.study_uid, own, used)


def _slices_of_planes(source: DicomVolume, first: int, last: int) -> tuple[Instance, ...]:
    """The slices that planes ``first`` to ``last`` of a volume come from; planes outside it come from none."""
    grid = source.subseries.grid
    assert grid is not None  # a volume that was read has one
    top = grid.shape[2] - 1
    if last < 0 or first > top:
        return ()
    ends = grid.slice_at(max(first, 0)), grid.slice_at(min(last, top))
    return instances_of(source, int(np.floor(ends[0] + 1e-6)), int(np.ceil(ends[1] - 1e-6)))


def reference_series(ds: Dataset, images: SourceImages) -> None:
    """Common Instance Reference module (PS3.3 C.12.2): same-study series, and series of other studies."""
    studies: dict[str, dict[str, list[Instance]]] = {}
    for instance in (*images.base, *images.second):
        studies.setdefault(instance.study_uid, {}).setdefault(instance.series_uid, []).append(instance)
    if own := studies.pop(images.study_uid, None):
        ds.ReferencedSeriesSequence = _series_items(own)
    if studies:
        ds.StudiesContainingOtherReferencedInstancesSequence = []
        for study_uid, series in studies.items():
            item = Dataset()
            item.StudyInstanceUID = study_uid
            item.ReferencedSeriesSequence = _series_items(series)
            ds.StudiesContainingOtherReferencedInstancesSequence.append(item)


def contributing_equipment(
    base: Dataset, second: Dataset | None, provenance: Mapping[str, Any], created: datetime
) -> list[Dataset]:
    """Items of Contributing Equipment Sequence (PS3.3 C.12.1.1.5): the scanners that are known and this software.

    Args:
        base, second: a header of either source; None where the second is no DICOM series.
        provenance: of `FusionResult`: software, prior and sampling go into the item of this software.
        created: when.
    """
    scanners = [_acquisition(base, "Base image")]
    if second is not None:
        scanners.append(_acquisition(second, "Second image"))
    return [*scanners, _processing(provenance, created)]


def frame_of_reference(source: DicomVolume) -> str:
    """The Frame of Reference UID; where the source has none, one made from its Series Instance UID.

    The result needs one (type 1), and the same source must always give the same one.
    """
    if source.subseries.frame_of_reference_uid:
        return source.subseries.frame_of_reference_uid
    digest = hashlib.sha256(source.subseries.key.series_uid.encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


def _acquisition(header: Dataset, role: str) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [ACQUISITION_EQUIPMENT.item()]
    copy_attributes(item, header, EQUIPMENT)
    if "Manufacturer" not in item:
        item.Manufacturer = "UNKNOWN"  # type 1 here, type 2 in the source
    item.ContributionDescription = f"{role}, {header.get('Modality', '')}".rstrip(", ")
    return item


def _processing(provenance: Mapping[str, Any], created: datetime) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [PROCESSING_EQUIPMENT.item()]
    item.Manufacturer = "ddfm-monai"
    item.ManufacturerModelName = OWN_MODEL_NAME
    item.SoftwareVersions = [f"{name} {version}"[:64] for name, version in provenance["software"].items()]
    item.ContributionDateTime = created.strftime("%Y%m%d%H%M%S.%f")
    prior, sampling = provenance["prior"], provenance["sampling"]
    item.ContributionDescription = (
        f"Diffusion-model-based image fusion. Model {prior['name'][:64]}, SHA-256 {prior['sha256']}, "
        f"steps {sampling['steps']}, seed {sampling['seed']}."
    )
    return item


def _lps(source: DicomVolume) -> NDArray[np.float64]:
    return flip(affine_of(source.volume))


def _image_item(instances: list[Instance], in_place: bool) -> Dataset:
    item = instances[0].item()
    if frames := [instance.frame for instance in instances if instance.frame is not None]:
        item.ReferencedFrameNumber = frames
    item.PurposeOfReferenceCodeSequence = [SOURCE_IMAGE.item()]
    item.SpatialLocationsPreserved = "YES" if in_place else "NO"
    return item


def _series_items(series: Mapping[str, list[Instance]]) -> list[Dataset]:
    items = []
    for series_uid, instances in series.items():
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedInstanceSequence = [group[0].item() for group in _by_instance(instances)]
        items.append(item)
    return items


def _by_instance(instances: Iterable[Instance]) -> list[list[Instance]]:
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.sop_instance_uid, []).append(instance)
    return list(groups.values())
