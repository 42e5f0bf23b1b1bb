"""The training's parts: slices from folders, batches, resuming, the loss, the exported prior."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from ddfm_monai.errors import InputError, UsageError
from ddfm_monai.method.schedule import alphas_cumprod
from ddfm_monai.priors import SliceUNet, load_prior
from ddfm_monai.training import (
    LearningRate,
    NoisePredictionError,
    NoisePrepareBatch,
    NoisyCases,
    ResumableSampler,
    SliceBatches,
    VelocityInferer,
    export_prior,
    load_weights,
    read_slices,
    to_network,
)

VIEWS = [
    {"size": 32, "batch": 3, "power": 2.0, "timesteps": [0, 1000], "upright": False, "share": [1.0, 0.0]},
    {"size": 64, "batch": 1, "power": 1.0, "timesteps": [0, 1000], "upright": True, "share": [0.0, 1.0]},
]
SHARES = {"mr": 0.5, "ct": 0.5}


def tiny_network(seed: int = 0) -> SliceUNet:
    torch.manual_seed(seed)
    network = SliceUNet(channels=(8, 16), down_blocks=(1, 1), up_blocks=(1, 1), num_heads=2)
    for parameter in network.parameters():  # the zero layers too, so that the outputs say something
        torch.nn.init.normal_(parameter, std=0.1)
    return network


def disc(size: int = 48, radius: int = 16, grey: int = 200) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return (grey * (np.hypot(x, y) < radius)).astype(np.uint8)


def write(folder: Path, name: str, pixels: np.ndarray, affine: np.ndarray | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(pixels, np.diag([-1.0, -1, 5, 1]) if affine is None else affine), folder / name)


# --- data -------------------------------------------------------------------------------------------------------------


def test_slices_are_axial_whatever_the_orientation_of_the_file(tmp_path: Path) -> None:
    pixels = np.zeros((20, 24, 3), np.uint8)
    pixels[2:6, 3:20, 1] = 90  # LPS: x to the left, y to the back
    write(tmp_path / "a", "mri.nii.gz", pixels)
    ras = nib.load(tmp_path / "a" / "mri.nii.gz").as_reoriented([[0, -1], [1, -1], [2, 1]])
    (tmp_path / "b").mkdir()
    nib.save(ras, tmp_path / "b" / "mri.nii.gz")
    first, second = (read_slices(tmp_path / folder)["mr"] for folder in "ab")
    assert len(first) == len(second) == 1  # the two empty slices are left out
    assert first[0].dtype == np.uint8
    assert (first[0] == pixels[:, :, 1].T).all()
    assert (first[0] == second[0]).all()


def test_volumes_that_are_not_8_bit_are_scaled_by_modality(tmp_path: Path) -> None:
    pixels = np.full((32, 32, 2), -1000, np.int16)
    pixels[8:24, 8:24] = 40
    pixels[12:16, 12:16] = 1000
    write(tmp_path, "head.nii.gz", pixels)  # Hounsfield units tell that it is CT
    found = read_slices(tmp_path)["ct"][0]
    assert found[0, 0] == 0
    assert found[13, 13] == 255
    assert 0 < found[20, 20] < 255


def test_colour_volumes_are_left_out(tmp_path: Path) -> None:
    rgb = np.zeros((8, 8, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    write(tmp_path, "pet_rgb.nii.gz", rgb)
    write(tmp_path, "pet.nii.gz", disc()[:, :, None])
    assert len(read_slices(tmp_path)["pet"]) == 1


def test_data_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--dataset_dir"):
        read_slices(None)
    with pytest.raises(UsageError, match="no such folder"):
        read_slices(tmp_path / "absent")
    with pytest.raises(UsageError, match="no grey NIfTI volume"):
        read_slices(tmp_path)
    write(tmp_path, "mri.nii.gz", np.zeros((8, 8, 2), np.uint8))
    with pytest.raises(UsageError, match="no grey NIfTI volume"):
        read_slices(tmp_path)
    write(tmp_path, "mri.nii.gz", np.ones((8, 8, 2, 3), np.uint8))
    with pytest.raises(InputError, match=r"mri\.nii\.gz.*three dimensions"):
        read_slices(tmp_path)
    (tmp_path / "mri.nii.gz").write_bytes(b"not a volume")
    with pytest.raises(InputError, match=r"mri\.nii\.gz"):
        read_slices(tmp_path)


def test_a_batch_depends_on_seed_and_index_only() -> None:
    slices = {"mr": [disc()], "ct": [disc(grey=255)]}
    batches = SliceBatches(slices, 10, VIEWS, SHARES, seed=1)
    again = SliceBatches(slices, 10, VIEWS, SHARES, seed=1)
    other = SliceBatches(slices, 10, VIEWS, SHARES, seed=2)
    assert batches[0]["image"].shape == (3, 1, 32, 32)
    assert batches[9]["image"].dtype == torch.float32
    assert all(torch.equal(batches[i]["image"], again[i]["image"]) for i in (7, 2, 9))
    assert not torch.equal(batches[0]["image"], other[0]["image"])
    images = [batches[i]["image"] for i in range(10)]
    assert min(float(image.min()) for image in images) == -1
    assert max(float(image.max()) for image in images) == 1
    assert all((image > -0.9).any() for image in images)  # a crop always shows some of the object


def test_pictures_smaller_than_the_crop_are_padded_with_background() -> None:
    image = SliceBatches({"mr": [disc(48)]}, 1, [VIEWS[1] | {"batch": 8, "share": [1, 1]}], {"mr": 1.0})[0]["image"]
    assert (image[:, :, :2] == -1).all()
    assert (image == -1).float().mean() > 0.5


@pytest.mark.parametrize("upright", [True, False])
def test_whole_slices_stay_upright_where_asked(upright: bool) -> None:
    pixels = disc(64)
    pixels[32:] = 0  # the upper half of a disc
    view = [VIEWS[1] | {"batch": 40, "upright": upright, "share": [1, 1]}]
    images = SliceBatches({"ct": [pixels]}, 1, view, {"ct": 1.0})[0]["image"]
    top_is_brighter = images[:, :, :32].mean((1, 2, 3)) > images[:, :, 32:].mean((1, 2, 3))
    assert bool(top_is_brighter.all()) == upright


def test_data_without_any_modality_that_has_a_share_is_refused() -> None:
    with pytest.raises(UsageError, match="pet"):
        SliceBatches({"pet": [disc()]}, 1, VIEWS, SHARES)


def test_the_sampler_goes_on_where_a_training_stopped() -> None:
    sampler = ResumableSampler(SliceBatches({"mr": [disc()]}, 5, VIEWS, SHARES))
    assert list(sampler) == [0, 1, 2, 3, 4]
    sampler.start = 3
    assert list(sampler) == [3, 4]


# --- what the trainer computes ----------------------------------------------------------------------------------------


def test_a_perfect_noise_prediction_has_the_target_velocity() -> None:
    image = torch.rand(4, 1, 16, 16) * 2 - 1
    batch = {"image": image, "iteration": 5, "power": 2.0, "timesteps": [0, 1000]}
    clean, target, _, drawn = NoisePrepareBatch(seed=3)(batch, "cpu")
    assert torch.equal(clean, image)

    def oracle(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        abar = alphas_cumprod().float()[timesteps][:, None, None, None]
        return (noisy - abar.sqrt() * image) / (1 - abar).sqrt()

    velocity = VelocityInferer()(clean, oracle, **drawn)
    torch.testing.assert_close(velocity, target, atol=2e-3, rtol=2e-3)


def test_noise_and_timesteps_depend_on_seed_and_iteration_only() -> None:
    batch = {"image": torch.zeros(64, 1, 8, 8), "iteration": 5, "power": 3.0, "timesteps": [200, 700]}
    drawn = [
        NoisePrepareBatch(seed=s)({**batch, "iteration": i}, "cpu")[3] for s, i in ((1, 5), (1, 5), (1, 6), (2, 5))
    ]
    assert torch.equal(drawn[0]["noise"], drawn[1]["noise"])
    assert torch.equal(drawn[0]["timesteps"], drawn[1]["timesteps"])
    assert not torch.equal(drawn[0]["noise"], drawn[2]["noise"])
    assert not torch.equal(drawn[0]["noise"], drawn[3]["noise"])
    assert drawn[0]["timesteps"].min() >= 200 and drawn[0]["timesteps"].max() < 700
    assert drawn[0]["timesteps"].float().mean() < 400  # power 3 favours little noise: 325 on average


def test_the_learning_rate_warms_up_stays_and_decays_to_zero() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    rate = LearningRate(optimizer, iterations=100, peak=2.0, warmup=10, decay=0.4)
    assert rate.at(0) == pytest.approx(0.2)
    assert rate.at(9) == rate.at(59) == pytest.approx(2.0)
    assert rate.at(80) == pytest.approx(1.0)
    assert rate.at(100) == pytest.approx(0.0)


# --- the network and what is written ----------------------------------------------------------------------------------


def test_the_network_does_not_mind_size_batch_or_background() -> None:
    """No global statistics: far from the border a pixel's result does not depend on the rest of the picture."""
    network = tiny_network().eval()
    network.attention = torch.nn.Identity()
    wide = torch.randn(2, 1, 96, 96)
    steps = torch.tensor([10, 700])
    with torch.inference_mode():
        whole = network(wide, steps)
        part = network(wide[:1, :, 16:80, 16:80], steps[:1])
    assert whole.shape == wide.shape
    torch.testing.assert_close(whole[:1, :, 40:56, 40:56], part[:, :, 24:40, 24:40], atol=1e-5, rtol=1e-4)


