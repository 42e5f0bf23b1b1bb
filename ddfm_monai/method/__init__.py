"""DDFM itself: tensors in, tensors out. Knows nothing of files, volumes or patients."""

from ddfm_monai.method.foreign import on_linear_schedule
from ddfm_monai.method.inferer import DDFMInferer, SourceNoise, Step, noise_field
from ddfm_monai.method.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from ddfm_monai.method.noise import Noise
from ddfm_monai.method.noise_estimate import estimate_noise
from ddfm_monai.method.schedule import RespacedDDIM, kept_timesteps

__all__ = [
    "LIKELIHOODS",
    "DDFMInferer",
    "Likelihood",
    "Noise",
    "RespacedDDIM",
    "SourceNoise",
    "Step",
    "estimate_noise",
    "kept_timesteps",
    "make_likelihood",
    "noise_field",
    "on_linear_schedule",
]
