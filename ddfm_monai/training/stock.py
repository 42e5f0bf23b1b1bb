"""What a training sees, of all that it was given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ddfm_monai.errors import UsageError
from ddfm_monai.training.data import Slices, read_slices
from ddfm_monai.training.label_maps import read_label_maps
from ddfm_monai.training.rendering import render_slices
from ddfm_monai.training.reslicing import reslice

__all__ = ["training_slices"]


def training_slices(
    dataset_dir: str | Path | None,
    labels_dir: str | Path | None,
    rendered: Mapping[str, int],
    resliced: int,
    seed: int = 3407,
) -> Slices:
    """What a training sees: a folder's own slices, other slices through its MRI, and renderings of label maps.

    Args:
        dataset_dir: NIfTI volumes (:func:`ddfm_monai.training.read_slices`), or None.
        labels_dir: label maps (:func:`read_label_maps`), or None.
        rendered: slices to render of each modality (:func:`render_slices`).
        resliced: slices to take from the MRI volumes of ``dataset_dir`` (:func:`reslice`).
        seed: of the random choices.

    Raises:
        UsageError: neither folder is given, or one cannot be used.
        InputError: a volume in one of them cannot be used.
    """
    if not dataset_dir and not labels_dir:
        raise UsageError(
            "No data. Pass a folder of NIfTI volumes as --dataset_dir, of label maps as --labels_dir, or both.",
            "E_NO_DATA",
        )
    slices: Slices = {}
    for part in (
        read_slices(dataset_dir) if dataset_dir else {},
        reslice(dataset_dir, resliced, seed),
        render_slices(read_label_maps(labels_dir, seed), rendered, seed),
    ):
        for modality, found in part.items():
            slices.setdefault(modality, []).extend(found)
    return slices
