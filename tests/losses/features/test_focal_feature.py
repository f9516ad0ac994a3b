"""FocalFeatureLoss by value: the authors' sums, limits of the temperature, weights, refusals."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from references.focal_feature import focal_feature as slow

from mmkd.losses import FeatureMatchingLoss, FocalFeatureLoss, focal_feature

GENERATOR = torch.Generator().manual_seed(5)
draw = partial(torch.randn, dtype=torch.float64, generator=GENERATOR)
STUDENT, TEACHER = draw(2, 5, 3, 4), 2 * draw(2, 5, 3, 4)
WEIGHT = torch.rand(2, 3, 4, dtype=torch.float64, generator=GENERATOR)


def test_by_hand() -> None:
    """Two places of energies ln 4 and 0 at T 1: attentions 2 · (4/5, 1/5); one channel: 1."""
    teacher = torch.tensor([[[4.0, 1.0]]], dtype=torch.float64).log()
    student = teacher + torch.tensor([1.0, 3.0], dtype=torch.float64)
    value = focal_feature(student, teacher, 1.0, 0.0, 0.0)
    assert value.item() == pytest.approx((1.6 * 1 + 0.4 * 9) / 2)
    # the student's energies are 1 + ln 4 and 3: 2 · (4e, e³) / (4e + e³)
    share = 4 * torch.e / (4 * torch.e + torch.e**3)
    value = focal_feature(student, teacher, 1.0, 1.0, 1.0) - value
    assert value.item() == pytest.approx((abs(2 * share - 1.6) + abs(2 - 2 * share - 0.4)) / 2)


def test_of_equal_attention_it_is_the_mean_square() -> None:
    """Signs and the limit of a large temperature."""
    teacher = torch.ones(2, 5, 3, 4, dtype=torch.float64) * draw(2, 5, 3, 4).sign()
    value = focal_feature(STUDENT, teacher, 0.5, 0.0, 0.0)
    torch.testing.assert_close(value, F.mse_loss(STUDENT, teacher))
    value = focal_feature(STUDENT, TEACHER, 1e9, 3.0, 3.0)
    torch.testing.assert_close(value, F.mse_loss(STUDENT, TEACHER), rtol=1e-6, atol=0)
    weighted = focal_feature(STUDENT, TEACHER, 1e9, weight=WEIGHT)
    expected = FeatureMatchingLoss()(STUDENT, TEACHER, weight=WEIGHT)
    torch.testing.assert_close(weighted, expected, rtol=1e-6, atol=0)


def test_of_a_small_temperature_one_place_and_channel_count() -> None:
    teacher = TEACHER.clone()
    teacher[:, 3, 1, 2] = 100
    value = focal_feature(STUDENT, teacher, 1e-3, 0.0, 0.0)
    expected = (STUDENT - teacher)[:, 3, 1, 2].square().mean()
    torch.testing.assert_close(value, expected)


def test_weights_are_those_of_the_first_term() -> None:
    plain = focal_feature(STUDENT, TEACHER)
    assert focal_feature(STUDENT, TEACHER, weight=torch.ones(2, 3, 4)) == plain
    mask, options = WEIGHT > 0.3, dict(temperature=0.7, spatial=0.4, channel=0.9)
    for weight in (WEIGHT, WEIGHT * (WEIGHT > 0.6), WEIGHT * torch.tensor([1, 0]).view(2, 1, 1)):
        value = focal_feature(STUDENT, TEACHER, mask=mask, weight=weight, **options)
        expected = slow(STUDENT, TEACHER, mask=mask, weight=weight, **options)
        assert value.item() == pytest.approx(expected)
    nothing = focal_feature(STUDENT, TEACHER, spatial=0.0, channel=0.0, weight=0 * WEIGHT)
    assert nothing == 0
    away = focal_feature(STUDENT, TEACHER, weight=WEIGHT) - focal_feature(
        STUDENT, TEACHER, spatial=0.0, channel=0.0, weight=WEIGHT
    )
    torch.testing.assert_close(
        away, plain - focal_feature(STUDENT, TEACHER, spatial=0.0, channel=0.0)
    )


def test_channels_in_any_order_are_the_same() -> None:
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(
        focal_feature(STUDENT[:, order], TEACHER[:, order]), focal_feature(STUDENT, TEACHER)
    )


@pytest.mark.bad_input
def test_what_it_refuses() -> None:
    for options, message in (
        (dict(temperature=0.0), 'temperature must be a finite number above 0, got 0.0'),
        (dict(spatial=-1.0), 'spatial must be'),
        (dict(channel=-1.0), 'channel must be'),
    ):
        with pytest.raises(ValueError, match=message):
            FocalFeatureLoss(**options)
        with pytest.raises(ValueError, match=message):
            focal_feature(STUDENT, TEACHER, **options)
    with pytest.raises(ValueError, match=r'focal features needs maps .* of places.*mend: a tap'):
        focal_feature(STUDENT[:, :, 0, 0], TEACHER[:, :, 0, 0])
    with pytest.raises(ValueError, match='focal features needs maps.*mend: connectors'):
        focal_feature(STUDENT[:, :3], TEACHER)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        focal_feature(STUDENT, TEACHER, mask=WEIGHT)
    with pytest.raises(ValueError, match='weight must have the shape'):
        focal_feature(STUDENT, TEACHER, weight=WEIGHT[:1])


def test_the_weight_is_that_of_the_first_term_alone() -> None:
    """A place of weight 0 is still one that the attentions compare, as one of 1e-9 is."""
    student, teacher = (torch.randn(2, 3, 4, 5, dtype=torch.float64) for _ in range(2))
    none = torch.zeros(2, 4, 5, dtype=torch.float64)
    none[0, 1, 2] = 1.0
    for spatial, channel in ((1.0, 0.0), (0.0, 1.0)):
        found = [
            focal_feature(student, teacher, 0.5, spatial, channel, weight=weight)
            for weight in (none, none.clamp(min=1e-12))
        ]
        torch.testing.assert_close(*found)
