"""What the MONAI bundles in ``bundles/`` call from their configs.

The configs stay short and the work stays in :func:`ddfm_monai.fuse_volumes`; here is what joins the two, and the guards
against what a MONAI config swallows silently: a mistyped override, an empty input, missing weights, unequal lists.
"""

from __future__ import annotations

import difflib
import json
import logging
import sys
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigWorkflow
from monai.data.dataset import Dataset
from monai.data.meta_tensor import MetaTensor
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer
from monai.networks.utils import eval_mode
from monai.transforms.transform import MapTransform
from monai.utils.enums import CommonKeys

from ddfm_monai.errors import DDFMError, UsageError
from ddfm_monai.files import check_writable_file, sha256_of
from ddfm_monai.fusion.many import read_ahead
from ddfm_monai.fusion.outputs import output_names, write_outputs
from ddfm_monai.fusion.pairs import Pair, find_pairs, target_in
from ddfm_monai.fusion.pipeline import FusionResult, fuse_volumes
from ddfm_monai.priors import Prior, find_prior
from ddfm_monai.priors.prior import ready, usable
from ddfm_monai.priors.weights_file import fill
from ddfm_monai.progress import Progress, ProgressCallback
from ddfm_monai.settings import DEFAULT_PRIOR, FusionSettings
from ddfm_monai.volumes import read_volume, stem_of

__all__ = [
    "Cases",
    "FusionSettings",
    "PairInferer",
    "PairLoader",
    "ReadPaird",
    "Targets",
    "WriteFusedd",
    "bundle_folder",
    "bundle_root",
    "check_overrides",
    "fuse_pair",
    "load_network",
    "reason_of",
]

_LOG = logging.getLogger("ddfm_monai")
_SET_BY_CLIENTS = ("run_name",)  # MONAI's federated learning client names every run


# --- the workflow that runs ------------------------------------------------------------------------------------------


def bundle_folder(name: str) -> Path:
    """Folder of a bundle that comes with this package: inside it (installed) or beside it (a clone).

    Raises:
        UsageError: if there is none of that name.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "_bundles" / name, package.parent / "bundles" / name):
        if (folder / "configs").is_dir():
            return folder
    raise UsageError(
        f"{name}: this installation of ddfm-monai has no such bundle. ddfm_fusion comes with every installation, "
        "ddfm_prior with a checkout of the repository.",
        "E_BUNDLE",
    )


def bundle_root() -> str:
    """Folder of the bundle whose config is being read, so that a bundle runs from any working directory.

    MONAI's own default, ``"."``, is the working directory and not the bundle.
    """
    workflow = _running_workflow()
    return str(Path(workflow.config_root_path).resolve().parent) if workflow else "."


def check_overrides() -> None:
    """Refuse top-level settings that nothing in the bundle uses: MONAI takes a mistyped one and ignores it.

    To be the first of a config's ``initialize`` expressions. A key is known if one of the bundle's config files has it
    or any expression refers to it.

    Raises:
        UsageError: naming the unknown settings and what was probably meant.
    """
    workflow = _running_workflow()
    if workflow is None:
        return
    _end_with_message()
    known = set(_SET_BY_CLIENTS)
    for path in sorted(Path(workflow.config_root_path).glob("*.json")):
        known |= {key.lstrip("+") for key in json.loads(path.read_text())}
    config: dict[str, Any] = dict(workflow.parser.config)  # type: ignore[arg-type, call-overload]
    text = json.dumps(config, default=str)
    unknown = [
        key
        for key in config
        if key not in known
        and not key.startswith("_")
        and f"@{key}" not in text
        and key not in (workflow.init_id, workflow.run_id, workflow.final_id)
    ]
    if unknown:
        raise UsageError(f"{'; '.join(_guess(key, known) for key in unknown)}.", "E_OVERRIDE")


def _guess(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
    return f"unknown setting {key!r}: {hint}"


def _running_workflow() -> ConfigWorkflow | None:
    """The workflow that evaluates the calling config expression.

    MONAI hands an expression neither its parser nor its file, so the workflow is looked up on the call stack.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow):
            return caller
        frame = frame.f_back
    return None


def _end_with_message() -> None:
    """On the command line, let the last line say what is wrong: MONAI's traceback ends with the failed expression."""
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or main.name != "monai.bundle.__main__":
        return

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        sys.__excepthook__(kind, error, trace)
        print(f"\n{reason_of(error) or _first_cause(error)}", file=sys.stderr)

    sys.excepthook = hook


