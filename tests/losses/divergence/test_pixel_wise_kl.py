"""PixelWiseKLLoss by value."""

import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import PixelWiseKLLoss, pixel_wise_kl

DIRECTIONS = ['forward', 'reverse']


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=dtype).requires_grad_(), 2 * torch.randn(*shape, dtype=dtype)


def test_hand_values() -> None:
    student = torch.zeros(1, 2, dtype=torch.float64)  # q^s = (1/2, 1/2)
    teacher = torch.tensor([[1.0, 3.0]], dtype=torch.float64).log()  # q^t = (1/4, 3/4)
    assert pixel_wise_kl(student, teacher).item() == pytest.approx(
        0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2), rel=1e-12
    )
    assert pixel_wise_kl(student, teacher, direction='reverse').item() == pytest.approx(
        0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-12
    )
    # τ = 2: q^t = (1, √3) / (1 + √3), and the value is multiplied by 4
    q = 1 / (1 + math.sqrt(3))
    assert pixel_wise_kl(student, teacher, tau=2.0).item() == pytest.approx(
        4 * (q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q))), rel=1e-12
    )


def test_equals_other_libraries() -> None:
    student, teacher = pair(2, 5, 3, 4)
    expected = F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction='none').sum(1).mean()
    torch.testing.assert_close(pixel_wise_kl(student, teacher), expected)
    entropy = scipy.stats.entropy(
        teacher.softmax(1).numpy(), student.detach().softmax(1).numpy(), axis=1
    ).mean()
    assert pixel_wise_kl(student, teacher).item() == pytest.approx(entropy, rel=1e-10)
    entropy = scipy.stats.entropy(
        student.detach().softmax(1).numpy(), teacher.softmax(1).numpy(), axis=1
    ).mean()
    assert pixel_wise_kl(student, teacher, direction='reverse').item() == pytest.approx(
        entropy, rel=1e-10
    )


def test_forward_has_the_gradient_of_the_authors_cross_entropy() -> None:
    """Their −Σ q^t ln q^s / (W·H), summed over the batch, is 'batch_sum' plus the teacher's
    entropy.
    """
    student, teacher = pair(3, 19, 4, 5)
    theirs = -(teacher.softmax(1) * student.log_softmax(1)).sum() / 20
    ours = pixel_wise_kl(student, teacher, reduction='batch_sum')
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum() / 20
    torch.testing.assert_close(theirs, ours + entropy)
    torch.testing.assert_close(
        torch.autograd.grad(theirs, student), torch.autograd.grad(ours, student)
    )
    torch.testing.assert_close(ours, 3 * pixel_wise_kl(student, teacher))


def test_far_apart_logits_stay_exact() -> None:
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert pixel_wise_kl(student, teacher).item() == 1e4


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (
            (2, 19, 4, 4),
            (2, 11, 4, 4),
            r'student has 19 classes but teacher has 11 \(student \(2, 19, 4, 4\), teacher \(2, '
            r'11, 4, 4\)\).*Mend: members of the same classes',
        ),
        (
            (2, 3, 4, 4),
            (2, 3, 8, 8),
            r'differ in shape: student \(2, 3, 4, 4\), teacher \(2, 3, 8, 8\); mend: .*connectors',
        ),
        (
            (2, 1, 4, 4),
            (2, 1, 4, 4),
            'softmax over a single class is always 1, so this loss contributes nothing',
        ),
        ((5,), (5,), r'needs logits \(N, C, \*S\), got student \(5,\)'),
    ],
)
def test_shapes_that_do_not_fit(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pixel_wise_kl(torch.zeros(student), torch.zeros(teacher))


def test_masks_that_do_not_fit() -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(
        TypeError,
        match=r'mask must be a bool tensor .* got torch.int64; mend: labels != ignore_index',
    ):
        pixel_wise_kl(x, x, mask=torch.ones(2, 4, 4, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r'\(2, 4, 4\) of student .* without its channels, got \(2, 8, 8\)'
    ):
        pixel_wise_kl(x, x, mask=torch.ones(2, 8, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            {'direction': 'forwards'},
            "direction must be one of .*'forwards'; did you mean 'forward'",
        ),
        ({'reduction': 'sum'}, "reduction must be one of .*got 'sum'"),
        ({'tau': 0}, 'tau must be a finite number above 0, got 0'),
    ],
)
def test_unknown_options(option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PixelWiseKLLoss(**option)
    with pytest.raises(ValueError, match=message):
        pixel_wise_kl(torch.zeros(1, 2), torch.zeros(1, 2), **option)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
def test_equal_logits_are_standardised_to_nothing(dtype: torch.dtype) -> None:
    """A deviation of 1e-7 in their place makes a slope of 1e7, which float16 has not."""
    student = torch.tensor([[0.1, 0.1, 0.1], [1.0, 2.0, 4.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[1.0, 2.0, 4.0], [1e4, 1e4, 1e4]], dtype=dtype)
    value = pixel_wise_kl(student, teacher, standardize=True)
    z = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    p = ((z - z.mean()) / z.std()).softmax(0)
    forward, reverse = (p * (3 * p).log()).sum(), -(3 * p).log().mean()
    assert value.item() == pytest.approx((forward + reverse).item() / 2, rel=1e-6)
    gradient = torch.autograd.grad(value, student)[0]
    assert (gradient[0] == 0).all()
    assert gradient.isfinite().all()
    assert (gradient[1] != 0).any()
