"""LogitMSELoss by value."""

import pytest
import torch
import torch.nn.functional as F
from references.ksanc import logit_mse as reference
from torch import Tensor

from mmkd.losses import LogitMSELoss, logit_mse
from mmkd.registry import build_part


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), 2 * torch.randn(
        *shape, dtype=torch.float64
    )


def test_hand_value() -> None:
    student, teacher = (
        torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]),
        torch.tensor([[[0.0, 4.0], [3.0, 0.0]]]),
    )
    assert logit_mse(student, teacher).item() == (1 + 9 + 4 + 0) / 2
    assert logit_mse(student, teacher, torch.tensor([[False, True]])).item() == 4


@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4), (1, 3, 2, 2, 2)])
def test_equals_the_slow_loop_and_torch(shape: tuple[int, ...]) -> None:
    student, teacher = pair(*shape)
    mask = torch.rand(shape[0], *shape[2:]) > 0.4
    for m in (None, mask):
        assert logit_mse(student, teacher, m).item() == pytest.approx(
            reference(student, teacher, m), rel=1e-12
        )
    torch.testing.assert_close(logit_mse(student, teacher), shape[1] * F.mse_loss(student, teacher))


def test_zero_with_zero_gradient_at_the_teacher_and_nowhere_beside_it() -> None:
    teacher = torch.randn(2, 19, 4, 4, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    value = logit_mse(student, teacher)
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()
    torch.testing.assert_close(
        logit_mse(teacher + 0.5, teacher).item(), 19 * 0.25
    )  # raw logits: a shift counts


def test_the_size_of_the_map_does_not_matter() -> None:
    student, teacher = pair(2, 4, 3, 3)
    torch.testing.assert_close(
        logit_mse(student.repeat(1, 1, 4, 2), teacher.repeat(1, 1, 4, 2)),
        logit_mse(student, teacher),
    )


def test_gradcheck() -> None:
    student, teacher = pair(2, 3, 2, 2)
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 0]]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: logit_mse(s, teacher, mask), student)


def test_module_equals_function_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = pair(2, 3, 4, 4)
    teacher.requires_grad_()
    value = build_part(dict(type='LogitMSELoss', loss_weight=0.5))(student=student, teacher=teacher)
    assert value == 0.5 * logit_mse(student, teacher)
    value.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 32)
    assert LogitMSELoss().loss_name == 'loss_logit_mse_loss'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (
        x.detach().mul(300).to(dtype) for x in pair(2, 19, 4, 4)
    )  # 300² is no float16
    value = logit_mse(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference(student.double(), teacher.double()), rel=1e-5)
    assert torch.autograd.grad(value, student)[0].dtype == dtype
    with torch.autocast('cpu', torch.bfloat16):
        assert logit_mse(student, teacher) == value


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_masked_positions_change_neither_value_nor_gradient(bad: float) -> None:
    student, teacher = pair(2, 3, 3, 3)
    mask = torch.rand(2, 3, 3) > 0.5
    (clean,) = torch.autograd.grad(logit_mse(student, teacher, mask), student)
    dirty_s = student.detach().masked_fill(~mask[:, None], bad).requires_grad_()
    dirty = logit_mse(dirty_s, teacher.masked_fill(~mask[:, None], bad), mask)
    assert dirty == logit_mse(student, teacher, mask)
    torch.testing.assert_close(torch.autograd.grad(dirty, dirty_s)[0], clean, rtol=0, atol=0)


def test_an_empty_mask_gives_exactly_zero_with_zero_gradient() -> None:
    student, teacher = pair(2, 3, 3, 3)
    value = logit_mse(student, teacher, torch.zeros(2, 3, 3, dtype=torch.bool))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (
            (2, 19, 4, 4),
            (2, 11, 4, 4),
            r'student has 19 classes but teacher has 11 \(student \(2, 19, 4, 4\).*members of the '
            r'same classes',
        ),
        (
            (2, 3, 4, 4),
            (2, 3, 8, 8),
            r'differ in shape: student \(2, 3, 4, 4\), teacher \(2, 3, 8, 8\); mend: .*connectors',
        ),
        ((5,), (5,), r'needs logits \(N, C, \*S\), got student \(5,\)'),
    ],
)
def test_shapes_that_do_not_fit(
    student: tuple[int, ...], teacher: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        logit_mse(torch.zeros(student), torch.zeros(teacher))


def test_masks_that_do_not_fit() -> None:
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        logit_mse(x, x, torch.ones(2, 4, 4))
    with pytest.raises(ValueError, match=r'\(2, 4, 4\) of student .* got \(2, 8, 8\)'):
        logit_mse(x, x, torch.ones(2, 8, 8, dtype=torch.bool))
