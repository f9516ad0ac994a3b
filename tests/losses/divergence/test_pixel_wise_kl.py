"""PixelWiseKLLoss by value."""

import math

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from references.pixel_wise_kl import pixel_wise_kl as reference
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


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('tau', [1.0, 2.5])
@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4), (1, 3, 2, 2, 2)])
def test_equals_the_slow_loop(shape: tuple[int, ...], tau: float, direction: str) -> None:
    student, teacher = pair(*shape)
    mask = torch.rand(shape[0], *shape[2:]) > 0.4
    for m in (None, mask):
        assert pixel_wise_kl(student, teacher, tau, direction, mask=m).item() == pytest.approx(
            reference(student, teacher, tau, direction, m), rel=1e-10
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


def test_batch_sum_averages_each_image_over_its_valid_positions() -> None:
    student, teacher = pair(2, 3, 2, 2)
    mask = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [1, 0]]], dtype=torch.bool)
    images = [
        reference(student[i : i + 1], teacher[i : i + 1], 1.0, 'forward', mask[i : i + 1])
        for i in (0, 1)
    ]
    assert pixel_wise_kl(
        student, teacher, reduction='batch_sum', mask=mask
    ).item() == pytest.approx(sum(images))


@pytest.mark.parametrize('direction', DIRECTIONS)
def test_zero_with_zero_gradient_where_logits_differ_by_a_constant(direction: str) -> None:
    teacher = torch.randn(2, 19, 4, 4, dtype=torch.float64)
    student = (teacher + torch.randn(2, 1, 4, 4, dtype=torch.float64)).requires_grad_()
    value = pixel_wise_kl(student, teacher, 2.0, direction)
    assert abs(value.item()) < 1e-14
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-15


def test_the_size_of_the_map_does_not_matter() -> None:
    student, teacher = pair(2, 4, 3, 3)
    torch.testing.assert_close(
        pixel_wise_kl(student.repeat(1, 1, 4, 2), teacher.repeat(1, 1, 4, 2)),
        pixel_wise_kl(student, teacher),
    )


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('reduction', ['mean', 'batch_sum'])
def test_gradcheck(direction: str, reduction: str) -> None:
    student, teacher = pair(2, 3, 2, 2)
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 0]]], dtype=torch.bool)
    assert torch.autograd.gradcheck(
        lambda s: pixel_wise_kl(s, teacher, 1.7, direction, reduction, mask), student
    )


def test_module_equals_function_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = pair(2, 3, 4, 4)
    teacher.requires_grad_()
    value = PixelWiseKLLoss(2.0, 'reverse', 'batch_sum')(student, teacher)
    assert value == pixel_wise_kl(student, teacher, 2.0, 'reverse', 'batch_sum')
    value.backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype) for x in pair(2, 19, 4, 4))
    value = pixel_wise_kl(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(
        reference(student.double(), teacher.double(), 1.0, 'forward'), rel=1e-5
    )
    assert torch.autograd.grad(value, student)[0].dtype == dtype


def test_autocast_changes_nothing() -> None:
    student, teacher = pair(2, 19, 4, 4, dtype=torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        inside = pixel_wise_kl(student, teacher)
    assert inside.dtype == torch.float32
    assert inside == pixel_wise_kl(student, teacher)
    assert pixel_wise_kl(student.double(), teacher).dtype == torch.float64


def test_memory_layout_changes_nothing() -> None:
    student, teacher = pair(2, 3, 4, 5)
    expected = pixel_wise_kl(student, teacher)
    torch.testing.assert_close(
        pixel_wise_kl(student.contiguous(memory_format=torch.channels_last), teacher), expected
    )
    strided = torch.stack([student, student], -1)[..., 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(pixel_wise_kl(strided, teacher.mT.contiguous().mT), expected)


@pytest.mark.parametrize('direction', DIRECTIONS)
@pytest.mark.parametrize('bad', [float('nan'), float('inf'), -float('inf')])
def test_masked_positions_change_neither_value_nor_gradient(direction: str, bad: float) -> None:
    student, teacher = pair(2, 3, 3, 3)
    mask = torch.rand(2, 3, 3) > 0.5
    (clean,) = torch.autograd.grad(
        pixel_wise_kl(student, teacher, 1.0, direction, mask=mask), student
    )
    dirty_s = student.detach().masked_fill(~mask[:, None], bad).requires_grad_()
    dirty = pixel_wise_kl(
        dirty_s, teacher.masked_fill(~mask[:, None], bad), 1.0, direction, mask=mask
    )
    assert dirty == pixel_wise_kl(student, teacher, 1.0, direction, mask=mask)
    (gradient,) = torch.autograd.grad(dirty, dirty_s)
    torch.testing.assert_close(gradient, clean, rtol=0, atol=0)
    assert (gradient.movedim(1, -1)[~mask] == 0).all()


@pytest.mark.parametrize('reduction', ['mean', 'batch_sum'])
def test_an_empty_mask_gives_exactly_zero_with_zero_gradient(reduction: str) -> None:
    student, teacher = pair(2, 3, 3, 3)
    value = pixel_wise_kl(
        student, teacher, reduction=reduction, mask=torch.zeros(2, 3, 3, dtype=torch.bool)
    )
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


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
