"""What the check of one picture flags: in right fusions, in fusions of noisy sources, in fusions that were made wrong.

    python benchmarks/wrong_fusions.py DATA_DIR [--slices 4] [--prior open]

DATA_DIR as for benchmarks/quality.py. Three tables for docs/trust.md; with the defaults a few minutes on one core.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from quality import Method, Volume, ddfm, mean
from scipy import ndimage
from trust import read_sets

from ddfm_monai.metrics import check_fusion, shared_lesion_probes
from ddfm_monai.metrics.noise_kinds import NOISE_KINDS, USUAL_SD, coloured_noise
from ddfm_monai.settings import DEFAULT_PRIOR

Slice = NDArray[np.uint8]  # (X, Y), grey levels 0..255
Triple = tuple[Slice, Slice, Slice]  # fused, first, second
Table = dict[str, dict[str, str]]  # row to column to cell

SD = 4.0  # pixels, of a lesion
MOVED = 8  # pixels
PLACES = 10  # of each set, bright and dark
REGION = 23.0  # pixels, radius of a region that is made wrong, with an edge of two


def grey(image: NDArray) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def distance(shape: tuple[int, ...], place: tuple[int, ...]) -> NDArray[np.float64]:
    return np.hypot(np.arange(shape[0])[:, None] - place[0], np.arange(shape[1]) - place[1])


def made_wrong_at(place: tuple[int, int], sign: int, right: Triple, other: Slice) -> Iterator[tuple[str, Triple]]:
    """Name of each fault, and the fused slice with its sources, wrong around one place; ``other``: another's fusion."""
    f, a, b = (x.astype(np.float64) for x in right)
    away = distance(f.shape, place)
    lesion, beside = (
        sign * np.exp(-(r**2) / (2 * SD**2)) for r in (away, distance(f.shape, (place[0] + MOVED, place[1])))
    )
    for level in (50, 30):
        yield f"lesion of {level} pasted in", (grey(f + level * lesion), *right[1:])
        yield f"lesion of {level} in the MRI left out", (right[0], grey(a + level * lesion), right[2])
        yield f"lesion of {level} in the second source left out", (right[0], right[1], grey(b + level * lesion))
    yield f"lesion of 50 in the MRI, {MOVED} pixels beside", (grey(f + 50 * beside), grey(a + 50 * lesion), right[2])
    inside = np.clip((REGION + 1 - away) / 2, 0, 1)
    here = inside > 0.5
    of_other = other - other[here].mean() + f[here].mean()
    for name, wrong in {
        "region smoothed (sd 2.5)": ndimage.gaussian_filter(f, 2.5),
        "region copied from the first source": a,
        "region copied from the second source": b,
        "region of another patient's fusion": of_other,
    }.items():
        yield name, (grey((1 - inside) * f + inside * wrong), *right[1:])


def caught(before: Slice, wrong: Triple, place: tuple[int, int], radius: float) -> bool:
    """Whether there are flags, within that radius of the place, that were not there before."""
    after = check_fusion(*wrong).flags
    return bool(np.any((after > 0) & (before == 0) & (distance(after.shape, place) <= radius)))


