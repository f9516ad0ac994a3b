"""Transforms of classification, and corruptions of images."""

from mmkd.datasets.transforms.cls_transforms import PackClsInputs as PackClsInputs
from mmkd.datasets.transforms.cls_transforms import PadCrop as PadCrop
from mmkd.datasets.transforms.corrupt import Corrupt as Corrupt
