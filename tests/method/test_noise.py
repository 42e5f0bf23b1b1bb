"""Noise as scanners make it: found blindly, followed through a resampling, and sampled away by the prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ddfm_monai import load_prior
from ddfm_monai.method import DDFMInferer, Noise, estimate_noise, noise_estimate
from ddfm_monai.method.noise import TABLE, expected_clean, noise_levels_for, on_grid, resampled
from ddfm_monai.method.schedule import noise_levels
from ddfm_monai.metrics.noise_kinds import NOISE_KINDS, USUAL_SD, coloured_noise, noise_spectrum
from ddfm_monai.settings import DEFAULT_PRIOR
from ddfm_monai.volumes import make_volume
from ddfm_monai.volumes.grids import resample_to

PAIRS = Path(__file__).parent.parent / "golden" / "default.npz"
COLOURED = [kind for kind in NOISE_KINDS if kind != "white"]


def known(kind: str, sd: float) -> Noise:
    """That noise exactly, sd in grey levels."""
    return Noise(torch.from_numpy(noise_spectrum(kind, (TABLE, TABLE)) * (sd / 127.5) ** 2).float(), kind)


def noisy(clean: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    noise = coloured_noise(kind, clean.shape, USUAL_SD[kind], np.random.default_rng(seed))
    return np.clip(np.rint(clean + noise), 0, 255)


def images(grey: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(grey / 127.5 - 1, dtype=torch.float32)


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    """(3, 128, 112): the phantom's MRI, CT and PET."""
    with np.load(PAIRS) as golden:
        return np.stack([golden["pairs"][0, 0], golden["pairs"][0, 1], golden["pairs"][1, 1]]).astype(float)


@pytest.fixture(scope="module")
def prior():
    network = load_prior(DEFAULT_PRIOR, "cpu")
    network.precision = torch.float32
    return network


