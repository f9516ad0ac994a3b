"""Distillation losses: a pure function and its registered Module, one idea a file."""

from mmkd.losses.adversarial.adversarial import AdversarialLoss as AdversarialLoss
from mmkd.losses.adversarial.category_critic import CategoryCritic as CategoryCritic
from mmkd.losses.adversarial.feature_map_critic import FeatureMapCritic as FeatureMapCritic
from mmkd.losses.adversarial.holistic_critic import HolisticCritic as HolisticCritic
from mmkd.losses.base import Loss as Loss
from mmkd.losses.base import Many as Many
from mmkd.losses.base import Map as Map
from mmkd.losses.base import OfBatch as OfBatch
from mmkd.losses.base import Running as Running
from mmkd.losses.boxes.box_overlap import BoxOverlapLoss as BoxOverlapLoss
from mmkd.losses.boxes.box_overlap import box_overlap as box_overlap
from mmkd.losses.divergence.binary_kl import BinaryKLLoss as BinaryKLLoss
from mmkd.losses.divergence.binary_kl import binary_kl as binary_kl
from mmkd.losses.divergence.boosted_target_ce import BoostedTargetCELoss as BoostedTargetCELoss
from mmkd.losses.divergence.boosted_target_ce import boosted_target_ce as boosted_target_ce
from mmkd.losses.divergence.channel_wise_kl import ChannelWiseKLLoss as ChannelWiseKLLoss
from mmkd.losses.divergence.channel_wise_kl import channel_wise_kl as channel_wise_kl
from mmkd.losses.divergence.decoupled_kl import DecoupledKLLoss as DecoupledKLLoss
from mmkd.losses.divergence.decoupled_kl import decoupled_kl as decoupled_kl
from mmkd.losses.divergence.dist import DISTLoss as DISTLoss
from mmkd.losses.divergence.dist import dist as dist
from mmkd.losses.divergence.exit import ExitLoss as ExitLoss
from mmkd.losses.divergence.learned_temperature_kl import (
    LearnedTemperatureKLLoss as LearnedTemperatureKLLoss,
)
from mmkd.losses.divergence.localization_kl import LocalizationKLLoss as LocalizationKLLoss
from mmkd.losses.divergence.localization_kl import localization_kl as localization_kl
from mmkd.losses.divergence.mixed_exit import MixedExitLoss as MixedExitLoss
from mmkd.losses.divergence.mixed_target_ce import MixedTargetCELoss as MixedTargetCELoss
from mmkd.losses.divergence.mixed_target_ce import mixed_target_ce as mixed_target_ce
from mmkd.losses.divergence.normalized_kl import NormalizedKLLoss as NormalizedKLLoss
from mmkd.losses.divergence.normalized_kl import normalized_kl as normalized_kl
from mmkd.losses.divergence.pixel_wise_kl import PixelWiseKLLoss as PixelWiseKLLoss
from mmkd.losses.divergence.pixel_wise_kl import pixel_wise_kl as pixel_wise_kl
from mmkd.losses.divergence.reliability_mix import ReliabilityMixLoss as ReliabilityMixLoss
from mmkd.losses.divergence.reliability_mix import reliability_mix as reliability_mix
from mmkd.losses.divergence.soft_jaccard import SoftJaccardLoss as SoftJaccardLoss
from mmkd.losses.divergence.soft_jaccard import soft_jaccard as soft_jaccard
from mmkd.losses.divergence.top_k_decoupled_kl import TopKDecoupledKLLoss as TopKDecoupledKLLoss
from mmkd.losses.divergence.top_k_decoupled_kl import top_k_decoupled_kl as top_k_decoupled_kl
from mmkd.losses.divergence.weighted_soft_labels import (
    WeightedSoftLabelsLoss as WeightedSoftLabelsLoss,
)
from mmkd.losses.divergence.weighted_soft_labels import weighted_soft_labels as weighted_soft_labels
from mmkd.losses.ensemble.dirichlet_nll import DirichletNLLLoss as DirichletNLLLoss
from mmkd.losses.ensemble.dirichlet_nll import dirichlet_nll as dirichlet_nll
from mmkd.losses.ensemble.ensemble_kl import EnsembleKLLoss as EnsembleKLLoss
from mmkd.losses.ensemble.ensemble_kl import ensemble_kl as ensemble_kl
from mmkd.losses.ensemble.proxy_dirichlet import ProxyDirichletLoss as ProxyDirichletLoss
from mmkd.losses.ensemble.proxy_dirichlet import proxy_dirichlet as proxy_dirichlet
from mmkd.losses.ensemble.statistics import EnsembleStatistics as EnsembleStatistics
from mmkd.losses.factors.factor_transfer import FactorTransferLoss as FactorTransferLoss
from mmkd.losses.factors.factor_transfer import factor_transfer as factor_transfer
from mmkd.losses.factors.paraphraser import Paraphraser as Paraphraser
from mmkd.losses.features.activation_boundary import (
    ActivationBoundaryLoss as ActivationBoundaryLoss,
)
from mmkd.losses.features.activation_boundary import activation_boundary as activation_boundary
from mmkd.losses.features.attention_transfer import (
    AttentionTransferLoss as AttentionTransferLoss,
)
from mmkd.losses.features.attention_transfer import attention_transfer as attention_transfer
from mmkd.losses.features.cross_level import CrossLevelLoss as CrossLevelLoss
from mmkd.losses.features.cross_level import cross_level as cross_level
from mmkd.losses.features.feature_l1 import FeatureL1Loss as FeatureL1Loss
from mmkd.losses.features.feature_l1 import feature_l1 as feature_l1
from mmkd.losses.features.feature_matching import FeatureMatchingLoss as FeatureMatchingLoss
from mmkd.losses.features.feature_matching import feature_matching as feature_matching
from mmkd.losses.features.focal_feature import FocalFeatureLoss as FocalFeatureLoss
from mmkd.losses.features.focal_feature import focal_feature as focal_feature
from mmkd.losses.features.global_context import ContextBlock as ContextBlock
from mmkd.losses.features.global_context import GlobalContextLoss as GlobalContextLoss
from mmkd.losses.features.global_context import global_context as global_context
from mmkd.losses.features.hidden_cosine import HiddenCosineLoss as HiddenCosineLoss
from mmkd.losses.features.hidden_cosine import hidden_cosine as hidden_cosine
from mmkd.losses.features.hierarchical_context import (
    HierarchicalContextLoss as HierarchicalContextLoss,
)
from mmkd.losses.features.hierarchical_context import hierarchical_context as hierarchical_context
from mmkd.losses.features.logit_mse import LogitMSELoss as LogitMSELoss
from mmkd.losses.features.logit_mse import logit_mse as logit_mse
from mmkd.losses.features.masked_generation import MaskedGenerationLoss as MaskedGenerationLoss
from mmkd.losses.features.masked_generation import masked_generation as masked_generation
from mmkd.losses.features.masked_token import MaskedTokenLoss as MaskedTokenLoss
from mmkd.losses.features.masked_token import masked_token as masked_token
from mmkd.losses.features.partial_l2 import PartialL2Loss as PartialL2Loss
from mmkd.losses.features.partial_l2 import margin_of_batch_norm as margin_of_batch_norm
from mmkd.losses.features.partial_l2 import partial_l2 as partial_l2
from mmkd.losses.features.residual_attention import (
    ResidualAttentionLoss as ResidualAttentionLoss,
)
from mmkd.losses.features.residual_attention import residual_attention as residual_attention
from mmkd.losses.features.softmax_regression import (
    SoftmaxRegressionLoss as SoftmaxRegressionLoss,
)
from mmkd.losses.features.softmax_regression import softmax_regression as softmax_regression
from mmkd.losses.features.variational_information import (
    VariationalInformationLoss as VariationalInformationLoss,
)
from mmkd.losses.features.variational_information import (
    variational_information as variational_information,
)
from mmkd.losses.ksanc.attention_estimator import AttentionEstimator as AttentionEstimator
from mmkd.losses.ksanc.squeezed_knowledge import SqueezedKnowledgeLoss as SqueezedKnowledgeLoss
from mmkd.losses.ksanc.squeezed_knowledge import squeezed_knowledge as squeezed_knowledge
from mmkd.losses.memory.contrast import memory_contrast as memory_contrast
from mmkd.losses.memory.memory_contrast import MemoryContrastLoss as MemoryContrastLoss
from mmkd.losses.memory.patch_contrast import PatchContrastLoss as PatchContrastLoss
from mmkd.losses.memory.patch_contrast import patch_contrast as patch_contrast
from mmkd.losses.memory.queue_contrast import QueueContrastLoss as QueueContrastLoss
from mmkd.losses.queries.query_answers import query_answers as query_answers
from mmkd.losses.queries.shared_queries import SharedQueriesLoss as SharedQueriesLoss
from mmkd.losses.quest.assignment_kl import AssignmentKLLoss as AssignmentKLLoss
from mmkd.losses.quest.assignment_kl import assignment_kl as assignment_kl
from mmkd.losses.quest.predictor import AssignmentPredictor as AssignmentPredictor
from mmkd.losses.quest.vocabulary import Vocabulary as Vocabulary
from mmkd.losses.relations.attention_kl import AttentionKLLoss as AttentionKLLoss
from mmkd.losses.relations.attention_kl import attention_kl as attention_kl
from mmkd.losses.relations.batch_similarity import BatchSimilarityLoss as BatchSimilarityLoss
from mmkd.losses.relations.batch_similarity import batch_similarity as batch_similarity
from mmkd.losses.relations.channel_gram import ChannelGramLoss as ChannelGramLoss
from mmkd.losses.relations.channel_gram import channel_gram as channel_gram
from mmkd.losses.relations.flow_of_solution import FlowOfSolutionLoss as FlowOfSolutionLoss
from mmkd.losses.relations.flow_of_solution import flow_of_solution as flow_of_solution
from mmkd.losses.relations.intra_class_variation import (
    IntraClassVariationLoss as IntraClassVariationLoss,
)
from mmkd.losses.relations.intra_class_variation import (
    intra_class_variation as intra_class_variation,
)
from mmkd.losses.relations.pair_wise_affinity import PairWiseAffinityLoss as PairWiseAffinityLoss
from mmkd.losses.relations.pair_wise_affinity import pair_wise_affinity as pair_wise_affinity
from mmkd.losses.relations.row_wise_kl import RowWiseKLLoss as RowWiseKLLoss
from mmkd.losses.relations.row_wise_kl import row_wise_kl as row_wise_kl
