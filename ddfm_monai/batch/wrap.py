"""A fused volume file to a derived DICOM series: what `ddfm dicom wrap` and 3D Slicer's panel do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ddfm_monai._version import __version__
from ddfm_monai.batch.folder import new_case_folder, write_marker
from ddfm_monai.batch.run import check_folders, free_number
from ddfm_monai.batch.two_series import FolderResult
from ddfm_monai.dicom.errors import Problem
from ddfm_monai.dicom.read import AIR, DicomVolume, read_folder_series
from ddfm_monai.dicom.write import Derivation, write_colour, write_grey
from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.files import check_writable_target
from ddfm_monai.fusion.outputs import output_names
from ddfm_monai.lock import target_locks
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.space import Affine, flip_transform, same_grid
from ddfm_monai.volume import affine_of, grid_of
from ddfm_monai.volumes import read_volume

__all__ = ["wrap_fused"]

_RIGID_TOLERANCE = 1e-3
_SAME_VOXELS = 0.9999  # correlation
_NO_LONGER = "The second volume is no longer what its series holds; the result does not refer to the series."


def wrap_fused(
    fused: Path | str,
    reference: Path | str,
    output: Path | str,
    *,
    second: Path | str | None = None,
    reference_volume: Path | str | None = None,
    second_volume: Path | str | None = None,
    provenance: Path | str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = silent,
) -> FolderResult:
    """Write a fused volume as a series of its reference's patient and study: ``grey/``, or ``colour/`` for RGB.

    Headers, positions and pixels are those that `ddfm dicom` writes. The output appears whole or not at all.

    Args:
        fused: grey, 0 to 1, or RGB, 0 to 255; on the grid of the reference's series (its voxel axes may run in another
            order or direction).
        reference: folder (or multi-frame file) with exactly one series: the one that the fusion's reference was.
        output: the folder to make.
        second: the same for the other source; None where it is no DICOM series.
        reference_volume: the reference as it was fused, to make sure that its voxels are still those of the series.
        second_volume: the second as it was fused, in the reference's coordinates and with its voxels in the series'
            order: where it lay, if it was moved there by a transform (not by the fusion's own registration). If its
            voxels are no longer those of the series, the result does not refer to the series.
        provenance: a JSON file; by default the one that `ddfm fuse` leaves beside the fused volume.
        overwrite: replace an earlier result.

    Raises:
        UsageError: a file or folder is missing, the output exists, or nothing says how the volume was made.
        DicomError: a series cannot be used, the patients differ, or nothing says where the second lay.
        InputError: the volume does not lie on the reference's grid (``E_OTHER_GRID``), or the reference's voxels are no
            longer those of its series (``E_OTHER_VOXELS``).
    """
    source, target = Path(fused), Path(output)
    check_writable_target(target, overwrite)
    for folder in (reference, second):
        if folder is not None:
            check_folders(Path(folder), target)
    how = _read_provenance(Path(provenance) if provenance else output_names(source)["provenance"])
    progress(Progress("read", 0, 3))
    base = read_folder_series(reference)
    if base.subseries.not_as_base is not None:
        raise base.subseries.not_as_base.error()
    progress(Progress("read", 1, 3))
    other = read_folder_series(second) if second is not None else None
    progress(Progress("read", 2, 3))
    values = _read_fused(source, base)
    if reference_volume is not None:
        _check_voxels(Path(reference_volume), base)
    progress(Progress("read", 3, 3))
    derivation = _derivation(base, other, Path(second_volume) if second_volume else None, how)
    warnings = [_NO_LONGER] if other is not None and derivation.second is None else []
    with target_locks([target]), new_case_folder(target) as new:
        check_writable_target(target, overwrite)
        progress(Progress("write", 0, 1))
        if len(values) == 3:
            written = write_colour(values, derivation, new / "colour")
        else:
            written = write_grey(values[0], derivation, new / "grey")
        record = {
            "format": 1,
            "software": f"ddfm-monai {__version__}",
            "created": derivation.created.isoformat(timespec="seconds"),
            "warnings": warnings,
            "outputs": [{"kind": written.kind, "series_uid": written.series_uid}],
            "provenance": how,
        }
        write_marker(new, record)
        progress(Progress("write", 1, 1))
    return FolderResult(target, record)


def _read_provenance(path: Path) -> dict[str, Any]:
    expected = "the JSON file that ddfm fuse writes beside its result. Give it with --provenance, or fuse again."
    try:
        how = json.loads(path.read_text(encoding="utf-8"))
        for part, key in (("prior", "name"), ("prior", "sha256"), ("sampling", "steps"), ("sampling", "seed")):
            how[part][key]
        how["second"]["resampled"], how["registration"], how["software"]["ddfm_monai"]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); expected {expected}", "E_PROVENANCE") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: does not say how the volume was made; expected {expected}", "E_PROVENANCE") from None
    kind = how["second"].get("scaling", {}).get("kind", "?")
    return {**how, "second": {**how["second"], "kind": kind}}


def _derivation(
    base: DicomVolume, second: DicomVolume | None, second_volume: Path | None, how: Mapping[str, Any]
) -> Derivation:
    """How the result came about; without the second where that is no longer what its series holds.

    Raises:
        DicomError: the patients differ, or nothing says where the second lay.
    """
    moved: Affine | None = np.eye(4)
    if second is not None:
        _check_patients(base, second)
        moved = _second_to_base(base, second, second_volume, how)
    return Derivation(
        base=base,
        second=None if moved is None else second,
        base_to_second=flip_transform(np.linalg.inv(np.eye(4) if moved is None else moved) @ _found(how)),
        registered=how["registration"] is not None,
        provenance=how,
        series_number=free_number(base.subseries.series_number, set()),
        created=datetime.now(),
    )


def _read_fused(path: Path, base: DicomVolume) -> NDArray[np.float32]:
    values = _onto_grid(path, base)
    if len(values) == 1 and (values.min() < 0 or values.max() > 1):
        raise InputError(f"{path}: holds values outside 0 to 1; expected a volume that ddfm fused.", "E_NOT_FUSED")
    return values


def _onto_grid(path: Path, base: DicomVolume) -> NDArray[np.float32]:
    """The fused voxels in the order of the series' grid, ``(C, X, Y, Z)``."""
    volume = read_volume(path)
    wanted_shape, wanted = grid_of(base.volume)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine_of(volume)), nib.orientations.io_orientation(wanted)
    )
    shape = tuple(volume.shape[1:])
    found = affine_of(volume) @ nib.orientations.inv_ornt_aff(turn, shape)
    values = np.stack([nib.orientations.apply_orientation(part, turn) for part in volume.numpy()])
    if not same_grid((wanted_shape, wanted), (values.shape[1:], found)):
        raise InputError(
            f"{path}: does not lie on the grid of the reference's series: found {_text(shape)} voxels, the series has "
            f"{_text(wanted_shape)}, or it lies elsewhere. Expected the volume as it was fused from that series. "
            "A reference that was cropped, resampled or hardened into another place has no series of its own to "
            "belong to: fuse with the series as it was read.",
            "E_OTHER_GRID",
        )
    return values


