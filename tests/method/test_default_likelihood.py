"""The default likelihood: lesions of both sources arrive, noise goes to the prior, nothing leaves the range."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfm_monai.method import DDFMInferer, Step, estimate_noise
from ddfm_monai.method.schedule import noise_levels
from ddfm_monai.method.two_scale import TwoScaleEM

SIZE = 128


class Smooth(torch.nn.Module):
    """A prior for which every clean image is smooth: its estimate is a 5x5 mean."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self.calls.append(int(timesteps[0]))
        level = noise_levels()[timesteps].float().view(-1, 1, 1, 1)
        smooth = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        return (x - smooth) * torch.sqrt(1 + 1 / level**2)


def blob(row: float, column: float, sigma: float) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * sigma**2))


@pytest.fixture
def pair() -> torch.Tensor:
    """(1, 2, 128, 128): a textured head in the first source, a smooth one in the second, black around both."""
    head = blob(64, 64, 60) > 0.75
    waves = torch.sin(torch.arange(SIZE) / 5.0)
    first = 0.45 + 0.15 * waves[:, None] * waves[None, :]
    second = 0.3 + 0.2 * blob(50, 70, 15)
    return torch.stack([torch.where(head, first, 0.0), torch.where(head, second, 0.0)])[None] * 2 - 1


def em_alone(inputs: torch.Tensor, steps: int = 5, **settings: float) -> torch.Tensor:
    likelihood = TwoScaleEM(**settings)
    state = likelihood.prepare(inputs[:, :1], inputs[:, 1:])
    f = likelihood.initial(state)
    assert f is not None
    for _ in range(steps):
        f = likelihood.rectify(f, state)
    return f


