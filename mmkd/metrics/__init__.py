"""Metrics: mmengine metrics over what models predict."""
from mmkd.metrics import checked_iou as checked_iou  # mends mmseg's metric
from mmkd.metrics.accuracy import Accuracy as Accuracy
from mmkd.metrics.calibration import brier_score as brier_score
from mmkd.metrics.calibration import expected_calibration_error as expected_calibration_error
from mmkd.metrics.calibration import nll as nll
from mmkd.metrics.calibration_metric import CalibrationMetric as CalibrationMetric
from mmkd.metrics.depth_metric import DepthMetric as DepthMetric
from mmkd.metrics.rejection import ood_auroc as ood_auroc
from mmkd.metrics.rejection import prediction_rejection_ratio as prediction_rejection_ratio
from mmkd.metrics.uncertainty import dirichlet_uncertainty as dirichlet_uncertainty
from mmkd.metrics.uncertainty import ensemble_uncertainty as ensemble_uncertainty
from mmkd.metrics.uncertainty_metric import UncertaintyMetric as UncertaintyMetric
