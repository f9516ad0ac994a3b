"""Data sets, as mmseg data sets."""
from mmkd.datasets.camvid import CamVid as CamVid
from mmkd.datasets.digit_scenes import DigitScenes as DigitScenes
