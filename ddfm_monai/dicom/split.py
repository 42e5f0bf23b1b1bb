"""Sort the slices of one series into the volumes that it holds, by content, never by file name or folder.

Four things set slices apart, in this order:

1. what they are: matrix, orientation, pixel spacing, kind of image, SOP class, frame of reference;
2. another image of the same place: echo time, b-value, stack...;
3. what may differ within a volume (the rest of the image type, tube voltage, kernel): only where positions repeat;
4. where positions repeat, and where stacks lie in each other: the first attribute that separates them (time point,
   trigger time, acquisition number...). Some scanners number every slice, so these alone never split a volume.

After each step :mod:`ddfm_monai.dicom.pieces` says whether that would tear a volume; then the series is refused.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from ddfm_monai.dicom import pieces
from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.dicom.frames import FrameHeader
from ddfm_monai.dicom.geometry import Grid, Vector3, along_normal, fit_grid
from ddfm_monai.dicom.headers import ImageHeader
from ddfm_monai.dicom.image_type import exclusion_by_type, kind_of_image
from ddfm_monai.dicom.pieces import FEWEST_SLICES
from ddfm_monai.dicom.sop_classes import MODALITY_OF_CLASS
from ddfm_monai.dicom.subseries import SeriesKey, Slice, SubSeries

__all__ = ["split_series"]

SAYS_PHASE = ("TemporalPositionIdentifier", "TemporalPositionIndex")
# Labels of text that anybody may have written, and those whose values are shown if they look like what they should be.
FREE_TEXT = ("SeriesDescription", "ImageComments")
SHORT_NAMES = ("ConvolutionKernel", "StackID")
NAME = re.compile(
    r"(standard|stnd|std|soft|smooth|sharp|body|head|brain|bone|boneplus|lung|detail|edge|ultra|chst|chest|stack|vol"
    r"|[a-z]{1,2})?([ _-]?\d{1,3}([ _-]?[a-z]{1,2})?)?",
    re.IGNORECASE,
)
SAYS_ACQUISITION = ("AcquisitionNumber", "FrameAcquisitionNumber", "EchoNumbers")
CONTRAST_WITHIN_A_VOLUME = ("KVP", "ConvolutionKernel")

ORIENTATION_TOLERANCE = 1e-4
SPACING_TOLERANCE = 1e-4
# Below this, orientations may be those of one volume (about 3 degrees).
PARALLEL_TOLERANCE = 0.05
# Values of a contrast that differ by less (absolute, relative) are the same: ms, s/mm2, kV.
TOLERANCES = {
    "EchoTime": (0.1, 0.01),
    "InversionTime": (0.1, 0.01),
    "InversionTimes": (0.1, 0.01),
    "DiffusionBValue": (1.0, 0.001),
    "KVP": (1.0, 0.01),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One slice with the file it comes from."""

    image: ImageHeader
    frame: FrameHeader
    copies: tuple[Path, ...]

    @property
    def height(self) -> float:
        return along_normal(self.frame.position, self.frame.orientation)

    @property
    def placed(self) -> bool:
        return self.frame.position is not None and self.frame.orientation is not None

    @property
    def position(self) -> Vector3:
        assert self.frame.position is not None
        return self.frame.position

    @property
    def orientation(self) -> tuple[float, ...]:
        assert self.frame.orientation is not None
        return self.frame.orientation

    @property
    def thickness(self) -> float | None:
        return self.frame.thickness

    def says(self, keyword: str) -> str:
        """The value of an attribute that sets slices apart, ``""`` if absent."""
        return dict((*self.frame.contrast, *self.frame.repeat)).get(keyword, "")


