"""Distillation losses: a pure function and its registered Module, one idea a file."""
from mmkd.losses.adversarial import AdversarialLoss as AdversarialLoss
from mmkd.losses.base import Loss as Loss
from mmkd.losses.ensemble_statistics import EnsembleStatistics as EnsembleStatistics
from mmkd.losses.pair_wise_affinity import PairWiseAffinityLoss as PairWiseAffinityLoss
from mmkd.losses.pair_wise_affinity import pair_wise_affinity as pair_wise_affinity
from mmkd.losses.pixel_wise_kl import PixelWiseKLLoss as PixelWiseKLLoss
from mmkd.losses.pixel_wise_kl import pixel_wise_kl as pixel_wise_kl
