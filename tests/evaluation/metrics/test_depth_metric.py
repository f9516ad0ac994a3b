"""DepthMetric: mmseg's values over the images that have known depth."""

import math

import pytest
import torch
from mmseg.evaluation import DepthMetric as MMSegDepthMetric
from torch import Tensor

from mmkd.evaluation import DepthMetric


def outputs(*pairs: tuple[Tensor, Tensor]) -> list[dict]:
    return [
        dict(pred_depth_map=dict(data=pred[None]), gt_depth_map=dict(data=true[None]))
        for pred, true in pairs
    ]


def evaluate(metric: MMSegDepthMetric, samples: list[dict]) -> dict:
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_values_by_hand_and_as_mmseg_where_all_is_known() -> None:
    true, pred = torch.tensor([[1.0, 2.0], [4.0, 0.0]]), torch.tensor([[1.5, 2.0], [2.0, 9.0]])
    options = dict(min_depth_eval=0.5, max_depth_eval=10.0)
    got = evaluate(DepthMetric(**options), outputs((pred, true)))
    assert got['abs_rel'] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert got['d1'] == pytest.approx(1 / 3)
    assert got == evaluate(MMSegDepthMetric(**options), outputs((pred, true)))


def test_an_image_without_known_depth_does_not_count() -> None:
    pair = torch.full((2, 2), 3.0), torch.full((2, 2), 2.0)
    samples = outputs(pair, (torch.ones(2, 2), torch.zeros(2, 2)))
    options = dict(min_depth_eval=0.5, max_depth_eval=10.0)
    assert math.isnan(evaluate(MMSegDepthMetric(**options), samples)['abs_rel'])
    assert evaluate(DepthMetric(**options), samples)['abs_rel'] == 0.5


def test_another_unit_is_told() -> None:
    with pytest.raises(
        ValueError,
        match=r'no image of 1 has depth between min_depth_eval=0.5 and max_depth_eval=10.*'
        r'Mend: LoadDepthAnnotation\(depth_rescale_factor=…\)',
    ):
        evaluate(
            DepthMetric(min_depth_eval=0.5, max_depth_eval=10.0),
            outputs((torch.ones(2, 2), torch.full((2, 2), 2e3))),
        )
