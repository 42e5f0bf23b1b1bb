"""500 damaged files: no crash, no hang, and no wrong volume.

Each case damages one file of a good series and reads the folder. What may come out is an error of this package, or a
volume whose undamaged slices hold exactly the true values at their true places. Of a file that is the whole series, a
volume may come out only if nothing that values and places depend on was damaged, and then it is the true one.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from ddfm_monai.dicom.errors import DicomError
from ddfm_monai.dicom.read import DicomVolume, read_subseries
from ddfm_monai.dicom.scan import scan_folder

from .synthetic import Layout, Made, enhanced, nuclear, series

SECONDS_PER_CASE = 20
CASES = 25  # for each of 5 kinds and 4 damages: 500


@contextmanager
def time_limit() -> Iterator[None]:
    """Fail instead of hanging."""

    def stop(*_: object) -> None:
        raise TimeoutError("the reader hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS_PER_CASE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


LAYOUT = Layout(slices=5, rows=12, columns=10)


def rle(made: Made) -> Made:
    for ds in made.datasets:
        ds.compress(RLELossless)
    return made


KINDS = {
    "CT": lambda: series("CT", LAYOUT),
    "MR": lambda: series("MR", LAYOUT),
    "RLE": lambda: rle(series("CT", LAYOUT)),
    "enhanced": lambda: enhanced("MR", LAYOUT, slopes=[1, 1.5, 2, 2.5, 3]),
    "NM": lambda: nuclear(LAYOUT),
}


def flip_bytes(content: bytes, header: int, random: np.random.Generator) -> bytes:
    """One to eight bytes of the header become others."""
    damaged = bytearray(content)
    for _ in range(int(random.integers(1, 9))):
        damaged[int(random.integers(132, header))] = int(random.integers(256))
    return bytes(damaged)


def cut(content: bytes, header: int, random: np.random.Generator) -> bytes:
    return content[: int(random.integers(0, len(content)))]


def lose_a_piece(content: bytes, header: int, random: np.random.Generator) -> bytes:
    start = int(random.integers(132, header))
    return content[:start] + content[start + int(random.integers(1, 60)) :]


def repeat_a_piece(content: bytes, header: int, random: np.random.Generator) -> bytes:
    start, length = int(random.integers(132, header)), int(random.integers(1, 60))
    return content[: start + length] + content[start:]


DAMAGES = (flip_bytes, cut, lose_a_piece, repeat_a_piece)


def assert_not_wrong(volume: DicomVolume, made: Made, damaged: Path | None) -> None:
    """Every undamaged slice of the volume has the true values at the true place."""
    found = volume.volume.numpy()[0]
    assert np.isfinite(found).all()
    for z, item in enumerate(volume.subseries.slices):
        if item.path == damaged:
            continue
        index = np.linalg.inv(made.affine) @ volume.volume.affine.numpy() @ [0, 0, z, 1]
        true = round(float(index[2]))
        np.testing.assert_allclose(index, [0, 0, true, 1], atol=1e-2)
        np.testing.assert_allclose(found[:, :, z], made.values[:, :, true], atol=1e-3)


def header_values(path: Path) -> dict[str, object]:
    """What the numbers and places of a file depend on, by pydicom alone."""
    ds = pydicom.dcmread(path, force=True)
    own = ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "PixelSpacing", "ImageOrientationPatient",
           "PixelRepresentation", "BitsStored", "PixelPaddingValue", "PhotometricInterpretation", "Rows", "Columns",
           "SpacingBetweenSlices", "SliceVector", "NumberOfFrames", "DetectorInformationSequence", "PixelData",
           "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")  # fmt: skip
    return {keyword: ds.get(keyword) for keyword in own}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_gives_an_error_or_the_truth(kind: str, damage: object, tmp_path: Path) -> None:
    made = KINDS[kind]()
    paths = made.save(tmp_path)
    originals = {path: path.read_bytes() for path in paths}
    random = np.random.default_rng([list(KINDS).index(kind), DAMAGES.index(damage)])  # type: ignore[arg-type]
    outcomes: Counter[str] = Counter()
    for _ in range(CASES):
        victim = paths[int(random.integers(len(paths)))]
        content = originals[victim]
        header = content.rindex(b"\xe0\x7f\x10\x00O")  # Pixel Data, OB or OW
        victim.write_bytes(damage(content, header, random))  # type: ignore[operator]
        with time_limit():
            outcomes.update(read_all(tmp_path, made, victim, content))
        victim.write_bytes(content)
    assert outcomes["E_HEADER"] > 0  # the damage did something


def read_all(folder: Path, made: Made, victim: Path, content: bytes) -> list[str]:
    """Scan and read everything readable; the code of each refusal, or ``read``."""
    scan = scan_folder(folder)
    outcomes = [problem.code for problem in scan.problems]
    for item in scan.subseries:
        try:
            volume = read_subseries(item)
        except DicomError as error:
            assert "Jürgen" not in str(error)
            outcomes.append(error.code)
            continue
        outcomes.append("read")
        if len(made.datasets) > 1:
            assert_not_wrong(volume, made, victim)
        elif header_values(victim) == _values_of(content, folder):
            assert_not_wrong(volume, made, None)
    return outcomes


def _values_of(content: bytes, folder: Path) -> dict[str, object]:
    path = folder.parent / f"{folder.name}-whole"
    path.write_bytes(content)
    return header_values(path)
