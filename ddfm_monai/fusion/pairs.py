"""Which files belong together: two files, or two folders whose files have the same names."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ddfm_monai.errors import UsageError
from ddfm_monai.volumes import PICTURE_SUFFIXES, READABLE_SUFFIXES, stem_of, suffix_of

__all__ = ["Pair", "check_folder", "find_pairs", "target_in", "volumes_in"]

_NOTES = ("README", "CHANGES", "LICENSE", "DICOMDIR")
_LOOKED_AT = 2000  # entries of a folder; an export of DICOM files may have a hundred thousand


@dataclass(frozen=True)
class Pair:
    """Two sources of one fusion.

    Args:
        stem: name of the reference without its ending; what the result is called after.
        reference, second: a file, or the folder of a DICOM series.
    """

    stem: str
    reference: Path
    second: Path


def find_pairs(reference: Path, second: Path) -> tuple[list[Pair], list[Path]]:
    """Pair two files (or folders of a DICOM series each), or the files of two folders that match by name.

    Returns:
        The pairs, sorted by name, and the files of either folder that have no partner.

    Raises:
        UsageError: for a path that does not exist, an empty folder, a folder of subjects' folders, a folder of files
            beside a single file, or two files in a folder whose names differ in their endings only.
    """
    for path in (reference, second):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.", "E_MISSING")
        if path.is_dir() and not any(path.iterdir()):
            raise UsageError(f"{path}: the folder is empty; there is nothing to fuse.", "E_EMPTY")
        check_folder(path)
    are_folders = [path.is_dir() and bool(volumes_in(path)) for path in (reference, second)]
    if are_folders[0] != are_folders[1]:
        raise UsageError(f"{reference}, {second}: one is a folder of files and the other is not. Give two of a kind.")
    if not are_folders[0]:
        return [Pair(stem_of(reference), reference, second)], []
    first, other = volumes_in(reference), volumes_in(second)
    pairs = [Pair(stem, first[stem], other[stem]) for stem in first if stem in other]
    lonely = [path for ours, theirs in ((first, other), (other, first)) for s, path in ours.items() if s not in theirs]
    return pairs, lonely


def check_folder(folder: Path) -> None:
    """Raise UsageError for a BIDS tree or one folder per subject: neither a folder of volumes nor a DICOM series."""
    if not folder.is_dir() or any(path.is_file() and not _is_note(path) for path in folder.iterdir()):
        return
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    files = (file for path in inner for file in islice(path.rglob("*"), _LOOKED_AT) if _is_volume(file))
    found = next((file for file in files if suffix_of(file) not in PICTURE_SUFFIXES), None)  # DICOM exports have those
    if found is not None:
        raise UsageError(
            f"{folder}: holds {len(inner)} folders ({', '.join(path.name for path in inner[:3])}...) with volumes in "
            f"them, such as {found.relative_to(folder)}, and none of its own. Give two files, or two folders in which "
            "the files of a pair have the same name.",
            "E_SUBJECT_FOLDERS",
        )


def _is_note(path: Path) -> bool:
    """What lies about at the top of a data set (BIDS: dataset_description.json, participants.tsv, README)."""
    return path.name.startswith(".") or path.stem in _NOTES or path.suffix.lower() in (".json", ".tsv", ".csv", ".md")


def _is_volume(path: Path) -> bool:
    """A file with a volume's ending; macOS's ``._`` files beside them are none."""
    return suffix_of(path) in READABLE_SUFFIXES and not path.name.startswith("._") and path.is_file()


def volumes_in(folder: Path) -> dict[str, Path]:
    """Stem to path of the volumes and pictures directly inside a folder, sorted by name."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if _is_volume(path):
            stem = stem_of(path)
            if stem in found:
                raise UsageError(f"{path}: {found[stem].name} has the same name but for its ending. Keep one of them.")
            found[stem] = path
    return found


def target_in(folder: Path, pair: Pair, postfix: str = "") -> Path:
    """Where the result of a pair goes: PNG for pictures, NIfTI for everything else."""
    is_picture = suffix_of(pair.reference) in PICTURE_SUFFIXES
    return folder / (pair.stem + postfix + (".png" if is_picture else ".nii.gz"))