def _check_voxels(path: Path, base: DicomVolume) -> None:
    if not _same_voxels(_onto_grid(path, base)[0], base):
        raise InputError(
            f"{path}: its voxels are not those of the reference's series. A reference that was filtered or bent in "
            "3D Slicer is no longer the series that the result would refer to: fuse with the series as it was read.",
            "E_OTHER_VOXELS",
        )


def _same_voxels(values: NDArray[np.float32], series: DicomVolume) -> bool:
    """Whether these are a series' voxels, up to scale and padding, which programs read differently."""
    own = series.volume[0].numpy()
    counted = own != (AIR if series.subseries.kind == "ct" else 0.0)
    if values.shape != own.shape or not counted.any():
        return False
    return bool(abs(np.corrcoef(values[counted].astype(np.float64), own[counted])[0, 1]) > _SAME_VOXELS)


def _check_patients(base: DicomVolume, second: DicomVolume) -> None:
    ids = [(source.subseries.patient.patient_id, source.subseries.patient.issuer) for source in (base, second)]
    if all(patient_id for patient_id, _ in ids) and ids[0] != ids[1]:
        raise Problem("E_DIFFERENT_PATIENTS", "the patient IDs differ").error()


def _second_to_base(base: DicomVolume, second: DicomVolume, path: Path | None, how: Mapping[str, Any]) -> Affine | None:
    """(4, 4) RAS mm, a point of the second's series to where it lay when it was fused; None if that is not rigid."""
    if path is None:
        frames = [source.subseries.frame_of_reference_uid for source in (base, second)]
        if how["registration"] is None and (not frames[0] or frames[0] != frames[1]):
            raise Problem("S_DIFFERENT_FRAME", "nothing says where the second lay").error()
        return np.eye(4)
    volume = read_volume(path)
    moved = affine_of(volume) @ np.linalg.inv(affine_of(second.volume))
    turn = moved[:3, :3]
    rigid = np.abs(turn @ turn.T - np.eye(3)).max() < _RIGID_TOLERANCE and np.linalg.det(turn) > 0
    return moved if rigid and _same_voxels(volume[0].numpy(), second) else None


def _found(how: Mapping[str, Any]) -> Affine:
    """What the fusion's own registration found: a point of the reference to the second's, RAS mm."""
    registration = how["registration"]
    return np.asarray(registration["matrix"], dtype=np.float64) if registration is not None else np.eye(4)


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)
