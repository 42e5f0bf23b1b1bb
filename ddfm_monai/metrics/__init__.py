"""How good is a fusion: the field's metrics, and those for what the field's metrics do not see.

`evaluate_pair` gives the field's table row; `lesion_transfer`, `noise_gain`, `through_plane_coherence` and
`hue_error` ask whether lesions, noise, neighbouring slices and colours come through. docs/metrics.md says what each
rewards wrongly.
"""

from __future__ import annotations

from ddfm_monai.metrics.coherence import through_plane_coherence
from ddfm_monai.metrics.colour import hue_error
from ddfm_monai.metrics.lesions import LESION_KINDS, lesion_probes, lesion_transfer, transferred
from ddfm_monai.metrics.noise import noise_gain
from ddfm_monai.metrics.pair import METRIC_NAMES, evaluate_pair, evaluate_slices

__all__ = [
    "LESION_KINDS",
    "METRIC_NAMES",
    "evaluate_pair",
    "evaluate_slices",
    "hue_error",
    "lesion_probes",
    "lesion_transfer",
    "noise_gain",
    "through_plane_coherence",
    "transferred",
]
