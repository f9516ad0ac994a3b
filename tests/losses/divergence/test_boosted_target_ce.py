"""BoostedTargetCELoss by value."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import BoostedTargetCELoss, boosted_target_ce, pixel_wise_kl


def draw(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return student.requires_grad_(), 2 * teacher, labels


def official(student: Tensor, teacher: Tensor, labels: Tensor, power: float) -> Tensor:
    """Return the loss of images as the authors write it."""
    target = F.one_hot(labels, student.shape[1])
    product = (teacher.softmax(1) + target) ** power
    return torch.sum(-(product - target) * torch.log(student.softmax(1)), dim=-1).mean()


@pytest.mark.parametrize('power', [0.5, 1.0, 1.5, 2.0])
def test_of_images_it_is_the_authors(power: float) -> None:
    student, teacher, labels = draw(6, 5)
    torch.testing.assert_close(
        boosted_target_ce(student, teacher, labels, power),
        official(student, teacher, labels, power),
    )


@pytest.mark.parametrize('tau', [1.0, 3.0])
def test_power_1_is_the_cross_entropy_of_plain_distillation(tau: float) -> None:
    """In value torch's, in gradient that of KL, whatever the labels are."""
    student, teacher, labels = draw(2, 5, 3, 4)
    value = boosted_target_ce(student, teacher, labels, 1.0, tau)
    soft = (teacher / tau).softmax(1)
    torch.testing.assert_close(value, tau**2 * F.cross_entropy(student / tau, soft))
    torch.testing.assert_close(
        torch.autograd.grad(value, student),
        torch.autograd.grad(pixel_wise_kl(student, teacher, tau), student),
    )


def test_a_certain_teacher_leaves_the_label_alone() -> None:
    """p = 1 at the label: 2^ε − 1 of the cross-entropy; p = 0 there: none of it."""
    student, _, labels = draw(6, 5)
    certain = 1e3 * F.one_hot(labels, 5).double()
    torch.testing.assert_close(
        boosted_target_ce(student, certain, labels, 1.5),
        (2**1.5 - 1) * F.cross_entropy(student, labels),
    )
    torch.testing.assert_close(
        boosted_target_ce(student, certain.roll(1, 1), labels, 1.5),
        F.cross_entropy(student, (labels + 1) % 5),
    )


def test_a_small_probability_of_the_label_keeps_its_digits() -> None:
    """(1 + p)² − 1 of p = 1e-9 is 0 in float32 as the authors write it."""
    teacher = torch.tensor([[1e-9, 1.0]]).log()
    student = torch.tensor([[0.0, 200.0]])
    value = boosted_target_ce(student, teacher, torch.tensor([0]), 2.0)
    assert value.item() == pytest.approx(200 * 2e-9, rel=1e-4)


def test_positions_without_a_label_are_left_out() -> None:
    student, teacher, labels = draw(2, 5, 6)
    labels[0, :3] = 255
    kept = labels.ne(255)
    flat = [x.detach().movedim(1, -1)[kept] for x in (student, teacher)]
    torch.testing.assert_close(
        boosted_target_ce(student, teacher, labels, 1.5),
        boosted_target_ce(*flat, labels[kept], 1.5),
    )


def test_bad_input() -> None:
    student, teacher, labels = draw(2, 5, 3)
    with pytest.raises(TypeError, match='boosted target needs labels of an integer dtype'):
        boosted_target_ce(student, teacher, labels.float())
    with pytest.raises(ValueError, match='student has 5 classes but teacher has 4'):
        boosted_target_ce(student, teacher[:, :4], labels)
    with pytest.raises(ValueError, match='single class'):
        boosted_target_ce(student[:, :1], teacher[:, :1], labels)
    for power in (0.0, -1.0, float('inf')):
        with pytest.raises(ValueError, match='power must be a finite number above 0'):
            BoostedTargetCELoss(power=power)
    with pytest.raises(ValueError, match='tau must be a finite number above 0'):
        BoostedTargetCELoss(tau=0.0)
