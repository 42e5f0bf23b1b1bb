"""What a source is (MR, CT, PET, SPECT or a picture): every piece of evidence, weighed in one place.

What is said of the file counts in this order: its header and the JSON beside it (``Modality``), its name, its folder's
name. Values speak for CT alone: air at -1000 HU and soft tissue about +35 HU are found in nothing else. Where two of
them say different things nothing is guessed: that is an error which names the option that settles it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.settings import KINDS, kind_name
from ddfm_monai.volume import is_picture, name_of
from ddfm_monai.volumes import hounsfield

__all__ = ["Decision", "decide_kind", "kinds_in_name", "normal_kind", "sidecar_of", "spoken"]

_SPOKEN = {"mr": "MR", "ct": "CT", "pet": "PET", "spect": "SPECT", "picture": "picture"}

_TOKENS = {
    "ct": {"ct", "cta", "ctac", "ncct", "cect", "cbct", "ldct", "hct", "cct", "sct", "petct", "spectct"},
    "pet": {
        "pet", "pt", "fdg", "18f", "suv", "suvbw", "suvr", "amyloid", "fet", "fdopa", "pib", "av45", "florbetapir",
        "flutemetamol", "florbetaben", "fdgpet", "petfdg", "petct", "petmr", "petmri",
    },
    "spect": {"spect", "spet", "nm", "hmpao", "ecd", "datscan", "ioflupane", "tc99m", "99mtc", "tl201", "spectct"},
    "mr": {
        "mr", "mri", "mrt", "mra", "t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "t1n", "t2f", "t2star", "t2starw",
        "pd", "pdw", "flair", "mprage", "mp2rage", "unit1", "swi", "dwi", "adc", "fa", "gre", "spgr", "gd", "bold",
        "sbref", "angio", "tof", "qsm", "phase", "petmr", "petmri",
    },
}  # fmt: skip
_FOLDER_TOKENS = {"mr": {"anat", "func", "dwi", "fmap", "perf"}}  # BIDS data types beside "pet"

_TO = {"to", "in", "into", "on", "onto", "over", "wrt"}
"""After these words a name says what the image was brought onto, not what it is."""

_RELATION = re.compile(r"([a-z0-9]+?)(?:to|2|in|onto)([a-z][a-z0-9]*)")
_ALL = frozenset(word for words in _TOKENS.values() for word in words)
_TOO_SHORT = frozenset({"pt", "nm", "fa", "pd", "gd"})  # with letters or numbers about them these mean anything


@dataclass(frozen=True)
class Decision:
    """What a source is, and why.

    Args:
        kind: one of :data:`~ddfm_monai.settings.KINDS`.
        reason: how that was found, a phrase for people, such as ``"by its name"``.
        assumed: nothing spoke for it; it is what is left.
    """

    kind: str
    reason: str
    assumed: bool = False


@dataclass(frozen=True)
class _Evidence:
    """The kinds that a witness allows, the likeliest first, and what the witness is."""

    kinds: tuple[str, ...]
    witness: str


def normal_kind(kind: str) -> str:
    """One of :data:`~ddfm_monai.settings.KINDS` (or ``"auto"``) for a kind in any case or by its DICOM name.

    Raises:
        UsageError: an unknown kind (``E_KIND``).
    """
    name = kind_name(kind)
    if name not in (*KINDS, "auto"):
        raise UsageError(f"kind {kind!r}: expected auto, {', '.join(KINDS)} (or DICOM's MR, CT, PT, NM).", "E_KIND")
    return str(name)


def spoken(kind: str) -> str:
    """A kind as people write it: ``"PET"``."""
    return _SPOKEN[kind]


def titles_of(first: str, second: str) -> tuple[str, str]:
    """What a picture of two sources calls them: ``("MRI", "CT")``, or ``("MRI 1", "MRI 2")``."""
    a, b = ({"mr": "MRI", "picture": "Picture"}.get(kind) or spoken(kind) for kind in (first, second))
    return (a, b) if a != b else (f"{a} 1", f"{b} 2")


def decide_kind(volume: MetaTensor, values: np.ndarray, role: str = "", path: str | Path | None = None) -> Decision:
    """What made this volume.

    Args:
        volume: ``(C, X, Y, Z)`` in its own units.
        values: 1-D, an even subset of its values, padding left out.
        role: ``"reference"`` or ``"second"``, for the option that an error names.
        path: where it came from; default: ``volume.meta["filename_or_obj"]``.

    Raises:
        InputError: what is said and what is seen contradict each other, or a name says two things
            (``E_KIND_UNCLEAR``).
    """
    source = path if path is not None else volume.meta.get("filename_or_obj")
    place = Path(str(source)) if isinstance(source, (str, Path)) else None
    said = [found for found in (_in_header(volume), _in_sidecar(place), _in_name(place)) if found]
    folder = _in_folder(place)
    seen = _ct_peaks(volume, values)
    heard = said or ([folder] if folder else [])
    told = "; ".join(f"{found.witness} says {_list(found.kinds)}" for found in heard)
    kinds = [kind for kind in said[0].kinds if all(kind in found.kinds for found in said)] if said else []
    if said and not kinds:
        raise _unclear(volume, role, told, *(kind for found in said for kind in found.kinds))
    witnesses = " and ".join(found.witness for found in said)
    if len(set(kinds) - {"mr"}) > 1:  # a name such as pet_ct: folder or values may tell which of the two it is
        if folder and folder.kinds[0] in kinds:
            kinds, witnesses = [folder.kinds[0]], folder.witness
        elif seen and "ct" in kinds:
            return Decision("ct", f"by its values ({seen.describe()})")
        elif kinds != ["pet", "spect"]:  # a tracer without a word of SPECT is PET
            raise _unclear(volume, role, told, *kinds)
    elif not kinds and folder:
        kinds, witnesses = [folder.kinds[0]], folder.witness
    if kinds and kinds[0] != "ct" and seen:
        raise _unclear(volume, role, f"{told}, but its values are those of a CT {seen.describe()}", kinds[0], "ct")
    if kinds:
        return Decision(kinds[0], f"by {witnesses}")
    return _decide_by_values(volume, values, seen)


def _decide_by_values(volume: MetaTensor, values: np.ndarray, seen: hounsfield.Hounsfield | None) -> Decision:
    if seen:
        return Decision("ct", f"by its values ({seen.describe()})")
    if volume.shape[0] == 3:
        return Decision("picture", "in colour, and nothing says what it shows")
    if is_picture(volume):
        return Decision("picture", "a picture file")
    if _is_like_hu(values):
        return Decision("ct", "by its values (a tenth or more below -500, most of the rest near 0)")
    return Decision("mr", "assumed: neither header, name nor values say what it is", assumed=True)


# --- what is said ----------------------------------------------------------------------------------------------------


def _in_header(volume: MetaTensor) -> _Evidence | None:
    """DICOM's Modality as our reader and MONAI's keep it, that of NRRD and MetaImage, and dcm2niix's echo time."""
    meta = volume.meta
    for key in ("modality", "Modality", "00080060", "0008|0060"):
        kind = _modality(meta.get(key))
        if kind:
            return _Evidence((kind,), "its header")
    if re.match(r"TE=[\d.]+;", str(meta.get("descrip", ""))):
        return _Evidence(("mr",), "its header (an echo time)")
    return None


