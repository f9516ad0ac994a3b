"""Connectors: what fits the student's tensor to the teacher's, or the other way round."""

from mmkd.connectors.affinity_rows import AffinityRows as AffinityRows
from mmkd.connectors.batch_norm import BatchNorm as BatchNorm
from mmkd.connectors.connector import Connector as Connector
from mmkd.connectors.level_fusion import LevelFusion as LevelFusion
from mmkd.connectors.level_pairs import LevelPairs as LevelPairs
from mmkd.connectors.levels import LevelsConnector as LevelsConnector