@dataclass(slots=True)
class _Group:
    """Slices that belong together so far.

    Args:
        labels: the named values that set them apart.
        entries: the slices.
        kind: the number of the group of :func:`_by_kind` that they come from.
        mixed: attributes that differ within the volume.
        problem: why it cannot be decided which volumes these are.
    """

    labels: dict[str, str]
    entries: list[_Entry]
    kind: int = 0
    mixed: list[str] = field(default_factory=list)
    problem: Problem | None = None

    def part(self, entries: Sequence[_Entry], **labels: str) -> _Group:
        """Some of the slices, with further labels."""
        return _Group({**self.labels, **labels}, list(entries), self.kind, list(self.mixed), self.problem)


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
    groups = _by_kind(_without_free_text(entries))
    for step in (_by_frame_of_reference, _by_contrast, _by_image_type, _by_repeat):
        groups = [part for group in groups for part in (step(group) if group.problem is None else [group])]
    groups = _without_torn(groups)
    of_modality: dict[str, list[_Group]] = defaultdict(list)
    for group in groups:
        of_modality[MODALITY_OF_CLASS.get(group.entries[0].image.sop_class_uid, "")].append(group)
    found = []
    for modality, members in of_modality.items():  # of one series that holds two, neither is a stray of the other
        names = _names(members, {"Modality": modality} if len(of_modality) > 1 else {})
        found += _described(members, names, [*whole_series, *conflicts], broken_beside)
    return sorted(found, key=lambda item: item.key)


def _described(
    groups: list[_Group], names: list[str], problems: Sequence[Problem], broken_beside: Sequence[Problem]
) -> list[SubSeries]:
    """Groups of one modality as sub-series.

    Args:
        problems: of the whole series.
    """
    found = []
    for group, name in zip(groups, names, strict=True):
        group.entries.sort(key=lambda entry: (entry.height, entry.image.instance_number or 0, entry.frame.frame or 0))
        known = [*problems, *_file_problems(group), *_own_problem(group), *_rescale_problem(group)]
        found.append(_subseries(group, name, next(iter(known), None), broken_beside))
    orientations = [group.labels.get("Orientation", "") for group in groups]
    kinds = [group.kind for group in groups]
    return _fewer_slices(_excluded(found, orientations, kinds), kinds)


# ------------------------------------------------------------------------------------------------ copies


def _without_copies(images: Sequence[ImageHeader]) -> tuple[list[_Entry], list[Problem]]:
    """One entry per frame, copies merged (their pixels are compared when read); and the merges that cannot be right.

    Copies are files of the same SOP Instance UID, and files that were sent again under new ones: everything that tells
    slices apart is equal, Instance Number and position too.
    """
    same: dict[str, list[ImageHeader]] = defaultdict(list)
    for image in sorted(images, key=lambda image: image.path):
        same[image.sop_instance_uid].append(image)
    entries: dict[object, _Entry] = {}
    conflicts: list[Problem] = []
    for first, *others in same.values():
        for other in others:
            if (other.frames, other.rows, other.columns) != (first.frames, first.rows, first.columns):
                found = f"two files have SOP Instance UID ...{first.sop_instance_uid[-12:]} but different headers"
                conflicts.append(Problem("E_DUPLICATE_INSTANCE", found, other.path))
        copies = tuple(other.path for other in others)
        for number, frame in enumerate(first.frames):
            key = _what_and_where(first, frame) or (first.sop_instance_uid, number)
            known = entries.get(key)
            if known is None:
                entries[key] = _Entry(first, frame, copies)
            else:
                entries[key] = replace(known, copies=(*known.copies, first.path, *copies))
    return list(entries.values()), conflicts


def _what_and_where(image: ImageHeader, frame: FrameHeader) -> object | None:
    """Equal for slices that were sent again under a new SOP Instance UID; None if that cannot be said."""
    if frame.position is None or image.instance_number is None:
        return None
    return (image.instance_number, image.rows, image.columns, image.sop_class_uid, image.frame_of_reference_uid, frame)


