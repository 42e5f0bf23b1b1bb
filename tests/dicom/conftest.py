"""What the DICOM tests share: series saved in shuffled order, and a watch over input folders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from .synthetic import save

Saver = Callable[..., Path]


@pytest.fixture
def shuffled(tmp_path: Path) -> Saver:
    """Write datasets into a folder so that neither names nor numbers follow the slices; returns the folder."""

    def write(datasets: list[Dataset], name: str = "in", renumber: bool = True) -> Path:
        order = np.random.default_rng(7).permutation(len(datasets))
        if renumber:
            for number, ds in zip(order, datasets, strict=True):
                ds.InstanceNumber = int(number) + 1
        save(datasets, tmp_path / name, order=[int(place) for place in order])
        return tmp_path / name

    return write


@pytest.fixture
def untouched() -> Iterator[Callable[[Path], None]]:
    """Register folders whose files must be the same, byte for byte, when the test ends."""
    before: dict[Path, dict[str, str]] = {}
    yield lambda folder: before.update({folder: tree_hashes(folder)})
    for folder, hashes in before.items():
        assert tree_hashes(folder) == hashes


def tree_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every regular file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
