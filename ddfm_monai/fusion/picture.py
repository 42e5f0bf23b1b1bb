"""One picture to look at: both sources and the result in three planes, as radiologists hang them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from PIL import Image, ImageDraw, ImageFont

from ddfm_monai.errors import InputError
from ddfm_monai.files import atomic_path
from ddfm_monai.volumes import is_picture, spacing_of
from ddfm_monai.volumes.colour import colour_table
from ddfm_monai.volumes.grids import nearest_ras

__all__ = ["informative_point", "registration_picture", "save_mosaic", "save_picture"]

_BACKGROUND = (13, 16, 22)
_PANEL = (0, 0, 0)
_TEXT = (216, 222, 233)
_FAINT = (128, 138, 155)
_LETTER = (235, 190, 100)
_PANEL_WIDTH = 300
_LOWEST_PANEL = 120
_GAP = 10
_HEADER = 40
_FOOTER = 34
_SIDE = 18
_BAR_WIDTH = 150
_TILE = 24.0  # mm, of the checkerboard
_BARS = (100, 50, 20, 10, 5, 2, 1)  # mm, of the scale bar
_MOST_SLICES, _PER_BAND, _TILE_WIDTH, _ROW_TITLE = 18, 6, 168, 84  # of the mosaic


@dataclass(frozen=True)
class _Plane:
    """A plane of a volume turned to R, A, S axes; displays run against these axes (left, back, down)."""

    name: str
    across: int
    columns: int
    rows: int
    letters: tuple[str, str, str, str]  # left, right, top, bottom


_PLANES = (
    _Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    _Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    _Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def save_picture(
    path: str | Path,
    reference01: MetaTensor,
    second01: MetaTensor,
    fused: MetaTensor,
    titles: Sequence[str] = ("Reference", "Second", "Fused"),
    point: Sequence[float] | None = None,
    windows: Sequence[str] = (),
    colours: str | None = None,
    uncertainty: MetaTensor | None = None,
) -> None:
    """Write a PNG with the columns reference, second, fused, and the rows axial, coronal, sagittal.

    Radiological convention: the patient's right is on the left of axial and coronal planes; letters say so. Aspect
    follows the voxel spacing. The planes are cropped to what is not black in any of the three. Pictures and volumes
    with one slice give one row. A bar gives the scale in mm.

    Args:
        path: the PNG, replaced if it exists.
        reference01: ``(1 or 3, X, Y, Z)``; grey in [0, 1], RGB in 0..255, as the other two.
        second01: the second source on the reference's grid.
        fused: the result on the same grid.
        titles: three short captions.
        point: RAS mm, where the planes cross; default: where the sources show and differ most.
        windows: what black and white are in each, a few words under the captions.
        colours: ``"pet"`` or ``"spect"`` to show a grey second source in these colours, with a bar from black to white.
        uncertainty: ``(1, X, Y, Z)``, makes a fourth column in which its largest value is white.

    Raises:
        InputError: they are not of one shape.
    """
    volumes = [reference01, second01, fused]
    if uncertainty is not None:
        largest = float(uncertainty.max())
        volumes.append(cast(MetaTensor, uncertainty / max(largest, 1e-6)))
        titles = [*titles, "Uncertainty"]
        windows = [*windows, f"standard deviation, white {largest:.2g}"] if windows else ()
    arrays, affine = _on_one_grid(path, volumes)
    shape = arrays[0].shape[1:]
    overviews, steps = _overviews(arrays)
    box = _visible_box(overviews, steps, shape)
    centre = _informative_point(overviews, steps, box) if point is None else _voxel(affine, point, shape)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    size = np.array([part.stop - part.start for part in box]) * spacing
    scale = _PANEL_WIDTH / max(size[0], size[1])
    planes = [plane for plane in _PLANES if shape[plane.columns] > 1 and shape[plane.rows] > 1]
    lettered = not is_picture(reference01)
    heights = [max(_LOWEST_PANEL, round(size[plane.rows] * scale)) for plane in planes]
    canvas = Image.new("RGB", _canvas_size(len(arrays), heights), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_titles(draw, titles, windows)
    palette = None if colours is None else colour_table(colours)
    if palette is not None:
        _draw_bar(canvas, palette)
    top = _HEADER
    for plane, height in zip(planes, heights, strict=True):
        for column, array in enumerate(arrays):
            corner = (_SIDE + column * (_PANEL_WIDTH + _GAP), top)
            extent = (round(size[plane.columns] * scale), round(size[plane.rows] * scale))
            picture = _plane_picture(array, plane, centre, box, extent)
            if palette is not None and column == 1 and array.shape[0] == 1:
                picture = Image.fromarray(palette[np.asarray(picture)[..., 0]])
            _draw_panel(canvas, corner, height, picture)
            if lettered:
                _draw_letters(draw, corner, height, plane)
                _draw_scale(draw, corner, (_PANEL_WIDTH, height), scale)
        top += height + _GAP
    _draw_footer(draw, canvas.size, _where(affine, centre) if lettered else "")
    with atomic_path(Path(path)) as temporary:
        canvas.save(temporary, format="PNG", optimize=True)


def save_mosaic(
    path: str | Path,
    reference01: MetaTensor,
    second01: MetaTensor,
    fused: MetaTensor,
    titles: Sequence[str] = ("Reference", "Second", "Fused"),
    windows: Sequence[str] = (),
    slices: Sequence[int] | None = None,
) -> None:
    """Write a PNG with many axial slices, each as reference, second source and fused one under the other.

    Args:
        path, reference01, second01, fused, titles, windows: as of :func:`save_picture`.
        slices: which, counted from 0 from the feet up; default: up to 18, evenly spaced over what is not black.

    Raises:
        InputError: the three are not of one shape, or have no such slice.
    """
    arrays, affine = _on_one_grid(path, (reference01, second01, fused))
    shape = arrays[0].shape[1:]
    box = _visible_box(*_overviews(arrays), shape)
    chosen = _evenly(box[2]) if slices is None else list(slices)
    if not chosen or not all(0 <= number < shape[2] for number in chosen):
        raise InputError(f"{path}: slices {chosen}: expected numbers from 0 to {shape[2] - 1}.", "E_SLICES")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    width, depth = ((part.stop - part.start) * float(size) for part, size in zip(box[:2], spacing[:2], strict=True))
    scale = min(_TILE_WIDTH / width, 1.5 * _TILE_WIDTH / depth)
    tile = max(1, round(width * scale)), max(1, round(depth * scale))
    bands = [chosen[start : start + _PER_BAND] for start in range(0, len(chosen), _PER_BAND)]
    columns = max(3, len(bands[0]))  # the foot of the picture needs room
    band_height = _SIDE + 3 * (tile[1] + 2) + _GAP
    size = (2 * _SIDE + _ROW_TITLE + columns * (tile[0] + 2), _GAP + len(bands) * band_height + _FOOTER)
    canvas = Image.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for number, band in enumerate(bands):
        top = _GAP + number * band_height
        _draw_row_titles(draw, top + _SIDE, tile[1] + 2, titles, windows)
        for column, index in enumerate(band):
            corner = (_SIDE + _ROW_TITLE + column * (tile[0] + 2), top + _SIDE)
            place = affine[2, :3] @ [shape[0] / 2, shape[1] / 2, index] + affine[2, 3]
            text = f"{index + 1} · S {place:.0f}"
            font = ImageFont.load_default(12)
            draw.text((corner[0] + tile[0] // 2, top + 8), text, fill=_FAINT, font=font, anchor="mm")
            for row, array in enumerate(arrays):
                picture = _plane_picture(array, _PLANES[0], np.array([0, 0, index]), box, tile)
                canvas.paste(picture, (corner[0], corner[1] + row * (tile[1] + 2)))
    note = ""
    if not is_picture(reference01):
        _draw_scale(draw, (_SIDE + _ROW_TITLE, _GAP + _SIDE), tile, scale)
        note = "axial slices, number and place in mm   ·   patient's right is on the left"
    _draw_footer(draw, canvas.size, note)
    with atomic_path(Path(path)) as temporary:
        canvas.save(temporary, format="PNG", optimize=True)


def _draw_row_titles(
    draw: ImageDraw.ImageDraw, top: int, step: int, titles: Sequence[str], windows: Sequence[str]
) -> None:
    """The captions of a mosaic's three rows, and their windows in small letters."""
    for row, title in enumerate(titles):
        y = top + row * step + step // 2
        draw.text((_SIDE, y), title, fill=_TEXT, font=ImageFont.load_default(15), anchor="lm")
        for line, words in enumerate(windows[row].split(", ") if windows else ()):
            font = ImageFont.load_default(11)
            draw.text((_SIDE, y + 17 + 13 * line), words, fill=_FAINT, font=font, anchor="lm")


