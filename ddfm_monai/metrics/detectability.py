"""Is a lesion that a source shows as detectable in the fused picture? An observer study with known noise.

Lesions are Gaussian blobs of three sizes. Their contrasts are not fixed in grey levels but in detectability: a
channelised Hotelling observer who reads the source alone reaches d' = 1, 1.5, 2 and 3 (AUC 0.76 to 0.98), so that there
is something to lose. Each realisation has fresh noise in both sources; the same fields serve with and without lesions,
and for every method. The observer knows place, size and anatomy (the mean over realisations without lesion is taken
off), learns its template on one half of the realisations and is tested on the other, both ways.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.lesions import LESION_KINDS, Fuse
from ddfm_monai.metrics.noise_kinds import USUAL_SD, coloured_noise, noise_spectrum
from ddfm_monai.metrics.observers import (
    DoG,
    bootstrap_interval,
    channel_outputs,
    cho_dprime_in_noise,
    difference_of_gaussians,
    eye_filter,
    laguerre_gauss,
    npwe_template,
)
from ddfm_monai.metrics.slices import BACKGROUND_LEVEL

__all__ = ["LEVELS", "SIZES", "Detectability", "Noise", "detectability"]

Array = NDArray[np.float64]
Grey = NDArray[np.uint8]

SIZES = (2.0, 4.0, 6.0)  # pixels, sd of the lesions
LEVELS = (1.0, 1.5, 2.0, 3.0)  # d' of the source alone
BANK = DoG(0.015, 1.4, 1.67, 7)  # dense channels from the lowest that a region holds
REGION = 40  # pixels, side of the observer's region, and distance of the places
MARGIN = 16  # pixels from a place to the head's border
FREE = (35.0, 220.0)  # grey levels around a place: noise must not be clipped
OPERATING_POINT = 0.05  # false-positive rate at which the source is read


class Noise(NamedTuple):
    """Kinds of noise (`NOISE_KINDS`) in the first and the second source, at their usual levels."""

    a: str
    b: str


class Detectability(NamedTuple):
    """One kind of lesion.

    Attributes:
        efficiency: (d' fused / d' source)², all sizes and contrasts, by observer: ``"DoG"``, ``"LG"``, ``"NPWE"``.
        by_size: the efficiency of each of `SIZES`, observer ``"DoG"``.
        auc_source, auc_fused: mean over sizes and contrasts.
        difference: 95 % bootstrap interval of their difference, over realisations.
        false_positives: share of lesion-free places of the fused picture at which the observer of the source, with
            the threshold that gives 0.05 there, says that there is a lesion.
        places: how many lesions were read.
    """

    efficiency: dict[str, float]
    by_size: tuple[float, ...]
    auc_source: float
    auc_fused: float
    difference: tuple[float, float]
    false_positives: float
    places: int


def detectability(
    fuse: Fuse, a: Grey, b: Grey, noise: Noise, realisations: int = 10, seed: int = 3407, *, both: bool = False
) -> dict[str, Detectability]:
    """An observer study of a fusion.

    Args:
        fuse: the fusion; called with volumes ``(X, Y, N)``, six times with N = slices x realisations, once with the
            clean slices. Slices must not know one another.
        a, b: clean slices ``(X, Y, slices)``, uint8.
        noise: of either source.
        realisations: at least 4, even.
        seed: of the noise.
        both: both sources are noisy; else the one with the lesion alone. A picture that shows both sources on one
            grey scale then shows both noises: of any fixed mixture, the efficiencies for lesions of either source that
            are equally visible in their own noise add up to 1 at most, so no fusion reaches 0.8 in both.

    Returns:
        By kind of lesion (`LESION_KINDS`); a kind that fits nowhere is left out.

    Raises:
        InputError: no place in any slice, or too few realisations.
    """
    if realisations < 4 or realisations % 2:
        raise InputError(f"{realisations} realisations; an even number of at least 4 is expected.")
    sources = {"a": _Source(a, noise.a, realisations, (seed, 0)), "b": _Source(b, noise.b, realisations, (seed, 1))}

    def fused_with(own: str, lesions: Array | float = 0.0) -> Array:
        pair = [
            source.noisy(lesions) if name == own else source.noisy() if both else source.repeated()
            for name, source in sources.items()
        ]
        return np.asarray(fuse(*pair), dtype=np.float64)

    clean = np.asarray(fuse(a, b), dtype=np.float64)
    absent = {"a": fused_with("a")}
    absent["b"] = absent["a"] if both else fused_with("b")
    found = {}
    for kind in LESION_KINDS:
        own = sources[kind[0]]
        places = _places(own.clean, np.maximum(a, b))
        if not places:
            continue
        plan = _Plan(places, realisations)
        lesions = own.lesions(plan, 1 if kind[1] == "+" else -1)
        fused = _Readings(plan, absent[kind[0]], fused_with(kind[0], lesions), clean)
        alone = _Readings(plan, own.noisy(), own.noisy(lesions), own.clean)
        found[kind] = _compare(fused, alone, plan, seed)
    if not found:
        raise InputError("No place for a lesion: no tissue is 32 pixels wide and neither black nor white.")
    return found


class _Plan:
    """Which lesion lies where: every place sees every size and contrast in turn."""

    def __init__(self, places: list[tuple[int, int, int]], realisations: int) -> None:
        self.places = places
        self.realisations = realisations
        index = np.arange(len(places))[:, None] + 5 * np.arange(realisations)
        self.size = index % len(SIZES)  # (P, R)
        self.level = np.array(LEVELS)[index // len(SIZES) % len(LEVELS)]

    def regions(self, volume: NDArray, per_slice: int) -> Array:
        """``(P, per_slice, S, S)`` around each place of a volume with ``per_slice`` planes for each slice."""
        half = REGION // 2
        planes = [
            np.moveaxis(volume[x - half : x + half, y - half : y + half, k * per_slice : (k + 1) * per_slice], -1, 0)
            for x, y, k in self.places
        ]
        return np.asarray(planes, dtype=np.float64)


class _Source:
    """A source with its noise, always the same."""

    def __init__(self, clean: Grey, kind: str, realisations: int, seed: tuple[int, int]) -> None:
        self.clean, self.kind, self.realisations = clean, kind, realisations
        fields = [
            coloured_noise(kind, (realisations, *clean.shape[:2]), USUAL_SD[kind], np.random.default_rng((*seed, k)))
            for k in range(clean.shape[-1])
        ]
        self.noise = np.moveaxis(np.concatenate(fields), 0, -1)

    def noisy(self, lesions: Array | float = 0.0) -> Grey:
        """``(X, Y, slices x realisations)``"""
        return np.clip(np.rint(self.repeated() + lesions + self.noise), 0, 255).astype(np.uint8)

    def repeated(self) -> Grey:
        """The same without noise."""
        return np.repeat(self.clean, self.realisations, axis=-1)

    def lesions(self, plan: _Plan, sign: int) -> Array:
        """Lesions of known detectability in this source's noise."""
        channels = difference_of_gaussians(REGION, BANK)
        spectrum = USUAL_SD[self.kind] ** 2 * noise_spectrum(self.kind, (REGION, REGION))
        shapes = [_blob((REGION, REGION), (REGION // 2, REGION // 2), size) for size in SIZES]
        unit = [cho_dprime_in_noise(channels, shape, spectrum) for shape in shapes]
        volume = np.zeros(self.noise.shape)
        for p, (x, y, k) in enumerate(plan.places):
            for r in range(plan.realisations):
                size = plan.size[p, r]
                blob = _blob(self.clean.shape[:2], (x, y), SIZES[size])
                volume[..., k * plan.realisations + r] += sign * plan.level[p, r] / unit[size] * blob
        return volume


class _Readings:
    """The regions of one reader: without lesions, with them, and without noise."""

    def __init__(self, plan: _Plan, absent: NDArray, present: NDArray, clean: NDArray) -> None:
        self.absent, self.present = (plan.regions(v, plan.realisations) for v in (absent, present))
        self.clean = plan.regions(clean, 1)

    def seen(self, channels: Array | None) -> tuple[Array, Array, Array]:
        """Absent, present, clean through channels ``(P, R, C)``; the pixels themselves for None."""
        if channels is None:
            return tuple(v.reshape(*v.shape[:2], -1) for v in (self.absent, self.present, self.clean))  # type: ignore
        return tuple(channel_outputs(channels, v) for v in (self.absent, self.present, self.clean))  # type: ignore


class _Scores(NamedTuple):
    """Scores of one size, each (P, R): without and with lesion, tested on realisations that did not train."""

    absent: Array
    present: Array


def _compare(fused: _Readings, alone: _Readings, plan: _Plan, seed: int) -> Detectability:
    scores = {who: [_scores(reader, plan, s, "DoG") for s in range(len(SIZES))] for who, reader in
              (("fused", fused), ("alone", alone))}  # fmt: skip
    squares = {}
    for observer in ("DoG", "LG", "NPWE"):
        for who, reader in (("fused", fused), ("alone", alone)):
            of = scores[who] if observer == "DoG" else [_scores(reader, plan, s, observer) for s in range(len(SIZES))]
            squares[observer, who] = np.array([_dprime(one, plan, s) ** 2 for s, one in enumerate(of)])
    wins, everything = {who: _wins(of, plan) for who, of in scores.items()}, np.arange(plan.realisations)
    return Detectability(
        efficiency={o: float(squares[o, "fused"].sum() / squares[o, "alone"].sum()) for o in ("DoG", "LG", "NPWE")},
        by_size=tuple(float(x) for x in squares["DoG", "fused"] / squares["DoG", "alone"]),
        auc_source=_auc(*wins["alone"], everything),
        auc_fused=_auc(*wins["fused"], everything),
        difference=_difference(wins["fused"], wins["alone"], seed),
        false_positives=_false_positives(fused, alone, plan),
        places=plan.size.size,
    )


def _channels(observer: str, size: int) -> Array | None:
    if observer == "DoG":
        return difference_of_gaussians(REGION, BANK)
    # A Laguerre-Gauss channel of this width is the lesion itself.
    return laguerre_gauss(REGION, SIZES[size] * np.sqrt(2 * np.pi)) if observer == "LG" else None


def _scores(reader: _Readings, plan: _Plan, size: int, observer: str) -> _Scores:
    absent, present, _ = reader.seen(_channels(observer, size))
    tested = np.full((2, *plan.size.shape), np.nan)
    for fold in (0, 1):
        train, test = (np.arange(plan.realisations) % 2 == f for f in (fold, 1 - fold))
        template = _template(absent[:, train], present[:, train], plan, size, train, observer)
        # The mean of n realisations has a share of their noise: without the factor 1 / n of its variance would be lost.
        noise = absent[:, test] - absent[:, test].mean(axis=1, keepdims=True)
        noise *= np.sqrt(test.sum() / (test.sum() - 1))
        tested[0][:, test] = noise @ template
        tested[1][:, test] = (noise + present[:, test] - absent[:, test]) @ template
    return _Scores(*tested)


def _template(absent: Array, present: Array, plan: _Plan, size: int, train: NDArray[np.bool_], observer: str) -> Array:
    """``w = S⁻¹ δ``, δ the mean change by a lesion of d' = 1, S the mean covariance around each place's mean."""
    here, level = plan.size[:, train] == size, plan.level[:, train]
    change = (present - absent)[here]
    signal = level[here] @ change / np.sum(level[here] ** 2)
    if observer == "NPWE":
        return npwe_template(signal.reshape(REGION, REGION), eye_filter(REGION)).ravel()
    around = absent - absent.mean(axis=1, keepdims=True)
    with_lesion = around[here] + change - level[here][:, None] * signal
    covariance = (np.cov(around.reshape(-1, around.shape[-1]).T) + np.cov(with_lesion.T)) / 2
    return np.linalg.pinv(covariance, hermitian=True) @ signal


def _dprime(scores: _Scores, plan: _Plan, size: int) -> float:
    """d' of a lesion of source level 1; negative if the observer is misled."""
    here = plan.size == size
    level, absent, present = plan.level[here], scores.absent[here], scores.present[here]
    slope = level @ (present - absent) / np.sum(level**2)
    spread = (np.var(scores.absent) + np.var(present - slope * level)) / 2
    return float(max(slope, 0) / np.sqrt(spread)) if spread > 0 else 0.0


def _wins(scores: list[_Scores], plan: _Plan) -> tuple[Array, Array]:
    """How often a region with a lesion scores above one without, and how often they meet.

    Both ``(sizes x contrasts, R, R)``, by the realisation of the one and of the other: all that an AUC of any choice
    of realisations needs.
    """
    wins, meetings = [], []
    realisation = np.broadcast_to(np.arange(plan.realisations), plan.size.shape)
    for size, one in enumerate(scores):
        for level in LEVELS:
            here = (plan.size == size) & (plan.level == level)
            above = np.sign(one.present[here][:, None, None] - one.absent) / 2 + 0.5  # (N, P, R)
            won, met = np.zeros((2, plan.realisations, plan.realisations))
            np.add.at(won, realisation[here], above.sum(axis=1))
            np.add.at(met, realisation[here], float(len(plan.places)))
            wins.append(won)
            meetings.append(met)
    return np.stack(wins), np.stack(meetings)


def _auc(wins: Array, meetings: Array, drawn: NDArray[np.integer]) -> float:
    """Mean over sizes and contrasts of the AUC, from the realisations drawn."""
    won, met = (x[:, drawn][:, :, drawn].sum(axis=(1, 2)) for x in (wins, meetings))
    return float(np.mean(won[met > 0] / met[met > 0]))


def _difference(fused: tuple[Array, Array], alone: tuple[Array, Array], seed: int) -> tuple[float, float]:
    random, count = np.random.default_rng(seed), fused[0].shape[-1]
    draws = random.integers(0, count, (500, count))
    return bootstrap_interval([_auc(*fused, d) - _auc(*alone, d) for d in draws])


def _false_positives(fused: _Readings, alone: _Readings, plan: _Plan) -> float:
    """The source's observer, template and threshold in grey levels, on lesion-free regions against the clean ones."""
    channels = _channels("DoG", 0)
    everything = np.ones(plan.realisations, dtype=bool)
    absent, present, clean = alone.seen(channels)
    fused_absent, _, fused_clean = fused.seen(channels)
    shares = []
    for size in range(len(SIZES)):
        template = _template(absent, present, plan, size, everything, "DoG")
        threshold = np.quantile((absent - clean) @ template, 1 - OPERATING_POINT)
        shares.append(np.mean((fused_absent - fused_clean) @ template > threshold))
    return float(np.mean(shares))


def _places(source: Grey, brighter: Grey) -> list[tuple[int, int, int]]:
    """Lattice points of each slice that lie in tissue and where the source is neither black nor white."""
    found = []
    for k in range(source.shape[-1]):
        head = ndimage.binary_fill_holes(brighter[..., k] > BACKGROUND_LEVEL)
        if not head.any():
            continue
        depth = ndimage.distance_transform_edt(np.pad(head, 1))[1:-1, 1:-1]
        level = ndimage.gaussian_filter(source[..., k].astype(np.float64), max(SIZES))
        axes = [
            np.arange(round(middle) % REGION, size, REGION)
            for size, middle in zip(head.shape, ndimage.center_of_mass(head), strict=True)
        ]
        for x in axes[0]:
            for y in axes[1]:
                inside = all(REGION // 2 <= c <= n - REGION // 2 for c, n in zip((x, y), head.shape, strict=True))
                if inside and depth[x, y] >= MARGIN and FREE[0] <= level[x, y] <= FREE[1]:
                    found.append((int(x), int(y), k))
    return found


def _blob(shape: tuple[int, ...], centre: tuple[int, int], sigma: float) -> Array:
    rows, columns = (np.exp(-0.5 * ((np.arange(n) - c) / sigma) ** 2) for n, c in zip(shape, centre, strict=True))
    return rows[:, None] * columns
