"""Backbones that mmseg lacks."""

from mmkd.models.backbones.cifar_resnet import CIFARResNet as CIFARResNet
from mmkd.models.backbones.efficientnet_lite import EfficientNetLite as EfficientNetLite
from mmkd.models.backbones.espnet import ESPNet as ESPNet
from mmkd.models.backbones.espnet import espnet_state_dict as espnet_state_dict
from mmkd.models.backbones.hf_vision_backbone import HFVisionBackbone as HFVisionBackbone
from mmkd.models.backbones.wide_resnet import WideResNet as WideResNet
