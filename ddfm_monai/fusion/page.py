"""The page to look at a fusion with, made of a result in memory, or of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import UsageError
from ddfm_monai.files import sha256_of
from ddfm_monai.fusion.outputs import output_names
from ddfm_monai.fusion.picture import informative_point
from ddfm_monai.fusion.pipeline import FusionResult
from ddfm_monai.fusion.resume import read_record
from ddfm_monai.settings import FusionSettings
from ddfm_monai.viewer import part_of, viewer_page
from ddfm_monai.volumes import READABLE_SUFFIXES, Scaling, Source, is_picture, read_source, read_volume, suffix_of
from ddfm_monai.volumes.colour import to_luma

__all__ = ["doubts_of_sources", "page_of", "page_of_files"]

_MOST_TO_SEARCH = 4_000_000_000  # bytes of files that are hashed to find the sources


def page_of(result: FusionResult, reference: Source, second: Source, point: Sequence[float] | None = None) -> str:
    """The HTML page of a result in memory.

    Args:
        result: of :func:`~ddfm_monai.fuse_volumes`.
        reference, second: the sources that it was made of, as they were read.
        point: RAS mm, where the planes cross at first; default: where the sources show and differ most.
    """
    return viewer_page(
        reference,
        second,
        result.fused,
        result.provenance,
        transform=result.registration.correction if result.registration else None,
        uncertainty=result.uncertainty,
        check=result.check,
        point=point or informative_point((result.reference01, result.second01, result.fused)),
    )


def page_of_files(result: Path, sources: Sequence[Path], settings: FusionSettings) -> str:
    """The HTML page of a fused volume in a file.

    What the JSON beside it says is taken from there: kinds, windows, the registration, which maps there are, and by
    their SHA-256 which files of the same folder are its sources.

    Args:
        result: the fused volume or picture.
        sources: reference and second source; none to look for them beside the result.
        settings: kinds and window of the sources, for a result without a JSON.

    Raises:
        UsageError: the sources were neither given nor found.
        InputError: as :func:`~ddfm_monai.volumes.read_volume`, and where volumes do not fit one another.
    """
    fused = read_volume(result)
    if is_picture(fused) and fused.shape[0] == 1:
        fused = cast(MetaTensor, fused / 255)
    made = _read_account(result)
    pair = tuple(sources) or _sources_beside(result, made)
    taken = _take_roles(pair, made)
    a, b = (_read(path, role, made, settings) for role, path in zip(("reference", "second"), taken.paths, strict=True))
    transform = _transform_of(made)
    grey = fused if fused.shape[0] == 1 else cast(MetaTensor, to_luma(fused).div(255))
    return viewer_page(
        a,
        b,
        fused,
        made,
        transform=transform,
        uncertainty=_map_beside(result, "uncertainty", made),
        check=_map_beside(result, "check", made),
        point=informative_point((a.onto(_on(fused, a)).grey, b.onto(_on(fused, a), transform).grey, grey)),
        doubts=taken.doubts,
    )


def doubts_of_sources(result: Path, sources: Sequence[Path]) -> list[str]:
    """What a person should know of files that are given as a result's reference and second source, in either order.

    Nothing where nothing beside the result says what it was made of: it may be another program's.
    """
    made = _read_account(result) if result.is_file() else {}
    return list(_take_roles(sources, made).doubts) if made else []


def _on(fused: MetaTensor, source: Source) -> Source:
    """The result in the place of the reference, for what asks for its grid only."""
    return replace(source, volume=fused)


# --- what stands beside a result -------------------------------------------------------------------------------------


def _read_account(result: Path) -> dict[str, Any]:
    """The provenance beside a result; empty where there is none."""
    said = read_record(output_names(result)["provenance"])
    return said if "sampling" in said else {}


def _sources_beside(result: Path, made: Mapping[str, Any]) -> tuple[Path, Path]:
    """The files of the result's folder that have the SHA-256 of its sources."""
    wanted = [part_of(made, role, "sha256") for role in ("reference", "second")]
    found: dict[str, Path] = {}
    searched = 0
    for path in sorted(result.parent.iterdir()) if all(wanted) else []:
        if suffix_of(path) not in READABLE_SUFFIXES or not path.is_file() or path == result:
            continue
        searched += path.stat().st_size
        if searched > _MOST_TO_SEARCH or len(found) == len(set(wanted)):
            break
        digest = sha256_of(path)
        if digest in wanted:
            found[digest] = path
    missing = [role for role, digest in zip(("reference", "second"), wanted, strict=True) if digest not in found]
    if missing:
        why = (
            f"no file beside it has the SHA-256 that its JSON names for the {' and the '.join(missing)}"
            if all(wanted)
            else "no JSON beside it says what it was made of"
        )
        raise UsageError(f"{result}: {why}. Name the sources: ddfm view RESULT REFERENCE SECOND.", "E_NO_SOURCES")
    return found[wanted[0]], found[wanted[1]]


@dataclass(frozen=True)
class _Taken:
    """Which file is which source, and what a person should know about that."""

    paths: tuple[Path, Path]
    doubts: tuple[str, ...] = ()


def _take_roles(pair: Sequence[Path], made: Mapping[str, Any]) -> _Taken:
    """The files as reference and second source: in the order that the provenance tells, where it knows them."""
    first, other = pair
    if not made:
        return _Taken((first, other), ("Nothing beside the result says how it was made, or of which files.",))
    wanted = [part_of(made, role, "sha256") for role in ("reference", "second")]
    digests = [sha256_of(path) if path.is_file() else None for path in pair]
    if digests == wanted[::-1] and digests != wanted:
        return _Taken((other, first))
    doubts = [
        f"The file given as {role} is not the one that the result was made of: its SHA-256 is another."
        for role, digest, known in zip(("reference", "second source"), digests, wanted, strict=True)
        if digest is not None and digest != known
    ]
    return _Taken((first, other), tuple(doubts))


def _read(path: Path, role: str, made: Mapping[str, Any], settings: FusionSettings) -> Source:
    """A source with the window that it was fused with."""
    said = part_of(made, role, "scaling")
    named = getattr(settings, f"{role}_kind")
    known = part_of(said, "kind") if named == "auto" else named
    source = read_source(path, role, known or "auto", settings.window)
    if settings.window is not None or named != "auto" or part_of(made, role, "sha256") != source.sha256:
        return source
    names = {item.name for item in fields(Scaling)}
    scaling = Scaling(**{name: value for name, value in said.items() if name in names} | {"doubts": ()})
    return replace(source, scaling=scaling)


def _transform_of(made: Mapping[str, Any]) -> np.ndarray | None:
    """The registration that the result was made with."""
    if part_of(made, "registration", "already_aligned") is not False:
        return None
    return np.array(part_of(made, "registration", "matrix"), dtype=np.float64)


def _map_beside(result: Path, role: str, made: Mapping[str, Any]) -> MetaTensor | None:
    """The uncertainty or the check of a result that has one."""
    has = {"uncertainty": (part_of(made, "sampling", "samples") or 1) > 1, "check": bool(part_of(made, "check"))}
    path = output_names(result, FusionSettings(samples=2), check=True)[role]
    if not has[role] or not path.is_file():
        return None
    found = read_volume(path)
    if not is_picture(found):
        return found
    return cast(MetaTensor, found / (85 if role == "check" else 255))