def _evenly(part: slice) -> list[int]:
    """Up to 18 slices of a range, evenly spaced, the outermost left out where there are more."""
    count = min(_MOST_SLICES, part.stop - part.start)
    return np.floor(part.start + (np.arange(count) + 0.5) * (part.stop - part.start) / count).astype(int).tolist()


def _on_one_grid(path: str | Path, volumes: Sequence[MetaTensor]) -> tuple[list[np.ndarray], np.ndarray]:
    """The arrays with axes next to R, A, S and their affine; raises InputError for different shapes."""
    if len({tuple(volume.shape[1:]) for volume in volumes}) != 1:
        shapes = ", ".join(" x ".join(str(n) for n in volume.shape[1:]) for volume in volumes)
        raise InputError(f"{path}: the three volumes have different shapes ({shapes}); expected one grid.", "E_SHAPES")
    turned = [nearest_ras(volume) for volume in volumes]
    return [array for array, _ in turned], turned[0][1]


def informative_point(volumes: Sequence[MetaTensor]) -> tuple[float, float, float]:
    """RAS mm, where a reference, a second source and their fusion on one grid show and differ most."""
    arrays, affine = _on_one_grid("fused", volumes)
    overviews, steps = _overviews(arrays)
    index = _informative_point(overviews, steps, _visible_box(overviews, steps, arrays[0].shape[1:]))
    x, y, z = (affine @ [*index, 1.0])[:3].tolist()
    return x, y, z


