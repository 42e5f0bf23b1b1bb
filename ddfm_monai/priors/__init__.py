"""Generative priors: networks, where their weights come from, and the shipped weights."""

from ddfm_monai.priors.adm_unet import ADMUNet
from ddfm_monai.priors.expert_unet import ExpertUNet
from ddfm_monai.priors.prior import Prior, prior_of
from ddfm_monai.priors.registry import (
    PriorCard,
    as_prior,
    download_prior,
    find_prior,
    known_priors,
    load_prior,
    sha256_of_prior,
    weights_of,
)
from ddfm_monai.priors.slice_unet import SliceUNet

__all__ = [
    "ADMUNet",
    "ExpertUNet",
    "Prior",
    "PriorCard",
    "SliceUNet",
    "as_prior",
    "download_prior",
    "find_prior",
    "known_priors",
    "load_prior",
    "prior_of",
    "sha256_of_prior",
    "weights_of",
]
