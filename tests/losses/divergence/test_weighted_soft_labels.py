"""WeightedSoftLabelsLoss by value."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import WeightedSoftLabelsLoss, weighted_soft_labels


def draw(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return student.requires_grad_(), 2 * teacher, labels


def entropies(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    own, theirs = (F.cross_entropy(x, labels, reduction='none') for x in (student, teacher))
    return 1 - torch.exp(-own / theirs)


def test_value_and_gradient_are_torchs_cross_entropy_times_a_fixed_factor() -> None:
    student, teacher, labels = draw(2, 5, 3, 4)
    factor = entropies(student, teacher, labels).detach()
    soft = F.cross_entropy(student / 3, (teacher / 3).softmax(1), reduction='none')
    expected = 9 * (factor * soft).mean()
    value = weighted_soft_labels(student, teacher, labels, 3.0)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, student), torch.autograd.grad(expected, student)
    )


def test_the_factor_is_below_1_and_0_where_the_student_is_certain() -> None:
    student, teacher, labels = draw(6, 5)
    soft = F.cross_entropy(student, teacher.softmax(1))
    assert 0 < weighted_soft_labels(student, teacher, labels, 1.0) < soft
    certain = 1e3 * F.one_hot(labels, 5).double()
    certain.requires_grad_()
    value = weighted_soft_labels(certain, teacher, labels, 1.0)
    assert value == 0
    assert (torch.autograd.grad(value, certain)[0] == 0).all()


def test_equal_members_weigh_1_less_one_over_e_and_a_certain_teacher_1() -> None:
    student, _, labels = draw(6, 5)
    plain = F.cross_entropy(student, student.detach().softmax(1))
    value = weighted_soft_labels(student, student.detach(), labels, 1.0)
    assert value.item() == pytest.approx(0.6321205588 * plain.item(), rel=1e-9)
    certain = 1e3 * F.one_hot(labels, 5).double()  # the authors' 1e-7 is what is divided by
    plain = F.cross_entropy(student, labels)
    value = weighted_soft_labels(student, certain, labels, 1.0)
    torch.testing.assert_close(value, plain)


def test_positions_without_a_label_are_left_out() -> None:
    student, teacher, labels = draw(2, 5, 6)
    labels[0, :3] = 255
    labels[1, 5] = -1
    kept = labels.ne(255) & labels.ge(0)
    flat = [x.detach().movedim(1, -1)[kept] for x in (student, teacher)]
    torch.testing.assert_close(
        weighted_soft_labels(student, teacher, labels), weighted_soft_labels(*flat, labels[kept])
    )
    nothing = torch.full_like(labels, 255)
    assert weighted_soft_labels(student, teacher, nothing) == 0


def test_bad_input() -> None:
    student, teacher, labels = draw(2, 5, 3)
    with pytest.raises(TypeError, match='WSLD needs labels of an integer dtype'):
        weighted_soft_labels(student, teacher, labels.float())
    with pytest.raises(ValueError, match=r'WSLD needs labels \(2, 3\)'):
        weighted_soft_labels(student, teacher, labels[:, :2])
    with pytest.raises(ValueError, match='student has 5 classes but teacher has 4'):
        weighted_soft_labels(student, teacher[:, :4], labels)
    with pytest.raises(ValueError, match='single class'):
        weighted_soft_labels(student[:, :1], teacher[:, :1], labels)
    for tau in (0.0, -1.0, float('nan')):
        with pytest.raises(ValueError, match='tau must be a finite number above 0'):
            WeightedSoftLabelsLoss(tau=tau)
