"""Shapes and affines: flips, overlap and the doctests of the module."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from ddfm_monai import space
from ddfm_monai.space import covered_fraction, flip, flip_transform, overlap_fraction, same_grid


def grid(origin: tuple[float, float, float] = (0, 0, 0), slices: int = 10, size: int = 20) -> tuple:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = origin
    return (size, size, slices), affine


def test_the_examples_of_the_module_are_true() -> None:
    assert doctest.testmod(space).failed == 0


def test_a_flip_undoes_itself_and_a_transform_moves_the_same_points() -> None:
    affine = np.arange(16.0).reshape(4, 4)
    assert (flip(flip(affine)) == affine).all()
    turn = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    point = np.array([1.0, 2.0, 3.0, 1.0])
    assert np.allclose(flip(turn @ point), flip_transform(turn) @ flip(point))


def test_overlap_is_the_shared_part_of_the_smaller_box() -> None:
    small, large = grid(slices=5, size=10), grid(slices=30, size=60)
    assert overlap_fraction(small, large) == overlap_fraction(large, small) == 1
    assert overlap_fraction(small, small) == 1
    assert overlap_fraction(grid((1000, 0, 0)), large) == 0
    assert overlap_fraction(grid((10, 0, 0)), grid()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("moved_first", [True, False])
def test_the_transform_takes_points_of_the_first_to_the_second(moved_first: bool) -> None:
    away = np.eye(4)
    away[0, 3] = 10
    pair = (grid(), grid((10, 0, 0))) if moved_first else (grid(size=40), grid((30, 0, 0)))
    assert overlap_fraction(*pair, away) == 1
    assert overlap_fraction(*pair, np.linalg.inv(away)) < 1


def test_coverage_asks_about_the_first_box_alone() -> None:
    assert covered_fraction(grid(slices=20), grid(slices=10)) == pytest.approx(0.5, abs=0.03)
    assert covered_fraction(grid(slices=10), grid(slices=20)) == 1


def test_grids_are_the_same_to_a_hundredth_of_a_voxel() -> None:
    assert same_grid(grid(), grid((0.009, 0, 0)))
    assert not same_grid(grid(), grid((0.02, 0, 0)))
    assert not same_grid(grid(), grid(size=21))
