"""The picture with three planes: orientation, aspect, colour, and the one row for pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ddfm_monai.errors import InputError
from ddfm_monai.fusion.outputs import write_preview
from ddfm_monai.fusion.picture import registration_picture, save_mosaic, save_picture
from ddfm_monai.fusion.pipeline import FusionResult
from ddfm_monai.volumes import make_volume

PANELS = [(18 + 310 * column, 318 + 310 * column) for column in range(3)]


def ball_right_front(matrix, shape):
    """A dim box of 60 mm with a bright ball in its right, front, upper part (RAS mm)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    box = (np.abs(points) < 30).all(axis=-1) * 0.2
    ball = np.linalg.norm(points - np.array([15, 15, 15]), axis=-1) < 8
    return make_volume(np.where(ball, 1.0, box)[None], matrix)


def bright_centre(picture, left, right, top, bottom):
    """Where the white of one panel lies, as fractions of its width and height; letters are not white."""
    panel = np.asarray(picture)[top:bottom, left:right].astype(int)
    rows, columns = np.nonzero(panel.min(axis=-1) > 225)
    return columns.mean() / panel.shape[1], rows.mean() / panel.shape[0]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_right_is_left_and_front_is_on_top(tmp_path, flips, order):
    spacing = np.array([2.0, 2.0, 4.0])
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, list(order)] * flips * spacing
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array([40, 40, 20]) - 1) / 2)
    volume = ball_right_front(matrix, (40, 40, 20))

    save_picture(tmp_path / "out.png", volume, volume, volume, point=(15, 15, 15))

    picture = Image.open(tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    height = (picture.height - 40 - 34) // 3 - 10
    assert abs(height - 300) < 30  # a cube looks like one
    for number, (x, y) in enumerate([(0.25, 0.25), (0.25, 0.25), (0.25, 0.25)]):
        top = 40 + number * (height + 10)
        for left, right in PANELS:
            column, row = bright_centre(picture, left, right, top, top + height)
            # axial and coronal: right is on the left; sagittal: front is on the left; always front or head on top
            assert column == pytest.approx(x, abs=0.1)
            assert row == pytest.approx(y, abs=0.1)


def test_colour_and_automatic_planes(tmp_path):
    matrix = np.diag([3.0, 3.0, 3.0, 1.0])
    matrix[:3, 3] = -43.5
    grey = ball_right_front(matrix, (30, 30, 30))
    red = np.zeros((3, 30, 30, 30))
    red[0] = grey.numpy()[0] * 255
    colour = make_volume(red, matrix)

    save_picture(tmp_path / "out.png", grey, colour, colour, ("MRI", "PET", "Fused"))

    pixels = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    second = pixels[60:300, PANELS[1][0] + 30 : PANELS[1][1] - 30]
    assert second[..., 0].max() > 200
    assert second[..., 2].max() < 60
    first = pixels[60:300, PANELS[0][0] + 30 : PANELS[0][1] - 30]
    assert np.abs(first[..., 0] - first[..., 2]).max() < 10


def test_pictures_give_one_row(tmp_path):
    ramp = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (60, 1))[None, :, :, None]
    picture = make_volume(ramp, np.diag([-1.0, -1.0, 1.0, 1.0]), picture=True)

    save_picture(tmp_path / "out.png", picture, picture, picture)

    result = Image.open(tmp_path / "out.png").convert("L")
    assert result.height < 320
    pixels = np.asarray(result).astype(int)
    middle = pixels[50:230, (PANELS[0][0] + PANELS[0][1]) // 2]
    assert middle[0] < middle[90] < middle[170]  # rows run downwards as in the file


def test_three_shapes_are_refused(tmp_path):
    a, b = make_volume(np.eye(9)[None, :, :, None], np.eye(4)), make_volume(np.eye(8)[None, :, :, None], np.eye(4))
    with pytest.raises(InputError, match="different shapes"):
        save_picture(tmp_path / "out.png", a, b, a)
    assert not list(tmp_path.iterdir())


def test_a_registration_is_shown_as_checkerboards_before_and_after(tmp_path):
    """After a perfect registration the board is the reference itself; before it, edges break at the tiles."""
    matrix = np.diag([2.0, 2.0, 4.0, 1.0])
    matrix[:3, 3] = (-39, -39, -38)
    reference = ball_right_front(matrix, (40, 40, 20))
    before = make_volume(np.roll(reference.numpy(), -9, axis=1), matrix)

    registration_picture(tmp_path / "out.png", reference, before, reference)

    picture = np.asarray(Image.open(tmp_path / "out.png").convert("L")).astype(int)[50:-50]
    first, broken, whole = (picture[:, left:right] for left, right in PANELS)
    assert first.max() > 200
    assert np.array_equal(first, whole)
    assert (np.abs(first - broken) > 30).mean() > 0.02


@pytest.mark.parametrize(("kind", "coloured"), [("ct", False), ("pet", True), ("spect", True)])
def test_a_checkerboard_with_pet_or_spect_shows_which_is_which(tmp_path, kind, coloured):
    block = np.pad(np.full((1, 48, 48, 24), 0.5, np.float32), ((0, 0), (4, 4), (4, 4), (2, 2)))
    volume = make_volume(block, np.diag([2.0, 2.0, 4.0, 1.0]))  # four tiles long
    registration_picture(tmp_path / "out.png", volume, volume, volume, kind)
    picture = np.asarray(Image.open(tmp_path / "out.png").convert("RGB")).astype(int)[50:-50]
    first, _, after = (picture[:, left:right] for left, right in PANELS)
    grey, hue = first.mean(axis=-1), np.ptp(after, axis=-1)
    tissue = (grey > 100) & (np.ptp(first, axis=-1) == 0)
    assert ((hue[tissue] > 30).mean() > 0.3) == coloured
    assert (hue[tissue] < 20).mean() > 0.3  # the reference's tiles stay grey


BAR = (216, 222, 233)


def longest_run(row):
    """The length of the longest run of the scale bar's colour in a row of pixels."""
    edges = np.flatnonzero(np.diff(np.pad((row == BAR).all(axis=-1), 1).astype(int)))
    return int((edges[1::2] - edges[::2]).max()) if edges.size else 0


@pytest.mark.parametrize("size", [1.0, 2.5])
def test_the_bar_is_as_long_as_it_says(tmp_path, size):
    volume = ball_right_front(np.diag([size, size, size, 1.0]), (80, 80, 80))
    volume[volume > 0] = 0.5  # a corner of the box: 30 mm
    save_picture(tmp_path / "out.png", volume, volume, volume)
    pixels = np.asarray(Image.open(tmp_path / "out.png"))
    panel = pixels[60:300, PANELS[0][0] : PANELS[0][1]]
    box = np.flatnonzero((np.abs(panel[100].astype(int) - 128) < 6).all(axis=-1))
    pixels_per_mm = (box[-1] - box[0] + 1) / (np.ceil((30 + 1e-6) / size) * size)
    bar = max(longest_run(row[PANELS[0][0] : PANELS[0][1]]) for row in pixels)
    assert bar / pixels_per_mm == pytest.approx(5, rel=0.12)


def stack(values):
    """Slices of one grey each within black borders, 2 x 2 x 5 mm."""
    array = np.zeros((1, 40, 40, len(values)), np.float32)
    array[0, 4:36, 4:36] = values
    return make_volume(array, np.diag([2.0, 2.0, 5.0, 1.0]))


def greys_in(picture):
    """Every grey that fills a large area, apart from the picture's own."""
    values, counts = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0, return_counts=True)
    return {int(v[0]) for v, n in zip(values, counts, strict=True) if n > 15_000 and np.ptp(v) == 0 and v[0]}