def _without_free_text(entries: Sequence[_Entry]) -> list[_Entry]:
    """The same slices with numbers for what may be the patient's: labels are shown on screens and in reports.

    Dates, descriptions, and names of kernels and stacks that do not look like one.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        for keyword, value in (*entry.frame.contrast, *entry.frame.repeat):
            values[keyword].add(value)
    numbered = {
        (keyword, value): str(number)
        for keyword, its in values.items()
        if not _shown(keyword, its)
        for number, value in enumerate(sorted(its), start=1)
    }

    def plain(named: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple((keyword, numbered.get((keyword, value), value)) for keyword, value in named)

    return [
        replace(e, frame=replace(e.frame, contrast=plain(e.frame.contrast), repeat=plain(e.frame.repeat)))
        for e in entries
    ]


def _shown(keyword: str, values: set[str]) -> bool:
    if keyword in SHORT_NAMES:
        return all(NAME.fullmatch(part) for value in values for part in value.split("/"))
    return keyword not in FREE_TEXT and not keyword.endswith("DateTime")


def _file_problems(group: _Group) -> list[Problem]:
    problems = {entry.image.path: entry.image.problem for entry in group.entries}
    return [problem for problem in problems.values() if problem is not None]


def _own_problem(group: _Group) -> list[Problem]:
    return [group.problem] if group.problem is not None else []


def _rescale_problem(group: _Group) -> list[Problem]:
    """Slices without the Rescale Slope or Intercept that others have: nobody knows their values (PS3.3 C.11.1).

    What changes nothing (slope 1, intercept 0) may be absent in some.
    """
    for at, (name, neutral) in enumerate((("Rescale Slope", 1.0), ("Rescale Intercept", 0.0))):
        missing = [entry for entry in group.entries if entry.frame.rescale[at] is None]
        if missing and any(entry.frame.rescale[at] not in (None, neutral) for entry in group.entries):
            found = f"{len(missing)} of {len(group.entries)} slices have no {name}"
            return [Problem("E_RESCALE", found, missing[0].image.path)]
    return []


# ------------------------------------------------------------------------------------------------ splitting


def _by_kind(entries: list[_Entry]) -> list[_Group]:
    """Groups of one matrix, class, kind of image, orientation and pixel spacing.

    Slices that lack orientation or spacing stay with the largest group that is otherwise alike: they spoil it, instead
    of leaving it with a hole that nobody notices.
    """
    alike: dict[tuple[tuple[str, str], ...], list[_Entry]] = defaultdict(list)
    for entry in entries:
        image = entry.image
        alike[
            ("Rows", str(image.rows)),
            ("Columns", str(image.columns)),
            ("Kind", kind_of_image(entry.frame.image_type)),
            ("SOPClassUID", image.sop_class_uid),
            ("PhotometricInterpretation", image.photometric),
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
    for number, group in enumerate(groups):
        group.kind = number
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
    # Rounded for people: they are part of names. + 0.0: no negative zero.
    shown = {"Orientation": orientation.round(2) + 0.0, "PixelSpacing": spacing.round(3)}
    texts = {keyword: "/".join(f"{value:g}" for value in values) for keyword, values in shown.items()}
    groups.append(_Group({**labels, **texts}, [entry]))


def _by_frame_of_reference(group: _Group) -> list[_Group]:
    return _divided(
        group, "FrameOfReferenceUID", lambda entry: entry.image.frame_of_reference_uid, True, "E_FRAMES_OF_REFERENCE"
    )


def _by_contrast(group: _Group) -> list[_Group]:
    """Split by every attribute that makes a different image of the same place."""
    names = dict.fromkeys(name for entry in group.entries for name, _ in entry.frame.contrast)
    groups = [group]
    for keyword in names:
        values = {entry.says(keyword) for entry in group.entries}
        same = {value: value for value in values}
        if keyword in TOLERANCES:
            same |= _same_numbers(values, *TOLERANCES[keyword], rounded="Time" in keyword)
        telling = keyword not in CONTRAST_WITHIN_A_VOLUME
        groups = [
            part
            for whole in groups
            for part in _divided(whole, keyword, lambda e, k=keyword, s=same: s[e.says(k)], telling)  # type: ignore[misc]
        ]
    return groups


def _same_numbers(values: set[str], absolute: float, relative: float, rounded: bool) -> dict[str, str]:
    """Each value of a number to a label that values within the tolerance share: the middle one, perhaps rounded."""
    labels: dict[str, str] = {}
    numbers = sorted((float(value), value) for value in values if value and "/" not in value)
    clusters: list[list[tuple[float, str]]] = []
    for number, value in numbers:
        if clusters and number - clusters[-1][-1][0] <= max(absolute, relative * number):
            clusters[-1].append((number, value))
        else:
            clusters.append([(number, value)])
    middles = [cluster[len(cluster) // 2] for cluster in clusters]
    short = [f"{round(middle, 1):g}" if rounded else text for middle, text in middles]
    for cluster, (middle, _), text in zip(clusters, middles, short, strict=True):
        labels.update(dict.fromkeys((value for _, value in cluster), text if short.count(text) == 1 else f"{middle:g}"))
    return labels


def _by_image_type(group: _Group) -> list[_Group]:
    return _divided(group, "ImageType", lambda entry: "/".join(entry.frame.image_type), False)


def _divided(
    group: _Group, keyword: str, value_of: Callable[[_Entry], str], telling: bool, code: str = "E_PIECES"
) -> list[_Group]:
    """Split a group by an attribute, unless its parts are pieces of one volume.

    Args:
        telling: different values are different contrasts, phases or echoes; an absent value contradicts none.
        code: of the problem if that cannot be decided.
    """
    if group.problem is not None:
        return [group]
    parts: dict[str, list[_Entry]] = defaultdict(list)
    for entry in group.entries:
        parts[value_of(entry)].append(entry)
    if len(parts) == 1:
        return [group.part(group.entries, **{keyword: next(iter(parts))})]
    if not all(entry.placed for entry in group.entries):
        return [group.part(members, **{keyword: value}) for value, members in parts.items()]
    values, members = list(parts), list(parts.values())
    together = pieces.assemble(members, telling and "" not in parts)
    if together is None:
        return [_undecided([group.part(part, **{keyword: value}) for value, part in parts.items()], code)]
    found = []
    for numbers in together:
        joined = group.part([e for k in numbers for e in members[k]], **{keyword: values[numbers[0]]})
        if len(numbers) > 1:
            joined.mixed.append(keyword)
        found.append(joined)
    return found


def _undecided(parts: list[_Group], code: str = "E_PIECES") -> _Group:
    """All parts as one group that is refused, with the parts listed."""
    if not _telling_labels(parts):
        parts = [part.part(part.entries, **_exact_geometry(part)) for part in parts]
    telling = _telling_labels(parts)
    texts = [f"{len(part.entries)} with {_label_text(part, telling)}" for part in parts[:10]]
    more = f" and {len(parts) - 10} more" if len(parts) > 10 else ""
    entries = [entry for part in parts for entry in part.entries]
    found = f"{len(entries)} slices lie like one volume, but are {'; '.join(texts)}{more}"
    if code == "E_FRAMES_OF_REFERENCE":
        found = f"{len(entries)} slices lie like one volume, but have {len(parts)} different Frame of Reference UIDs"
    labels = {key: value for key, value in parts[0].labels.items() if key not in telling}
    return _Group(labels, entries, parts[0].kind, problem=Problem(code, found))


def _exact_geometry(group: _Group) -> dict[str, str]:
    """Orientation and pixel spacing in full, for groups that differ in their last decimals."""
    first = group.entries[0].frame
    exact = {"Orientation": first.orientation or (), "PixelSpacing": first.pixel_spacing or ()}
    return {keyword: "/".join(f"{value:.10g}" for value in values) for keyword, values in exact.items()}


# ------------------------------------------------------------------------------------------------ repetitions


def _by_repeat(group: _Group) -> list[_Group]:
    """Where positions repeat or stacks lie in each other, split by the first attribute that gives whole stacks."""
    if not all(entry.placed for entry in group.entries):
        return [group]
    places = dict(zip(map(id, group.entries), pieces.places_of(pieces.heights_of(group.entries)), strict=True))
    repetitions = max(Counter(places.values()).values())
    names = dict.fromkeys(name for entry in group.entries for name, _ in (*entry.frame.contrast, *entry.frame.repeat))
    partitions = {keyword: _parts(group.entries, keyword) for keyword in names}

    def unique(parts: dict[str, list[_Entry]]) -> bool:
        return all(len({places[id(entry)] for entry in members}) == len(members) for members in parts.values())

    if repetitions > 1:
        for keyword, parts in partitions.items():
            if len(parts) == repetitions and unique(parts):
                return [group.part(members, **{keyword: value}) for value, members in parts.items()]
    for keyword, parts in partitions.items():
        if len(parts) > 1 and unique(parts) and (found := _acquisitions(group, keyword, parts, repetitions > 1)):
            return found
    if repetitions > 1:
        return _by_instance_number(group, places) or [group]
    return [group]


def _parts(entries: Sequence[_Entry], keyword: str) -> dict[str, list[_Entry]]:
    """The slices with each value of an attribute."""
    parts: dict[str, list[_Entry]] = defaultdict(list)
    for entry in entries:
        parts[entry.says(keyword)].append(entry)
    return parts


def _acquisitions(group: _Group, keyword: str, parts: dict[str, list[_Entry]], repeated: bool) -> list[_Group]:
    """The parts as volumes of their own, if each is a regular stack that lies in the next one; else none.

    Stacks that fill each other's gaps may be the odd and even slices of one volume or two acquisitions with gaps: that
    times differ says nothing, that acquisitions do says too little, that phases do says enough.
    """
    ordered = sorted(parts.values(), key=lambda members: min(entry.height for entry in members))
    if not all(pieces.is_stack(members, FEWEST_SLICES) for members in ordered):
        return []
    if not all(_overlap(one, other) for one, other in pairwise(ordered)):
        return []
    found = [group.part(members, **{keyword: value}) for value, members in parts.items()]
    if repeated or keyword in SAYS_PHASE or not pieces.is_stack(group.entries):
        return found
    fills = [pieces.fills_gaps(one, other) for one, other in pairwise(ordered)]
    if None in fills or (any(fills) and keyword in SAYS_ACQUISITION):
        return [_undecided(found)]
    return [] if any(fills) else found


def _overlap(one: Sequence[_Entry], other: Sequence[_Entry]) -> bool:
    return pieces.interleave(one, other) or pieces.share_places(one, other)


def _by_instance_number(group: _Group, places: dict[int, int]) -> list[_Group]:
    """Volumes that nothing but the order of their Instance Numbers (frames) tells apart; none if they are not whole.

    Either each volume has its own block of numbers, or each place has, and the k-th of each block make volume k.
    """
    numbers = [
        entry.image.instance_number if entry.frame.frame is None else entry.frame.frame for entry in group.entries
    ]
    counts = set(Counter(places.values()).values())
    if len(counts) != 1 or None in numbers or len(set(numbers)) != len(numbers):
        return []
    volumes, length = counts.pop(), len(set(places.values()))
    order = sorted(range(len(numbers)), key=lambda k: numbers[k] or 0)
    ordered = [group.entries[k] for k in order]
    blocks = [ordered[k * length : (k + 1) * length] for k in range(volumes)]
    columns = [ordered[k * volumes : (k + 1) * volumes] for k in range(length)]
    if all(len({places[id(entry)] for entry in block}) == length for block in blocks):
        pass
    elif all(len({places[id(entry)] for entry in column}) == 1 for column in columns):
        blocks = [[column[k] for column in columns] for k in range(volumes)]
    else:
        return []
    width = len(str(volumes))
    return [group.part(block, InstanceNumberOrder=f"{k:0{width}}") for k, block in enumerate(blocks, start=1)]


# ------------------------------------------------------------------------------------------------ torn volumes


def _without_torn(groups: list[_Group]) -> list[_Group]:
    """Refuse groups that make one even stack, whatever sets them apart: together they look like one volume."""
    for one, other in combinations(groups, 2):
        if _one_stack(one, other):
            rest = [group for group in groups if group is not one and group is not other]
            return _without_torn([*rest, _undecided([one, other])])
    return groups


def _one_stack(one: _Group, other: _Group) -> bool:
    """Whether slices of two groups fill each other's gaps, or go on evenly one above the other."""
    if one.problem or other.problem or one.kind == other.kind or min(len(one.entries), len(other.entries)) < 2:
        return False
    if not all(entry.placed for entry in (*one.entries, *other.entries)):
        return False
    normal, other_normal = (np.cross(e.orientation[:3], e.orientation[3:]) for e in (one.entries[0], other.entries[0]))
    if np.linalg.norm(np.cross(normal, other_normal)) > PARALLEL_TOLERANCE or pieces.share_places(
        one.entries, other.entries
    ):
        return False
    if pieces.interleave(one.entries, other.entries):
        return pieces.fills_gaps(one.entries, other.entries) is True
    return pieces.is_stack([*one.entries, *other.entries])