def _first_cause(error: BaseException) -> BaseException:
    """What was raised first: around it MONAI says only which component could not be made."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def reason_of(error: BaseException) -> DDFMError | None:
    """The error of ours inside the RuntimeErrors that MONAI wraps around whatever an expression raises, if any."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DDFMError):
        cause = cause.__cause__ or cause.__context__
    return cause


# --- the data --------------------------------------------------------------------------------------------------------


class Cases(Sequence[dict[str, str]]):
    """The data list of the bundle, one ``{"reference", "second", "target"}`` of paths per pair.

    The files are looked at when the list is first read, that is when the run starts: a bundle can be loaded without
    data, and then all of it is checked before any work begins.

    Args:
        reference, second: a file each, a folder each (files match by name), or two lists of equal length.
        targets: what the results are called.

    Reading the list raises:
        UsageError: for missing, unmatched or no files, lists of different lengths, two results of one name, or a
            result that exists.
    """

    def __init__(self, reference: str | Sequence[str], second: str | Sequence[str], targets: Targets) -> None:
        self.reference, self.second, self.targets = reference, second, targets

    @cached_property
    def _found(self) -> list[dict[str, str]]:
        cases: dict[Path, dict[str, str]] = {}
        for pair in _pairs(self.reference, self.second):
            target = self.targets.of(pair)
            if target in cases:
                raise _same_name(target, pair)
            cases[target] = {"reference": str(pair.reference), "second": str(pair.second), "target": str(target)}
        return list(cases.values())

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: Any) -> Any:
        return self._found[index]


class Targets:
    """What results are called: ``output_dir / (name of the reference + postfix)``.

    Args:
        output_dir: where the results go.
        postfix: what is added to the reference's name.
        overwrite: replace results that exist.
        settings: of the fusion; they decide which files there will be.
    """

    def __init__(
        self,
        output_dir: str,
        postfix: str = "_fused",
        overwrite: bool = False,
        settings: FusionSettings | None = None,
    ) -> None:
        self.folder, self.postfix, self.overwrite, self.settings = Path(output_dir), postfix, overwrite, settings
        self._given: dict[Path, Pair] = {}

    def of(self, pair: Pair) -> Path:
        """The path of a pair's fused volume.

        Raises:
            UsageError: another pair of this run has that name, or the result exists.
        """
        target = target_in(self.folder, pair, self.postfix)
        if self._given.setdefault(target, pair) != pair:
            raise _same_name(target, pair)
        for path in output_names(target, self.settings).values():
            check_writable_file(path, self.overwrite)
        return target


def _same_name(target: Path, pair: Pair) -> UsageError:
    return UsageError(f"{target}: two references are called {pair.stem!r}. Rename one, or run them apart.")


def _pairs(reference: str | Sequence[str], second: str | Sequence[str]) -> list[Pair]:
    first, other = ([item] if isinstance(item, (str, Path)) else list(item) for item in (reference, second))
    if len(first) != len(other):
        raise UsageError(
            f"reference has {len(first)} entries and second has {len(other)}; they are fused one by one, so give as "
            "many of each.",
            "E_UNEQUAL",
        )
    pairs: list[Pair] = []
    for a, b in zip(first, other, strict=True):
        found, lonely = find_pairs(Path(a), Path(b))
        if lonely:
            names = ", ".join(str(path) for path in lonely)
            raise UsageError(f"no file of the same name in the other folder for: {names}.", "E_UNMATCHED")
        pairs += found
    if not pairs:
        raise UsageError("reference and second are empty lists; there is nothing to fuse.", "E_EMPTY")
    return pairs


class ReadPaird(MapTransform):
    """Read the volumes at ``keys`` with :func:`ddfm_monai.volumes.read_volume`; volumes in memory pass through.

    Args:
        keys: of the reference and of the second source.
        targets: give the result of a reference that comes from a file its name, where the item has none (a data list
            of the user's own).
        target_key: of the path of the fused volume.
    """

    def __init__(self, keys: Any, targets: Targets | None = None, target_key: str = "target") -> None:
        super().__init__(keys)
        self.targets, self.target_key = targets, target_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        paths = {key: d[key] for key in self.key_iterator(d) if not isinstance(d[key], (torch.Tensor, np.ndarray))}
        if self.targets is not None and self.target_key not in d and self.keys[0] in paths:
            reference, second = (Path(str(d[key])) for key in self.keys)
            d[self.target_key] = str(self.targets.of(Pair(stem_of(reference), reference, second)))
        for key, path in paths.items():
            d[key] = read_volume(path)
            if Path(path).is_file():
                d[key].meta["sha256"] = sha256_of(Path(path))  # for provenance
        return d


