"""What a series holds: a sub-series is the set of slices that make one volume.

A DICOM series may mix echoes, time points, orientations, sizes and stray localizers;
:mod:`ddfm_monai.dicom.split` sorts them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.geometry import Grid, Vector3
from ddfm_monai.rules import Identity, Origin

__all__ = ["Kind", "Patient", "SeriesHeader", "SeriesKey", "Slice", "SubSeries"]

Kind = Literal["mr", "ct", "pet", "spect"]

# What de-identification tools, exports and scanners write into Patient ID for nobody in particular, without its signs.
# More than one person may have it: who is taken for one patient by such an ID would be fused with somebody else.
_REMOVED = "anon(ym(ous|ized|ised|isiert)?)?|(de)?identified|pseudonymi[sz]ed|removed|redacted|deleted|hidden|masked"
_NONE = "unknown|unbekannt|none|null|nil|nan|na|not?(available|specified|known|id|patientid|name)|unspecified|undefined"
ANONYMOUS_ID = re.compile(
    rf"(({_REMOVED}|{_NONE}|empty|blank|dummy|default|test)?(patients?)?(id|name)?|0+|x+)", re.IGNORECASE
)

KINDS: dict[str, Kind] = {"MR": "mr", "CT": "ct", "PT": "pet", "NM": "spect"}


@dataclass(frozen=True, order=True)
class SeriesKey:
    """Names one sub-series in manifests, reports and logs, without patient data.

    Args:
        patient_key: ``"P"`` and 12 hex digits of a hash over Patient ID and Issuer of Patient ID (without a usable
            Patient ID: over the Study Instance UID).
        study_uid: Study Instance UID.
        series_uid: Series Instance UID.
        subseries: ``"all"`` when the series is one volume, else what sets this one apart, for example
            ``"EchoTime=4.6"`` or ``"TemporalPositionIdentifier=2"``.
    """

    patient_key: str
    study_uid: str
    series_uid: str
    subseries: str

    def short(self) -> str:
        """A short text for messages: patient key, the end of the series UID, and the sub-series."""
        return f"{self.patient_key} series ...{self.series_uid[-8:]} ({self.subseries})"


@dataclass(frozen=True)
class Patient:
    """Who it is: for pairing and for ``--show-phi`` only; the representation shows nothing."""

    patient_id: str = field(repr=False)
    issuer: str = field(repr=False)
    name: str = field(repr=False)

    @property
    def has_usable_id(self) -> bool:
        """Whether the Patient ID tells patients apart."""
        return ANONYMOUS_ID.fullmatch(re.sub(r"[\W_]+", "", self.patient_id)) is None

    def identity(self, study_uid: str) -> Identity:
        """The same in keys that can be compared but not read."""
        return Identity(
            patient=_key(self.patient_id) if self.has_usable_id else "",
            issuer=_key(self.issuer),
            name=_key(re.sub(r"[\W_]+", " ", self.name.split("=", maxsplit=1)[0] or self.name).strip().casefold()),
            study=study_uid,
        )


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text.strip() else ""


@dataclass(frozen=True)
class Slice:
    """One slice of a volume: a file, or one frame of a multi-frame file.

    Args:
        path: the file.
        sop_instance_uid: SOP Instance UID of the file.
        frame: number of the frame within the file, counted from 0; None for a single-frame object.
        position: Image Position (Patient), LPS mm; None if the file has none.
        instance_number: Instance Number, or None.
        copies: other files of the same slice, under the same SOP Instance UID or sent again under another (compared by
            pixels when read).
    """

    path: Path
    sop_instance_uid: str
    frame: int | None
    position: Vector3 | None
    instance_number: int | None
    copies: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SeriesHeader:
    """What every image of a series says of it.

    Args:
        patient: for pairing; never printed.
        sop_class_uid: SOP Class UID of all its instances.
        frame_of_reference_uid: Frame of Reference UID, ``""`` if absent.
        rows, columns: matrix of one slice.
        t1_weighted: a guess from descriptions, sequence and times (MR only).
        three_d: MR Acquisition Type is 3D.
        series_number: Series Number, or None.
        description: Series Description. Free text, may hold patient data: not for logs.
        acquired: date and time of the study's or series' start, ``YYYYMMDDHHMMSS`` or ``""``.
        identity_removed: Patient Identity Removed: ``"YES"``, ``"NO"`` or ``""``.
    """

    patient: Patient = field(repr=False)
    sop_class_uid: str
    frame_of_reference_uid: str
    rows: int
    columns: int
    t1_weighted: bool
    three_d: bool
    series_number: int | None
    description: str = field(repr=False)
    acquired: str
    identity_removed: str

    def shared(self) -> dict[str, Any]:
        """These attributes by name, for something else that has them."""
        return {item.name: getattr(self, item.name) for item in fields(SeriesHeader)}


@dataclass(frozen=True, kw_only=True)
class SubSeries(SeriesHeader):
    """The slices of one volume and what is needed to choose, pair and read it.

    Args:
        key: names it.
        modality: Modality (``"MR"``, ``"CT"``, ``"PT"`` or ``"NM"``).
        slices: in volume order, along the slice normal (row direction x column direction); one for each plane of the
            grid, unless it is uneven.
        grid: the voxel grid; None when ``problem`` says why there is none.
        image_type: Image Type of the first slice.
        problem: why it cannot be read as a volume (an ``E_`` code), or None.
        exclusion: why it is no automatic candidate (an ``S_`` code), or None; a manifest may still name it.
        warnings: remarks (``W_`` codes) known from the headers.
    """

    key: SeriesKey
    modality: str
    slices: tuple[Slice, ...] = field(repr=False)
    grid: Grid | None
    image_type: tuple[str, ...]
    problem: Problem | None = None
    exclusion: Problem | None = None
    warnings: tuple[Problem, ...] = ()

    @property
    def kind(self) -> Kind:
        """The kind of source, as in `ddfm_monai.volumes`: ``"mr"``, ``"ct"``, ``"pet"`` or ``"spect"``."""
        return KINDS[self.modality]

    @cached_property
    def origin(self) -> Origin:
        """What the rules of pairing want to know of it."""
        return Origin(
            who=self.patient.identity(self.key.study_uid),
            kind=self.kind,
            series=f"{self.key.series_uid} {self.key.subseries}",
            frame=self.frame_of_reference_uid,
            acquired=self.acquired,
            identity_removed=self.identity_removed,
        )

    @property
    def not_as_base(self) -> Problem | None:
        """Why no result can take its grid although it can be read (tilted, or interpolated), or None."""
        if self.grid is not None and self.grid.uneven:
            gaps = [warning.found for warning in self.warnings if warning.code == "W_UNEVEN"]
            return Problem("E_IRREGULAR_SPACING", gaps[0] if gaps else "the gaps between slices differ")
        if self.grid is not None and self.grid.tilt:
            return Problem("E_GANTRY_TILT", f"the slices are stacked at {self.grid.tilt:.1f} degrees to their normal")
        return None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files, each once, in slice order, with the copies."""
        return tuple(dict.fromkeys(path for item in self.slices for path in (item.path, *item.copies)))

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """Its SOP Instance UIDs, each once, in slice order."""
        return tuple(dict.fromkeys(item.sop_instance_uid for item in self.slices))
