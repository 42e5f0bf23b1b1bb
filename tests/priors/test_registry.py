"""Where weights come from, and everything that can be wrong with them."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ddfm_monai.errors import UsageError
from ddfm_monai.files import sha256_of
from ddfm_monai.method.schedule import alphas_cumprod
from ddfm_monai.phantom import write_phantom
from ddfm_monai.priors import ADMUNet, download_prior, find_prior, known_priors, load_prior, registry

ADM = {"image_size": 32, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "16"}


@pytest.fixture
def copy_of_tiny(tiny_prior_path: Path, tmp_path: Path) -> Path:
    for suffix in (".safetensors", ".json"):
        (tmp_path / f"mine{suffix}").write_bytes(tiny_prior_path.with_suffix(suffix).read_bytes())
    return tmp_path / "mine.safetensors"


def test_a_file_with_its_configuration(copy_of_tiny):
    prior = load_prior(copy_of_tiny)
    assert prior.name == "mine" and prior.sha256 == sha256_of(copy_of_tiny)
    x = torch.randn(2, 1, 4 * prior.stride, 2 * prior.stride)
    assert prior(x, torch.tensor([3, 700])).shape == x.shape
    assert not prior.training and not any(p.requires_grad for p in prior.parameters())


def test_guided_diffusion_checkpoint_with_its_keys_alone(tmp_path):
    network = ADMUNet(**ADM, learn_sigma=True, num_heads=2)
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    (tmp_path / "theirs.json").write_text(json.dumps({**ADM, "learn_sigma": True, "num_heads": 2}))
    prior = load_prior(tmp_path / "theirs.pt")
    assert prior.in_channels == 3
    x = torch.randn(1, 3, 32, 32)
    assert prior(x, torch.tensor([5])).shape == x.shape  # variances are dropped


def test_shipped_priors_are_listed():
    assert "imagenet256" in known_priors()


def test_the_open_prior_names_its_sources_and_terms_and_is_not_the_other_one():
    card = known_priors()["open"]
    assert card.about["terms"].startswith("Apache-2.0")
    for source in ("SynthSeg", "studyforrest", "torchio-data"):
        assert source in card.about["training_data"]
    ours, theirs = load_prior("open"), load_prior("medical")
    assert ours.network.config == theirs.network.config  # same size, same run time
    close = torch.stack([a.float().sub(b.float()).norm() / b.float().norm() for a, b in _matrices(ours, theirs)])
    assert close.median() > 0.9  # trained from nothing, not from weights under other terms


def _matrices(ours, theirs):
    pairs = zip(ours.network.state_dict().values(), theirs.network.state_dict().values(), strict=True)
    return [(a, b) for a, b in pairs if a.ndim == 4]


@pytest.mark.parametrize("sd", [10, 25])
def test_the_open_prior_denoises_the_phantom(sd, tmp_path):
    """Anatomy that it has not seen: the middle slice of the phantom's CT, in the brain window."""
    ct = nib.load(write_phantom(tmp_path, resolution=1.2, noise="none").ct).get_fdata()
    clean = torch.from_numpy(np.clip((ct[16:176, 16:208, ct.shape[2] // 2] - 0) / 80, 0, 1)).float() * 2 - 1
    noise = sd / 127.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    abar = alphas_cumprod(1000).float()
    step = int((((1 - abar) / abar).sqrt() - sd / 127.5).abs().argmin())
    x = abar[step].sqrt() * (clean + noise)
    predicted = load_prior("open")(x[None, None], torch.tensor([step]))[0, 0]
    found = (x - (1 - abar[step]).sqrt() * predicted) / abar[step].sqrt()
    gain = 20 * torch.log10(noise.norm() / (found - clean).norm())
    assert gain > 6


@pytest.mark.parametrize("name", ["nonsense", "nowhere.safetensors"])
def test_unknown_names_and_missing_files(name):
    with pytest.raises(UsageError, match=name):
        load_prior(name)


def test_missing_weights_say_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"ddfm prior download imagenet256.*256x256_diffusion_uncond.pt"):
        load_prior("imagenet256")


def test_an_installed_package_says_where_the_weights_for_research_are(tmp_path, monkeypatch):
    card = replace(known_priors()["medical"], path=tmp_path / "medical.safetensors")  # a wheel leaves them out
    monkeypatch.setattr("ddfm_monai.priors.registry.known_priors", lambda: {"medical": card})
    with pytest.raises(UsageError, match=r"not on this machine.*repository of ddfm-monai.*medical\.safetensors"):
        load_prior("medical")


def test_changed_weights_are_refused(copy_of_tiny):
    data = bytearray(copy_of_tiny.read_bytes())
    data[-1] ^= 1
    copy_of_tiny.write_bytes(data)
    with pytest.raises(UsageError, match="SHA-256"):
        load_prior(copy_of_tiny)


def _forget_hash(path: Path) -> None:
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**card, "sha256": ""}))


