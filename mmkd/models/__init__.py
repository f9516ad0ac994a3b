"""Task-model parts that mmseg lacks: backbones of the CamVid teachers and students."""
from mmkd.models.efficientnet_lite import EfficientNetLite as EfficientNetLite
from mmkd.models.espnet import ESPHead as ESPHead
from mmkd.models.espnet import ESPNet as ESPNet
from mmkd.models.espnet import espnet_state_dict as espnet_state_dict
