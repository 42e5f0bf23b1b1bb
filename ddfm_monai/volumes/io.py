"""Volumes from files and back: NIfTI by nibabel, NRRD and MetaImage by SimpleITK, pictures by Pillow.

A volume is a :class:`monai.data.MetaTensor` of shape ``(C, X, Y, Z)``, float32, ``C`` = 1 (grey) or 3 (RGB, 0..255),
with a 4x4 float64 affine that takes voxel indices to RAS millimetres. The array is never reoriented: voxel
``[:, i, j, k]`` in memory is voxel ``(i, j, k)`` of the file. A picture is a volume with ``Z = 1``, ``x`` = column and
``y`` = row, and ``meta["picture"]`` = True because its affine is only nominal (1 mm pixels, row 0 anterior,
column 0 the patient's right, as radiologists show slices).
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from monai.data.meta_tensor import MetaTensor
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.files import atomic_path

__all__ = [
    "ITK_SUFFIXES",
    "LPS_FROM_RAS",
    "NIFTI_SUFFIXES",
    "NOT_DIAGNOSTIC",
    "PICTURE_SUFFIXES",
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "check_volume",
    "is_picture",
    "is_sheared",
    "make_volume",
    "read_volume",
    "space_meta",
    "stem_of",
    "suffix_of",
    "to_sitk",
    "write_volume",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
READABLE_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES + PICTURE_SUFFIXES
WRITABLE_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".png", ".jpg", ".jpeg")

NOT_DIAGNOSTIC = "ddfm-monai fusion, grey scale without units, not for diagnostic use"
"""What every written file says about itself (at most 79 bytes: NIfTI's ``descrip`` field)."""

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Takes points in RAS mm to LPS mm, as ITK and DICOM have them, and back."""

_PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
_SHEAR_TOLERANCE = 1e-4  # cosine between two axes that still counts as a right angle; single precision headers need it


def suffix_of(path: str | Path) -> str:
    """The lower-case suffix that decides the format; ``.nii.gz`` counts as one suffix."""
    name = Path(path).name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem_of(path: str | Path) -> str:
    """The name of a file without :func:`suffix_of`; the whole name of a folder."""
    path = Path(path)
    return path.name if path.is_dir() else path.name[: len(path.name) - len(suffix_of(path))]


def is_picture(volume: MetaTensor) -> bool:
    """True for a volume that came from a picture file and so has no real geometry."""
    return bool(volume.meta.get("picture", False))


def space_meta(volume: MetaTensor) -> dict[str, Any]:
    """The entries of ``meta`` that belong to the grid, for a volume made on the same grid."""
    return {key: volume.meta[key] for key in ("picture", "xform_code") if key in volume.meta}


def make_volume(array: np.ndarray | torch.Tensor, affine: np.ndarray, **meta: Any) -> MetaTensor:
    """Wrap ``(C, X, Y, Z)`` data and its RAS-mm affine as a volume, float32, without copying float32 data."""
    data = torch.as_tensor(array, dtype=torch.float32)
    return MetaTensor(data, affine=torch.from_numpy(np.array(affine, dtype=np.float64)), meta={"space": "RAS", **meta})


def check_volume(volume: torch.Tensor, name: str) -> None:
    """Refuse a volume in memory for the reasons for which :func:`read_volume` refuses a file.

    Args:
        volume: expected to be ``(1, X, Y, Z)`` or ``(3, X, Y, Z)``, integers or real numbers.
        name: what the message calls it, for example ``"reference"``.

    Raises:
        InputError: other dimensions or values, NaN or infinities, a constant image, or an unusable geometry.
    """
    if volume.ndim != 4 or volume.shape[0] not in (1, 3) or 0 in volume.shape:
        raise InputError(
            f"{name}: found an array of shape {tuple(volume.shape)}; expected (C, X, Y, Z) with C = 1 or 3. "
            "Add the channel first (MONAI: EnsureChannelFirst); a single slice has Z = 1.",
            "E_DIMENSIONS",
        )
    if volume.is_complex() or volume.dtype == torch.bool:
        raise InputError(
            f"{name}: values of type {volume.dtype} cannot be fused; expected integers or real numbers.", "E_VOXEL_TYPE"
        )
    if isinstance(volume, MetaTensor):
        _check_affine(name, _affine_of(volume))
        volume = volume.as_tensor()
    _check_values(name, volume.detach())


def read_volume(path: str | Path) -> MetaTensor:
    """Read one volume or picture, or the DICOM series in a folder.

    Args:
        path: a NIfTI, NRRD, MetaImage or picture file, or a folder that holds one DICOM series.

    Returns:
        ``(C, X, Y, Z)`` float32 with its RAS-mm affine. ``meta["filename_or_obj"]`` is the path as given,
        ``meta["picture"]`` is True for pictures, ``meta["xform_code"]`` is NIfTI's space code (1 scanner, 2 aligned,
        3 Talairach, 4 MNI) where there is one.

    Raises:
        UsageError: there is no such file, or its suffix is none that can be read.
        InputError: the file is empty, truncated or no image, has the wrong dimensions or voxel type, holds NaN or
            infinities, is constant, or has an unusable geometry.
    """
    path = Path(path)
    if path.is_dir():
        from ddfm_monai.dicom import read_folder

        return read_folder(path)
    _check_file(path)
    suffix = suffix_of(path)
    if suffix in NIFTI_SUFFIXES:
        array, affine, meta = _read_nifti(path)
    elif suffix in ITK_SUFFIXES:
        array, affine, meta = _read_itk(path)
    else:
        array, affine, meta = _read_picture(path)
    _check_affine(path, affine)
    _check_values(path, torch.from_numpy(array))
    return make_volume(array, affine, filename_or_obj=str(path), **meta)


def write_volume(volume: MetaTensor, path: str | Path, description: str = NOT_DIAGNOSTIC) -> None:
    """Write a volume with its geometry; the file appears whole or not at all.

    NIfTI: float32 grey or RGB24, sform and qform both set (a sheared affine has no qform and gets the sform only), mm.
    NRRD and MHA: float32 grey or 8-bit RGB, compressed. PNG and JPEG: one slice only, grey ``[0, 1]`` as 0..255.

    Args:
        volume: ``(1, X, Y, Z)`` grey (``[0, 1]`` for pictures) or ``(3, X, Y, Z)`` RGB, 0..255.
        path: the suffix chooses the format. An existing file is replaced.
        description: a note that the file carries, at most 79 bytes.

    Raises:
        UsageError: the suffix is none that can be written.
        InputError: the volume does not fit the format (several slices or values outside [0, 1] in a PNG).
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix not in WRITABLE_SUFFIXES:
        raise UsageError(
            f"{path}: cannot write a file with the suffix {suffix or '(none)'!r}. "
            f"Use one of {_names(WRITABLE_SUFFIXES)}.",
            "E_SUFFIX",
        )
    if volume.ndim != 4 or volume.shape[0] not in (1, 3):
        raise InputError(
            f"{path}: cannot write an array of shape {tuple(volume.shape)}; expected (C, X, Y, Z) with C = 1 or 3.",
            "E_DIMENSIONS",
        )
    write = _write_nifti if suffix in NIFTI_SUFFIXES else _write_itk if suffix in ITK_SUFFIXES else _write_picture
    with atomic_path(path) as temporary:
        write(volume, temporary, path, description)


