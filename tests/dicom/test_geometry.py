"""Grids from slice positions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.dicom.errors import DicomError
from ddfm_monai.dicom.geometry import along_normal, fit_grid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def grid(origin: tuple[float, float, float] = (0, 0, 0), step: float = 2.0, slices: int = 10, size: int = 20):
    positions = [(origin[0], origin[1], origin[2] + step * k) for k in range(slices)]
    return fit_grid(positions, AXIAL, (1.0, 1.0), size, size)


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 5)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    slices=st.integers(2, 60),
)
def test_a_regular_stack_is_recovered_at_any_orientation(
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    slices: int,
) -> None:
    a, b, c = np.deg2rad(angles)
    rotation = (
        np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        @ np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    ).round(6)
    orientation = (*rotation[:, 0], *rotation[:, 1])
    step = np.cross(rotation[:, 0], rotation[:, 1]) * spacing[2]
    positions = [tuple((np.array(origin) + k * step).round(4)) for k in range(slices)]
    found = fit_grid(positions, orientation, (spacing[1], spacing[0]), 30, 40)
    assert found.shape == (40, 30, slices)
    assert found.tilt == 0
    last = np.array(found.lps) @ [39, 29, slices - 1, 1]
    true = np.array(origin) + 39 * spacing[0] * rotation[:, 0] + 29 * spacing[1] * rotation[:, 1] + (slices - 1) * step
    np.testing.assert_allclose(last[:3], true, atol=2e-3)
    np.testing.assert_allclose(found.affine @ [0, 0, 0, 1], [-origin[0], -origin[1], origin[2], 1], atol=1e-4)


@pytest.mark.parametrize(
    ("heights", "code"),
    [
        ([0, 2, 4, 6.015, 8], None),
        ([0, 2, 4, 6.05, 8], "E_IRREGULAR_SPACING"),
        ([0, 2, 4, 8, 10], "E_MISSING_SLICES"),
        ([0, 2, 4, 12, 14], "E_MISSING_SLICES"),
        ([0, 2, 4, 7, 9], "E_IRREGULAR_SPACING"),
        ([0, 2, 2, 4, 6], "E_DUPLICATE_POSITION"),
        ([0, 0, 2, 2, 4, 4], "E_DUPLICATE_POSITION"),
        ([0, *np.cumsum(np.linspace(1.98, 2.02, 60))], "E_IRREGULAR_SPACING"),
    ],
)
def test_which_gaps_are_accepted(heights: list[float], code: str | None) -> None:
    positions = [(0.0, 0.0, float(height)) for height in heights]
    if code is None:
        assert fit_grid(positions, AXIAL, (1, 1), 8, 8).spacing[2] == pytest.approx(2, abs=0.01)
        return
    with pytest.raises(DicomError) as caught:
        fit_grid(positions, AXIAL, (1, 1), 8, 8)
    assert caught.value.code == code


def test_a_volume_beyond_memory_is_refused() -> None:
    with pytest.raises(DicomError) as caught:
        fit_grid([(0, 0, 0), (0, 0, 1)], AXIAL, (1, 1), 40000, 40000)
    assert caught.value.code == "E_TOO_LARGE"


def test_slices_are_ordered_along_their_normal() -> None:
    assert along_normal((1, 2, 3), AXIAL) == 3
    assert along_normal((1, 2, 3), (1, 0, 0, 0, 0, -1)) == 2
    assert along_normal(None, AXIAL) == 0


@pytest.mark.parametrize("missing", [False, True])
def test_the_table_with_one_decimal_beside_a_field_of_view_with_six(missing: bool) -> None:
    """Rounding is judged where positions change: x and y follow from the field of view, z is the table's place."""
    heights = (np.arange(200) * 0.625 - 41.3).round(1)
    if missing:
        heights = np.delete(heights, 40)
    positions = [(-124.755859, -303.755859, float(z)) for z in heights]
    if missing:
        with pytest.raises(DicomError) as caught:
            fit_grid(positions, AXIAL, (1.0, 1.0), 20, 20)
        assert caught.value.code == "E_MISSING_SLICES"
    else:
        assert fit_grid(positions, AXIAL, (1.0, 1.0), 20, 20).spacing[2] == pytest.approx(0.625, abs=1e-3)


def test_a_coordinate_that_does_not_change_says_nothing_of_rounding() -> None:
    """x with one decimal (half a field of view) beside z with three: a slice 0.05 mm off is off."""
    positions = [(-120.5, -98.2, 2 * k + (0.05 if k == 3 else 0.001 * k)) for k in range(8)]
    with pytest.raises(DicomError) as caught:
        fit_grid(positions, AXIAL, (1.0, 1.0), 20, 20)
    assert caught.value.code == "E_IRREGULAR_SPACING"


@pytest.mark.parametrize("gaps", [[4.0] * 6 + [2.0] * 5 + [4.0] * 6, [4.0] * 6 + [3.0, 1.0] * 3 + [4.0] * 5])
def test_two_stacks_that_lie_in_each_other_are_no_uneven_volume(gaps: list[float]) -> None:
    """Slices of 4 mm, 2 mm apart in a part of the stack: nothing says which of two acquisitions each is of."""
    heights = np.concatenate([[0.0], np.cumsum(gaps)])
    positions = [(0.0, 0.0, float(z)) for z in heights]
    with pytest.raises(DicomError, match="two stacks") as caught:
        fit_grid(positions, AXIAL, (1.0, 1.0), 20, 20, [4.0] * len(positions))
    assert caught.value.code == "E_IRREGULAR_SPACING"
