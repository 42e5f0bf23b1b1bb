"""A sub-series to a volume: pixels by pydicom, values rescaled slice by slice, geometry from the slice positions.

Libraries that read a series in one call give a wrong volume without an exception for many bad series (a missing slice,
gantry tilt, a truncated file...), so the volume is built here, and every doubt is an error.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from monai.data.meta_tensor import MetaTensor
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import generate_frames
from pydicom.pixels import iter_pixels

from ddfm_monai.dicom.dose import dose_of
from ddfm_monai.dicom.errors import DicomError, Problem
from ddfm_monai.dicom.flatten import flat_header, keep_readable
from ddfm_monai.dicom.frames import rescale_of
from ddfm_monai.dicom.geometry import Grid
from ddfm_monai.dicom.headers import (
    JPEG_EXTENDED,
    ImageHeader,
    contradicting_syntax,
    image_header,
    open_dataset,
    quiet_pydicom,
    samples_per_pixel,
)
from ddfm_monai.dicom.image_type import is_projection
from ddfm_monai.dicom.pieces import FEWEST_SLICES
from ddfm_monai.dicom.scan import ScanResult, scan_file, scan_folder
from ddfm_monai.dicom.subseries import Slice, SubSeries
from ddfm_monai.dicom.values import HeaderError, text, whole
from ddfm_monai.errors import UsageError
from ddfm_monai.progress import Progress, ProgressCallback, silent
from ddfm_monai.volume import make_volume

__all__ = ["DicomVolume", "read_folder", "read_folder_series", "read_subseries"]

AIR = -1024.0
"""What CT padding becomes, HU; padding of other modalities becomes 0."""

ALWAYS_LOSSY = ("1.2.840.10008.1.2.4.50", JPEG_EXTENDED)
PERHAPS_LOSSY = ("1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203")
RLE = "1.2.840.10008.1.2.5"

# Problems of pictures that never were slices of a volume.
NO_VOLUME = ("E_SINGLE_SLICE", "E_COLOUR", "E_NO_GEOMETRY", "E_NO_PIXEL_SPACING")


@dataclass(frozen=True)
class DicomVolume:
    """A volume read from DICOM, with the headers its result is to be derived from.

    Args:
        volume: ``(1, X, Y, Z)`` float32 (X columns, Y rows, Z slices), rescaled values, ``affine`` 4x4 float64 to
            RAS mm, ``meta["space"] = "RAS"``.
        subseries: what it was read from. ``subseries.slices[z]`` is slice z of the volume, unless its grid is uneven.
        headers: one Dataset per slice, in the order of Z, without pixels. Of a multi-frame object each is a flat
            header as of a single-frame image (see :func:`~ddfm_monai.dicom.flatten.flat_header`).
        lossy: a source file was compressed with loss, now or earlier.
        warnings: remarks from scan and reading.
    """

    volume: MetaTensor
    subseries: SubSeries
    headers: tuple[Dataset, ...]
    lossy: bool
    warnings: tuple[Problem, ...]


@dataclass(frozen=True)
class _File:
    """The wanted frames of one file."""

    values: NDArray[np.float32]  # (frames, rows, columns), rescaled
    padding: NDArray[np.bool_]  # the same, where a pixel is none
    headers: list[Dataset]
    lossy: bool


def read_subseries(subseries: SubSeries, progress: ProgressCallback = silent) -> DicomVolume:
    """Read the pixels of a sub-series and build its volume.

    Every file is checked against the scan. The volume is right, or an error is raised. MR stored as MONOCHROME1 is
    inverted within its range, so that bright tissue is bright; values that have a unit are never inverted.

    Raises:
        DicomError: with the code of the reason; names the file.
    """
    if subseries.problem is not None or subseries.grid is None:
        raise (subseries.problem or Problem("E_NO_GEOMETRY", "there is no grid")).error()
    columns, rows, _ = subseries.grid.shape
    count = len(subseries.slices)
    stack = np.empty((count, rows, columns), np.float32)
    headers: list[Dataset] = [Dataset()] * count
    padded, lossy, warnings = 0, False, list(subseries.warnings)
    inverted = subseries.kind == "mr" and any(warning.code == "W_MONOCHROME1" for warning in warnings)
    padding = np.zeros(stack.shape if inverted else (0,), bool)
    places: dict[Path, list[int]] = defaultdict(list)
    for z, item in enumerate(subseries.slices):
        places[item.path].append(z)
    done = 0
    for path, zs in places.items():
        zs.sort(key=lambda z: subseries.slices[z].frame or 0)
        slices = [subseries.slices[z] for z in zs]
        file = _read_file(path, slices, subseries)
        for copy in slices[0].copies:
            _check_copy(file, _read_file(copy, slices, subseries, copy=True), copy)
        stack[zs] = file.values
        for z, header in zip(zs, file.headers, strict=True):
            headers[z] = header
        padded += int(file.padding.sum())
        if inverted:
            padding[zs] = file.padding
        lossy = lossy or file.lossy
        done += len(zs)
        progress(Progress("read", done, count, f"{done} of {count} slices"))
    if padded:
        warnings.append(Problem("W_PADDING", f"{padded} pixels are padding"))
    if inverted:
        stack = _inverted(stack, padding)
    if subseries.grid.uneven:
        stack = _evenly(stack, subseries.grid)
    volume = make_volume(
        np.ascontiguousarray(stack.transpose(2, 1, 0))[None],
        subseries.grid.affine,
        filename_or_obj=str(subseries.slices[0].path.parent),
        modality=subseries.modality,
        origin=subseries.origin.as_meta(),
        **({"pet": dose_of(headers)} if subseries.kind == "pet" else {}),
    )
    return DicomVolume(volume, subseries, tuple(headers), lossy, tuple(warnings))


def _inverted(stack: NDArray[np.float32], padding: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Bright for dark within the range of what was measured; padding stays background."""
    measured = stack[~padding]
    if not measured.size:
        return stack
    return np.where(padding, stack, measured.max() + measured.min() - stack)


