"""Give both bundles the shipped prior's weights: writes ``models/model.pt`` and its hash into the fusion config."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from ddfm_monai.bundle import bundle_folder
from ddfm_monai.files import sha256_of
from ddfm_monai.priors import find_prior
from ddfm_monai.settings import DEFAULT_PRIOR


def main() -> None:
    bundle, card = bundle_folder("ddfm_fusion"), find_prior(DEFAULT_PRIOR)
    weights, config = bundle / "models" / "model.pt", bundle / "configs" / "inference.json"
    settings = json.loads(config.read_text())
    network = {"_target_": f"ddfm_monai.priors.{card.architecture}", **card.config}
    if settings["network_def"] != network:
        raise SystemExit(f"{config}: network_def must become {json.dumps(network)}")
    weights.parent.mkdir(exist_ok=True)
    torch.save(load_file(card.path), weights)
    _pack(weights)
    other = bundle_folder("ddfm_prior") / "models" / "model.pt"
    other.parent.mkdir(exist_ok=True)
    shutil.copyfile(weights, other)
    config.write_text(config.read_text().replace(settings["weights_sha256"], sha256_of(weights)))
    print(f"{weights}: {sha256_of(weights)}")


def _pack(path: Path) -> None:
    """Compress the archive that torch wrote: the same tensors in five sixths of the bytes, read by ``torch.load``."""
    with zipfile.ZipFile(path) as archive:
        content = [(item, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for item, data in content:
            archive.writestr(item.filename, data)


if __name__ == "__main__":
    main()