def test_a_mosaic_shows_the_slices_that_are_asked_for(tmp_path):
    a, b, fused = (stack(np.linspace(start, start + 0.2, 9)) for start in (0.1, 0.4, 0.7))
    save_mosaic(tmp_path / "out.png", a, b, fused, slices=[1, 6])
    wanted = {int(np.rint(255 * x[0, 20, 20, k])) for x in (a, b, fused) for k in (1, 6)}
    assert greys_in(Image.open(tmp_path / "out.png")) == wanted
    save_mosaic(tmp_path / "all.png", a, b, fused)
    wanted = {int(np.rint(255 * x[0, 20, 20, k])) for x in (a, b, fused) for k in range(9)}
    assert greys_in(Image.open(tmp_path / "all.png")) == wanted
    with pytest.raises(InputError, match="0 to 8"):
        save_mosaic(tmp_path / "no.png", a, b, fused, slices=[9])
    assert not (tmp_path / "no.png").exists()


def test_a_mosaic_of_many_slices_takes_eighteen(tmp_path):
    volume = stack(np.linspace(0.2, 0.9, 100))
    save_mosaic(tmp_path / "out.png", volume, volume, volume)
    assert len(greys_in(Image.open(tmp_path / "out.png"))) == 18


def test_windows_are_named_under_the_captions(tmp_path):
    volume = stack(np.full(4, 0.5))
    save_picture(tmp_path / "plain.png", volume, volume, volume)
    save_picture(tmp_path / "named.png", volume, volume, volume, windows=("level 40, width 80 HU", "", "no unit"))
    plain, named = (np.asarray(Image.open(tmp_path / name))[:40].astype(int) for name in ("plain.png", "named.png"))
    written = [(named[24:38, left:right] - named[0, 0]).any() for left, right in PANELS]
    assert written == [True, False, True] and (plain != named).any()