def _telling_labels(groups: list[_Group]) -> list[str]:
    """The labels in which groups differ."""
    keywords = dict.fromkeys(keyword for group in groups for keyword in group.labels)
    return [key for key in keywords if key != "Kind" and len({group.labels.get(key, "") for group in groups}) > 1]


def _label_text(group: _Group, telling: list[str]) -> str:
    return "|".join(f"{key}={group.labels.get(key, '')}" for key in telling)


def _names(groups: list[_Group], shared: Mapping[str, str]) -> list[str]:
    """A text for each group from shared labels and those in which the groups differ; ``"all"`` for a single one."""
    telling = _telling_labels(groups)
    before = [f"{key}={value}" for key, value in shared.items()]
    texts = ["|".join([*before, *([_label_text(group, telling)] if telling else [])]) or "all" for group in groups]
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
                [entry.frame.thickness for entry in group.entries],
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
    if group.mixed:
        warnings.append(Problem("W_MIXED", f"the slices differ in {' and '.join(group.mixed)}"))
    if grid is not None and grid.uneven:
        warnings.append(Problem("W_UNEVEN", _gaps_text(group.entries)))
    if len(group.entries) < first.image.stated_slices:
        found = f"{len(group.entries)} of the {first.image.stated_slices} slices that the header names"
        warnings.append(Problem("W_FEWER_SLICES", found))
    if broken_beside:
        found = f"{len(broken_beside)} file(s) in the same folder cannot be read"
        warnings.append(Problem("W_BROKEN_NEIGHBOUR", found, broken_beside[0].path))
    return SubSeries(
        **first.image.shared(),
        key=_key(first.image, name),
        modality=MODALITY_OF_CLASS.get(first.image.sop_class_uid, ""),
        slices=tuple(map(_slice, group.entries)),
        grid=grid,
        image_type=first.frame.image_type,
        problem=problem,
        exclusion=_own_output(first.image) or _other_quantity(first.image),
        warnings=tuple(warnings),
    )


