"""Whatever has weights and is not a task model: connectors, critics."""
from mmkd.modules.connector import Connector as Connector
from mmkd.modules.holistic_critic import HolisticCritic as HolisticCritic
