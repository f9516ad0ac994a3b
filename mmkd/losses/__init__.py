"""Distillation losses: a pure function and its registered Module, one idea a file."""
from mmkd.losses.adversarial import AdversarialLoss as AdversarialLoss
from mmkd.losses.assignment_kl import AssignmentKLLoss as AssignmentKLLoss
from mmkd.losses.assignment_kl import assignment_kl as assignment_kl
from mmkd.losses.base import Loss as Loss
from mmkd.losses.dirichlet_nll import DirichletNLLLoss as DirichletNLLLoss
from mmkd.losses.dirichlet_nll import dirichlet_nll as dirichlet_nll
from mmkd.losses.ensemble_kl import EnsembleKLLoss as EnsembleKLLoss
from mmkd.losses.ensemble_kl import ensemble_kl as ensemble_kl
from mmkd.losses.ensemble_statistics import EnsembleStatistics as EnsembleStatistics
from mmkd.losses.pair_wise_affinity import PairWiseAffinityLoss as PairWiseAffinityLoss
from mmkd.losses.pair_wise_affinity import pair_wise_affinity as pair_wise_affinity
from mmkd.losses.pixel_wise_kl import PixelWiseKLLoss as PixelWiseKLLoss
from mmkd.losses.pixel_wise_kl import pixel_wise_kl as pixel_wise_kl
from mmkd.losses.proxy_dirichlet import ProxyDirichletLoss as ProxyDirichletLoss
from mmkd.losses.proxy_dirichlet import proxy_dirichlet as proxy_dirichlet