def _common_geometry(entries: list[_Entry]) -> tuple[tuple[float, ...] | None, tuple[float, float] | None]:
    """Orientation and spacing of the slices; None if one of them lacks it."""
    orientations, spacings = [e.frame.orientation for e in entries], [e.frame.pixel_spacing for e in entries]
    return (
        None if None in orientations else orientations[0],
        None if None in spacings else spacings[0],
    )


def _spacing_warning(grid: Grid, entries: list[_Entry]) -> list[Problem]:
    if grid.uneven:
        return []
    said = {round(e.frame.spacing_between, 3) for e in entries if e.frame.spacing_between is not None}
    wrong = [value for value in said if abs(abs(value) - grid.spacing[2]) > 0.01 * grid.spacing[2]]
    if not wrong:
        return []
    found = f"Spacing Between Slices is {wrong[0]:g} mm, the positions say {grid.spacing[2]:g} mm"
    return [Problem("W_SPACING_CONTRADICTS", found)]


def _gaps_text(entries: list[_Entry]) -> str:
    gaps = np.diff([entry.height for entry in entries])
    return f"the gaps between slices are {gaps.min():.2f} to {gaps.max():.2f} mm"


def _slice(entry: _Entry) -> Slice:
    image = entry.image
    return Slice(
        image.path, image.sop_instance_uid, entry.frame.frame, entry.frame.position, image.instance_number, entry.copies
    )


