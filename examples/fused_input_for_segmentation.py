"""Fused volumes as the input of a segmentation network: fused once, cached, and fed in batches.

A two-class UNet learns to find the bright lesions that it is shown; what matters is how the fusion sits in the chain:
before the random transforms, inside the cache, so that every pair is fused once and not once an epoch.

python examples/fused_input_for_segmentation.py mri.nii.gz ct.nii.gz label.nii.gz
"""

from __future__ import annotations

import argparse

import torch
from monai.data import CacheDataset, DataLoader
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureTyped,
    LoadImaged,
    RandCropByPosNegLabeld,
    RandFlipd,
    SelectItemsd,
)

from ddfm_monai import DDFMFused
from ddfm_monai.settings import DEFAULT_PRIOR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference")
    parser.add_argument("second")
    parser.add_argument("label", help="labels on the reference's grid")
    parser.add_argument("--prior", default=DEFAULT_PRIOR, help="a known prior or a weight file")
    parser.add_argument("--iterations", type=int, default=20)
    arguments = parser.parse_args()
    chain = Compose(
        [
            LoadImaged(("reference", "second", "label"), ensure_channel_first=True),
            DDFMFused(("reference", "second"), output_key="image", prior=arguments.prior),  # from here on cached
            SelectItemsd(("image", "label")),
            EnsureTyped(("image", "label"), track_meta=False),
            RandCropByPosNegLabeld(("image", "label"), label_key="label", spatial_size=(32, 32, 4), num_samples=2),
            RandFlipd(("image", "label"), prob=0.5, spatial_axis=0),
        ]
    )
    case = {"reference": arguments.reference, "second": arguments.second, "label": arguments.label}
    loader = DataLoader(CacheDataset([case], chain, progress=False), batch_size=1)
    network = UNet(spatial_dims=3, in_channels=1, out_channels=2, channels=(8, 16), strides=((2, 2, 1),))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    loss_function = DiceCELoss(to_onehot_y=True, softmax=True)
    for iteration in range(arguments.iterations):
        batch = next(iter(loader))
        loss = loss_function(network(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"iteration {iteration} loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
