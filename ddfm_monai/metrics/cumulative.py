"""The field's metrics as a MONAI metric, for evaluators and training loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics.metric import CumulativeIterationMetric
from torch import Tensor

from ddfm_monai.errors import InputError
from ddfm_monai.metrics.pair import METRIC_NAMES, evaluate_pair

__all__ = ["FusionQuality"]


class FusionQuality(CumulativeIterationMetric):
    """Metrics of fused slices against their two sources, cumulated over iterations and averaged.

    Called as ``metric(y_pred, y)`` with ``y_pred``: fused slices ``(B, 1, H, W)``, and ``y``: their sources
    ``(B, 2, H, W)``, both in [0, 1]; gives ``(B, len(names))``. `aggregate` gives the mean over all slices seen since
    the last `reset`, one value per name. Slices are rounded to 8 bit first, as the field's tables are computed.

    Args:
        names: which of `METRIC_NAMES`, in which order.

    Example:
        >>> metric = FusionQuality(["MI", "Qabf"])
        >>> metric(torch.rand(3, 1, 64, 64), torch.rand(3, 2, 64, 64)).shape
        torch.Size([3, 2])
        >>> metric.aggregate().shape
        torch.Size([2])
    """

    def __init__(self, names: Sequence[str] = METRIC_NAMES) -> None:
        super().__init__()
        unknown = set(names).difference(METRIC_NAMES)
        if unknown:
            raise ValueError(f"no metric is called {', '.join(sorted(unknown))}; known are {', '.join(METRIC_NAMES)}.")
        self.names = tuple(names)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **_: Any) -> Tensor:
        if y is None or y_pred.ndim != 4 or y.shape != (len(y_pred), 2, *y_pred.shape[2:]) or y_pred.shape[1] != 1:
            found = None if y is None else tuple(y.shape)
            raise InputError(f"expected y_pred (B, 1, H, W) and y (B, 2, H, W); found {tuple(y_pred.shape)}, {found}.")
        fused, sources = ((255 * x.detach().cpu().float()).round() for x in (y_pred, y))
        rows = [evaluate_pair(f[0], a, b) for f, (a, b) in zip(fused, sources, strict=True)]
        return torch.tensor([[row[name] for name in self.names] for row in rows])

    def aggregate(self) -> Tensor:
        """The mean of each metric over all slices since the last reset: ``(len(names),)``.

        Raises:
            ValueError: nothing was measured yet.
        """
        values = self.get_buffer()
        if not isinstance(values, Tensor):
            raise ValueError("no slice was measured yet; call the metric first.")
        return values.mean(dim=0)
