"""LogitMSELoss by value."""

import pytest
import torch
import torch.nn.functional as F
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
def test_equals_torch(shape: tuple[int, ...]) -> None:
    student, teacher = pair(*shape)
    torch.testing.assert_close(logit_mse(student, teacher), shape[1] * F.mse_loss(student, teacher))


def test_a_shift_of_raw_logits_counts() -> None:
    teacher = torch.randn(2, 19, 4, 4, dtype=torch.float64)
    assert logit_mse(teacher, teacher).item() == 0
    assert logit_mse(teacher + 0.5, teacher).item() == pytest.approx(19 * 0.25)


def test_the_gradient_by_hand() -> None:
    student, teacher = pair(2, 3, 4, 4)
    build_part(dict(type='LogitMSELoss', loss_weight=0.5))(
        student=student, teacher=teacher
    ).backward()
    torch.testing.assert_close(student.grad, (student - teacher).detach() / 32)
    assert LogitMSELoss().loss_name == 'loss_logit_mse_loss'


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
