"""A folder of anything to the sub-series in it. Reads headers only and never writes into the folder."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import FileDataset
from pydicom.uid import UID

from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.dicom.headers import ImageHeader, image_header, known_syntax, open_dataset, quiet_pydicom, sniff
from ddfm_monai.dicom.pieces import FEWEST_SLICES
from ddfm_monai.dicom.registration import RegistrationObject, registration_object
from ddfm_monai.dicom.sop_classes import MEDIA_STORAGE_DIRECTORY, MODALITY_OF_CLASS, SPATIAL_REGISTRATION
from ddfm_monai.dicom.split import split_series
from ddfm_monai.dicom.subseries import SubSeries
from ddfm_monai.dicom.values import HeaderError, text
from ddfm_monai.errors import UsageError
from ddfm_monai.progress import Progress, ProgressCallback, silent

__all__ = ["RegistrationObject", "ScanResult", "scan_file", "scan_folder"]

# Files that may be a damaged slice of a series beside them.
BROKEN = ("E_HEADER", "E_EMPTY_FILE", "E_UNREADABLE_FILE")

# How two sets of slices look together that are no parts of one volume.
UNRELATED = ("E_IRREGULAR_SPACING", "E_DUPLICATE_POSITION")

PROGRESS_STEP = 50

SeriesNames = tuple[str, str, str]
"""Patient key, Study Instance UID, Series Instance UID."""


@dataclass(frozen=True)
class ScanResult:
    """What a folder holds.

    Args:
        root: the folder, resolved.
        subseries: all image sub-series, sorted by key; readable or not (see their ``problem`` and ``exclusion``).
        registrations: all Spatial Registration objects.
        problems: one entry for each file that is not part of a sub-series, with its path.
        files: regular files looked at.
    """

    root: Path
    subseries: tuple[SubSeries, ...]
    registrations: tuple[RegistrationObject, ...]
    problems: tuple[Problem, ...]
    files: int

    def counts(self) -> Counter[str]:
        """How many files each code concerns, for a summary."""
        return Counter(problem.code for problem in self.problems)


def scan_folder(root: Path | str, progress: ProgressCallback = silent) -> ScanResult:
    """Look at every file under ``root`` and sort the images into sub-series.

    Symbolic links are not followed: what they point to inside ``root`` is found anyway, the rest is reported. Nothing
    is written.

    Args:
        root: a folder.
        progress: told ``stage="scan"`` after every few files.

    Raises:
        UsageError: ``root`` is not a folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise UsageError(f"{folder}: not a folder. Give the folder that holds the DICOM files.")
    folder = folder.resolve()
    paths, problems = _regular_files(folder)
    return _scan_files(folder, paths, problems, progress)


