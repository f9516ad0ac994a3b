"""Measures of predictions as pure functions."""

from mmkd.evaluation.functional.calibration import brier_score as brier_score
from mmkd.evaluation.functional.calibration import (
    expected_calibration_error as expected_calibration_error,
)
from mmkd.evaluation.functional.calibration import nll as nll
from mmkd.evaluation.functional.rejection import ood_auroc as ood_auroc
from mmkd.evaluation.functional.rejection import (
    prediction_rejection_ratio as prediction_rejection_ratio,
)
from mmkd.evaluation.functional.uncertainty import dirichlet_uncertainty as dirichlet_uncertainty
from mmkd.evaluation.functional.uncertainty import ensemble_uncertainty as ensemble_uncertainty
