"""The nine metrics are those of the field's evaluator, to 1e-6."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ddfm_monai.metrics import METRIC_NAMES, evaluate_pair

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = json.loads((GOLDEN / "metrics.json").read_text())


@pytest.mark.parametrize("k", range(len(EXPECTED)))
def test_every_metric_agrees_with_the_recorded_one(k: int) -> None:
    images = np.load(GOLDEN / "metrics.npz")
    found = evaluate_pair(images[f"f{k}"], images[f"a{k}"], images[f"b{k}"])
    assert set(found) == set(METRIC_NAMES) == set(EXPECTED[k])
    for name, expected in EXPECTED[k].items():
        # The field's SCD divides 0 by 0 where f is a copy of a; ours is defined (test_classic.py says how).
        if not np.isnan(expected):
            assert found[name] == pytest.approx(expected, rel=1e-6), name
