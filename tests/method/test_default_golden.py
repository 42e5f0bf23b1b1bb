"""The default's numbers on phantom slices, as tests/golden/make_default.py recorded them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
from make_default import FILE, fused_from, inputs_from  # noqa: E402

QUARTER_GREY_LEVEL = 0.25 / 127.5


@pytest.mark.parametrize("name", ["clean", "noisy"])
def test_the_default_gives_what_was_recorded(name):
    with np.load(FILE) as golden:
        expected = torch.from_numpy(golden[name].astype(np.float32))
        fused = fused_from(inputs_from(golden["pairs"])[name])
    assert float((fused - expected).abs().max()) < QUARTER_GREY_LEVEL, (
        "the default gives other numbers than recorded; if that is meant: python tests/golden/make_default.py"
    )