def is_sheared(affine: np.ndarray) -> bool:
    """True where the voxel axes are not at right angles, which a NIfTI qform cannot keep."""
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    cosines = columns / np.linalg.norm(columns, axis=0)
    return bool(np.abs(cosines.T @ cosines - np.eye(3)).max() > _SHEAR_TOLERANCE)


def _names(suffixes: tuple[str, ...]) -> str:
    return ", ".join(suffixes)


def _check_file(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder. Check the path.", "E_MISSING_FILE")
    suffix = suffix_of(path)
    if suffix not in READABLE_SUFFIXES:
        hint = " For DICOM, pass the folder of the series instead of a file." if suffix in ("", ".dcm", ".ima") else ""
        raise UsageError(
            f"{path}: cannot read a file with the suffix {suffix or '(none)'!r}; expected one of "
            f"{_names(READABLE_SUFFIXES)}, or a folder with a DICOM series.{hint}",
            "E_SUFFIX",
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes). Copy or export it again.", "E_EMPTY_FILE")


def _unreadable(path: Path, what: str, error: Exception | None = None) -> InputError:
    reason = str(error).strip().splitlines() if error else []
    detail = f" ({reason[-1].strip(' -')})" if reason else ""
    return InputError(
        f"{path}: cannot be read as {what}: it is truncated, damaged or another kind of file{detail}. "
        "Copy or export it again.",
        "E_UNREADABLE",
    )


# --- NIfTI -----------------------------------------------------------------------------------------------------------


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    try:
        image: Any = nib.Nifti1Image.from_filename(path)
        header = image.header
        shape = _spatial_shape(path, tuple(int(n) for n in header.get_data_shape()))
        kind = _nifti_kind(path, header.get_data_dtype())
        _check_nifti_spacing(path, header)
        if kind == "grey":
            array = np.asarray(image.dataobj, dtype=np.float32).reshape(shape, order="F")[None]
        else:
            array = _rgb_from_struct(path, np.asarray(image.dataobj.get_unscaled()).reshape(shape, order="F"))
    except (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, "NIfTI", error) from error
    code = int(header["sform_code"]) or int(header["qform_code"])
    return array, np.asarray(image.affine, dtype=np.float64), {"xform_code": code} if code else {}


def _nifti_kind(path: Path, dtype: np.dtype) -> str:
    if dtype.names is not None and set("RGB") <= set(dtype.names):
        return "rgb"
    if dtype.names is None and dtype.kind in "iuf":
        return "grey"
    raise InputError(
        f"{path}: voxels of type {dtype} cannot be fused; expected integers, real numbers or RGB24. "
        "For complex data save the magnitude.",
        "E_VOXEL_TYPE",
    )


def _rgb_from_struct(path: Path, voxels: np.ndarray) -> np.ndarray:
    if "A" in (voxels.dtype.names or ()):
        _check_opaque(path, voxels["A"])
    array = np.empty((3, *voxels.shape), dtype=np.float32, order="F")
    for channel, name in enumerate("RGB"):
        array[channel] = voxels[name]
    return array


def _check_nifti_spacing(path: Path, header: nib.Nifti1Header) -> None:
    # nibabel mends zero and negative spacings while loading, so look at the bytes as stored. With a sform the
    # spacing is not used; the affine itself is checked for that case.
    if int(header["sform_code"]) > 0:
        return
    with ImageOpener(str(path)) as file:
        stored = type(header).from_fileobj(file, check=False)
    spacing = [float(value) for value in stored["pixdim"][1:4]]
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise _bad_spacing(path, spacing)


def _write_nifti(volume: MetaTensor, temporary: Path, path: Path, description: str) -> None:
    affine = _affine_of(volume)
    data = volume.as_tensor().detach().cpu().numpy()
    if data.shape[0] == 3:
        voxels = np.empty(data.shape[1:], dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")], order="F")
        for channel, name in enumerate("RGB"):
            voxels[name] = _to_byte(data[channel])
    else:
        voxels = data[0].astype(np.float32, copy=False)
    image = nib.Nifti1Image(voxels, None)
    code = int(volume.meta.get("xform_code", 1))
    image.set_sform(affine, code=code)
    image.set_qform(None if is_sheared(affine) else affine, code=0 if is_sheared(affine) else code)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = description.encode()[:79]
    if data.shape[0] == 1 and voxels.min() >= 0 and voxels.max() <= 1:
        image.header["cal_max"] = 1.0  # viewers open the whole grey scale
    nib.save(image, temporary)


# --- NRRD and MetaImage ----------------------------------------------------------------------------------------------


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        # ITK's own text names source files and, for a short read, a file that does not exist: no help to the reader
        detached = suffix_of(path) in (".mhd", ".nhdr")
        raise _unreadable(path, "NRRD or MetaImage" + (" with its data file beside it" * detached)) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[..., 0]
    _spatial_shape(path, image.GetSize())
    view = sitk.GetArrayViewFromImage(image)  # (z, y, x) or (z, y, x, component)
    if view.dtype.kind not in "iuf":
        raise InputError(
            f"{path}: voxels of type {view.dtype} cannot be fused; expected integers, real numbers or 8-bit RGB.",
            "E_VOXEL_TYPE",
        )
    components = image.GetNumberOfComponentsPerPixel()
    if components == 1:
        array = np.array(view, dtype=np.float32).transpose(2, 1, 0)[None]
    elif components in (3, 4) and view.dtype == np.uint8:
        if components == 4:
            _check_opaque(path, view[..., 3])
        array = np.array(np.moveaxis(view[..., :3], -1, 0), dtype=np.float32).transpose(0, 3, 2, 1)
    else:
        raise InputError(
            f"{path}: found {components} values of type {view.dtype} in every voxel; expected one (grey) or 8-bit RGB. "
            "Save one component as a volume of its own.",
            "E_VOXEL_TYPE",
        )
    return array, _affine_from_itk(image), {}


def _affine_from_itk(image: sitk.Image) -> np.ndarray:
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return LPS_FROM_RAS @ lps


def _write_itk(volume: MetaTensor, temporary: Path, path: Path, description: str) -> None:
    image = to_sitk(volume)
    image.SetMetaData("description", description)
    sitk.WriteImage(image, str(temporary), useCompression=True)


def to_sitk(volume: MetaTensor) -> sitk.Image:
    """The volume as a SimpleITK image (LPS mm): float32 grey, or 8-bit RGB.

    A sheared affine is kept: ITK's images take any three axes, only its NIfTI reader wants right angles.
    """
    data = volume.as_tensor().detach().cpu().numpy()
    if data.shape[0] == 3:
        image = sitk.GetImageFromArray(_to_byte(data).transpose(3, 2, 1, 0), isVector=True)
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(data[0].transpose(2, 1, 0), dtype=np.float32))
    lps = LPS_FROM_RAS @ _affine_of(volume)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


# --- pictures --------------------------------------------------------------------------------------------------------


def _read_picture(path: Path) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    try:
        with Image.open(path) as file:
            frames = getattr(file, "n_frames", 1)
            if frames != 1:
                raise InputError(
                    f"{path}: holds {frames} pictures; expected one. Save each as a file of its own, or the stack as "
                    "NIfTI.",
                    "E_DIMENSIONS",
                )
            picture = ImageOps.exif_transpose(file)
            array = _picture_channels(path, picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(path, "a picture", error) from error
    return array[..., None], _PICTURE_AFFINE.copy(), {"picture": True}


def _picture_channels(path: Path, picture: Image.Image) -> np.ndarray:
    """``(1 or 3, columns, rows)`` float32; a colour file whose three channels are equal is grey."""
    if picture.mode in ("L", "I", "F", "I;16", "I;16B", "I;16L"):
        return np.asarray(picture, dtype=np.float32).T[None]
    if picture.mode == "1":
        return np.asarray(picture.convert("L"), dtype=np.float32).T[None]
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"))
        _check_opaque(path, rgba[..., 3])
        rgb = rgba[..., :3]
    else:
        rgb = np.asarray(picture.convert("RGB"))
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
        rgb = rgb[..., :1]
    return rgb.astype(np.float32).transpose(2, 1, 0)


def _write_picture(volume: MetaTensor, temporary: Path, path: Path, description: str) -> None:
    if volume.shape[3] != 1:
        raise InputError(
            f"{path}: a picture holds one slice, this volume has {volume.shape[3]}. Write NIfTI (.nii.gz) instead.",
            "E_DIMENSIONS",
        )
    data = volume.as_tensor().detach().cpu().numpy()[..., 0]
    if data.shape[0] == 1:
        if data.min() < 0 or data.max() > 1:
            raise InputError(
                f"{path}: grey values from {data.min():g} to {data.max():g} do not fit a picture; expected 0 to 1. "
                "Scale them first, or write NIfTI.",
                "E_RANGE",
            )
        picture = Image.fromarray(_to_byte(data[0] * 255).T)
    else:
        picture = Image.fromarray(np.ascontiguousarray(_to_byte(data).transpose(2, 1, 0)))
    if suffix_of(path) == ".png":
        note = PngImagePlugin.PngInfo()
        note.add_text("Comment", description)
        picture.save(temporary, pnginfo=note)
    else:
        picture.save(temporary, quality=95, subsampling=0, comment=description.encode())


# --- checks ----------------------------------------------------------------------------------------------------------


def _affine_of(volume: MetaTensor) -> np.ndarray:
    return np.asarray(volume.affine.detach().cpu(), dtype=np.float64)


def _to_byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _spatial_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    kept = shape
    while len(kept) > 3 and kept[-1] == 1:
        kept = kept[:-1]
    if len(kept) == 3 and min(kept) > 0:
        return (kept[0], kept[1], kept[2])
    size = " x ".join(str(n) for n in shape) or "no size"
    if len(kept) < 3:
        todo = "Save it as a volume with one slice (X x Y x 1), or as a PNG picture."
    elif len(kept) > 3:
        todo = "Save one time point or channel as a 3-D volume."
    else:
        todo = "Export it again."
    raise InputError(f"{path}: found {len(shape)} dimensions ({size}); expected a 3-D volume. {todo}", "E_DIMENSIONS")


def _check_opaque(path: Path, alpha: np.ndarray) -> None:
    if alpha.min() != 255 and alpha.any():
        raise InputError(
            f"{path}: has transparent parts (alpha from {alpha.min()} to {alpha.max()}); expected none. "
            "Flatten it onto its background first.",
            "E_ALPHA",
        )


def _bad_spacing(path: str | Path, spacing: list[float]) -> InputError:
    found = " x ".join(f"{value:g}" for value in spacing)
    return InputError(
        f"{path}: voxel spacing {found} mm; expected three positive numbers. Correct the header or export again.",
        "E_GEOMETRY",
    )


def _check_affine(path: str | Path, affine: np.ndarray) -> None:
    columns = affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if not np.isfinite(affine).all() or not (spacing > 0).all():
        raise _bad_spacing(path, spacing.tolist())
    if abs(np.linalg.det(columns / spacing)) < 1e-3:
        raise InputError(
            f"{path}: the affine is singular (two voxel axes point the same way), so voxels have no place in space. "
            "Correct the header or export again.",
            "E_GEOMETRY",
        )


def _check_values(path: str | Path, values: torch.Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(values))  # a NaN anywhere makes both NaN
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = int(values.numel() - torch.count_nonzero(torch.isfinite(values)))
        raise InputError(
            f"{path}: {bad} of {values.numel()} values are NaN or infinite; expected finite numbers. "
            "Replace them (for example by the background value) first.",
            "E_NOT_FINITE",
        )
    if low == high:
        raise InputError(
            f"{path}: every value is {low:g}; expected an image with contrast. Check that the right file was exported.",
            "E_CONSTANT",
        )