def _evenly(stack: NDArray[np.float32], grid: Grid) -> NDArray[np.float32]:
    """Slices at uneven places ``(slices, rows, columns)``, interpolated linearly at every plane of the grid."""
    even = np.empty((grid.shape[2], *stack.shape[1:]), np.float32)
    for z in range(len(even)):
        place = grid.slice_at(z)
        below = min(int(place), len(stack) - 2)
        weight = np.float32(place - below)
        even[z] = stack[below] * (1 - weight) + stack[below + 1] * weight
    return even


def _check_copy(file: _File, copy: _File, path: Path) -> None:
    if not np.array_equal(file.values, copy.values):
        found = "the file is a copy of another slice by its header (SOP Instance UID or position), but has other pixels"
        raise Problem("E_DUPLICATE_INSTANCE", found, path).error()


# ------------------------------------------------------------------------------------------------ one file


def _read_file(path: Path, slices: Sequence[Slice], subseries: SubSeries, copy: bool = False) -> _File:
    """Frames of one file, in the order of ``slices``, checked against the scan. A copy may have another UID."""
    try:
        with quiet_pydicom():
            ds = open_dataset(path, path, stop_before_pixels=False)
            image = image_header(ds, path, None, 0)
            _check_unchanged(image, slices, subseries, copy)
            frames = [item.frame or 0 for item in slices]
            stored = _stored(ds, image, frames)
            padding = np.stack([_padding(ds, array) for array in stored])
            values = np.stack([_rescaled(ds, frame, array) for frame, array in zip(frames, stored, strict=True)])
            values[padding] = AIR if subseries.kind == "ct" else 0.0
            lossy = _lossy(ds)
            for keyword in ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
                ds.pop(keyword, None)
            keep_readable(ds)
            headers = [flat_header(ds, item) for item in slices]
    except FileNotFoundError as error:
        raise Problem("E_CHANGED", "the file is gone", path).error() from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise Problem("E_UNREADABLE_FILE", f"the file cannot be read ({reason})", path).error() from error
    except HeaderError as error:
        raise Problem("E_HEADER", str(error), path).error() from error
    except DicomError:
        raise
    except Exception as error:  # pydicom raises almost anything on broken values
        raise Problem("E_HEADER", f"the header cannot be read ({type(error).__name__})", path).error() from error
    if not np.isfinite(values).all():
        raise Problem("E_NOT_FINITE", f"{int((~np.isfinite(values)).sum())} values are not finite", path).error()
    return _File(values, padding, headers, lossy)