def test_truncated_weights_are_refused(copy_of_tiny):
    _forget_hash(copy_of_tiny)
    copy_of_tiny.write_bytes(copy_of_tiny.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"mine\.safetensors"):
        load_prior(copy_of_tiny)


class _Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trap-was-run"),))


def test_a_pickle_that_would_run_code_is_refused(copy_of_tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    path.write_bytes(pickle.dumps(_Trap()))
    path.with_suffix(".json").write_text(copy_of_tiny.with_suffix(".json").read_text())
    _forget_hash(path)
    with pytest.raises(UsageError, match="plain weights"):
        load_prior(path)
    assert not Path("trap-was-run").exists()


def test_weights_that_do_not_fit(copy_of_tiny):
    card = json.loads(copy_of_tiny.with_suffix(".json").read_text())
    card["config"]["channels"] = [16, 32]
    copy_of_tiny.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(UsageError, match="do not fit"):
        load_prior(copy_of_tiny)


@pytest.mark.parametrize("text", ["", "[]", '{"architecture": "Nothing", "config": {}}', '{"config": {}}'])
def test_broken_configurations(copy_of_tiny, text):
    copy_of_tiny.with_suffix(".json").write_text(text)
    with pytest.raises(UsageError, match="mine"):
        load_prior(copy_of_tiny)
    copy_of_tiny.with_suffix(".json").unlink()
    with pytest.raises(UsageError, match="configuration is missing"):
        load_prior(copy_of_tiny)


def test_download_checks_the_hash_and_leaves_nothing_half(tmp_path, monkeypatch, tiny_prior_path):
    from dataclasses import replace

    card = replace(find_prior("imagenet256"), path=tmp_path / "cache" / "w.pt", url=tiny_prior_path.as_uri())
    monkeypatch.setattr(registry, "known_priors", lambda: {"imagenet256": card})
    with pytest.raises(UsageError, match="SHA-256"):
        download_prior("imagenet256")
    assert list((tmp_path / "cache").iterdir()) == []
    card = replace(card, sha256=sha256_of(tiny_prior_path))
    seen = []
    path = download_prior("imagenet256", lambda done, total: seen.append(done))
    assert load_file(path).keys() == load_file(tiny_prior_path).keys()
    assert seen[-1] == tiny_prior_path.stat().st_size
    card = replace(card, url="file:///no/such/file", path=tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"put it at .*other.pt"):
        download_prior("imagenet256")


def test_loading_leaves_the_callers_random_numbers_alone(tiny_prior_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_prior(tiny_prior_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_prior_in_another_arithmetic_leaves_the_first_as_it_was(tiny_prior_path: Path) -> None:
    prior = load_prior(tiny_prior_path)
    other = prior.on(torch.device("cpu"), torch.bfloat16)
    assert (prior.precision, other.precision) == (torch.float32, torch.bfloat16)
    assert other.network is prior.network and (other.name, other.stride) == (prior.name, prior.stride)
    elsewhere = prior.on(torch.device("meta"), torch.float32)
    assert (prior.device.type, elsewhere.device.type) == ("cpu", "meta")
