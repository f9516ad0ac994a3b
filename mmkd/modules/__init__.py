"""Whatever has weights and is not a task model: connectors, critics, vocabularies."""
from mmkd.modules.affinity_rows import AffinityRows as AffinityRows
from mmkd.modules.assignment_predictor import AssignmentPredictor as AssignmentPredictor
from mmkd.modules.attention_estimator import AttentionEstimator as AttentionEstimator
from mmkd.modules.category_critic import CategoryCritic as CategoryCritic
from mmkd.modules.connector import Connector as Connector
from mmkd.modules.feature_map_critic import FeatureMapCritic as FeatureMapCritic
from mmkd.modules.holistic_critic import HolisticCritic as HolisticCritic
from mmkd.modules.vocabulary import Vocabulary as Vocabulary
