"""ChannelWiseKLLoss by value."""

import math
import re

import pytest
import torch
from torch import Tensor

from mmkd.losses import ChannelWiseKLLoss, channel_wise_kl, pixel_wise_kl


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64), 2 * torch.randn(*shape, dtype=torch.float64)


def test_hand_value() -> None:
    teacher = 2 * torch.tensor([[[[1.0, 3.0]]]], dtype=torch.float64).log()  # φ = (1/4, 3/4)
    assert channel_wise_kl(torch.zeros_like(teacher), teacher, tau=2.0).item() == pytest.approx(
        4 * (0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)), rel=1e-12
    )


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_it_is_pixel_wise_kl_of_the_transposed_map(tau: float) -> None:
    student, teacher = pair(2, 5, 12)
    torch.testing.assert_close(
        channel_wise_kl(student, teacher, tau), pixel_wise_kl(student.mT, teacher.mT, tau)
    )


def test_one_position_and_one_group_is_pixel_wise_kl() -> None:
    student, teacher = pair(6, 5)
    torch.testing.assert_close(
        channel_wise_kl(student, teacher, 2.0, groups=1), pixel_wise_kl(student, teacher, 2.0)
    )
    assert channel_wise_kl(student, teacher).item() == 0  # a channel of one position


@pytest.mark.parametrize('dim', [0, 1])
def test_one_group_is_masses_and_what_is_within_them(dim: int) -> None:
    """KL of the channels' masses + Σ_c m_c CWD_c, and the same of positions and KD."""
    student, teacher = pair(1, 5, 12)
    log_s, log_t = (
        x.flatten().log_softmax(0).view(5, 12).movedim(dim, 0) for x in (student, teacher)
    )
    mass_s, mass_t = log_s.logsumexp(1), log_t.logsumexp(1)
    within = torch.stack(
        [pixel_wise_kl(x[None], y[None]) for x, y in zip(log_s, log_t, strict=True)]
    )
    torch.testing.assert_close(
        channel_wise_kl(student, teacher, 1.0, groups=1),
        (mass_t.exp() * (mass_t - mass_s + within)).sum(),
    )


def test_as_many_groups_as_channels_is_none() -> None:
    student, teacher = pair(2, 5, 3, 4)
    torch.testing.assert_close(
        channel_wise_kl(student, teacher, groups=5), channel_wise_kl(student, teacher)
    )


@pytest.mark.parametrize('groups', [None, 1, 2])
def test_a_common_order_of_positions_changes_nothing(groups: int | None) -> None:
    student, teacher = pair(2, 5, 12)
    order = torch.randperm(12)
    torch.testing.assert_close(
        channel_wise_kl(student[..., order], teacher[..., order], groups=groups),
        channel_wise_kl(student, teacher, groups=groups),
    )


def test_a_constant_of_each_group_changes_nothing_and_of_a_channel_it_does() -> None:
    student, teacher = pair(2, 6, 3, 4)
    by_channel = torch.randn(1, 6, 1, 1, dtype=torch.float64)
    by_group = torch.randn(2, dtype=torch.float64).repeat_interleave(3).view(1, 6, 1, 1)
    torch.testing.assert_close(
        channel_wise_kl(student + by_channel, teacher), channel_wise_kl(student, teacher)
    )
    exact = channel_wise_kl(student, teacher, groups=2)
    torch.testing.assert_close(channel_wise_kl(student + by_group, teacher, groups=2), exact)
    assert abs(channel_wise_kl(student + by_channel, teacher, groups=2) - exact) > 1e-3


def test_at_a_high_temperature_it_is_half_the_squares_of_centred_maps() -> None:
    student, teacher = pair(2, 3, 4, 5)
    gap = student - teacher
    limit = (gap - gap.mean((2, 3), keepdim=True)).square().mean() / 2
    assert channel_wise_kl(student, teacher, 1e4).item() == pytest.approx(limit.item(), rel=1e-3)


def test_an_image_without_a_position_is_left_out() -> None:
    student, teacher = pair(2, 3, 4, 5)
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[1] = False
    torch.testing.assert_close(
        channel_wise_kl(student, teacher, mask=mask), channel_wise_kl(student[:1], teacher[:1])
    )


def test_a_mask_is_a_deletion() -> None:
    student, teacher = pair(2, 3, 10)
    keep = torch.tensor([0, 2, 3, 7])
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[:, keep] = True
    for groups in (None, 2):
        torch.testing.assert_close(
            channel_wise_kl(student, teacher, groups=groups, mask=mask),
            channel_wise_kl(student[..., keep], teacher[..., keep], groups=groups),
        )


def test_a_small_value_of_a_large_map_keeps_its_digits() -> None:
    """A logarithm of 1e-5 is rounded by 1e-6, of which τ² makes a third of this value."""
    teacher = torch.randn(2, 19, 128, 128)
    student = teacher + 0.01 * torch.randn(2, 19, 128, 128)
    exact = channel_wise_kl(student.double(), teacher.double()).item()
    assert exact < 1e-4
    assert channel_wise_kl(student, teacher).item() == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize('scale', [1e4, -1e4])
def test_extreme_logits_are_finite(scale: float) -> None:
    student = torch.zeros(1, 1000, 2, 2)
    student[0, 3, 1, 1] = scale
    student.requires_grad_()
    for groups in (None, 7):
        value = channel_wise_kl(student, -student.detach(), 1.0, groups)
        (gradient,) = torch.autograd.grad(value, student)
        assert value.item() == pytest.approx(
            channel_wise_kl(student.double(), -student.detach().double(), 1.0, groups).item(),
            rel=1e-5,
        )
        assert gradient.isfinite().all()


def test_bad_input() -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=re.escape('student (2, 3, 4, 4), teacher (2, 4, 4, 4)')):
        channel_wise_kl(x, torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match='groups must be at most the 3 channels'):
        channel_wise_kl(x, x, groups=4)
    with pytest.raises(ValueError, match='groups must be a whole number of at least 1, got 0'):
        ChannelWiseKLLoss(groups=0)
    with pytest.raises(ValueError, match='tau'):
        ChannelWiseKLLoss(tau=0)