def _check_unchanged(image: ImageHeader, slices: Sequence[Slice], subseries: SubSeries, copy: bool) -> None:
    if image.problem is not None:
        raise image.problem.error()
    same = (
        (copy or image.sop_instance_uid == slices[0].sop_instance_uid)
        and image.series_uid == subseries.key.series_uid
        and (image.rows, image.columns) == (subseries.rows, subseries.columns)
        and all((item.frame or 0) < len(image.frames) for item in slices)
        and all(image.frames[item.frame or 0].position == item.position for item in slices)
    )
    if not same:
        raise Problem("E_CHANGED", "the file is not the one that was scanned", image.path).error()


def _stored(ds: FileDataset, image: ImageHeader, frames: list[int]) -> list[NDArray]:
    """The wanted frames as they are stored, each ``(rows, columns)``."""
    _check_complete(ds, image)
    syntax = ds.file_meta.TransferSyntaxUID
    ds.SamplesPerPixel = samples_per_pixel(ds)
    try:
        arrays = list(iter_pixels(ds, indices=frames, raw=True, correct_unused_bits=False))
    except Exception as error:  # decoders raise almost anything on broken bytes
        code = "E_DECODER" if syntax == JPEG_EXTENDED else "E_PIXEL_DATA"
        found = f"Pixel Data ({syntax.name}) cannot be decoded ({type(error).__name__})"
        raise Problem(code, found, image.path).error() from error
    if len(arrays) != len(frames) or any(array.shape != (image.rows, image.columns) for array in arrays):
        raise Problem("E_PIXEL_DATA", "the decoded size is not Rows x Columns", image.path).error()
    return arrays


def _stored_bits(array: NDArray, ds: Dataset) -> NDArray:
    """The lowest Bits Stored bits of each value, with their sign; those above may hold anything (PS3.5 8.1.1)."""
    unused = 8 * array.dtype.itemsize - (whole(ds, "BitsStored") or 0)
    return (array << unused) >> unused if unused > 0 else array


def _check_complete(ds: FileDataset, image: ImageHeader) -> None:
    """Whether Pixel Data hold as much as the header says: what is missing or too much would be filled or passed over.

    Decoders fill what is missing at the end of a code stream with anything: look for its end marker first.
    """
    if "PixelData" not in ds or not ds.PixelData:
        raise Problem("E_PIXEL_DATA", "there is no Pixel Data", image.path).error()
    if (found := contradicting_syntax(ds, ds["PixelData"].is_undefined_length)) is not None:
        raise Problem("E_PIXEL_DATA", found, image.path).error()
    syntax = ds.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        one_row = image.columns * (whole(ds, "BitsAllocated") or 0) // 8
        expected = one_row * image.rows * len(image.frames)
        beyond = ds.PixelData[expected:]
        # Writers pad with zeros, or with a few bytes of anything.
        if len(ds.PixelData) < expected or (len(beyond) >= one_row and any(beyond)):
            found = f"Pixel Data has {len(ds.PixelData)} bytes instead of {expected}"
            raise Problem("E_PIXEL_DATA", found, image.path).error()
        return
    try:
        streams = list(generate_frames(ds.PixelData, number_of_frames=len(image.frames)))
    except Exception as error:  # broken item structure
        found = f"Pixel Data is not a sequence of fragments ({type(error).__name__})"
        raise Problem("E_PIXEL_DATA", found, image.path).error() from error
    cut = [at for at, stream in enumerate(streams) if not stream.rstrip(b"\0").endswith(b"\xff\xd9")]
    if len(streams) != len(image.frames) or (cut and syntax != RLE):
        raise Problem("E_PIXEL_DATA", "a compressed frame is incomplete", image.path).error()


def _rescaled(ds: Dataset, frame: int, stored: NDArray) -> NDArray[np.float32]:
    """Values of one frame by its own Rescale Slope and Intercept."""
    slope, intercept = rescale_of(ds, frame)
    values = _stored_bits(stored, ds).astype(np.float64)
    with np.errstate(over="ignore"):  # what overflows is refused as not finite
        return (values * (1.0 if slope is None else slope) + (intercept or 0.0)).astype(np.float32)