def registration_picture(
    path: str | Path,
    reference01: MetaTensor,
    second_before01: MetaTensor,
    second_after01: MetaTensor,
    second_kind: str = "",
) -> None:
    """Write a PNG of a registration: the reference, and checkerboards of reference and second before and after.

    Where the two fit, edges go on from tile to tile. PET and SPECT have their colours: one sees which is which.

    Args:
        path: the PNG, replaced if it exists.
        reference01: ``(1, X, Y, Z)`` in [0, 1], as the other two.
        second_before01: the second source as it lay, on the reference's grid.
        second_after01: the same as registered.
        second_kind: its modality.

    Raises:
        InputError: the three are not of one shape.
    """
    palette = colour_table(second_kind) if second_kind in ("pet", "spect") else None
    before, after = (_checkerboard(reference01, second, palette) for second in (second_before01, second_after01))
    save_picture(path, reference01, before, after, titles=("Reference", "Before", "After registration"))


def _checkerboard(first: MetaTensor, second: MetaTensor, palette: np.ndarray | None) -> MetaTensor:
    """``(3, X, Y, Z)`` uint8: tiles of the one and the other, in its colours, in turn along all three axes."""
    if first.shape != second.shape:
        return second  # save_picture refuses it by name
    tiles = np.maximum(1, np.rint(_TILE / spacing_of(first))).astype(int)
    i, j, k = (np.arange(size) // tile for size, tile in zip(first.shape[1:], tiles, strict=True))
    turn = (i[:, None, None] + j[:, None] + k) % 2 == 1
    one, other = (_bytes(volume.cpu().numpy()) for volume in (first, second))
    if palette is not None:
        other = np.moveaxis(palette[other[0]], -1, 0)
    return MetaTensor(torch.from_numpy(np.where(turn, other, one)), meta=first.meta)


def _overviews(arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """``(X', Y', Z')`` brightness 0..255 of each array, thinned out by a step per axis that is returned too."""
    steps = tuple(max(1, size // 128) for size in arrays[0].shape[1:])
    thinned = [array[(slice(None), *(slice(None, None, step) for step in steps))] for array in arrays]
    return [_bytes(array).max(axis=0).astype(np.float32) for array in thinned], steps


def _bytes(array: np.ndarray) -> np.ndarray:
    """``(1 or 3, ...)`` in their own ranges to ``(3, ...)`` uint8."""
    values = array * 255 if array.shape[0] == 1 else array
    return np.broadcast_to(np.clip(np.rint(values), 0, 255).astype(np.uint8), (3, *array.shape[1:]))


def _visible_box(
    overviews: Sequence[np.ndarray], steps: Sequence[int], shape: Sequence[int]
) -> tuple[slice, slice, slice]:
    """The box of what is not black, with a border of 3 %."""
    visible = np.logical_or.reduce([overview > 0.04 * 255 for overview in overviews])
    parts = []
    for axis in range(3):
        found = np.flatnonzero(visible.any(axis=tuple(i for i in range(3) if i != axis))) * steps[axis]
        first, last = (int(found[0]), int(found[-1]) + steps[axis]) if found.size else (0, shape[axis])
        border = round(0.03 * (last - first))
        parts.append(slice(max(0, first - border), min(shape[axis], last + border)))
    return parts[0], parts[1], parts[2]


def _informative_point(
    overviews: Sequence[np.ndarray], steps: Sequence[int], box: tuple[slice, slice, slice]
) -> np.ndarray:
    """In the middle half of each axis the slice with most to see: brightness of both sources, and their difference."""
    a, b = overviews[:2]
    weight = np.maximum(a, b) + 2 * np.abs(a - b)
    point = []
    for axis, part in enumerate(box):
        profile = weight.sum(axis=tuple(i for i in range(3) if i != axis))
        quarter = (part.stop - part.start) // 4
        first = (part.start + quarter) // steps[axis]
        last = max(first + 1, (part.stop - quarter) // steps[axis])
        point.append((first + int(profile[first:last].argmax())) * steps[axis])
    return np.array(point)


def _voxel(affine: np.ndarray, point: Sequence[float], shape: tuple[int, ...]) -> np.ndarray:
    index = np.rint(np.linalg.solve(affine, [*point, 1.0])[:3]).astype(int)
    return np.clip(index, 0, np.array(shape) - 1)


def _plane_picture(
    array: np.ndarray, plane: _Plane, centre: np.ndarray, box: tuple[slice, slice, slice], extent: tuple[int, int]
) -> Image.Image:
    """One plane as a picture of ``extent`` = (width, height) pixels."""
    part: list[slice | int] = [slice(None), *box]
    part[1 + plane.across] = int(centre[plane.across])
    pixels = _bytes(array[tuple(part)])  # (3, columns, rows): the column axis comes first in every plane
    upright = np.ascontiguousarray(pixels[:, ::-1, ::-1].transpose(2, 1, 0))
    return Image.fromarray(upright).resize((max(1, extent[0]), max(1, extent[1])), Image.Resampling.BICUBIC)


def _canvas_size(columns: int, heights: Sequence[int]) -> tuple[int, int]:
    width = 2 * _SIDE + columns * (_PANEL_WIDTH + _GAP) - _GAP
    return width, _HEADER + sum(heights) + _GAP * len(heights) + _FOOTER


def _draw_bar(canvas: Image.Image, palette: np.ndarray) -> None:
    """The colours from black to white on top of the second column."""
    strip = np.broadcast_to(palette[np.linspace(0, 255, _BAR_WIDTH).astype(int)], (3, _BAR_WIDTH, 3))
    left = _SIDE + _PANEL_WIDTH + _GAP + (_PANEL_WIDTH - _BAR_WIDTH) // 2
    canvas.paste(Image.fromarray(strip.copy()), (left, _HEADER - 3))


def _draw_titles(draw: ImageDraw.ImageDraw, titles: Sequence[str], windows: Sequence[str]) -> None:
    height = 13 if windows else _HEADER // 2
    for column, title in enumerate(titles):
        middle = _SIDE + column * (_PANEL_WIDTH + _GAP) + _PANEL_WIDTH // 2
        draw.text((middle, height), title, fill=_TEXT, font=ImageFont.load_default(17), anchor="mm")
        if windows:
            font = ImageFont.load_default(12)
            draw.text((middle, 30), windows[column], fill=_FAINT, font=font, anchor="mm")


def _draw_scale(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int], scale: float) -> None:
    """A bar of a round number of mm in the lower left corner of a panel that shows ``scale`` pixels a mm."""
    length = next((bar for bar in _BARS if bar * scale <= 0.3 * size[0]), _BARS[-1])
    x, y = corner[0] + 8, corner[1] + size[1] - 8
    draw.line([(x, y), (x + round(length * scale), y)], fill=_TEXT, width=3)
    font = ImageFont.load_default(11)
    draw.text((x, y - 5), f"{length} mm", fill=_TEXT, font=font, anchor="ls", stroke_width=2, stroke_fill=_PANEL)


def _draw_panel(canvas: Image.Image, corner: tuple[int, int], height: int, picture: Image.Image) -> None:
    panel = Image.new("RGB", (_PANEL_WIDTH, height), _PANEL)
    panel.paste(picture, ((_PANEL_WIDTH - picture.width) // 2, (height - picture.height) // 2))
    canvas.paste(panel, corner)


def _draw_letters(draw: ImageDraw.ImageDraw, corner: tuple[int, int], height: int, plane: _Plane) -> None:
    left, top = corner
    right, bottom = left + _PANEL_WIDTH, top + height
    places = (
        (left + 6, (top + bottom) // 2, "lm"),
        (right - 6, (top + bottom) // 2, "rm"),
        ((left + right) // 2, top + 4, "mt"),
        ((left + right) // 2, bottom - 4, "mb"),
    )
    for letter, (x, y, anchor) in zip(plane.letters, places, strict=True):
        draw.text(
            (x, y),
            letter,
            fill=_LETTER,
            font=ImageFont.load_default(13),
            anchor=anchor,
            stroke_width=2,
            stroke_fill=_PANEL,
        )


def _draw_footer(draw: ImageDraw.ImageDraw, size: tuple[int, int], note: str) -> None:
    y = size[1] - _FOOTER // 2 - 2
    font = ImageFont.load_default(13)
    draw.text((_SIDE, y), "Not for diagnostic use", fill=_LETTER, font=font, anchor="lm")
    draw.text((size[0] - _SIDE, y), note, fill=_FAINT, font=font, anchor="rm")


def _where(affine: np.ndarray, centre: np.ndarray) -> str:
    place = (affine @ [*centre, 1.0])[:3]
    where = "  ".join(f"{name} {value:.0f}" for name, value in zip("RAS", place, strict=True))
    return f"planes through {where} mm   ·   patient's right is on the left"
