"""Files to slices and back: reading, grids, registration, intensities, colour, batching.

A volume is a :class:`monai.data.MetaTensor` ``(C, X, Y, Z)``, float32, with an affine in RAS mm; see
:mod:`ddfm_monai.volumes.io`.
"""

from __future__ import annotations

from ddfm_monai.settings import CT_WINDOWS, KINDS, parse_window
from ddfm_monai.volume import affine_of, check_volume, is_picture, make_volume, spacing_of
from ddfm_monai.volumes import colour
from ddfm_monai.volumes.grids import check_overlap, index_mapping, overlap_fraction, resample_to, same_grid
from ddfm_monai.volumes.intensity import (
    Scaling,
    choose_scaling,
    common_foreground,
    foreground_mask,
    guess_kind,
)
from ddfm_monai.volumes.io import (
    PICTURE_SUFFIXES,
    READABLE_SUFFIXES,
    WRITABLE_SUFFIXES,
    by_stem,
    is_volume_file,
    read_volume,
    stem_of,
    suffix_of,
    write_volume,
)
from ddfm_monai.volumes.registration import Alignment, Registration, look_at_alignment, register_rigid
from ddfm_monai.volumes.slices import SliceBatch, SlicePlan, assemble, plan_slices, slice_axis, slice_batches
from ddfm_monai.volumes.sources import Source, colour_source, plan_pair, read_source

__all__ = [
    "CT_WINDOWS",
    "KINDS",
    "PICTURE_SUFFIXES",
    "READABLE_SUFFIXES",
    "WRITABLE_SUFFIXES",
    "Alignment",
    "Registration",
    "Scaling",
    "SliceBatch",
    "SlicePlan",
    "Source",
    "affine_of",
    "assemble",
    "by_stem",
    "check_overlap",
    "check_volume",
    "choose_scaling",
    "colour",
    "colour_source",
    "common_foreground",
    "foreground_mask",
    "guess_kind",
    "index_mapping",
    "is_picture",
    "is_volume_file",
    "look_at_alignment",
    "make_volume",
    "overlap_fraction",
    "parse_window",
    "plan_pair",
    "plan_slices",
    "read_source",
    "read_volume",
    "register_rigid",
    "resample_to",
    "same_grid",
    "slice_axis",
    "slice_batches",
    "spacing_of",
    "stem_of",
    "suffix_of",
    "write_volume",
]