def test_a_colour_source_is_shown_in_its_colours_with_a_bar(tmp_path):
    matrix = np.diag([3.0, 3.0, 3.0, 1.0])
    matrix[:3, 3] = -43.5
    grey = ball_right_front(matrix, (30, 30, 30))
    save_picture(tmp_path / "out.png", grey, grey, grey, ("MR", "PET", "Fused"), colours="pet")
    pixels = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    spread = np.ptp(pixels, axis=-1)
    coloured = [(spread[70:190, left + 20 : right - 20] > 40).mean() for left, right in PANELS]
    assert coloured[1] > 0.2 and coloured[0] < 0.01 and coloured[2] < 0.01
    bar = pixels[38, PANELS[1][0] + 75 : PANELS[1][0] + 225]
    assert bar[0].max() < 30 and bar[-1].min() > 225 and np.ptp(bar, axis=-1).max() > 100
    assert (spread[38, PANELS[0][0] : PANELS[0][1]] < 40).all()


def test_uncertainty_makes_a_fourth_column_of_its_own_scale(tmp_path):
    matrix = np.diag([3.0, 3.0, 3.0, 1.0])
    grey = ball_right_front(matrix, (30, 30, 30))
    save_picture(tmp_path / "out.png", grey, grey, grey, uncertainty=make_volume(0.02 * grey.numpy(), matrix))
    picture = Image.open(tmp_path / "out.png")
    assert picture.width == 2 * 18 + 4 * 300 + 3 * 10
    pixels = np.asarray(picture)
    assert np.array_equal(pixels[60:300, 948:1248], pixels[60:300, 638:938])


@pytest.mark.parametrize("colour", [True, False])
def test_a_pet_is_in_colour_where_the_result_is(tmp_path, colour):
    """What a grey result was fused from is shown as it was fused: in grey."""
    matrix = np.diag([3.0, 3.0, 3.0, 1.0])
    matrix[:3, 3] = -43.5
    volume = ball_right_front(matrix, (30, 30, 30))
    scaling = {"low": 0.0, "high": 1.0}
    made = {"reference": {"scaling": {**scaling, "kind": "mr"}}, "second": {"scaling": {**scaling, "kind": "pet"}}}
    result = FusionResult(volume, {**made, "colour": colour}, None, None, volume, volume)
    write_preview(result, tmp_path / "out.png")
    picture = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
    reference, second = (np.ptp(picture[60:300, left + 30 : right - 30], axis=-1).max() for left, right in PANELS[:2])
    assert reference < 120  # a letter in gold
    assert (second > 160) == colour
