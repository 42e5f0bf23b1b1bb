"""Sort the slices of one series into the volumes that it holds, by content, never by file name or folder.

Three things set slices apart, in this order:

1. what they are: matrix, orientation, pixel spacing, image type, frame of reference, SOP class;
2. another image of the same place: echo time, b-value, stack...;
3. only where positions repeat: the first attribute that separates the repetitions (time point, trigger time,
   acquisition number...). Some scanners number every slice, so these alone never split a volume.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.dicom.geometry import Grid, along_normal, fit_grid
from ddfm_monai.dicom.headers import MODALITY_OF_CLASS, FrameHeader, ImageHeader
from ddfm_monai.dicom.subseries import SeriesKey, Slice, SubSeries

__all__ = ["split_series"]

# Words of Image Type that mark an image computed from others (PS3.3 C.7.6.1.1.2, C.8.3.1.1.1, vendors' habits).
DERIVED_WORDS = {
    "PROJECTION", "MPR", "MIP", "MINIP", "MNIP", "MAXIP", "VRT", "ADC", "EADC", "FA", "TRACE", "TRACEW", "CBF", "CBV",
    "MTT", "TTP", "TMAX", "PERFUSION", "MAP", "SUBTRACT", "SUBTRACTION", "PHASE",
}  # fmt: skip

FEWEST_SLICES = 4
ORIENTATION_TOLERANCE = 1e-4
SPACING_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class _Entry:
    """One slice with the file it comes from."""

    image: ImageHeader
    frame: FrameHeader
    copies: tuple[Path, ...]

    @property
    def height(self) -> float:
        return along_normal(self.frame.position, self.frame.orientation)


@dataclass(slots=True)
class _Group:
    """Slices that belong together so far, and the named values that set them apart."""

    labels: dict[str, str]
    entries: list[_Entry]


def split_series(images: Sequence[ImageHeader], broken_beside: Sequence[Problem] = ()) -> list[SubSeries]:
    """All sub-series of one series.

    Args:
        images: the files of one patient, study and series, in any order.
        broken_beside: problems of files that may belong to the series; they become warnings.

    Returns:
        Sub-series in the order of their ids, readable or not.
    """
    whole_series = [image.problem for image in images if not image.frames and image.problem is not None]
    entries, conflicts = _without_copies([image for image in images if image.frames])
    if not entries:
        return [_unreadable(images, whole_series[0])] if whole_series else []
    groups = [part for kind in _by_kind(entries) for look in _by_contrast(kind) for part in _by_repeat(look)]
    names = _names(groups)
    found = []
    for group, name in zip(groups, names, strict=True):
        group.entries.sort(key=lambda entry: (entry.height, entry.image.instance_number or 0, entry.frame.frame or 0))
        problem = next(iter([*whole_series, *conflicts, *_file_problems(group)]), None)
        found.append(_subseries(group, name, problem, broken_beside))
    return sorted(_excluded(found), key=lambda item: item.key)


# ------------------------------------------------------------------------------------------------ copies


def _without_copies(images: Sequence[ImageHeader]) -> tuple[list[_Entry], list[Problem]]:
    """One entry per frame, files of the same SOP Instance UID merged; and the merges that cannot be right."""
    same: dict[str, list[ImageHeader]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        same[image.sop_instance_uid].append(image)
    entries: list[_Entry] = []
    conflicts: list[Problem] = []
    for first, *others in same.values():
        for other in others:
            if (other.frames, other.rows, other.columns) != (first.frames, first.rows, first.columns):
                found = f"two files have SOP Instance UID ...{first.sop_instance_uid[-12:]} but different headers"
                conflicts.append(Problem("E_DUPLICATE_INSTANCE", found, other.path))
        copies = tuple(other.path for other in others)
        entries.extend(_Entry(first, frame, copies) for frame in first.frames)
    return entries, conflicts


def _file_problems(group: _Group) -> list[Problem]:
    problems = {entry.image.path: entry.image.problem for entry in group.entries}
    return [problem for problem in problems.values() if problem is not None]


# ------------------------------------------------------------------------------------------------ splitting


def _by_kind(entries: list[_Entry]) -> list[_Group]:
    """Groups of one matrix, type, class, frame of reference, orientation and pixel spacing.

    Slices that lack orientation or spacing stay with the largest group that is otherwise alike: they spoil it, instead
    of leaving it with a hole that nobody notices.
    """
    alike: dict[tuple[tuple[str, str], ...], list[_Entry]] = defaultdict(list)
    for entry in entries:
        image = entry.image
        alike[
            ("Rows", str(image.rows)),
            ("Columns", str(image.columns)),
            ("ImageType", "/".join(entry.frame.image_type)),
            ("SOPClassUID", image.sop_class_uid),
            ("PhotometricInterpretation", image.photometric),
            ("FrameOfReferenceUID", image.frame_of_reference_uid),
        ].append(entry)
    groups = []
    for labels, members in alike.items():
        complete: list[_Group] = []
        for entry in members:
            if entry.frame.orientation is not None and entry.frame.pixel_spacing is not None:
                _join(complete, dict(labels), entry)
        incomplete = [e for e in members if e.frame.orientation is None or e.frame.pixel_spacing is None]
        if incomplete and not complete:
            complete.append(_Group({**dict(labels), "Orientation": "", "PixelSpacing": ""}, []))
        if incomplete:
            max(complete, key=lambda group: len(group.entries)).entries.extend(incomplete)
        groups.extend(complete)
    return groups


def _join(groups: list[_Group], labels: dict[str, str], entry: _Entry) -> None:
    """Add an entry to the group whose first entry has the same orientation and spacing, or open a group."""
    orientation, spacing = np.array(entry.frame.orientation), np.array(entry.frame.pixel_spacing)
    for group in groups:
        first = group.entries[0].frame
        if np.allclose(np.array(first.orientation), orientation, rtol=0, atol=ORIENTATION_TOLERANCE) and np.allclose(
            np.array(first.pixel_spacing), spacing, rtol=SPACING_TOLERANCE, atol=0
        ):
            group.entries.append(entry)
            return
    shown = {"Orientation": orientation.round(2) + 0.0, "PixelSpacing": spacing.round(3)}  # + 0.0: no negative zero
    texts = {keyword: "/".join(f"{value:g}" for value in values) for keyword, values in shown.items()}
    groups.append(_Group({**labels, **texts}, [entry]))


def _by_contrast(group: _Group) -> list[_Group]:
    parts: dict[tuple[tuple[str, str], ...], list[_Entry]] = defaultdict(list)
    for entry in group.entries:
        parts[entry.frame.contrast].append(entry)
    return [_Group({**group.labels, **dict(contrast)}, members) for contrast, members in parts.items()]


def _by_repeat(group: _Group) -> list[_Group]:
    """Where positions repeat, split by the first attribute that has as many values as there are repetitions."""
    if any(entry.frame.position is None or entry.frame.orientation is None for entry in group.entries):
        return [group]
    heights = Counter(_place(entry) for entry in group.entries)
    repetitions = max(heights.values())
    if repetitions == 1:
        return [group]
    for keyword in dict.fromkeys(name for entry in group.entries for name, _ in entry.frame.repeat):
        parts: dict[str, list[_Entry]] = defaultdict(list)
        for entry in group.entries:
            parts[dict(entry.frame.repeat).get(keyword, "")].append(entry)
        unique = all(len({_place(entry) for entry in members}) == len(members) for members in parts.values())
        if len(parts) == repetitions and unique:
            return [_Group({**group.labels, keyword: value}, members) for value, members in parts.items()]
    return [group]


def _place(entry: _Entry) -> int:
    """The slice plane in hundredths of a mm: equal for slices at the same position."""
    return round(entry.height * 100)


def _names(groups: list[_Group]) -> list[str]:
    """A text for each group from the labels in which the groups differ; ``"all"`` for a single one."""
    keywords = dict.fromkeys(keyword for group in groups for keyword in group.labels)
    telling = [key for key in keywords if len({group.labels.get(key, "") for group in groups}) > 1]
    texts = ["|".join(f"{key}={group.labels.get(key, '')}" for key in telling) or "all" for group in groups]
    repeated = Counter[str]()
    names = []
    for name in texts:
        repeated[name] += 1
        names.append(name if repeated[name] == 1 else f"{name}#{repeated[name]}")
    return names


# ------------------------------------------------------------------------------------------------ describing


def _subseries(group: _Group, name: str, problem: Problem | None, broken_beside: Sequence[Problem]) -> SubSeries:
    first = group.entries[0]
    warnings = [warning for entry in group.entries[:1] for warning in entry.image.warnings]
    grid: Grid | None = None
    if problem is None:
        try:
            grid = fit_grid(
                [entry.frame.position for entry in group.entries],
                *_common_geometry(group.entries),
                first.image.rows,
                first.image.columns,
            )
        except DicomError as error:
            problem = replace(error.problem, path=first.image.path.parent)
    if grid is not None:
        warnings.extend(_spacing_warning(grid, group.entries))
    if first.image.photometric == "MONOCHROME1":
        warnings.append(Problem("W_MONOCHROME1", "Photometric Interpretation is MONOCHROME1"))
    copies = sum(len(entry.copies) for entry in group.entries)
    if copies:
        warnings.append(Problem("W_DUPLICATE_INSTANCE", f"{copies} slices were found more than once"))
    if broken_beside:
        found = f"{len(broken_beside)} file(s) in the same folder cannot be read"
        warnings.append(Problem("W_BROKEN_NEIGHBOUR", found, broken_beside[0].path))
    return _with_header(
        first.image, name, tuple(map(_slice, group.entries)), grid, problem, tuple(warnings), first.frame
    )


def _common_geometry(entries: list[_Entry]) -> tuple[tuple[float, ...] | None, tuple[float, float] | None]:
    """Orientation and spacing of the slices; None if one of them lacks it."""
    orientations, spacings = [e.frame.orientation for e in entries], [e.frame.pixel_spacing for e in entries]
    return (
        None if None in orientations else orientations[0],
        None if None in spacings else spacings[0],
    )


def _spacing_warning(grid: Grid, entries: list[_Entry]) -> list[Problem]:
    said = {round(e.frame.spacing_between, 3) for e in entries if e.frame.spacing_between is not None}
    wrong = [value for value in said if abs(abs(value) - grid.spacing[2]) > 0.01 * grid.spacing[2]]
    if not wrong:
        return []
    found = f"Spacing Between Slices is {wrong[0]:g} mm, the positions say {grid.spacing[2]:g} mm"
    return [Problem("W_SPACING_CONTRADICTS", found)]


def _slice(entry: _Entry) -> Slice:
    image = entry.image
    return Slice(
        image.path, image.sop_instance_uid, entry.frame.frame, entry.frame.position, image.instance_number, entry.copies
    )


def _unreadable(images: Sequence[ImageHeader], problem: Problem) -> SubSeries:
    """A series of which not one file has a usable header."""
    slices = tuple(Slice(image.path, image.sop_instance_uid, None, None, image.instance_number) for image in images)
    return _with_header(images[0], "all", slices, None, problem, (), None)


def _with_header(
    image: ImageHeader,
    name: str,
    slices: tuple[Slice, ...],
    grid: Grid | None,
    problem: Problem | None,
    warnings: tuple[Problem, ...],
    frame: FrameHeader | None,
) -> SubSeries:
    return SubSeries(
        key=SeriesKey(image.patient_key, image.study_uid, image.series_uid, name),
        patient=image.patient,
        sop_class_uid=image.sop_class_uid,
        modality=MODALITY_OF_CLASS.get(image.sop_class_uid, ""),
        frame_of_reference_uid=image.frame_of_reference_uid,
        slices=slices,
        rows=image.rows,
        columns=image.columns,
        grid=grid,
        image_type=frame.image_type if frame is not None else (),
        t1_weighted=image.t1_weighted,
        three_d=image.three_d,
        series_number=image.series_number,
        description=image.description,
        acquired=image.acquired,
        identity_removed=image.identity_removed,
        problem=problem,
        exclusion=Problem("S_OWN_OUTPUT", "it was written by ddfm_monai") if image.own_output else None,
        warnings=warnings,
    )


# ------------------------------------------------------------------------------------------------ candidates


def _excluded(found: list[SubSeries]) -> list[SubSeries]:
    """Mark what is no automatic candidate, looking at each sub-series and at its place in the series."""
    total = sum(len(item.slices) for item in found)
    largest = max(len(item.slices) for item in found)
    by_orientation = Counter[str]()
    for item in found:
        by_orientation[_orientation_label(item)] += len(item.slices)
    majority = max(by_orientation.values()) > total / 2
    marked = []
    for item in found:
        alone = by_orientation[_orientation_label(item)] <= total / 2
        exclusion = item.exclusion or _exclusion_by_type(item)
        if exclusion is None and alone and not majority:
            exclusion = Problem("S_SEVERAL_ORIENTATIONS", f"the series has {len(by_orientation)} orientations")
        if exclusion is None and ((alone and majority) or len(item.slices) < largest / 2):
            exclusion = Problem("S_STRAY_SLICES", f"{len(item.slices)} of the {total} slices differ from the others")
        if exclusion is None and item.problem is None and len(item.slices) < FEWEST_SLICES:
            exclusion = Problem("S_FEW_SLICES", f"the number of slices is {len(item.slices)}")
        marked.append(replace(item, exclusion=exclusion))
    strays = sum(len(item.slices) for item in marked if item.exclusion and item.exclusion.code == "S_STRAY_SLICES")
    if not strays:
        return marked
    warning = Problem("W_STRAY_SLICES", f"{strays} slices of the series were set apart")
    return [replace(item, warnings=(*item.warnings, warning)) if not item.exclusion else item for item in marked]


def _orientation_label(item: SubSeries) -> str:
    parts = item.key.subseries.split("|")
    return next((part for part in parts if part.startswith("Orientation=")), "")


def _exclusion_by_type(item: SubSeries) -> Problem | None:
    words = {word for value in item.image_type for word in value.replace("_", " ").split()}
    found = "Image Type is " + "\\".join(item.image_type)
    if any("LOCALIZER" in value for value in item.image_type):
        return Problem("S_LOCALIZER", found)
    if words & DERIVED_WORDS:
        return Problem("S_DERIVED", found)
    if item.modality == "MR" and item.image_type[2:3] in (("P",), ("R",), ("I",)):  # phase, real, imaginary
        return Problem("S_DERIVED", found)
    return None
