"""Data sets of scenes, images and text, their transforms and samplers."""

from mmkd.datasets import checked as checked  # mends mmengine's data sets
from mmkd.datasets.camvid import CamVid as CamVid
from mmkd.datasets.cifar10 import CIFAR10 as CIFAR10
from mmkd.datasets.digit_scenes import DigitScenes as DigitScenes
from mmkd.datasets.image_files import ImageFiles as ImageFiles
from mmkd.datasets.text_files import PackTextInputs as PackTextInputs
from mmkd.datasets.text_files import TextFiles as TextFiles
from mmkd.datasets.transforms.cls_transforms import PackClsInputs as PackClsInputs
from mmkd.datasets.transforms.cls_transforms import PadCrop as PadCrop
from mmkd.datasets.transforms.corrupt import Corrupt as Corrupt
from mmkd.datasets.unlabelled import UnlabelledImages as UnlabelledImages
from mmkd.datasets.unlabelled import WithUnlabelled as WithUnlabelled