class Counting(torch.nn.Module):
    """A prior for which clean images are smooth, and what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.timesteps: list[int] = []

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        self.timesteps.append(int(timesteps[0]))
        level = noise_levels()[timesteps].float().view(-1, 1, 1, 1)
        smooth = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
        return (x - smooth) * torch.sqrt(1 + 1 / level**2)


# --- the expected clean image ----------------------------------------------------------------------------------------


def test_white_noise_is_one_evaluation_at_its_own_level(slices):
    y, white, network = images(noisy(slices, "white"))[:1, None], torch.randn(1, 1, 128, 112), Counting()
    found = expected_clean(network, y, known("white", 10), white)
    assert len(network.timesteps) == 1
    assert float(noise_levels()[network.timesteps[0]]) == pytest.approx(10 / 127.5, rel=0.05)
    again = expected_clean(network, y, known("white", 10), -white)
    assert torch.allclose(found, again, atol=1e-3)  # nothing is filled up


@pytest.mark.parametrize("kind", COLOURED)
def test_levels_fall_from_the_spectrum_s_peak_within_the_budget(kind):
    noise = known(kind, 20)
    sigmas = noise_levels_for(noise)
    assert 2 <= len(sigmas) <= 5
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] ** 2 == pytest.approx(float(noise.spectrum.max()))


@pytest.mark.parametrize("kind", COLOURED)
def test_sampling_in_steps_is_what_takes_coloured_noise_out(slices, prior, kind):
    clean, white = slices[:1], torch.randn(1, 1, 128, 112, generator=torch.Generator().manual_seed(0))
    y = images(noisy(clean, kind))[:, None]
    head = torch.from_numpy(clean[:, None] > 10)

    def psnr(x: torch.Tensor) -> float:
        return float(-10 * torch.log10((((x - images(clean)[:, None]) / 2) ** 2)[head].mean()))

    with torch.no_grad():
        once, chain = (expected_clean(prior, y, known(kind, USUAL_SD[kind]), white, n) for n in (1, None))
    assert psnr(chain) > psnr(y) + 1.5
    assert psnr(chain) > psnr(once) + 0.4


def test_frequencies_without_noise_return_to_the_data(slices):
    """K-space filled up with zeros: the outer half has no noise. What was filled up there is gone in the end, although
    this network takes nothing away."""
    y, noise = images(slices[:1] / 2 + 60)[:, None], known("zero-filled", 10)
    white = torch.randn(1, 1, 128, 112, generator=torch.Generator().manual_seed(0))
    outer = noise_spectrum("zero-filled", (128, 112)) < 0.5

    def error(evaluations: int) -> float:
        found = expected_clean(lambda x, timesteps: torch.zeros_like(x), y, noise, white, evaluations)
        return float(np.sum(np.abs(np.fft.fft2((found - y)[0, 0].numpy())[outer]) ** 2))

    assert error(4) < 0.01 * error(1)


def test_noise_differs_from_slice_to_slice_without_batch_mates(slices):
    pairs = torch.stack([images(noisy(slices, kind))[[0, 1]] for kind in ("white", "soft", "sharp")])
    inferer = DDFMInferer(1)
    together = inferer(pairs, Counting())
    for one, pair in zip(together, pairs, strict=True):
        assert torch.allclose(inferer(pair[None], Counting())[0], one, atol=1e-5)


def test_noise_that_is_known_is_not_estimated(slices):
    pair = images(slices[:2])[None]
    network = Counting()
    DDFMInferer(2)(pair, network, source_noise=(None, None))
    assert len(network.timesteps) == 2
    network = Counting()
    DDFMInferer(2)(pair, network, source_noise=(known("white", 8), known("soft", 8)))
    assert len(network.timesteps) == 2 + 1 + len(noise_levels_for(known("soft", 8)))


# --- the estimate ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """(6, 192, 176): textured slices of a head, black around it."""
    random = np.random.default_rng(5)
    rows, columns = np.ogrid[:192, :176]
    inside = ((rows - 96) / 85) ** 2 + ((columns - 88) / 75) ** 2 < 1
    fy, fx = np.fft.fftfreq(192)[:, None], np.fft.fftfreq(176)[None]
    anatomy = np.fft.ifft2(np.fft.fft2(random.normal(size=(6, 192, 176))) / (0.02 + np.hypot(fy, fx)) ** 1.7).real
    anatomy = 110 + 30 * anatomy / anatomy.std((1, 2), keepdims=True)
    return np.where(inside, np.clip(np.rint(anatomy), 1, 250), 0)


def test_a_clean_stack_has_no_noise(head):
    assert estimate_noise(images(head)) is None


@pytest.mark.parametrize("kind", NOISE_KINDS)
@pytest.mark.parametrize("factor", [0.8, 1.5])
def test_level_and_spectrum_of_noise_are_found(head, kind, factor):
    sd = factor * USUAL_SD[kind]
    grey = np.clip(np.rint(head + coloured_noise(kind, head.shape, sd, np.random.default_rng(1))), 0, 255)
    found = estimate_noise(images(grey))
    assert found is not None
    assert 127.5 * found.sd == pytest.approx(sd, rel=0.08)
    true = noise_spectrum(kind, (TABLE, TABLE))
    power = (found.spectrum / found.spectrum.mean()).numpy()
    assert np.abs(power - true).mean() < 0.25  # of a mean of 1 each


@pytest.mark.parametrize(("share", "found"), [(0.3, 0.25), (0.6, 0.25), (0.7, 0.225), (1.0, 0.225)])
def test_a_doubled_matrix_is_likelier_than_its_neighbours(share, found):
    """Where a cut of k-space at 0.25 and one beside it fit nearly equally well."""
    usual, beside = (noise_estimate._in_bands(noise_estimate._families()[f"k-space up to {c}"]) for c in (0.25, 0.225))
    anatomy = 3000 * noise_estimate._bands().frequency ** -3
    fit = noise_estimate._most_likely(100 * ((1 - share) * usual + share * beside) + anatomy, air=5.9)
    assert fit.family == f"k-space up to {found}"


@pytest.mark.parametrize("family", ["smooth, 0.15", "tomographic, 0.1"])
def test_without_air_what_looks_like_anatomy_is_anatomy(family):
    spectrum = 200 * noise_estimate._in_bands(noise_estimate._families()[family])
    power = spectrum + 3000 * noise_estimate._bands().frequency ** -3
    assert noise_estimate._most_likely(power, air=7.9).family == family
    assert noise_estimate._most_likely(power, air=0.0).family != family


def test_scale_and_stacking_do_not_matter(head):
    grey = noisy(head, "soft")
    found, rescaled = estimate_noise(images(grey)), estimate_noise(torch.from_numpy(grey), 0.0, 255.0)
    assert found is not None and rescaled is not None
    assert torch.allclose(found.spectrum, rescaled.spectrum, rtol=1e-2)


def test_turned_slices_have_turned_noise(head):
    """Along the columns k-space is filled up, along the rows not."""
    power = (np.abs(np.fft.fftfreq(192)) < 0.25)[:, None] * np.ones(176)
    n = np.random.default_rng(2).normal(size=head.shape)
    n = 10 * np.fft.ifft2(np.fft.fft2(n) * np.sqrt(power / power.mean())).real
    grey = images(np.clip(np.rint(head + n), 0, 255))
    found, turned = estimate_noise(grey), estimate_noise(grey.transpose(1, 2))
    assert found is not None and turned is not None
    assert 127.5 * found.sd == pytest.approx(127.5 * turned.sd, rel=0.03) == pytest.approx(10, rel=0.15)
    low, high = found.spectrum[: TABLE // 4 - 2].mean(), found.spectrum[TABLE // 4 + 2 : TABLE // 2].mean()
    assert float(low) > 20 * float(high)
    assert torch.allclose(found.seen(transposed=True, mirrored=True).spectrum, turned.spectrum, rtol=0.2, atol=1e-4)


@pytest.mark.parametrize("kind", ["white", "zero-filled"])
def test_padding_around_noisy_air_hides_no_noise(head, kind):
    """Filled up with black to a larger matrix, as resampling and defacing leave it: most windows are silent."""
    padded = np.pad(noisy(head, kind), ((0, 0), (100, 100), (100, 100)))
    found = estimate_noise(images(padded))
    assert found is not None
    assert 127.5 * found.sd == pytest.approx(10, rel=0.1)
    assert estimate_noise(images(np.pad(head, ((0, 0), (100, 100), (100, 100))))) is None


@pytest.mark.parametrize("sd", [10, 20, 30])
@pytest.mark.parametrize("kind", ["white", "zero-filled"])
def test_magnitude_noise_is_found_though_its_air_is_not_black(head, kind, sd):
    """Rician noise in a picture of 8 bits, which is taken as it is: the air has a mean of 1.25 sd."""
    random = np.random.default_rng(3)
    real, imaginary = (coloured_noise(kind, head.shape, sd, random) for _ in range(2))
    found = estimate_noise(images(np.clip(np.rint(np.hypot(head + real, imaginary)), 0, 255)))
    assert found is not None
    assert 127.5 * found.sd == pytest.approx(sd, rel=0.15)


@pytest.mark.parametrize("kind", ["white", "zero-filled"])
def test_slices_of_different_levels_are_not_smoothed_more_than_the_quietest_asks_for(head, kind):
    """From 5 to 20 grey levels: neither more than there is in the quietest slices nor another family of noise."""
    levels = np.linspace(5, 20, len(head))[:, None, None]
    grey = head + levels * coloured_noise(kind, head.shape, 1.0, np.random.default_rng(6))
    found = estimate_noise(images(np.clip(np.rint(grey), 0, 255)))
    assert found is not None
    assert 127.5 * found.sd < 9
    power = (found.spectrum / found.spectrum.mean()).numpy()
    assert np.abs(power - noise_spectrum(kind, (TABLE, TABLE))).mean() < 0.25  # of a mean of 1 each


def test_dark_tissue_is_not_the_noise_of_air():
    """A crop without air in view, clean, and dark in parts: as black in the mean as air, but uneven."""
    random = np.random.default_rng(4)
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None]
    anatomy = np.fft.ifft2(np.fft.fft2(random.normal(size=(6, 128, 128))) / (0.02 + np.hypot(fy, fx)) ** 2).real
    anatomy = np.clip(np.rint(60 + 50 * anatomy / anatomy.std((1, 2), keepdims=True)), 0, 250)
    assert estimate_noise(images(anatomy)) is None
    found = estimate_noise(images(noisy(anatomy, "white")))
    assert found is not None
    assert 127.5 * found.sd == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("step", [2, 3])
def test_fine_anatomy_on_large_pixels_is_not_noise(head, step):
    """Every second or third pixel of a clean stack whose texture differs from place to place; then with noise."""
    rows, columns = np.ogrid[: head.shape[1], : head.shape[2]]
    contrast = 0.6 + 2.4 * np.sin(rows / 50) ** 2 * np.sin(columns / 50) ** 2
    clean = np.where(head > 0, np.clip(np.rint(110 + contrast * (head - 110)), 1, 250), 0)[:, ::step]
    assert estimate_noise(images(clean)) is None
    found = estimate_noise(images(noisy(clean, "white")))
    assert found is not None
    assert 127.5 * found.sd == pytest.approx(10, rel=0.2)


def test_too_small_to_tell():
    assert estimate_noise(torch.zeros(3, 31, 200)) is None
    assert estimate_noise(torch.full((3, 64, 64), -1.0)) is None


# --- through a resampling --------------------------------------------------------------------------------------------


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    first, second = [i for i in range(3) if i != axis]
    matrix[first, first], matrix[first, second], matrix[second, first], matrix[second, second] = c, -s, s, c
    return matrix


GRIDS = {
    "half a voxel aside": (np.eye(3), np.array([0.5, 0.0, 0.0])),
    "finer": (np.diag([0.7, 0.6, 1.0]), np.zeros(3)),
    "coarser": (np.diag([1.9, 1.7, 1.0]), np.zeros(3)),
    "turned in the slice": (rotation(30, 2), np.array([30.0, -20, 0])),
    "tilted": (rotation(15, 0) @ rotation(8, 1) @ np.diag([0.9, 0.9, 1.3]), np.array([5.0, 5, 3])),
}


@pytest.mark.parametrize("kind", ["white", "sharp"])
@pytest.mark.parametrize("grid", GRIDS)
def test_noise_is_known_after_a_linear_resampling(grid, kind):
    """Against noise that is really resampled."""
    steps, start = GRIDS[grid]
    size = 64
    source = coloured_noise(kind, (40, 160, 160), 1.0, np.random.default_rng(0)).transpose(1, 2, 0)
    centre = np.array([80, 80, 20]) - steps @ [size / 2, size / 2, 12] + start % 1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = steps, centre
    new = make_volume(np.zeros((1, size, size, 24)), affine)
    moved = resample_to(make_volume(source[None], np.eye(4)), new).numpy()[0]
    truth = np.mean(np.abs(np.fft.fft2(moved.transpose(2, 0, 1))) ** 2, axis=0) / size**2
    first = centre + np.arange(24)[:, None] * steps[:, 2]
    noise = Noise(torch.from_numpy(noise_spectrum(kind, (TABLE, TABLE))).float(), kind)
    found = on_grid(
        resampled(noise, torch.from_numpy(steps[:, :2]), torch.from_numpy(first % 1)).spectrum, size, size
    ).numpy()
    assert found.mean() == pytest.approx(truth.mean(), rel=0.06)
    blocks = [x.reshape(8, 8, 8, 8).mean((1, 3)) for x in (found, truth)]
    assert np.abs(blocks[0] - blocks[1]).mean() < 0.12 * truth.mean()