def _padding(ds: Dataset, stored: NDArray) -> NDArray[np.bool_]:
    """Where Pixel Padding Value (to Pixel Padding Range Limit) stands (PS3.3 C.7.5.1.1.2).

    A scanner of 12 bits may write -2000 in all 16: what stands there is looked at with and without the unused bits.
    """
    value = whole(ds, "PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = whole(ds, "PixelPaddingRangeLimit")
    ends = [_as_stored(end, stored.dtype) for end in (value, value if limit is None else limit)]
    low, high = min(ends), max(ends)
    found = [(array >= low) & (array <= high) for array in (stored, _stored_bits(stored, ds))]
    return np.asarray(found[0] | found[1])


def _as_stored(value: int, dtype: np.dtype) -> int:
    """A padding value in the signedness of the pixels: writers mix up US and SS."""
    bits = 8 * dtype.itemsize
    value %= 1 << bits
    return value - (1 << bits) if dtype.kind == "i" and value >= 1 << (bits - 1) else value


def _lossy(ds: FileDataset) -> bool:
    flag, syntax = text(ds, "LossyImageCompression"), ds.file_meta.TransferSyntaxUID
    return flag == "01" or syntax in ALWAYS_LOSSY or (syntax in PERHAPS_LOSSY and flag != "00")


# ------------------------------------------------------------------------------------------------ one folder


def read_folder_series(path: Path | str) -> DicomVolume:
    """Read a folder (or one multi-frame file) that holds exactly one series that can be a volume.

    Localizers, derived images, strays and other objects beside it are passed over, and never taken in its place.

    Raises:
        UsageError: the path does not exist.
        DicomError: no such series (with the reason of the one that was meant, or ``E_NO_SERIES`` with all reasons),
            several (``E_SEVERAL_SERIES``), or one that cannot be read.
    """
    source = Path(path)
    if not source.exists():
        raise UsageError(f"{source}: does not exist. Give a folder with one DICOM series, or a multi-frame file.")
    scan = scan_folder(source) if source.is_dir() else scan_file(source)
    return read_subseries(_only_series(scan, source))


def _only_series(scan: ScanResult, path: Path) -> SubSeries:
    """The series that is meant: the only one that is not passed over by a rule. What is wrong with it is said."""
    meant = [item for item in scan.subseries if item.exclusion is None and not _no_volume(item)]
    if len(meant) > 1:
        names = "; ".join(_described(item) for item in meant[:10])
        what = "series" if len({item.key.series_uid for item in meant}) == len(meant) else "volumes"
        raise Problem("E_SEVERAL_SERIES", f"{len(meant)} {what}: {names}", path).error()
    if meant:
        if meant[0].problem is not None:
            raise meant[0].problem.error()
        return meant[0]
    unread = [problem for problem in scan.problems if problem.code.startswith("E_")]
    if len(scan.subseries) == 1 and not unread:
        return _alone(scan.subseries[0], path)
    reasons = [problem for item in scan.subseries for problem in (item.problem, item.exclusion) if problem is not None]
    codes = sorted({problem.code for problem in (*reasons, *unread)} or scan.counts()) or ["no files"]
    raise Problem("E_NO_SERIES", f"no series can be read ({', '.join(codes)})", path).error()


def _no_volume(item: SubSeries) -> bool:
    """Whether it is a picture or two beside a volume, such as a dose report."""
    return item.problem is not None and item.problem.code in NO_VOLUME and len(item.slices) < FEWEST_SLICES


def _alone(item: SubSeries, path: Path) -> SubSeries:
    """The only series there, which a rule would pass over among others, or an error that says why it is not read."""
    if item.problem is not None:
        raise item.problem.error()
    exclusion = item.exclusion
    if exclusion is not None and (exclusion.code == "S_LOCALIZER" or is_projection(item.image_type)):
        raise replace(exclusion, path=path).error()
    if exclusion is not None and exclusion.code == "S_DERIVED":
        return replace(item, warnings=(*item.warnings, Problem("W_DERIVED", exclusion.found)))
    return item


def _described(item: SubSeries) -> str:
    state = "" if item.problem is None else f", {item.problem.code}: {item.problem.found}"
    return f"{item.modality} {item.key.short()}, {len(item.slices)} slices{state}"


def read_folder(path: Path | str, second: bool = False) -> MetaTensor:
    """The volume of :func:`read_folder_series`: ``(1, X, Y, Z)`` float32, RAS mm.

    Args:
        second: it is to be resampled onto another grid, so that its own may be interpolated between slices whose
            spacing changes.

    Raises:
        DicomError: as :func:`read_folder_series`, and ``E_IRREGULAR_SPACING`` for such slices.
    """
    found = read_folder_series(path)
    problem = found.subseries.not_as_base
    if problem is not None and problem.code == "E_IRREGULAR_SPACING" and not second:
        raise replace(problem, path=Path(path)).error()
    return found.volume
