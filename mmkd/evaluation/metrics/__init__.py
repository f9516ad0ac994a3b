"""Metrics: mmengine metrics over what models predict."""

from mmkd.evaluation.metrics import checked_iou as checked_iou  # mends mmseg's metric
from mmkd.evaluation.metrics.accuracy import Accuracy as Accuracy
from mmkd.evaluation.metrics.calibration_metric import CalibrationMetric as CalibrationMetric
from mmkd.evaluation.metrics.depth_metric import DepthMetric as DepthMetric
from mmkd.evaluation.metrics.uncertainty_metric import UncertaintyMetric as UncertaintyMetric
