"""Data sets, as mmseg data sets."""
from mmkd.datasets.camvid import CamVid as CamVid