class PairLoader:
    """The items of a dataset one by one, the next being read while one is fused (as `ddfm fuse` reads folders).

    Args:
        dataset: of pairs.
        sampler: which items, in which order; by default all. Several processes share the pairs by theirs.
    """

    def __init__(self, dataset: Dataset, sampler: Collection[int] | None = None) -> None:
        self.dataset, self.sampler = dataset, sampler

    def __len__(self) -> int:
        return len(self.dataset) if self.sampler is None else len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        indices = range(len(self)) if self.sampler is None else self.sampler
        for _, read in read_ahead(indices, self.dataset.__getitem__):
            yield read()


class WriteFusedd(MapTransform):
    """Write the :class:`~ddfm_monai.fusion.pipeline.FusionResult` at each key to the path at ``target_key``.

    Beside the volume it writes what ``ddfm fuse`` writes: provenance and picture. A case without a target (a
    reference that came from memory) is left to the caller.

    Args:
        keys: of the results.
        target_key: of the path of the fused volume.
    """

    def __init__(self, keys: Any, target_key: str = "target") -> None:
        super().__init__(keys)
        self.target_key = target_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if self.target_key in d:
                for role, path in write_outputs(d[key], Path(d[self.target_key])).items():
                    _LOG.info("%s: %s", role, path)
        return d


# --- the model -------------------------------------------------------------------------------------------------------


def load_network(
    network_def: torch.nn.Module,
    weights: str,
    sha256: str,
    device: str | torch.device = "cpu",
    name: str = DEFAULT_PRIOR,
) -> Prior:
    """Fill the bundle's network with the bundle's weights.

    Args:
        network_def: noise prediction network.
        weights: a plain state dict (``.pt``) or safetensors.
        sha256: what the file must hash to.
        device: where the network goes.
        name: what provenance calls the prior.

    Raises:
        UsageError: if the file is missing, has another hash, or does not fit the network; or there is no such device.
    """
    digest = fill(network_def, *_packaged(Path(weights), sha256))
    with usable(device):
        return ready(network_def, name, digest).to(device)


def _packaged(weights: Path, sha256: str) -> tuple[Path, str]:
    """In an installed package the bundle has no weights of its own: they are the shipped prior's, stored once."""
    if weights.is_file() or "_bundles" not in weights.parts:
        return weights, sha256
    card = find_prior(DEFAULT_PRIOR)
    return card.path, card.sha256


class PairInferer(Inferer):
    """Fuses a pair of whole volumes with a network that knows slices; the bundle's inferer.

    Args:
        settings: those of :class:`~ddfm_monai.settings.FusionSettings`, by name.

    Attributes:
        progress: called after every step; by default it logs every tenth of the sampling.

    Raises:
        TypeError: for a setting that does not exist.
        UsageError: for one that no fusion could take.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = FusionSettings(**settings)
        self.progress: ProgressCallback = _log_tenths()

    def __call__(self, inputs: Sequence[MetaTensor], network: Prior) -> MetaTensor:  # type: ignore[override]
        """Fuse ``inputs = (reference, second)``, (C, X, Y, Z) each; (1 or 3, X, Y, Z) on the reference's grid.

        Raises:
            UsageError, InputError: as :func:`ddfm_monai.fuse_volumes`.
        """
        return self.fuse(inputs[0], inputs[1], network).fused

    def fuse(self, reference: MetaTensor, second: MetaTensor, network: Prior) -> FusionResult:
        """The same with everything that the fusion gives."""
        return fuse_volumes(reference, second, prior=network, progress=self.progress, settings=self.settings)


def fuse_pair(engine: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """One iteration of the bundle's evaluator: ``batch`` has ``"reference"`` and ``"second"``.

    Returns:
        ``{"pred": fused volume, "result": FusionResult}``.
    """
    with eval_mode(engine.network):
        result = engine.inferer.fuse(batch["reference"], batch["second"], engine.network)
    engine.state.output = {CommonKeys.PRED: result.fused, "result": result}
    engine.fire_event(IterationEvents.FORWARD_COMPLETED)
    engine.fire_event(IterationEvents.MODEL_COMPLETED)
    return engine.state.output


def _log_tenths() -> ProgressCallback:
    """A progress callback that logs every tenth of the sampling."""
    last = 0

    def log(progress: Progress) -> None:
        nonlocal last
        tenth = 10 * progress.done // max(progress.total, 1)
        if progress.stage == "fuse" and tenth != last:
            last = tenth
            _LOG.info("fuse %d %%  %s", 10 * tenth, progress.detail)

    return log
