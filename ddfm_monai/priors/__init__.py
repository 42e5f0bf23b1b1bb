"""Generative priors: networks, where their weights come from, and the shipped weights."""

from ddfm_monai.priors.adm_unet import ADMUNet

__all__ = ["ADMUNet"]