def _unreadable(images: Sequence[ImageHeader], problem: Problem) -> SubSeries:
    """A series of which not one file has a usable header."""
    slices = tuple(Slice(image.path, image.sop_instance_uid, None, None, image.instance_number) for image in images)
    return SubSeries(
        **images[0].shared(),
        key=_key(images[0], "all"),
        modality=MODALITY_OF_CLASS.get(images[0].sop_class_uid, ""),
        slices=slices,
        grid=None,
        image_type=(),
        problem=problem,
        exclusion=_own_output(images[0]),
    )


def _key(image: ImageHeader, name: str) -> SeriesKey:
    return SeriesKey(image.patient_key, image.study_uid, image.series_uid, name)


def _own_output(image: ImageHeader) -> Problem | None:
    return Problem("S_OWN_OUTPUT", "it was written by ddfm_monai") if image.own_output else None


def _other_quantity(image: ImageHeader) -> Problem | None:
    return Problem("S_DERIVED", image.other_quantity) if image.other_quantity else None


# ------------------------------------------------------------------------------------------------ candidates


def _excluded(found: list[SubSeries], orientations: list[str], kinds: list[int]) -> list[SubSeries]:
    """Mark what is no automatic candidate, looking at each sub-series and at its place in the series.

    A short acquisition that is a whole stack of the largest one's kind is no stray: a part may be acquired again.
    """
    total = sum(len(item.slices) for item in found)
    largest = max(map(_places, found))
    main = kinds[list(map(_places, found)).index(largest)]
    by_orientation = Counter[str]()
    for item, orientation in zip(found, orientations, strict=True):
        by_orientation[orientation] += len(item.slices)
    majority = max(by_orientation.values()) > total / 2
    marked = []
    for item, orientation, kind in zip(found, orientations, kinds, strict=True):
        acquired = kind == main and item.problem is None and len(item.slices) >= FEWEST_SLICES
        alone = by_orientation[orientation] <= total / 2
        exclusion = item.exclusion or exclusion_by_type(item.image_type, item.modality)
        if exclusion is None and alone and not majority:
            exclusion = Problem("S_SEVERAL_ORIENTATIONS", f"the series has {len(by_orientation)} orientations")
        if exclusion is None and ((alone and majority) or (_places(item) < largest / 2 and not acquired)):
            exclusion = Problem("S_STRAY_SLICES", f"{len(item.slices)} of the {total} slices differ from the others")
        if exclusion is None and item.problem is None and len(item.slices) < FEWEST_SLICES:
            exclusion = Problem("S_FEW_SLICES", f"the number of slices is {len(item.slices)}")
        marked.append(replace(item, exclusion=exclusion))
    strays = sum(len(item.slices) for item in marked if item.exclusion and item.exclusion.code == "S_STRAY_SLICES")
    if not strays:
        return marked
    warning = Problem("W_STRAY_SLICES", f"{strays} slices of the series were set apart")
    return [replace(item, warnings=(*item.warnings, warning)) if not item.exclusion else item for item in marked]


def _fewer_slices(found: list[SubSeries], kinds: list[int]) -> list[SubSeries]:
    """Say of a volume that it has only a part of another one's places: it may have been cut off."""
    at = [{tuple(np.round(entry.position, 2) + 0.0) for entry in item.slices if entry.position} for item in found]
    warned = []
    for item, kind, places in zip(found, kinds, at, strict=True):
        larger = max(
            (len(other) for other, its in zip(at, kinds, strict=True) if its == kind and places < other), default=0
        )
        warning = Problem("W_FEWER_SLICES", f"{len(places)} of the {larger} places of another volume of the series")
        warned.append(replace(item, warnings=(*item.warnings, warning)) if larger and item.problem is None else item)
    return warned


def _places(item: SubSeries) -> int:
    """How many places its slices take: many volumes in one sub-series that cannot be split are as tall as one."""
    return len({entry.position for entry in item.slices})
