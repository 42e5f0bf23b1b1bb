"""Where priors come from: the shipped one, the published ImageNet checkpoint, and files of the user's own.

Nothing is fetched unless :func:`download_prior` is called; a missing file is an error that says where to put it.
Weights are read without running code from the file (safetensors, or ``torch.load(weights_only=True)``), and a file
whose SHA-256 differs from the recorded one is refused.
"""

from __future__ import annotations

import errno
import json
import os
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddfm_monai.errors import UsageError
from ddfm_monai.files import atomic_path, check_folder_takes_files, sha256_of
from ddfm_monai.priors.adm_unet import ADMUNet
from ddfm_monai.priors.expert_unet import ExpertUNet
from ddfm_monai.priors.prior import Prior, prior_of, ready
from ddfm_monai.priors.slice_unet import SliceUNet
from ddfm_monai.priors.weights_file import fill
from ddfm_monai.switches import SINGLE_PRECISION

__all__ = [
    "ARCHITECTURES",
    "PriorCard",
    "as_prior",
    "download_prior",
    "find_prior",
    "known_priors",
    "load_prior",
    "sha256_of_prior",
    "weights_of",
]

ARCHITECTURES: dict[str, type[nn.Module]] = {"ADMUNet": ADMUNet, "ExpertUNet": ExpertUNet, "SliceUNet": SliceUNet}

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_IMAGENET_CONFIG = {
    "image_size": 256,
    "num_channels": 256,
    "num_res_blocks": 2,
    "attention_resolutions": "32,16,8",
    "num_head_channels": 64,
    "learn_sigma": True,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}


@dataclass(frozen=True)
class PriorCard:
    """What is known of a prior before its weights are read.

    Args:
        name: how it is asked for.
        architecture: a key of :data:`ARCHITECTURES`.
        config: constructor arguments of the network.
        path: the weight file, which may not exist yet.
        sha256: recorded hash of that file, "" where none is recorded.
        url: where an explicit download gets it, "" if it cannot be downloaded.
        about: everything else that the card says (data, recipe, figures).
    """

    name: str
    architecture: str
    config: dict[str, Any]
    path: Path
    sha256: str = ""
    url: str = ""
    about: dict[str, Any] = field(default_factory=dict)


def known_priors() -> dict[str, PriorCard]:
    """The priors that have a name, whether or not their weights are on this machine."""
    shipped = Path(str(files("ddfm_monai.priors") / "weights"))
    cards = {path.stem: _read_card(path, path.stem) for path in sorted(shipped.glob("*.json"))}
    cards["imagenet256"] = PriorCard(
        name="imagenet256",
        architecture="ADMUNet",
        config=_IMAGENET_CONFIG,
        path=_cache() / "256x256_diffusion_uncond.pt",
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        url="https://openaipublic.blob.core.windows.net/diffusion/jul-2021/256x256_diffusion_uncond.pt",
        about={
            "description": "OpenAI's unconditional 256x256 ImageNet UNet, the prior of the DDFM paper",
            "parameters": 552_814_086,
            "bytes": 2_211_383_297,
            "terms": "MIT (code); trained on ImageNet",
        },
    )
    return cards


def find_prior(name_or_path: str | Path) -> PriorCard:
    """The card of a known prior, or of a weight file with its configuration beside it.

    A file ``mine.safetensors`` (or ``.pt``) needs ``mine.json`` beside it: either guided diffusion's configuration keys
    alone, or ``{"architecture", "config", "sha256"}`` as the training bundle writes it.

    Raises:
        UsageError: if there is no such prior, file or configuration.
    """
    known = known_priors()
    if str(name_or_path) in known:
        return known[str(name_or_path)]
    path = Path(name_or_path)
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UsageError(
            f"{name_or_path}: no such prior. Known are {', '.join(known)}, or give the path of a .safetensors or .pt "
            "file.",
            "E_PRIOR_UNKNOWN",
        )
    if not path.is_file():
        raise UsageError(f"{path}: no such weight file. Check the path.", "E_PRIOR_MISSING")
    config = path.with_suffix(".json")
    if not config.is_file():
        raise UsageError(
            f"{path}: its configuration is missing. Put guided diffusion's settings (image_size, num_channels, ...) "
            f"into {config.name} beside it.",
            "E_PRIOR_CONFIG",
        )
    return _read_card(config, str(path), path)