def scan_file(path: Path | str) -> ScanResult:
    """The same for one file, such as an enhanced multi-frame image.

    Raises:
        UsageError: ``path`` is not a file.
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"{file}: not a file. Give a DICOM file.")
    file = file.resolve()
    return _scan_files(file.parent, [file], [], silent)


def _scan_files(root: Path, paths: list[Path], problems: list[Problem], progress: ProgressCallback) -> ScanResult:
    images: list[ImageHeader] = []
    registrations: list[RegistrationObject] = []
    broken: list[Problem] = []
    for done, path in enumerate(paths, 1):
        found = look_at(path)
        if isinstance(found, ImageHeader):
            images.append(found)
        elif isinstance(found, RegistrationObject):
            registrations.append(found)
        else:
            (broken if found.code in BROKEN else problems).append(found)
        if done % PROGRESS_STEP == 0 or done == len(paths):
            progress(Progress("scan", done, len(paths), f"{done} of {len(paths)} files"))
    return ScanResult(
        root=root,
        subseries=_sorted_into_series(images, broken),
        registrations=tuple(registrations),
        problems=tuple(sorted([*problems, *broken], key=lambda problem: str(problem.path))),
        files=len(paths),
    )


def _regular_files(root: Path) -> tuple[list[Path], list[Problem]]:
    """Every regular file below a folder, sorted; links, devices and folders that cannot be opened as problems."""
    files: list[Path] = []
    problems: list[Problem] = []
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(Problem("E_UNREADABLE_FILE", f"the folder cannot be opened ({error.strerror})", folder))
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                if not _leads_inside(path, root):
                    problems.append(Problem("S_OUTSIDE_ROOT", "the link leads out of the scanned folder", path))
            elif entry.is_dir():
                waiting.append(path)
            elif entry.is_file():
                files.append(path)
            else:  # a pipe would block whoever opens it
                problems.append(Problem("S_NOT_DICOM", "the entry is no regular file", path))
    return sorted(files), problems


def _leads_inside(link: Path, root: Path) -> bool:
    try:
        return link.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # broken link, loop
        return False


def look_at(path: Path) -> ImageHeader | RegistrationObject | Problem:
    """What one file is. Never raises for what the file holds."""
    try:
        reason = sniff(path)
        if reason is not None:
            return reason
        with quiet_pydicom() as remarks, path.open("rb") as file:
            ds = open_dataset(file, path, stop_before_pixels=True)
            found = _classify(ds, path, file)
    except DicomError as error:
        return error.problem
    except OSError as error:
        return Problem("E_UNREADABLE_FILE", f"the file cannot be read ({error.strerror or type(error).__name__})", path)
    except Exception as error:  # one file's bytes, whatever they do to pydicom, must not stop the scan
        return Problem("E_HEADER", f"the header cannot be read ({type(error).__name__})", path)
    if isinstance(found, ImageHeader) and any("encod" in remark or "charset" in remark.lower() for remark in remarks):
        return replace(found, warnings=(*found.warnings, Problem("W_CHARSET", "text does not fit its charset", path)))
    return found


def _classify(ds: FileDataset, path: Path, file: BinaryIO) -> ImageHeader | RegistrationObject | Problem:
    try:
        sop_class, stored_class = UID(text(ds, "SOPClassUID")), text(ds.file_meta, "MediaStorageSOPClassUID")
        if MEDIA_STORAGE_DIRECTORY in (sop_class, stored_class):
            return Problem("S_DICOMDIR", "the file is a DICOMDIR", path)
        if not sop_class:
            raise HeaderError("SOPClassUID is missing, or the data are not in the Transfer Syntax that the file names")
        if sop_class == SPATIAL_REGISTRATION:
            return registration_object(ds, path)
    except HeaderError as error:
        return Problem("E_HEADER", str(error), path)
    if sop_class not in MODALITY_OF_CLASS and stored_class not in MODALITY_OF_CLASS:
        name = sop_class.name if sop_class.name != sop_class else "unknown SOP class"
        return Problem("S_SOP_CLASS", f"the object is a {name}", path)
    return _image(ds, path, file)


def _image(ds: FileDataset, path: Path, file: BinaryIO) -> ImageHeader:
    """An image's header, and what the file says of its pixels without reading them."""
    if not known_syntax(ds) or ds.file_meta.TransferSyntaxUID.is_deflated:
        return image_header(ds, path, None, 0)  # the place in the file says nothing about the pixels
    start = file.tell()
    after_header = file.read(12)
    header = image_header(ds, path, after_header, file.seek(0, os.SEEK_END) - start)
    if header.problem is None and ds.file_meta.TransferSyntaxUID.is_encapsulated and _cut_off(file, start + 12):
        return replace(header, problem=Problem("E_PIXEL_DATA", "the file ends within Pixel Data", path))
    return header


def _cut_off(file: BinaryIO, start: int) -> bool:
    """Whether fragments of compressed Pixel Data lack their end (PS3.5 A.4). Jumps from one to the next."""
    size = file.seek(0, os.SEEK_END)
    while True:
        file.seek(start)
        head = file.read(8)
        if head[:4] != b"\xfe\xff\x00\xe0":  # no further fragment: the delimiter, unless the file was cut
            return head[:4] != b"\xfe\xff\xdd\xe0"
        start += 8 + int.from_bytes(head[4:], "little")
        if start > size:
            return True


