"""Model observers against what can be worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ddfm_monai.metrics.noise_kinds import NOISE_KINDS, coloured_noise, noise_spectrum
from ddfm_monai.metrics.observers import (
    DENSE,
    SPARSE,
    DoG,
    auc,
    auc_of_dprime,
    bootstrap_interval,
    channel_outputs,
    cho_dprime_in_noise,
    difference_of_gaussians,
    eye_filter,
    hotelling_dprime,
    hotelling_template,
    laguerre_gauss,
    npwe_dprime,
    npwe_template,
)

SIZE = 48
SD = 10.0


def blob(sigma: float, size: int = SIZE) -> np.ndarray:
    offsets = np.arange(size) - size // 2
    return np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))


def noisy(kind: str, count: int, seed: int = 0) -> np.ndarray:
    return coloured_noise(kind, (count, SIZE, SIZE), SD, np.random.default_rng(seed))


# --- noise


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_noise_has_its_spectrum_and_its_level(kind: str) -> None:
    fields = noisy(kind, 400)
    assert fields.std() == pytest.approx(SD, rel=0.02)
    measured = np.mean(np.abs(np.fft.fft2(fields)) ** 2, axis=0) / SIZE**2 / SD**2
    expected = noise_spectrum(kind, (SIZE, SIZE))
    assert expected.mean() == pytest.approx(1)
    strong = expected > 0.05
    assert np.allclose(measured[strong] / expected[strong], 1, atol=0.35)  # 400 periodograms: sd 0.05
    assert measured[~strong].sum() < 0.02 * measured.sum() + 1e-9


def test_kinds_are_what_they_are_called() -> None:
    spectra = {kind: noise_spectrum(kind, (SIZE, SIZE)) for kind in NOISE_KINDS}
    assert np.ptp(spectra["white"]) == 0
    assert spectra["zero-filled"][0, 14] < 0.01 < spectra["zero-filled"][0, 10]  # 14 of 48: above a quarter
    assert spectra["linear"][0, 24] < 0.25 * spectra["linear"][0, 0]
    assert spectra["soft"].argmax() != 0 and spectra["soft"][0, 0] < 0.01  # back-projection has no mean
    assert spectra["soft"][0].argmax() < spectra["sharp"][0].argmax()
    with pytest.raises(ValueError, match="pink"):
        noise_spectrum("pink", (8, 8))


# --- the channelised Hotelling observer


def test_laguerre_gauss_channels_are_orthonormal_and_see_a_matched_gaussian_whole() -> None:
    channels = laguerre_gauss(SIZE, 10.0)
    assert np.allclose(np.einsum("iyx,jyx->ij", channels, channels), np.eye(6), atol=1e-4)
    sigma = 10.0 / np.sqrt(2 * np.pi)
    signal = blob(sigma)
    # White noise: d' of the best observer is the signal's norm over sd, and the first channel is the signal.
    best = np.sqrt(np.pi) * sigma / SD
    assert cho_dprime_in_noise(channels, signal, np.full((SIZE, SIZE), SD**2)) == pytest.approx(best, rel=1e-3)


def test_difference_of_gaussians_are_those_of_abbey_and_barrett() -> None:
    """Pass bands peak at s sqrt(2 ln(Q²) / (1 - 1/Q²)), see no mean, and lie a factor apart."""
    for bank in (DENSE, SPARSE):
        channels = difference_of_gaussians(256, bank)
        assert channels.shape == (bank.number, 256, 256)
        assert np.allclose(channels.sum(axis=(1, 2)), 0, atol=1e-9)
        rows = np.abs(np.fft.fft2(channels))[:, 0, :128]
        peaks = np.fft.fftfreq(256)[rows.argmax(axis=1)]
        widths = bank.first * bank.ratio ** np.arange(bank.number)
        expected = widths * np.sqrt(2 * np.log(bank.width**2) / (1 - bank.width**-2))
        inside = expected < 0.45
        assert np.allclose(peaks[inside], expected[inside], atol=1.5 / 256)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_sampled_dprime_is_that_of_the_known_spectrum(kind: str) -> None:
    channels = difference_of_gaussians(SIZE, DoG(0.015, 1.4, 1.67, 7))
    lesion = blob(4.0)
    known = cho_dprime_in_noise(channels, lesion, SD**2 * noise_spectrum(kind, (SIZE, SIZE)))
    lesion *= 2 / known
    present, absent = (channel_outputs(channels, noisy(kind, 800, seed) + s) for seed, s in ((1, lesion), (2, 0.0)))
    assert hotelling_dprime(present, absent) == pytest.approx(2, abs=0.2)


def test_correlated_noise_of_known_spectrum_by_hand() -> None:
    """One channel: d' = <u, l> / sqrt(Σ |U|² S). With all pixels as channels it is the prewhitening observer's."""
    size = 8
    spectrum = 4 * noise_spectrum("linear", (size, size))
    lesion = blob(1.5, size)
    pixels = np.eye(size**2).reshape(-1, size, size)
    prewhitening = np.sqrt(np.sum(np.abs(np.fft.fft2(lesion)) ** 2 / spectrum) / size**2)
    assert cho_dprime_in_noise(pixels, lesion, spectrum) == pytest.approx(prewhitening)
    channel = lesion[None] / np.linalg.norm(lesion)
    noise_power = np.sum(np.abs(np.fft.fft2(channel[0])) ** 2 * spectrum) / size**2
    by_hand = np.linalg.norm(lesion) / np.sqrt(noise_power)
    assert cho_dprime_in_noise(channel, lesion, spectrum) == pytest.approx(by_hand)
    assert by_hand < prewhitening


def test_the_template_on_other_data_reaches_the_auc_of_its_dprime() -> None:
    channels = laguerre_gauss(SIZE, 10.0)
    lesion = 2.2 * blob(4.0)
    present, absent = (channel_outputs(channels, noisy("white", 1000, k) + s) for k, s in ((3, lesion), (4, 0.0)))
    template = hotelling_template(present[:500], absent[:500])
    found = auc(present[500:] @ template, absent[500:] @ template)
    best = 2.2 * np.sqrt(np.pi) * 4 / SD
    assert found == pytest.approx(auc_of_dprime(best), abs=0.025)


# --- NPWE


def test_npw_in_white_noise_is_the_best_observer_and_in_coloured_noise_it_is_not() -> None:
    lesion = blob(4.0)
    white = np.full((SIZE, SIZE), SD**2)
    assert npwe_dprime(lesion, white) == pytest.approx(np.linalg.norm(lesion) / SD)
    coloured = SD**2 * noise_spectrum("linear", (SIZE, SIZE))
    prewhitening = np.sqrt(np.sum(np.abs(np.fft.fft2(lesion)) ** 2 / coloured) / SIZE**2)
    assert npwe_dprime(lesion, coloured) < prewhitening


@pytest.mark.parametrize("kind", ["white", "soft"])
def test_npwe_template_has_the_dprime_of_the_formula(kind: str) -> None:
    lesion, eye = blob(4.0), eye_filter(SIZE)
    scores = np.tensordot(noisy(kind, 1500, 5), npwe_template(lesion, eye), axes=2)
    measured = np.sum(lesion * npwe_template(lesion, eye)) / scores.std()
    assert measured == pytest.approx(npwe_dprime(lesion, SD**2 * noise_spectrum(kind, (SIZE, SIZE)), eye), rel=0.07)


def test_the_eye_sees_no_mean_and_most_at_its_peak() -> None:
    eye = eye_filter(512)
    frequency = np.fft.fftfreq(512)[eye[0, :256].argmax()] / (54 / 128)
    assert eye[0, 0] == 0 and frequency == pytest.approx(np.sqrt(1.3 / (2 * 3.04)), abs=0.01)
    per_degree = frequency / (1 / (500 * np.pi / 180))
    assert 3.5 < per_degree < 4.5  # cycles per degree, where contrast sensitivity is known to peak


# --- scores


def test_auc_is_that_of_mann_and_whitney() -> None:
    random = np.random.default_rng(0)
    one, two = random.normal(1, 1, 80).round(1), random.normal(0, 1, 60).round(1)
    assert auc(one, two) == pytest.approx(stats.mannwhitneyu(one, two).statistic / (80 * 60))
    assert auc([1, 2], [1, 2]) == 0.5 and auc([3, 4], [1, 2]) == 1
    assert auc_of_dprime(0) == 0.5 and auc_of_dprime(2) == pytest.approx(0.9214, abs=1e-4)


def test_bootstrap_interval_is_the_middle_part() -> None:
    assert bootstrap_interval(np.arange(1001), 0.95) == pytest.approx((25, 975))
