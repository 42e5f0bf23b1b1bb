"""Training a prior. The bundle ``bundles/ddfm_prior`` puts these pieces on MONAI's ``SupervisedTrainer``."""

from ddfm_monai.priors.precision import bf16_pays
from ddfm_monai.training.data import ResumableSampler, SliceBatches, Slices, read_slices, to_network
from ddfm_monai.training.export import export_prior, load_weights, write_report
from ddfm_monai.training.handlers import (
    Checkpoints,
    CsvLog,
    ExponentialMovingAverage,
    ExportAtEnd,
    GradientClipping,
    LearningRate,
)
from ddfm_monai.training.label_maps import LabelMap, read_label_maps
from ddfm_monai.training.objective import (
    NoisePredictionError,
    NoisePrepareBatch,
    NoisyCases,
    VelocityInferer,
    prepare_noisy,
)
from ddfm_monai.training.rendering import render_slices
from ddfm_monai.training.reslicing import reslice
from ddfm_monai.training.sampling import PriorSampler, WriteSlicesd
from ddfm_monai.training.stock import training_slices

__all__ = [
    "Checkpoints",
    "CsvLog",
    "ExponentialMovingAverage",
    "ExportAtEnd",
    "GradientClipping",
    "LabelMap",
    "LearningRate",
    "NoisePredictionError",
    "NoisePrepareBatch",
    "NoisyCases",
    "PriorSampler",
    "ResumableSampler",
    "SliceBatches",
    "Slices",
    "VelocityInferer",
    "WriteSlicesd",
    "bf16_pays",
    "export_prior",
    "load_weights",
    "prepare_noisy",
    "read_label_maps",
    "read_slices",
    "render_slices",
    "reslice",
    "to_network",
    "training_slices",
    "write_report",
]