def places_table(fused: dict[str, Volume], sets: dict[str, tuple[Volume, Volume]]) -> Table:
    """By fault and set: the share of the places where it is caught."""
    found: dict[str, dict[str, list[bool]]] = {}
    names = list(sets)
    for modality, (a, b) in sets.items():
        others = fused[names[names.index(modality) - 1]]
        probes = shared_lesion_probes(a, b)
        for sign, kind in ((1, "a+b+"), (-1, "a-b-")):
            centres = probes[kind].centres
            for row, column, k in centres[:: max(len(centres) // PLACES, 1)][:PLACES]:
                right = fused[modality][..., k], a[..., k], b[..., k]
                other = others[..., k % others.shape[-1]]
                before = check_fusion(*right).flags
                for name, wrong in made_wrong_at((row, column), sign, right, other):
                    radius = REGION if name.startswith("region") else MOVED + SD
                    result = caught(before, wrong, (row, column), radius)
                    found.setdefault(name, {}).setdefault(modality, []).append(result)
    table = {name: {m: f"{100 * np.mean(r):.0f}" for m, r in by.items()} for name, by in found.items()}
    return {"places": {m: str(len(r)) for m, r in next(iter(found.values())).items()}} | table


def waves(f: Volume) -> NDArray[np.float64]:
    """Ringing: parallel waves of 12 grey levels and 6 pixels in the head."""
    return f + 12.0 * (f > 10) * np.sin(np.arange(len(f)) * 2 * np.pi / 6)[:, None, None]


def checkerboard(f: Volume) -> NDArray[np.float64]:
    """Single pixels that alternate by 12 grey levels, as an upsampling network's."""
    rows, columns = np.indices(f.shape[:2])
    return f + 12.0 * (f > 10) * (1 - 2 * ((rows + columns) % 2))[..., None]


def jpeg(f: Volume, quality: int) -> Volume:
    planes = []
    for k in range(f.shape[-1]):
        file = io.BytesIO()
        Image.fromarray(f[..., k]).save(file, "jpeg", quality=quality)
        planes.append(np.asarray(Image.open(file)))
    return np.stack(planes, axis=-1)


def made_wrong_everywhere(f: Volume, a: Volume, b: Volume, other: Volume) -> dict[str, NDArray]:
    """Name of each fault to a fused volume that has it in the whole picture."""
    smoothed: Callable[[float], NDArray] = lambda sd: ndimage.gaussian_filter(f.astype(float), (sd, sd, 0))  # noqa: E731
    return {
        "none": f,
        "shifted by 1 pixel": np.roll(f, 1, axis=0),
        "shifted by 2 pixels": np.roll(f, 2, axis=0),
        "shifted by 5 pixels": np.roll(f, 5, axis=0),
        "mirrored": f[::-1],
        "another slice of the set": np.roll(f, 1, axis=-1),
        "another patient's fusion": other,
        "grey levels inverted": np.where(np.maximum(a, b) > 10, 255 - f, f),
        "smoothed, sd 1": smoothed(1),
        "smoothed, sd 2.5": smoothed(2.5),
        "ringing of 12": waves(f),
        "checkerboard of 12": checkerboard(f),
        "JPEG, quality 50": jpeg(f, 50),
        "JPEG, quality 10": jpeg(f, 10),
        "copy of the first source": a,
        "copy of the second source": b,
    }


def everywhere_table(fused: dict[str, Volume], sets: dict[str, tuple[Volume, Volume]]) -> Table:
    """By fault and set: percent of the head that is flagged."""
    table: Table = {}
    names = list(sets)
    for modality, (a, b) in sets.items():
        others = fused[names[names.index(modality) - 1]]
        other = others[..., np.arange(a.shape[-1]) % others.shape[-1]]
        for name, wrong in made_wrong_everywhere(fused[modality], a, b, other).items():
            table.setdefault(name, {})[modality] = flagged(grey(wrong), a, b)
    return table


def noise_table(methods: dict[str, Method], sets: dict[str, tuple[Volume, Volume]]) -> Table:
    """By kind of noise, in both sources, and method and set: percent of the head that is flagged in right fusions."""
    table: Table = {}
    for modality, (a, b) in sets.items():
        for number, kind in enumerate(NOISE_KINDS):
            random = np.random.default_rng((3407, number))
            fields = [coloured_noise(kind, a.shape[::-1], USUAL_SD[kind], random).T for _ in range(2)]
            noisy = [grey(x + field) for x, field in zip((a, b), fields, strict=True)]
            for name, fuse in methods.items():
                fused = fuse(*noisy)
                table.setdefault(f"{kind}, {name}", {})[modality] = flagged(fused, *noisy)
    return table


def flagged(fused: Volume, a: Volume, b: Volume) -> str:
    """Percent of the head: all flags, and in brackets invented, missing, detail."""
    shares = {name: 100 * share for name, share in check_fusion(fused, a, b).shares.items()}
    each = ", ".join(f"{shares[name]:.1f}" for name in ("invented", "missing", "detail"))
    return f"{shares['flagged']:.1f} ({each})"


def markdown(title: str, table: Table) -> str:
    columns = list(next(iter(table.values())))
    lines = [f"| {title} | " + " | ".join(c.upper() for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(
        lines + [f"| {name} | " + " | ".join(row[c] for c in columns) + " |" for name, row in table.items()]
    )


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--slices", type=int, default=4, help="per set")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="prior of the default")
    parser.add_argument("--device", default=None)
    arguments = parser.parse_args()
    sets = read_sets(arguments.data, arguments.slices)
    default = ddfm(arguments.prior, arguments.device)
    fused = {modality: default(a, b) for modality, (a, b) in sets.items()}
    print(markdown("made wrong at a place: caught, %", places_table(fused, sets)), flush=True)
    print("\n" + markdown("wrong everywhere: flagged, %", everywhere_table(fused, sets)), flush=True)
    others: dict[str, Method] = {"default": default, "maximum": np.maximum, "mean": mean}
    print("\n" + markdown("right fusions of noisy sources: flagged, %", noise_table(others, sets)))


if __name__ == "__main__":
    main()
