"""How good is a fusion: the field's metrics, and those for what the field's metrics do not see.

`evaluate_pair` gives the field's table row; `lesion_transfer`, `shared_lesion_transfer`, `noise_gain`,
`through_plane_coherence` and `hue_error` ask whether lesions, noise, neighbouring slices and colours come through,
`streak_test` and `pixel_alternation` for artefacts. docs/metrics.md says what each rewards wrongly. `check_fusion`
flags where a reader should look at the sources.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ddfm_monai.metrics.artefacts import pixel_alternation, streak_scene, streak_test
from ddfm_monai.metrics.check import FLAGS, Check, check_fusion
from ddfm_monai.metrics.coherence import through_plane_coherence
from ddfm_monai.metrics.colour import hue_error
from ddfm_monai.metrics.lesions import (
    LESION_KINDS,
    SHARED_KINDS,
    lesion_probes,
    lesion_transfer,
    shared_lesion_probes,
    shared_lesion_transfer,
    transferred,
)
from ddfm_monai.metrics.noise import noise_gain
from ddfm_monai.metrics.pair import METRIC_NAMES, evaluate_pair, evaluate_slices
from ddfm_monai.metrics.slices import foreground_slices

if TYPE_CHECKING:
    from ddfm_monai.metrics.cumulative import FusionQuality

__all__ = [
    "FLAGS",
    "LESION_KINDS",
    "METRIC_NAMES",
    "SHARED_KINDS",
    "Check",
    "FusionQuality",
    "check_fusion",
    "evaluate_pair",
    "evaluate_slices",
    "foreground_slices",
    "hue_error",
    "lesion_probes",
    "lesion_transfer",
    "noise_gain",
    "pixel_alternation",
    "shared_lesion_probes",
    "shared_lesion_transfer",
    "streak_scene",
    "streak_test",
    "through_plane_coherence",
    "transferred",
]


def __getattr__(name: str) -> Any:
    """`FusionQuality` needs MONAI; the functions need numpy and scipy only and stay quick to import."""
    if name != "FusionQuality":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ddfm_monai.metrics.cumulative import FusionQuality

    return FusionQuality
