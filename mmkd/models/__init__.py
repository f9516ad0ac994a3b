"""Task models and parts that mmseg lacks: image classifier, depth head, backbones of CIFAR and the CamVid teachers."""
from mmkd.models.cifar_resnet import CIFARResNet as CIFARResNet
from mmkd.models.depth_head import DepthHead as DepthHead
from mmkd.models.efficientnet_lite import EfficientNetLite as EfficientNetLite
from mmkd.models.ensemble import Ensemble as Ensemble
from mmkd.models.espnet import ESPHead as ESPHead
from mmkd.models.espnet import ESPNet as ESPNet
from mmkd.models.espnet import espnet_state_dict as espnet_state_dict
from mmkd.models.image_classifier import ImageClassifier as ImageClassifier
from mmkd.models.wide_resnet import WideResNet as WideResNet