@pytest.mark.parametrize("source", [0, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_lesion_of_either_source_arrives(pair, source, sign):
    lesion = sign * 0.3 * blob(72, 60, 4)
    altered = pair.clone()
    altered[0, source] += lesion
    change = em_alone(altered) - em_alone(pair)
    assert float((change * lesion).sum() / (lesion * lesion).sum()) > 0.53  # 0.5: the mean of both


@given(
    seed=st.integers(0, 10**6),
    softness=st.floats(0.01, 1),
    tolerance=st.floats(0, 0.5),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
)
@settings(max_examples=40, deadline=None)
def test_an_em_step_never_raises_the_objective(seed, softness, tolerance, height, width):
    generator = torch.Generator().manual_seed(seed)
    a, b, f = (torch.rand(3, 2, 1, height, width, generator=generator, dtype=torch.float64) * 2 - 1).unbind()
    a[..., :3], b[..., :3] = -1, -1  # background
    likelihood = TwoScaleEM(softness=softness, tolerance=tolerance)
    state = likelihood.prepare(a, b)
    likelihood.initial(state)
    f = likelihood.finish(f, state)  # any image within the range
    before = likelihood.objective(f, state)
    for _ in range(4):
        f = likelihood.rectify(f, state)
        after = likelihood.objective(f, state)
        assert bool((after <= before + 1e-9 * before.abs()).all())
        before = after


@pytest.mark.parametrize("sign", [1, -1])
def test_a_lesion_bright_in_one_and_dark_in_the_other_source_is_more_than_the_sum_of_both(pair, sign):
    """An oedema in MRI and CT."""
    lesion = 0.4 * blob(72, 60, 4)
    altered = (pair + torch.stack([sign * lesion, -0.9 * sign * lesion])).clamp(-1, 1)

    def kept(**settings: float) -> float:
        change = em_alone(altered, **settings) - em_alone(pair, **settings)
        return abs(float((change * lesion).sum() / (lesion * lesion).sum()))

    plain_sum = kept(opposition=50.0)
    assert kept() > max(0.28, plain_sum + 0.05)


def test_outside_the_second_s_field_of_view_the_reference_stands_alone(pair):
    seen = torch.ones(1, 1, SIZE, SIZE, dtype=torch.bool)
    seen[..., 80:] = False
    cut = pair.clone()
    cut[:, 1:] = cut[:, 1:].masked_fill(~seen, -1)
    fused = DDFMInferer(2)(cut, Smooth(), seen=seen)
    assert torch.allclose(fused[~seen], pair[:, :1][~seen], atol=1e-5)
    inside = seen & (pair[:, :1] > -1)
    assert float((fused - pair[:, :1])[inside].abs().mean()) > 0.02  # not the reference alone


def test_beside_bone_the_other_source_is_not_dimmed():
    """A scalp of the first source around a bone of the second: it keeps its brightness, and the bone its own."""
    radius = ((torch.arange(SIZE)[:, None] - 64.0) ** 2 + (torch.arange(SIZE) - 64.0) ** 2).sqrt()
    scalp, bone = (radius >= 50) & (radius < 56), (radius >= 42) & (radius < 50)
    first = torch.where(scalp, 0.6, torch.where(radius < 42, 0.45, 0.0))
    second = torch.where(bone, 1.0, torch.where(radius < 42, 0.3, 0.0))
    fused = (em_alone(torch.stack([first, second])[None] * 2 - 1)[0, 0] + 1) / 2
    assert float(fused[scalp].mean()) > 0.5
    assert float(fused[bone].mean()) > 0.85


def test_sources_without_noise_are_followed_whatever_the_prior(pair):
    network = Smooth()
    fused = DDFMInferer(5)(pair, network)
    assert len(network.calls) == 5  # no evaluation for denoising
    mse = float(((fused - em_alone(pair)) ** 2).mean())
    assert mse < (2 * 10 ** (-35 / 20)) ** 2  # 35 dB


def test_noise_is_measured_and_taken_out_by_the_prior(pair):
    noise = torch.randn(pair.shape, generator=torch.Generator().manual_seed(0)) * 10 / 127.5
    noisy = (pair + noise).clamp(-1, 1)
    found = estimate_noise(noisy[:, 0])
    assert found is not None and 8 < 127.5 * found.sd < 12
    assert estimate_noise(pair[:, 0]) is None
    network = Smooth()
    fused = DDFMInferer(5)(noisy, network)
    assert len(network.calls) == 7  # one more for each source

    head = (pair > -1).all(1, keepdim=True).float()
    inside = torch.nn.functional.avg_pool2d(head, 15, 1, 7) == 1

    def error(result: torch.Tensor) -> float:
        return float(((result - em_alone(pair)) ** 2)[inside].mean())

    assert error(fused) < 0.5 * error(em_alone(noisy))


def test_common_background_is_black_also_under_noise(pair):
    background = (pair == -1).all(1, keepdim=True)
    assert bool((DDFMInferer(3)(pair, Smooth())[background] == -1).all())
    noise = torch.randn(pair.shape, generator=torch.Generator().manual_seed(1)) * 10 / 127.5
    fused = DDFMInferer(3)((pair + noise).clamp(-1, 1), Smooth())
    assert float((fused[background] == -1).float().mean()) > 0.95


def test_the_result_keeps_to_the_local_range_of_the_sources(pair):
    tolerance = TwoScaleEM().tolerance
    fused = DDFMInferer(3)(pair, Smooth())
    low = -torch.nn.functional.max_pool2d(-pair, 9, 1, 4).amax(1, keepdim=True)
    high = torch.nn.functional.max_pool2d(pair, 9, 1, 4).amax(1, keepdim=True)
    low = torch.minimum(low, -torch.nn.functional.max_pool2d(-pair, 9, 1, 4).amin(1, keepdim=True))
    assert bool((fused >= low - tolerance - 1e-5).all()) and bool((fused <= high + tolerance + 1e-5).all())


def test_pixels_brought_back_into_the_range_are_counted_per_slice(pair):
    seen: list[Step] = []
    edges = pair.clone()
    edges[0, 0, 40:90:4, 40:90] = 1.0
    both = torch.cat([pair, edges])
    DDFMInferer(3, tolerance=0.0)(both, Smooth(), callback=seen.append)
    outside = seen[-1].outside
    assert outside is not None and outside.shape == (2,)
    alone: list[Step] = []
    DDFMInferer(3, tolerance=0.0)(edges, Smooth(), callback=alone.append)
    assert alone[-1].outside is not None and int(alone[-1].outside) == int(outside[1]) > 0


def test_draws_spread_where_the_sources_disagree(pair):
    inferer = DDFMInferer(3, draw=True)
    chains = torch.stack([inferer.with_seed(seed, draw=True)(pair, Smooth()) for seed in range(6)])
    deviation = chains.std(0)[0, 0]
    disagreement = (pair[0, 0] - pair[0, 1]).abs()
    head = (pair > -1).all(1)[0]
    low, high = disagreement[head].quantile(torch.tensor([0.25, 0.75]))
    agree, disagree = deviation[head & (disagreement < low)], deviation[head & (disagreement > high)]
    assert float(disagree.mean()) > 1.2 * float(agree.mean())
    assert float(deviation[~(pair > -1).any(1)[0]].max()) == 0
    assert torch.equal(inferer.with_seed(4, draw=True)(pair, Smooth()), chains[4])


def test_draws_of_a_slice_do_not_know_its_batch(pair):
    inferer = DDFMInferer(3, draw=True)
    batch = torch.cat([pair, pair.flip(1), pair.roll(5, -1)])
    together = inferer(batch, Smooth())
    assert torch.allclose(inferer(batch[1:2], Smooth()), together[1:2], atol=1e-5)
