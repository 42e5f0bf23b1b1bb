"""Which files belong together: two files, two folders, or one folder of cases, by the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ddfm_monai.errors import UsageError
from ddfm_monai.volumes import PICTURE_SUFFIXES, by_stem, is_volume_file, stem_of, suffix_of
from ddfm_monai.volumes.kind import kinds_in_name, spoken
from ddfm_monai.volumes.labels import is_named_as_labels

__all__ = ["LeftOut", "Pair", "check_folder", "find_pairs", "holds_cases", "pairs_of_cases", "target_in", "volumes_in"]

_NOTES = ("README", "CHANGES", "LICENSE", "DICOMDIR")
_LOOKED_AT = 2000  # entries of a folder; an export of DICOM files may have a hundred thousand
_NOT_CASES = ("derivatives", "sourcedata", "code", "stimuli")  # of a BIDS data set
_DATA_TYPES = ("anat", "pet", "ct", "func", "dwi", "fmap", "perf", "spect", "mri", "mr", "nm")
_T1 = re.compile(r"(?i)(?<![a-z0-9])(t1\w?|mprage|mp2rage|unit1)(?![a-z0-9])")


@dataclass(frozen=True)
class Pair:
    """Two sources of one fusion.

    Args:
        stem: name of the reference without its ending, or of the case; what the result is called after.
        reference, second: a file, or the folder of a DICOM series.
    """

    stem: str
    reference: Path
    second: Path


@dataclass(frozen=True)
class LeftOut:
    """Files of a folder of cases that are in no pair, and why."""

    files: tuple[Path, ...]
    reason: str


def find_pairs(reference: Path, second: Path) -> tuple[list[Pair], list[Path]]:
    """Pair two files (or folders of a DICOM series each), or the files of two folders that match by name.

    Names match if they are equal, or equal but for what they say of the modality (``sub01_mri`` and ``sub01_ct``).
    Folders may hold one folder per subject; those must match likewise.

    Returns:
        The pairs, sorted by name, and the files of either folder that have no partner.

    Raises:
        UsageError: for a path that does not exist, an empty folder, folders of subjects' folders without a match, a
            folder of files beside a single file, or two files in a folder whose names differ in their endings only.
    """
    for path in (reference, second):
        if not path.exists():
            raise UsageError(f"{path}: no such file or folder.", "E_MISSING")
        if path.is_dir() and not any(path.iterdir()):
            raise UsageError(f"{path}: the folder is empty; there is nothing to fuse.", "E_EMPTY")
    if holds_cases(reference) and holds_cases(second):
        pairs, lonely = _matched(reference, _files_below(reference), second, _files_below(second))
        if pairs:
            return pairs, lonely
    for path in (reference, second):
        check_folder(path)
    are_folders = [path.is_dir() and bool(volumes_in(path)) for path in (reference, second)]
    if are_folders[0] != are_folders[1]:
        raise UsageError(f"{reference}, {second}: one is a folder of files and the other is not. Give two of a kind.")
    if not are_folders[0]:
        return [Pair(stem_of(reference), reference, second)], []
    return _matched(reference, volumes_in(reference).values(), second, volumes_in(second).values())


def _matched(
    reference: Path, ours: Iterable[Path], second: Path, theirs: Iterable[Path]
) -> tuple[list[Pair], list[Path]]:
    """Files of two folders: first those of equal names, then those of one case; a case with several is none."""
    left, right = list(ours), list(theirs)
    pairs: list[Pair] = []
    for key in (_plain_name, _case):
        one, other = ({path: key(path, root) for path in files} for root, files in ((reference, left), (second, right)))
        for path, name in one.items():
            partners = [file for file, found in other.items() if found == name]
            if name and len(partners) == 1 and list(one.values()).count(name) == 1:
                pairs.append(Pair(_plain_name(path, reference).replace("/", "_"), path, partners[0]))
        taken = {file for pair in pairs for file in (pair.reference, pair.second)}
        left, right = [x for x in left if x not in taken], [x for x in right if x not in taken]
    stems = [stem_of(pair.reference) for pair in pairs]
    short = [
        replace(pair, stem=stem) if stems.count(stem) == 1 else pair for pair, stem in zip(pairs, stems, strict=True)
    ]
    return sorted(short, key=lambda pair: pair.stem), [*left, *right]


# --- one folder of cases ---------------------------------------------------------------------------------------------


def pairs_of_cases(
    folder: Path, reference_kind: str = "auto", second_kind: str = "auto"
) -> tuple[list[Pair], list[LeftOut]]:
    """Pair the files of one folder: ``sub01_mri`` with ``sub01_ct``, ``case/mri.nii.gz`` with ``case/ct.nii.gz``, BIDS.

    The reference of a case is its MR (of several the one T1), each other modality gives a pair with it.

    Args:
        folder: holds files, or folders of cases.
        reference_kind, second_kind: what the two must be, where the choice is not left to this rule.

    Returns:
        The pairs, sorted by name, and what is in none of them with the reason.
    """
    everything = list(volumes_in(folder).values()) or _files_below(folder)
    drawn = tuple(path for path in everything if is_named_as_labels(path.name))
    files = [path for path in everything if not is_named_as_labels(path.name)]
    kinds = {path: _kind(path) for path in files}
    cases: dict[str, list[Path]] = {}
    for path in files:
        cases.setdefault(_case(path, folder), []).append(path)
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    if drawn:
        left_out.append(LeftOut(drawn, "a name says that it holds a mask or labels, no image"))
    for case, members in _with_their_folders(cases, folder, kinds).items():
        name = case.replace("/", "_") or folder.resolve().name
        chosen = _choose(members, kinds, reference_kind, second_kind)
        if isinstance(chosen, LeftOut):
            left_out.append(chosen)
            continue
        reference, seconds, others = chosen
        for second in seconds:
            alone = len(seconds) == 1
            pairs.append(Pair(name if alone else f"{name}_{stem_of(second)}", reference, second))
        if others:
            left_out.append(LeftOut(tuple(others), f"its case is fused with {reference.name} as the reference"))
    return sorted(pairs, key=lambda pair: pair.stem), left_out


def holds_cases(folder: Path) -> bool:
    """Whether a folder holds no files of its own but folders with volumes: BIDS, or one folder per subject."""
    return folder.is_dir() and not _has_files(folder) and any(True for _ in _volumes_below(folder))


def _choose(
    members: Sequence[Path], kinds: dict[Path, str], reference_kind: str, second_kind: str
) -> LeftOut | tuple[Path, list[Path], list[Path]]:
    """The reference of a case, what is fused with it, and the rest."""
    wanted = "mr" if reference_kind == "auto" else reference_kind
    references = [path for path in members if kinds[path] == wanted]
    if len(references) > 1 and wanted == "mr":
        references = [path for path in references if _T1.search(path.name)] or references
    if len(references) > 1:
        names = ", ".join(path.name for path in references)
        return LeftOut(
            tuple(members), f"{len(references)} could be the reference ({names}); keep one, or name two files"
        )
    if not references:
        return LeftOut(tuple(members), f"no name says {spoken(wanted)}; name the reference's with --reference-kind")
    rest = [path for path in members if path != references[0]]
    seconds = [
        path
        for path in rest
        if kinds[path] == second_kind or (second_kind == "auto" and kinds[path] not in ("", wanted))
    ]
    if not seconds:
        expected = "CT, PET or SPECT" if second_kind == "auto" else spoken(second_kind)
        return LeftOut(tuple(members), f"no {expected} of the same case")
    return references[0], seconds, [path for path in rest if path not in seconds]


def _with_their_folders(cases: dict[str, list[Path]], root: Path, kinds: dict[Path, str]) -> dict[str, list[Path]]:
    """Cases by name; what has no partner by its name joins the rest of its folder."""
    joined: dict[str, list[Path]] = {}
    for case, members in cases.items():
        below = "/".join(_folders(members[0], root))
        is_whole = len({kinds[path] for path in members}) > 1
        joined.setdefault(case if is_whole or not below else below, []).extend(members)
    return joined


def _kind(path: Path) -> str:
    """What a file's name, or else its folder's, says that it is; empty where they say nothing or two things."""
    for name in (path.name, path.parent.name):
        kinds = kinds_in_name(name)
        if kinds:
            return kinds[0] if len(set(kinds) - {"mr"}) < 2 else ""
    return "mr" if path.parent.name.lower() == "anat" else ""


def _plain_name(path: Path, root: Path) -> str:
    return "/".join([*path.relative_to(root).parts[:-1], stem_of(path)])


def _case(path: Path, root: Path) -> str:
    """What a path says of the patient and visit: its names without the words for modalities; of BIDS sub and ses."""
    stem = stem_of(path)
    entities = re.findall(r"(?:^|_)((?:sub|ses)-[A-Za-z0-9]+)", stem)
    if entities and entities[0].startswith("sub-"):
        return "_".join(entities)
    bare = _without_kind(stem)
    return "/".join([*_folders(path, root), *([bare] if bare else [])])


def _folders(path: Path, root: Path) -> list[str]:
    """The folders between root and file, without the words for modalities."""
    parents = [name for name in path.relative_to(root).parts[:-1] if name.lower() not in _DATA_TYPES]
    return [bare for bare in map(_without_kind, parents) if bare]


def _without_kind(name: str) -> str:
    """A name without the words that say what the image is: ``"sub01_ct"`` gives ``"sub01"``."""
    own = set(kinds_in_name(name))  # which knows that "pt_12" is a patient
    return "_".join(word for word in re.split(r"[\s_.-]+", name.lower()) if not set(kinds_in_name(word)) & own)


def _files_below(folder: Path) -> list[Path]:
    """The volumes below a folder, sorted; pictures do not count there (DICOM exports have some), nor derivatives."""
    return sorted(_volumes_below(folder))


def _volumes_below(folder: Path) -> Iterator[Path]:
    """The same as they are met: a search for one may stop there."""
    for inner in _inner(folder):
        if inner.name not in _NOT_CASES:
            found = (file for file in islice(inner.rglob("*"), _LOOKED_AT) if is_volume_file(file))
            yield from (file for file in found if suffix_of(file) not in PICTURE_SUFFIXES)


def _inner(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def check_folder(folder: Path) -> None:
    """Raise UsageError for a BIDS tree or one folder per subject: neither a folder of volumes nor a DICOM series."""
    if not holds_cases(folder):
        return
    inner = _inner(folder)
    found = _files_below(folder)[0]
    raise UsageError(
        f"{folder}: holds {len(inner)} folders ({', '.join(path.name for path in inner[:3])}...) with volumes in "
        f"them, such as {found.relative_to(folder)}, and none of its own; no two of them make a pair by their names. "
        "Give two files, or folders in which the files of a pair have the same name but for the modality (_mri, _ct).",
        "E_SUBJECT_FOLDERS",
    )


def _has_files(folder: Path) -> bool:
    return any(path.is_file() and not _is_note(path) for path in folder.iterdir())


def _is_note(path: Path) -> bool:
    """What lies about at the top of a data set (BIDS: dataset_description.json, participants.tsv, README)."""
    return path.name.startswith(".") or path.stem in _NOTES or path.suffix.lower() in (".json", ".tsv", ".csv", ".md")


def volumes_in(folder: Path) -> dict[str, Path]:
    """Stem to path of the volumes and pictures directly inside a folder, sorted by name.

    A picture beside a volume of the same name is there to look at the volume (as ``ddfm fuse`` leaves one), no source.

    Raises:
        UsageError: two of them differ in their endings only.
    """
    files = sorted(path for path in folder.iterdir() if is_volume_file(path))
    volumes = {stem_of(path) for path in files if suffix_of(path) not in PICTURE_SUFFIXES}
    return by_stem(path for path in files if suffix_of(path) not in PICTURE_SUFFIXES or stem_of(path) not in volumes)


def target_in(folder: Path, pair: Pair, postfix: str = "") -> Path:
    """Where the result of a pair goes: PNG for pictures, NIfTI for everything else."""
    is_picture = suffix_of(pair.reference) in PICTURE_SUFFIXES
    return folder / (pair.stem + postfix + (".png" if is_picture else ".nii.gz"))