def _sorted_into_series(images: list[ImageHeader], broken: list[Problem]) -> tuple[SubSeries, ...]:
    """Sub-series of all series. A file that cannot be read counts against the series it may belong to.

    Alone with one series in its folder it is taken for a slice of it, and the series is refused; among several, each
    gets a warning.
    """
    series: dict[SeriesNames, list[ImageHeader]] = defaultdict(list)
    series_in: dict[Path, set[SeriesNames]] = defaultdict(set)
    for image in images:
        key = (image.patient_key, image.study_uid, image.series_uid)
        series[key].append(image)
        series_in[image.path.parent].add(key)
    beside: dict[SeriesNames, list[Problem]] = defaultdict(list)
    refused: dict[SeriesNames, Problem] = {}
    for problem in broken:
        keys = series_in.get(problem.path.parent, set()) if problem.path is not None else set()
        for key in keys:
            beside[key].append(problem)
            if len(keys) == 1 and problem.code == "E_HEADER":
                refused.setdefault(key, problem)
    found, torn = _one_series_per_slice(series)
    parts = _parts_of_volumes({key: images for key, images in series.items() if key not in torn})
    for key, members in series.items():
        if key in torn:
            continue
        for item in split_series(members, beside[key]):
            refusal = parts.get(key) or (refused.get(key) if item.problem is None else None)
            found.append(replace(item, problem=refusal, grid=None) if refusal is not None else item)
    return tuple(sorted(found, key=lambda item: item.key))


def _one_series_per_slice(
    series: dict[SeriesNames, list[ImageHeader]],
) -> tuple[list[SubSeries], set[SeriesNames]]:
    """Series of one slice each that lie like one volume, as one that is refused; and the keys of those series."""
    single: dict[tuple[str, str], list[ImageHeader]] = defaultdict(list)
    for (patient, study, _), members in series.items():
        if len(members) == 1 and len(members[0].frames) == 1:
            single[patient, study].append(members[0])
    found, keys = [], set()
    for images in single.values():
        for item in split_series(images) if len(images) >= FEWEST_SLICES else []:
            if item.problem is None and len(item.slices) >= FEWEST_SLICES:
                text = f"{len(item.slices)} slices lie like one volume, but each has a Series Instance UID of its own"
                found.append(replace(item, problem=Problem("E_SERIES_PER_SLICE", text), grid=None))
                paths = set(item.paths)
                keys |= {(i.patient_key, i.study_uid, i.series_uid) for i in images if i.path in paths}
    return found, keys


def _parts_of_volumes(series: dict[SeriesNames, list[ImageHeader]]) -> dict[SeriesNames, Problem]:
    """What is a part of a volume, although by its names it is a series: each part could pass for a whole volume.

    A correction of patient, issuer or study may have reached some slices of a series only; and scanners and archives
    give slices of one series, with one Series Number, different Series Instance UIDs.
    """
    of_uid: dict[str, list[SeriesNames]] = defaultdict(list)
    of_number: dict[tuple[str, str, int], list[SeriesNames]] = defaultdict(list)
    for key, images in series.items():
        of_uid[key[2]].append(key)
        if (number := images[0].series_number) is not None:
            of_number[key[0], key[1], number].append(key)
    found: dict[SeriesNames, Problem] = {}
    for keys in of_number.values():
        text = f"in {len(keys)} series of one number"
        found |= _torn_apart({key: series[key] for key in keys}, "E_SERIES_PER_SLICE", text, whole_only=True)
    for keys in of_uid.values():
        text = f"of one series that names {len(keys)} patients or studies"
        found |= _torn_apart({key: series[key] for key in keys}, "E_SEVERAL_OWNERS", text)
    return found


def _torn_apart(
    series: dict[SeriesNames, list[ImageHeader]], code: str, text: str, whole_only: bool = False
) -> dict[SeriesNames, Problem]:
    """Those series that hold a part of a volume which all of them make together.

    Who has all places of the volume (a series exported before and after a correction) is left alone.

    Args:
        whole_only: only where nothing is wrong with the volume that they make, and none of them is that volume.
    """
    together = split_series([image for images in series.values() for image in images]) if len(series) > 1 else []
    torn: dict[SeriesNames, Problem] = {}
    for item in together:
        if item.problem is not None and (whole_only or item.problem.code in UNRELATED):
            continue
        places = {key: _places(item, {image.path for image in images}) for key, images in series.items()}
        whole = set().union(*places.values())
        if whole_only and whole in places.values():
            continue
        problem = Problem(code, f"{len(whole)} slices lie like one volume, but are {text}", item.slices[0].path.parent)
        torn |= {key: problem for key, own in places.items() if own and own != whole}
    return torn


def _places(item: SubSeries, paths: set[Path]) -> set[object]:
    """Where the slices lie that some of the files hold."""
    held = (entry for entry in item.slices if not paths.isdisjoint((entry.path, *entry.copies)))
    return {entry.position or (entry.path, entry.frame) for entry in held}