def sidecar_of(path: Path) -> Path:
    """Where dcm2niix and BIDS put what they know of an image: the JSON of the same name."""
    return path.with_name(re.sub(r"(\.nii)?\.[^.]+$", "", path.name) + ".json")


def _in_sidecar(path: Path | None) -> _Evidence | None:
    """``Modality`` of the JSON that dcm2niix and BIDS put beside an image; a tracer means PET or SPECT."""
    if path is None or not path.is_file():
        return None
    beside = sidecar_of(path)
    try:
        said = json.loads(beside.read_text()) if beside.is_file() else None
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict):
        return None
    kind = _modality(said.get("Modality"))
    if kind:
        return _Evidence((kind,), "its JSON")
    if {"TracerName", "TracerRadionuclide", "InjectedRadioactivity"} & said.keys():
        return _Evidence(("pet", "spect"), "its JSON (a tracer)")
    return None


def _modality(value: Any) -> str | None:
    """The kind that a Modality stands for: text, a list of one, or pydicom's JSON form of an element."""
    if isinstance(value, dict):
        value = value.get("Value")
    if isinstance(value, (list, tuple)):
        value = value[0] if len(value) == 1 else None
    name = kind_name(value.removeprefix("MET_MOD_")) if isinstance(value, str) else ""  # so MetaImage
    return str(name) if name in KINDS and name != "picture" else None


def _in_name(path: Path | None) -> _Evidence | None:
    kinds = kinds_in_name(path.name) if path else ()
    return _Evidence(kinds, "its name") if kinds else None


def _in_folder(path: Path | None) -> _Evidence | None:
    name = path.parent.name if path else ""
    kinds = kinds_in_name(name) or tuple(kind for kind, words in _FOLDER_TOKENS.items() if name.lower() in words)
    return _Evidence(kinds, "its folder's name") if len(kinds) == 1 else None


