"""The files that a fusion leaves: the volume, a JSON that says how it was made, a picture to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from monai.data.meta_tensor import MetaTensor

from ddfm_monai.errors import UsageError
from ddfm_monai.files import atomic_group
from ddfm_monai.fusion.picture import registration_picture, save_mosaic, save_picture
from ddfm_monai.fusion.pipeline import FusionResult
from ddfm_monai.fusion.resume import sizes_of
from ddfm_monai.settings import FusionSettings
from ddfm_monai.volumes import PICTURE_SUFFIXES, WRITABLE_SUFFIXES, Source, stem_of, suffix_of, write_volume
from ddfm_monai.volumes.kind import titles_of

__all__ = [
    "check_fits",
    "check_target",
    "output_names",
    "write_outputs",
    "write_preview",
    "write_registration_picture",
]


def check_target(target: Path) -> None:
    """Raise UsageError if no volume can be written under this name."""
    if target.is_dir():
        raise UsageError(f"{target}: is a folder. Name the file: {target / 'fused.nii.gz'}", "E_SUFFIX")
    if not stem_of(target):
        raise UsageError(f"{target}: is an ending without a name. Name the file: fused{target.name}", "E_SUFFIX")
    if suffix_of(target) not in WRITABLE_SUFFIXES:
        raise UsageError(
            f"{target}: its ending names no format that can be written. Use one of {', '.join(WRITABLE_SUFFIXES)}.",
            "E_SUFFIX",
        )


def check_fits(target: Path, reference: Source) -> None:
    """Raise UsageError if a result of several slices is to be a picture: known once the reference is read."""
    slices = reference.volume.shape[3]
    if suffix_of(target) in PICTURE_SUFFIXES and slices > 1:
        raise UsageError(
            f"{target}: a picture holds one slice, and the result has {slices}. Name a volume: "
            f"{target.with_name(stem_of(target) + '.nii.gz')} (a picture of it is written beside it).",
            "E_SUFFIX",
        )


def output_names(
    target: Path, settings: FusionSettings | None = None, check: bool = False, page: bool = False
) -> dict[str, Path]:
    """Role to path of every file that :func:`write_outputs` makes for a fused volume at ``target``.

    The roles are ``fused``, ``provenance``; ``preview`` unless the result is itself a picture; ``uncertainty`` for
    several samples; ``transform`` and ``registration_picture`` after a registration; ``check`` for a result that was
    checked; ``page`` for one with an HTML page to look at it.

    Raises:
        UsageError: ``target`` is a folder without a name, such as ``.``.
    """
    if not target.name:
        raise UsageError(f"{target}: is a folder; expected the file of a result. Name the file.", "E_SUFFIX")
    chosen = settings or FusionSettings()
    suffix = suffix_of(target)
    stem = stem_of(target)
    names = {"fused": target, "provenance": target.with_name(f"{stem}.json")}
    if suffix not in PICTURE_SUFFIXES:
        names["preview"] = target.with_name(f"{stem}.png")
    if chosen.samples > 1:
        names["uncertainty"] = target.with_name(f"{stem}_uncertainty{suffix}")
    if chosen.registers:
        names["transform"] = target.with_name(f"{stem}.tfm")
        names["registration_picture"] = target.with_name(f"{stem}_registration.png")
    if check:
        names["check"] = target.with_name(f"{stem}_check{suffix}")
    if page:
        names["page"] = target.with_name(f"{stem}.html")
    return names


def write_registration_picture(result: FusionResult, path: Path) -> None:
    """Write a PNG of both sources before and after the registration of a result that had one."""
    if result.second_before01 is not None:
        kind = result.provenance["second"]["scaling"]["kind"]
        registration_picture(path, result.reference01, result.second_before01, result.second01, kind)


def write_preview(
    result: FusionResult, path: Path, picture: str = "planes", point: Sequence[float] | None = None
) -> None:
    """Write the PNG to look at a result, with its modalities and windows named.

    Of a colour result the PET or SPECT is shown in its colours, of several samples the uncertainty too.

    Args:
        result: of :func:`ddfm_monai.fuse_volumes`.
        path: the PNG, replaced if it exists.
        picture: what it shows, one of :data:`~ddfm_monai.settings.PICTURES`.
        point: RAS mm, where three planes cross; default: where the sources show and differ most.
    """
    scalings = [result.provenance[role]["scaling"] for role in ("reference", "second")]
    titles = (*titles_of(*(scaling["kind"] for scaling in scalings)), "Fused")
    windows = (*map(_window, scalings), "no unit" if result.fused.shape[0] == 1 else "in colour")
    volumes = result.reference01, result.second01, result.fused
    if picture == "mosaic":
        save_mosaic(path, *volumes, titles, windows)
    else:
        colours = scalings[1]["kind"] if scalings[1]["kind"] in ("pet", "spect") else None
        shown = colours if result.provenance["colour"] else None
        save_picture(path, *volumes, titles, point, windows, shown, result.uncertainty)


def _window(scaling: Mapping[str, Any]) -> str:
    """What black and white of a source are, in few words."""
    low, high, zero = scaling["low"], scaling["high"], scaling.get("zero")
    if zero is not None:
        return f"level {(low + high) / 2 - zero:g}, width {high - low:g} HU"
    return f"black {low:.3g}, white {high:.3g}"


def write_outputs(result: FusionResult, target: Path, picture: str = "planes") -> dict[str, Path]:
    """Write everything that belongs to a result, all of it or nothing; existing files are replaced.

    Args:
        result: of :func:`ddfm_monai.fuse_volumes`.
        target: path of the fused volume; its ending chooses the format.
        picture: what the picture beside it shows, one of :data:`~ddfm_monai.settings.PICTURES`.

    Returns:
        Role to path, as :func:`output_names`.

    Raises:
        UsageError, InputError: as :func:`ddfm_monai.volumes.write_volume`.
    """
    check_target(target)
    names = output_names(
        target,
        FusionSettings(
            samples=1 if result.uncertainty is None else 2,
            register="none" if result.registration is None else "rigid",
        ),
        check=result.check is not None,
        page=result.page is not None,
    )
    with atomic_group(target.parent, target) as folder:
        write_volume(result.fused, folder / target.name)
        if "preview" in names:
            write_preview(result, folder / names["preview"].name, picture)
        if result.uncertainty is not None:
            write_volume(result.uncertainty, folder / names["uncertainty"].name)
        if result.registration is not None:
            result.registration.save(folder / names["transform"].name)
            write_registration_picture(result, folder / names["registration_picture"].name)
        if result.check is not None:
            # A picture has no values but its grey levels: 85, 170 and 255 for the three flags.
            flags = result.check / 3 if suffix_of(target) in PICTURE_SUFFIXES else result.check
            write_volume(cast(MetaTensor, flags), folder / names["check"].name)
        if result.page is not None:
            (folder / names["page"].name).write_text(result.page, encoding="utf-8")
        record = {**result.provenance, "files": sizes_of(folder)}
        (folder / names["provenance"].name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return names
