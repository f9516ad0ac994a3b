"""Evaluation: metrics, and the functions behind them."""

from mmkd.evaluation.functional import brier_score as brier_score
from mmkd.evaluation.functional import dirichlet_uncertainty as dirichlet_uncertainty
from mmkd.evaluation.functional import ensemble_uncertainty as ensemble_uncertainty
from mmkd.evaluation.functional import expected_calibration_error as expected_calibration_error
from mmkd.evaluation.functional import nll as nll
from mmkd.evaluation.functional import ood_auroc as ood_auroc
from mmkd.evaluation.functional import prediction_rejection_ratio as prediction_rejection_ratio
from mmkd.evaluation.metrics import Accuracy as Accuracy
from mmkd.evaluation.metrics import CalibrationMetric as CalibrationMetric
from mmkd.evaluation.metrics import DepthMetric as DepthMetric
from mmkd.evaluation.metrics import UncertaintyMetric as UncertaintyMetric
