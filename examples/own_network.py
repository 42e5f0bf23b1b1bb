"""`DDFMInferer` with a diffusion network of one's own: MONAI's UNet, a scaled-linear schedule, velocity prediction.

The network here has random weights; put yours in its place. Slices are (B, 2, H, W) in [-1, 1], reference and second.

python examples/own_network.py
"""

from __future__ import annotations

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler

from ddfm_monai import DDFMInferer


def main() -> None:
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(16, 32),
        attention_levels=(False, False),
        num_res_blocks=1,
        norm_num_groups=8,
    ).eval()
    scheduler = DDPMScheduler(1000, schedule="scaled_linear_beta", prediction_type="v_prediction")
    reference, second = (2 * torch.rand(1, 1, 64, 64) - 1 for _ in range(2))
    inferer = DDFMInferer(num_inference_steps=5, likelihood="paper", scheduler=scheduler)
    fused = inferer(torch.cat([reference, second], dim=1), network)
    print("fused", tuple(fused.shape), f"{fused.min():.2f} to {fused.max():.2f}")


if __name__ == "__main__":
    main()
