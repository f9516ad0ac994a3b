"""Decode heads that mmseg lacks."""

from mmkd.models.decode_heads.borrowed_classifier import (
    BorrowedClassifier as BorrowedClassifier,
)
from mmkd.models.decode_heads.depth_head import DepthHead as DepthHead
from mmkd.models.decode_heads.esp_head import ESPHead as ESPHead
