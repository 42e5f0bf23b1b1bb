"""The MONAI metric gives what the plain function gives."""

from __future__ import annotations

import pytest
import torch

from ddfm_monai.errors import InputError
from ddfm_monai.metrics import METRIC_NAMES, FusionQuality, evaluate_pair


def test_batches_cumulate_to_the_mean_over_slices() -> None:
    generator = torch.Generator().manual_seed(0)
    fused, sources = torch.rand(5, 1, 40, 44, generator=generator), torch.rand(5, 2, 40, 44, generator=generator)
    metric = FusionQuality()
    assert metric(fused[:3], sources[:3]).shape == (3, len(METRIC_NAMES))
    metric(fused[3:], sources[3:])
    rows = [evaluate_pair(*(255 * x).round()) for x in torch.cat([fused, sources], dim=1)]
    expected = [sum(row[name] for row in rows) / 5 for name in METRIC_NAMES]
    assert metric.aggregate().tolist() == pytest.approx(expected, rel=1e-5)
    metric.reset()
    metric(fused[:1], sources[:1])
    assert metric.aggregate().tolist() == pytest.approx(list(rows[0].values()), rel=1e-5)


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="PSNRR"):
        FusionQuality(["EN", "PSNRR"])
    with pytest.raises(ValueError, match="yet"):
        FusionQuality().aggregate()
    with pytest.raises(InputError, match="B, 2, H, W"):
        FusionQuality()(torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32))