def kinds_in_name(name: str) -> tuple[str, ...]:
    """The kinds that a file's (or folder's) name allows, the likeliest first; empty where it says nothing.

    BIDS names say it in their suffix (``sub-01_space-T1w_pet``). Elsewhere words count, except those after ``to`` or
    ``in`` and beside ``space``, which name what the image was brought onto, and ``pt`` before a number, which is a
    patient. Of MR and another kind the other is meant: MR is what the rest is brought onto.

    >>> kinds_in_name("sub-01_space-T1w_pet.nii.gz"), kinds_in_name("T1_to_PET.nii"), kinds_in_name("pt_12.nii")
    (('pet',), ('mr',), ())
    """
    stem = re.sub(r"(\.nii)?(\.gz)?$|\.[A-Za-z]+$", "", name, flags=re.IGNORECASE)
    if stem.lower().startswith("sub-"):
        suffix = stem.lower().rpartition("_")[2]
        if _kinds_of(suffix):
            return _kinds_of(suffix)
        if re.search(r"_trc-", stem, re.IGNORECASE):
            return ("pet",)
    words = _words(stem)
    found: list[str] = []
    for before, word, after in zip(["", *words], words, [*words[1:], ""]):  # noqa: B905 (the first has one more)
        is_target = before in _TO or (after == "space" and found)
        if not is_target and not (word == "pt" and after.isdigit()):
            found += [kind for kind in _kinds_of(word) if kind not in found]
    return tuple(sorted(found, key=lambda kind: kind == "mr"))


def _words(stem: str) -> list[str]:
    """The words of a name in lower case; BIDS's ``space-X`` reads "to X", and ``sub-X`` and the like are left out."""
    stem = re.sub(r"(?i)(^|_)(sub|ses|run)-[a-z0-9]+", "_", stem)
    stem = re.sub(r"(?i)(^|_)(space|from|to)-([a-z0-9]+)", r"_to_\3", stem)
    words: list[str] = []
    for word in re.findall(r"[A-Za-z0-9]+", stem):
        words += _parts(word)
    return ["to" if w == "2" and i and _kinds_of(words[i - 1]) else w for i, w in enumerate(words)]


def _parts(word: str) -> list[str]:
    """``PETtoT1`` and ``pet2mr`` as three words, ``T1space`` and ``headCT`` as two, others as they are."""
    lower = word.lower()
    if _kinds_of(lower):
        return [lower]
    relation = _RELATION.fullmatch(lower)
    if relation and _kinds_of(relation[1]) and _kinds_of(relation[2]):
        return [relation[1], "to", relation[2]]
    if lower.endswith("space") and _kinds_of(lower[:-5]):
        return ["to", lower[:-5]]
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", word)]


def _kinds_of(word: str) -> tuple[str, ...]:
    """The kinds that a single word stands for; SPM's prefixes and a number at its end do not matter."""
    bare = re.sub(r"^[rsw]{1,3}(?=\w\w)", "", word)
    numbered = re.sub(r"\d+$", "", word)
    for candidate, words in ((word, _ALL), (bare, _ALL - _TOO_SHORT), (numbered, _ALL - _TOO_SHORT)):
        if candidate in words:
            return tuple(kind for kind, tokens in _TOKENS.items() if candidate in tokens)
    return ()


# --- what is seen ----------------------------------------------------------------------------------------------------


def _ct_peaks(volume: MetaTensor, values: np.ndarray) -> hounsfield.Hounsfield | None:
    """The peaks of a CT in HU, or of one stored with an offset and negative padding, as scanners write them."""
    if volume.shape[0] == 3 or is_picture(volume):
        return None
    found = hounsfield.measure(values)
    if found is None or found.air is None or not found.known:
        return None
    padded = float(volume.as_tensor().min()) < found.air - 500
    return found if found.offset == 0 or (found.offset in (1000.0, 1024.0) and padded) else None


def _is_like_hu(values: np.ndarray) -> bool:
    """Weaker: a tenth below -500, and most of the rest between fat and bone. Good where nothing else is known."""
    low = values <= -500
    rest = values[~low]
    return bool(low.mean() > 0.1 and rest.size and ((rest > -250) & (rest < 300)).mean() > 0.5)


# --- what cannot be told ---------------------------------------------------------------------------------------------


def _unclear(volume: MetaTensor, role: str, told: str, *kinds: str) -> InputError:
    option = f"--{role}-kind" if role in ("reference", "second") else "--reference-kind or --second-kind"
    return InputError(
        f"{name_of(volume)}: what it is cannot be told: {told}. "
        f"Say which it is with {option} {' or '.join(dict.fromkeys(kinds))}.",
        "E_KIND_UNCLEAR",
    )


def _list(kinds: tuple[str, ...]) -> str:
    return " and ".join(spoken(kind) for kind in kinds)