def test_a_wrong_size_or_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny_network()(torch.zeros(1, 1, 30, 32), torch.tensor([3]))
    with pytest.raises(ValueError, match="one entry per level"):
        SliceUNet(channels=(8, 16), down_blocks=(1,), up_blocks=(1, 1))


def test_the_noise_prediction_error_of_a_silent_network_is_one() -> None:
    error = NoisePredictionError(
        lambda x, t: torch.zeros_like(x), NoisyCases({"mr": [disc()], "ct": [disc()] * 5}, 2)
    )()
    assert set(error) == {"mean", *(f"t{i}00" for i in range(10)), "mr", "ct"}
    assert error["mean"] == pytest.approx(1, abs=0.02)


def test_padding_for_the_network_is_background() -> None:
    image = to_network(disc(30), 16)
    assert image.shape == (1, 1, 32, 32)
    assert (image[..., 30:, :] == -1).all()


def test_an_exported_prior_is_what_load_prior_reads(tmp_path: Path) -> None:
    network = tiny_network().eval()
    path = export_prior(network, tmp_path / "mine.safetensors", {"data": "discs"})
    prior = load_prior(path)
    x, steps = torch.randn(2, 1, 16, 16), torch.tensor([5, 900])
    torch.testing.assert_close(prior(x, steps), network(x, steps), atol=2e-3, rtol=2e-3)  # half precision
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["card"] == {"data": "discs"}
    assert card["sha256"] == prior.sha256
    assert prior.stride == card["stride"] == 4


def test_weights_that_are_missing_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such weight file"):
        load_weights(tiny_network(), tmp_path / "model.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="do not fit"):
        load_weights(tiny_network(), tmp_path / "model.pt")
    torch.save({"ema": tiny_network(7).state_dict()}, tmp_path / "last.pt")
    loaded = load_weights(tiny_network(), tmp_path / "last.pt")
    assert torch.equal(loaded.state_dict()["head.weight"], tiny_network(7).state_dict()["head.weight"])
