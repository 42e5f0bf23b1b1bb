"""Single pixels that neither source has do not stand out of the fused image; those that a source has stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.method.lone_pixels import limit_lone_pixels, lone_pixels
from ddfm_monai.method.two_scale import TwoScaleEM
from ddfm_monai.metrics import pixel_alternation

SIZE = 96


def grey(image: torch.Tensor) -> np.ndarray:
    return np.rint((image[0, 0].numpy() + 1) * 127.5).clip(0, 255).astype(np.uint8)


def scene(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A textured head with a scalp, and a skull inside the scalp whose rim is as ragged as a window makes it."""
    random = torch.Generator().manual_seed(seed)
    radius = ((torch.arange(SIZE)[:, None] - 48.0) ** 2 + (torch.arange(SIZE) - 48.0) ** 2).sqrt()
    texture = torch.nn.functional.avg_pool2d(torch.randn(1, 1, SIZE, SIZE, generator=random), 3, 1, 1)[0, 0]
    ragged = radius + 0.7 * torch.randn(SIZE, SIZE, generator=random)
    first = torch.where(radius < 44, 0.45 + 0.2 * texture, 0.0)
    second = torch.where((ragged >= 32) & (ragged < 40), 1.0, torch.where(radius < 32, 0.3 + 0.1 * texture.T, 0.0))
    return tuple((x.clamp(0, 1) * 2 - 1)[None, None] for x in (first, second))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", range(3))
def test_the_default_has_no_dotted_rim(seed: int) -> None:
    a, b = scene(seed)
    likelihood = TwoScaleEM()
    state = likelihood.prepare(a, b)
    f = likelihood.initial(state)
    for _ in range(2):
        f = likelihood.rectify(f, state)
    before, after = (pixel_alternation(grey(x), grey(a), grey(b)) for x in (f, likelihood.finish(f, state)))
    assert before > 0.03  # there is something to mend
    assert after < 0.01


@given(seed=st.integers(0, 1000), other=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_what_a_source_shows_is_not_changed(seed: int, other: int) -> None:
    a, b = (torch.rand(1, 1, 24, 31, generator=torch.Generator().manual_seed(s)) for s in (seed, other))
    allowed = lone_pixels(a, b)
    assert torch.equal(limit_lone_pixels(a, allowed), a)
    assert torch.equal(limit_lone_pixels(b, allowed), b)


def test_a_chequerboard_of_no_source_goes_and_an_edge_stays() -> None:
    flat = torch.zeros(1, 1, 16, 16)
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    edge = (columns >= 8).float()[None, None]
    allowed = lone_pixels(flat, flat)
    chequered = edge + 0.2 * ((rows + columns) % 2)
    assert torch.equal(limit_lone_pixels(edge, allowed), edge)
    left = limit_lone_pixels(chequered, allowed) - edge
    assert float(left[..., 2:-2, 2:-2].std()) < 0.5 * float((chequered - edge)[..., 2:-2, 2:-2].std())