def load_prior(name_or_path: str | Path, device: str | torch.device | None = None) -> Prior:
    """Load a prior, ready for inference.

    Args:
        name_or_path: ``"open"`` (shipped), ``"medical"`` (in the repository only), ``"imagenet256"`` (from the user's
            cache), or a weight file
            (see :func:`find_prior`).
        device: where to put it; by default the CPU.

    Raises:
        UsageError: if it is unknown, its file is missing or has another hash than recorded, or the weights do not
            fit the configuration.
    """
    card = find_prior(name_or_path)
    weights = weights_of(card)
    network = _build(card)
    digest = fill(network, weights, card.sha256)
    return ready(network, card.name if card.name in known_priors() else card.path.stem, digest).to(device or "cpu")


def weights_of(card: PriorCard) -> Path:
    """The weight file of a prior.

    Raises:
        UsageError: it is not there.
    """
    if not card.path.is_file():
        hint = f"Run 'ddfm prior download {card.name}', or put" if card.url else "Put"
        place = " of the repository of ddfm-monai" if card.about.get("repository_only") else ""
        raise UsageError(
            f"{card.name}: its weights are not on this machine. {hint} the file{place} at {card.path}.",
            "E_PRIOR_MISSING",
        )
    return card.path


def sha256_of_prior(name_or_path: str | Path) -> str:
    """The hash of a prior's weight file as it is now; ``""`` if there is none."""
    path = find_prior(name_or_path).path
    return sha256_of(path) if path.is_file() else ""


def as_prior(prior: nn.Module | str | Path) -> Prior:
    """A prior as it is, a network by :func:`prior_of`, a name or a path by :func:`load_prior`."""
    if isinstance(prior, Prior):
        return prior
    return prior_of(prior) if isinstance(prior, nn.Module) else load_prior(prior)


def download_prior(name: str, report: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """Fetch a known prior's weights into the user's cache; the only place that uses the network.

    Args:
        name: a known prior that has an address.
        report: called with bytes done and bytes in all (0 where unknown).

    Returns:
        Path of the file, whole and with the recorded hash.

    Raises:
        UsageError: if the prior has no address, the transfer fails or the hash differs.
    """
    card = known_priors().get(name)
    if card is None or not card.url:
        raise UsageError(f"{name}: nothing to download. Known are: {', '.join(known_priors())}.", "E_PRIOR_UNKNOWN")
    if card.path.is_file() and sha256_of(card.path) == card.sha256:
        return card.path
    check_folder_takes_files(card.path.parent, int(card.about.get("bytes", 0)))
    with atomic_path(card.path) as temporary:
        try:
            _fetch(card.url, temporary, report)
        except OSError as error:
            if error.errno in _NO_SPACE:
                raise
            raise UsageError(
                f"{card.url}: cannot be downloaded ({error}). Fetch it by other means and put it at {card.path}.",
                "E_PRIOR_DOWNLOAD",
            ) from None
        digest = sha256_of(temporary)
        if digest != card.sha256:
            raise UsageError(f"{card.url}: SHA-256 is {digest}, expected {card.sha256}; not kept.", "E_PRIOR_HASH")
    return card.path


def _fetch(url: str, target: Path, report: Callable[[int, int], None]) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, target.open("wb") as file:
        total, done = int(response.headers.get("Content-Length") or 0), 0
        while chunk := response.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            report(done, total)


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ddfm_monai"


def _read_card(path: Path, name: str, weights: Path | None = None) -> PriorCard:
    try:
        card = json.loads(path.read_text())
        if "config" not in card:  # guided diffusion's keys alone
            card = {"architecture": "ADMUNet", "config": card}
        return PriorCard(
            name=name,
            architecture=card["architecture"],
            config=card["config"],
            path=weights or path.with_suffix(".safetensors"),
            sha256=card.get("sha256", ""),
            about=card.get("card", {}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: not a prior's configuration ({error}). Expected is what the training bundle writes, or guided "
            "diffusion's settings alone.",
            "E_PRIOR_CONFIG",
        ) from None


def _build(card: PriorCard) -> nn.Module:
    if card.architecture not in ARCHITECTURES:
        raise UsageError(
            f"{card.name}: architecture is {card.architecture!r}; known are {', '.join(ARCHITECTURES)}.",
            "E_PRIOR_CONFIG",
        )
    try:
        # The start weights are replaced, and the caller's random state stays as it is.
        with SINGLE_PRECISION.held(), torch.random.fork_rng(devices=[]):
            return ARCHITECTURES[card.architecture](**card.config)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{card.name}: its configuration does not make a network ({error}). Correct the JSON beside the weights.",
            "E_PRIOR_CONFIG",
        ) from None
