"""The filters of the default likelihood against SciPy's."""

from __future__ import annotations

import pytest
import torch
from scipy import ndimage

from ddfm_monai.method.two_scale import _gaussian, _local_range


@pytest.fixture(params=[(40, 56), (16, 200)])
def images(request) -> torch.Tensor:
    return torch.rand(2, 1, *request.param, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("sigma", [1.5, 16.0])
def test_gaussian_with_continued_edges(images, sigma):
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, sigma, sigma), mode="nearest")
    assert torch.allclose(_gaussian(images, sigma), torch.from_numpy(expected).float(), atol=1e-6)


def test_local_range_of_two_images(images):
    other = images.flip(-1)
    low, high = _local_range(images, other, 0.0)
    for found, both, extreme in (
        (low, torch.minimum(images, other), ndimage.minimum_filter),
        (high, torch.maximum(images, other), ndimage.maximum_filter),
    ):
        assert torch.equal(found, torch.from_numpy(extreme(both.numpy(), (1, 1, 9, 9), mode="nearest")))
