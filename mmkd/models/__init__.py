"""What mmseg lacks: classifiers of images and text, decode heads, small backbones, ensembles."""

from mmkd.models.backbones.cifar_resnet import CIFARResNet as CIFARResNet
from mmkd.models.backbones.efficientnet_lite import EfficientNetLite as EfficientNetLite
from mmkd.models.backbones.espnet import ESPNet as ESPNet
from mmkd.models.backbones.espnet import espnet_state_dict as espnet_state_dict
from mmkd.models.backbones.hf_vision_backbone import HFVisionBackbone as HFVisionBackbone
from mmkd.models.backbones.wide_resnet import WideResNet as WideResNet
from mmkd.models.classifiers.borrowed_image_classifier import (
    BorrowedImageClassifier as BorrowedImageClassifier,
)
from mmkd.models.classifiers.hf_text_classifier import HFTextClassifier as HFTextClassifier
from mmkd.models.classifiers.image_classifier import ImageClassifier as ImageClassifier
from mmkd.models.data_preprocessor import TextDataPreprocessor as TextDataPreprocessor
from mmkd.models.decode_heads.borrowed_classifier import (
    BorrowedClassifier as BorrowedClassifier,
)
from mmkd.models.decode_heads.depth_head import DepthHead as DepthHead
from mmkd.models.decode_heads.esp_head import ESPHead as ESPHead
from mmkd.models.ensemble import Ensemble as Ensemble
from mmkd.models.feature_model import FeatureModel as FeatureModel
