"""The picture with three planes: orientation, aspect, colour, and the one row for pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ddfm_monai.errors import InputError
from ddfm_monai.fusion.picture import registration_picture, save_picture
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
