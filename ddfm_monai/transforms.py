"""The MONAI surface: fusion as an array transform and as a dictionary transform."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.transforms.lazy.functional import apply_pending
from monai.transforms.transform import MapTransform, Transform
from monai.utils import convert_to_tensor, ensure_tuple
from monai.utils.enums import TransformBackends

from ddfm_monai.fusion.pipeline import FusionResult, fuse_volumes
from ddfm_monai.priors import Prior, as_prior
from ddfm_monai.settings import DEFAULT_PRIOR, FusionSettings, takes_settings
from ddfm_monai.switches import META_TRACKED

__all__ = ["DDFMFuse", "DDFMFuseD", "DDFMFuseDict", "DDFMFused"]


@takes_settings
class DDFMFuse(Transform):
    """Fuse two volumes of one patient into one on the reference's grid, by DDFM.

    The volumes are channel-first MetaTensors ``(C, X, Y, Z)`` as ``LoadImage(ensure_channel_first=True)`` gives them,
    on any two grids that overlap, in their own intensities. Arrays and plain tensors are taken as lying on one grid.
    The prior is loaded on first use and kept.

    Args:
        prior: a loaded prior, a network of one's own (see :func:`~ddfm_monai.priors.prior_of`), a known name
            (``ddfm prior list`` has them), or the path of a weight file.
        settings: all settings at once; those that are named besides replace its own.
        {settings}

    Raises:
        UsageError: for settings that no fusion could take.
        TypeError: for a setting that does not exist.

    Example:
        >>> fuse = DDFMFuse(second_kind="ct", window="soft")
        >>> fused = fuse(mri, ct)  # MetaTensor (1, X, Y, Z) in [0, 1], affine of mri
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's convention)

    def __init__(
        self,
        prior: torch.nn.Module | str | Path = DEFAULT_PRIOR,
        settings: FusionSettings | None = None,
        **changes: Any,
    ) -> None:
        self.prior = prior
        self.settings = replace(settings or FusionSettings(), **changes)
        self._loaded: Prior | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the loaded weights: a pickled transform says which prior it wants, and workers load it."""
        return {**self.__dict__, "_loaded": None}

    def fuse(self, reference: NdarrayOrTensor, second: NdarrayOrTensor) -> FusionResult:
        """Everything that the fusion gives: volume, provenance, uncertainty, registration."""
        if self._loaded is None:
            self._loaded = as_prior(self.prior)
        with META_TRACKED.held():
            volumes = [_ready(source) for source in (reference, second)]
            return fuse_volumes(*volumes, prior=self._loaded, settings=self.settings)

    def __call__(self, reference: NdarrayOrTensor, second: NdarrayOrTensor) -> torch.Tensor:  # type: ignore[override]
        """The fused volume, (1, X, Y, Z) float32 in [0, 1] or (3, X, Y, Z) RGB; the reference's affine and file name.

        ``meta["ddfm"]`` holds the provenance as JSON text.

        Raises:
            UsageError, InputError: as :func:`ddfm_monai.fuse_volumes`.
        """
        result = self.fuse(reference, second)
        fused = result.fused
        if isinstance(reference, MetaTensor) and "filename_or_obj" in reference.meta:
            fused.meta["filename_or_obj"] = reference.meta["filename_or_obj"]
        fused.meta["ddfm"] = json.dumps(result.provenance)  # text, so that batches of it collate
        return convert_to_tensor(fused, track_meta=META_TRACKED.users())


def _ready(source: NdarrayOrTensor) -> Any:
    """An array or tensor as a tensor, with the lazy transforms that still wait in it; anything else as it is."""
    if not isinstance(source, (np.ndarray, torch.Tensor)):
        return source
    volume = convert_to_tensor(source, track_meta=True)
    return apply_pending(volume)[0] if isinstance(volume, MetaTensor) and volume.has_pending_operations else volume


@takes_settings
class DDFMFused(MapTransform):
    """Dictionary version of :class:`DDFMFuse`. Unlike most dictionary transforms it reads both keys to write one.

    Args:
        keys: exactly two: the reference, which gives grid and name, and the second volume.
        output_key: where the fused volume goes.
        allow_missing_keys: leave a dictionary alone that lacks one of the keys.
        prior: a loaded prior, a network of one's own (see :func:`~ddfm_monai.priors.prior_of`), a known name
            (``ddfm prior list`` has them), or the path of a weight file.
        settings: all settings at once; those that are named besides replace its own.
        {settings}

    Raises:
        ValueError: unless there are exactly two keys.
        UsageError: for settings that no fusion could take.
        TypeError: for a setting that does not exist.

    Example:
        >>> chain = Compose([LoadImaged(("mri", "ct"), ensure_channel_first=True), DDFMFused(("mri", "ct"), "fused")])
        >>> fused = chain({"mri": "mri.nii.gz", "ct": "ct.nii.gz"})["fused"]
    """

    backend = DDFMFuse.backend

    def __init__(
        self,
        keys: KeysCollection,
        output_key: str = "fused",
        allow_missing_keys: bool = False,
        prior: torch.nn.Module | str | Path = DEFAULT_PRIOR,
        settings: FusionSettings | None = None,
        **changes: Any,
    ) -> None:
        if len(ensure_tuple(keys)) != 2:
            raise ValueError(f"keys are {keys!r}; exactly two are expected: the reference and the second volume.")
        super().__init__(keys, allow_missing_keys)
        self.output_key = output_key
        self.transform = DDFMFuse(prior, settings, **changes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        sources = [d[key] for key in self.key_iterator(d)]
        if len(sources) == 2:
            d[self.output_key] = self.transform(*sources)
        return d


DDFMFuseD = DDFMFuseDict = DDFMFused
