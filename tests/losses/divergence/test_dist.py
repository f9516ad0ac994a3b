"""DISTLoss by value."""

import pytest
import torch
from torch import Tensor

from mmkd.losses import DISTLoss, dist


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64), 2 * torch.randn(*shape, dtype=torch.float64)


def test_both_terms_are_numpys_correlation() -> None:
    student, teacher = pair(6, 5)
    p, q = student.softmax(1), teacher.softmax(1)
    by_place = [1 - torch.corrcoef(torch.stack([p[i], q[i]]))[0, 1] for i in range(6)]
    by_class = [1 - torch.corrcoef(torch.stack([p[:, c], q[:, c]]))[0, 1] for c in range(5)]
    torch.testing.assert_close(dist(student, teacher, intra=0), torch.stack(by_place).mean())
    torch.testing.assert_close(dist(student, teacher, inter=0), torch.stack(by_class).mean())


@pytest.mark.bad_input
def test_two_probabilities_have_no_correlation_to_learn() -> None:
    student, teacher = pair(6, 2)
    with pytest.raises(ValueError, match='correlate by ±1 whatever they are.*Mend: inter=0'):
        dist(student, teacher)
    assert dist(student, teacher, inter=0) > 0


def test_by_position_only_a_line_of_probabilities_counts() -> None:
    """a p + b of probabilities is at no distance; logits that are twice as large are at one."""
    _, teacher = pair(2, 5, 3, 4)
    p = teacher.softmax(1)
    assert dist((0.5 * p + 0.1).log(), teacher, intra=0).item() == pytest.approx(0, abs=1e-12)
    assert dist(2 * teacher, teacher, intra=0).item() > 1e-3


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_dead_class_is_left_out(dtype: torch.dtype) -> None:
    """Official code has 1/5 · 1 of it at student = teacher."""
    teacher = 2 * torch.randn(2, 5, 3, 4, dtype=dtype)
    teacher[:, 2] = -1e4
    student = teacher.clone().requires_grad_()
    value = dist(student, teacher)
    assert value.item() == pytest.approx(0, abs=20 * torch.finfo(dtype).eps)
    assert torch.autograd.grad(value, student)[0].abs().max() < 1e-5
    other = torch.randn(2, 5, 3, 4, dtype=dtype)
    kept = [0, 1, 3, 4]
    p, q = other.softmax(1), teacher.softmax(1)
    by_class = [
        1 - torch.corrcoef(torch.stack([p[:, c].flatten(), q[:, c].flatten()]))[0, 1] for c in kept
    ]
    torch.testing.assert_close(dist(other, teacher, inter=0), torch.stack(by_class).mean())


def test_a_class_of_tiny_probability_counts() -> None:
    """The authors' 1e-8 beside the norms would mute it."""
    teacher = torch.randn(2, 3, 3, 4)
    teacher[:, 2] -= 40
    student = teacher.clone()
    student[:, 2] = teacher[:, 2].flip(-1)
    value = dist(student, teacher, inter=0).item()
    exact = dist(student.double(), teacher.double(), inter=0).item()
    assert value == pytest.approx(exact, rel=1e-4)
    assert value > 0.05


def test_a_teacher_without_an_order_is_left_out_and_a_student_is_at_one() -> None:
    student, teacher = pair(3, 5)
    level = torch.zeros(1, 5, dtype=torch.float64)
    torch.testing.assert_close(
        dist(student, torch.cat([teacher[:2], level]), intra=0),
        dist(student[:2], teacher[:2], intra=0),
    )
    learner = level.requires_grad_()
    value = dist(learner, teacher[:1], intra=0)
    assert value.item() == 1
    gradient = torch.autograd.grad(value, learner)[0]
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert dist(level, level.detach()).item() == 0


def test_a_mask_is_a_deletion() -> None:
    student, teacher = pair(2, 5, 10)
    keep = torch.tensor([0, 2, 3, 7])
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[:, keep] = True
    torch.testing.assert_close(
        dist(student, teacher, mask=mask), dist(student[..., keep], teacher[..., keep])
    )


def test_the_temperature_squared_stands_in_front() -> None:
    student, teacher = pair(4, 5)
    torch.testing.assert_close(dist(4 * student, 4 * teacher, 4.0), 16 * dist(student, teacher))


@pytest.mark.parametrize('scale', [1e4, -1e4])
def test_extreme_logits_and_one_position_are_finite(scale: float) -> None:
    for places in (1, 4):
        student = torch.zeros(1, 1000, places)
        student[0, 3, 0] = scale
        student.requires_grad_()
        for teacher in (-student.detach(), student.detach()):
            value = dist(student, teacher)
            assert value.isfinite()
            assert torch.autograd.grad(value, student)[0].isfinite().all()
    assert dist(torch.randn(1, 5), torch.randn(1, 5), inter=0).item() == 0


def test_bad_input() -> None:
    x = torch.zeros(2, 1, 3)
    with pytest.raises(ValueError, match='softmax over a single class is always 1'):
        dist(x, x)
    with pytest.raises(ValueError, match='inter'):
        DISTLoss(inter=-1)
    with pytest.raises(ValueError, match='student has 3 classes but teacher has 4'):
        dist(torch.zeros(2, 3), torch.zeros(2, 4))
