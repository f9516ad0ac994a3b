"""ReliabilityMixLoss by value: both public readings of the paper, what is mixed, gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from references import reliability_mix as reference
from torch import Tensor

from mmkd.losses import ReliabilityMixLoss, binary_kl, reliability_mix


def draw(*shape: int, seed: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return student.requires_grad_(), 2 * teacher, labels


def mixed(s: Tensor, t: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return h and g as both implementations write them, of label maps."""
    one_hot = F.one_hot(labels, s.shape[1]).movedim(-1, 1).to(s)

    def wrong(z: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(z, one_hot, reduction='none')

    reliability = 1 - wrong(t) / (wrong(t) + wrong(s))
    hybrid = reliability * t + (1 - reliability) * s
    return hybrid, wrong(s) + (wrong(s) - wrong(hybrid)).clamp(min=0)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_over_places_is_one_implementation(tau: float) -> None:
    """Weights by a softmax over the places of an image and class, a mean over these."""
    student, teacher, labels = draw(2, 5, 3, 4)
    with torch.no_grad():
        h, g = mixed(student, teacher, labels)
        weights = g.flatten(2).softmax(2).view_as(g)
    p, q = (h / tau).sigmoid(), (student / tau).sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    expected = (each * weights).sum((2, 3)).mean() * tau**2
    value = reliability_mix(student, teacher, labels, tau)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, student), torch.autograd.grad(expected, student)
    )
    slope = tau / 10 * (weights * (q - p)).detach()  # τ² / (N C) · w (q − p) / τ
    value = reliability_mix(student, teacher, labels, tau)
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], slope)


@pytest.mark.parametrize('tau', [1.0, 4.0])
def test_over_classes_is_the_other(tau: float) -> None:
    """It averages over classes as well, and has no τ²."""
    student, teacher, labels = draw(2, 5, 3, 4)
    with torch.no_grad():
        h, g = mixed(student, teacher, labels)
    soft = (h / tau).softmax(1)
    expected = -(soft * (student / tau).log_softmax(1) * g.softmax(1)).mean()
    value = reliability_mix(student, teacher, labels, tau, 'classes')
    torch.testing.assert_close(value, 5 * tau**2 * expected)
    torch.testing.assert_close(
        torch.autograd.grad(value, student)[0],
        5 * tau**2 * torch.autograd.grad(expected, student)[0],
    )


def test_by_hand() -> None:
    """H = ln 2 of the student and ln 4/3 of the teacher, of both classes."""
    teacher = torch.tensor([[3.0, 1 / 3]], dtype=torch.float64).log()
    value = reliability_mix(torch.zeros(1, 2).double(), teacher, torch.tensor([0]), 1.0)
    a = math.log(2) / (math.log(2) + math.log(4 / 3))
    p = 3**a / (1 + 3**a)
    assert value.item() == pytest.approx(p * math.log(2 * p) + (1 - p) * math.log(2 - 2 * p))


def test_a_teacher_that_is_wrong_beyond_doubt_pulls_by_the_students_own_error() -> None:
    """h tends to z ∓ H(z); a teacher that is right beyond doubt is copied."""
    labels = torch.tensor([0, 1])
    right = 2 * F.one_hot(labels, 2).double() - 1
    student = right / 2
    error = math.log1p(math.exp(-0.5))
    expected = binary_kl(student, student - error * right, 2.0) / 2
    torch.testing.assert_close(reliability_mix(student, -1e9 * right, labels, 2.0), expected)
    torch.testing.assert_close(
        reliability_mix(student, 1e3 * right, labels, 2.0), binary_kl(student, right * 1e3, 2.0) / 2
    )


def test_a_student_that_is_right_beyond_doubt_learns_from_nobody() -> None:
    labels = torch.tensor([0, 1])
    right = 1e4 * (2 * F.one_hot(labels, 2).double() - 1)
    assert reliability_mix(right, -right, labels) == 0
    assert reliability_mix(right, right / 1e5, labels) < 1e-8


def test_the_target_is_not_pulled_to_the_student() -> None:
    """The gradient is that of the divergence from a target that stays where it is."""
    student, teacher, labels = draw(6, 5)
    value = reliability_mix(student, teacher, labels, 2.0)
    slope = torch.autograd.grad(value, student)[0]
    h, g = mixed(student.detach(), teacher, labels)
    weights = g.softmax(0)
    torch.testing.assert_close(
        slope, 2 / 5 * weights * ((student / 2).sigmoid() - (h / 2).sigmoid()).detach()
    )
    assert value.item() == pytest.approx(
        reference.reliability_mix(student.detach(), teacher, labels, 2.0, 'places')
    )


def test_a_place_where_more_is_to_be_learned_counts_for_more() -> None:
    """Two places, one already right: the other has nearly all of the weight."""
    student = torch.tensor([[[8.0, -8.0], [-8.0, 8.0]]]).double()
    teacher = torch.tensor([[[9.0, 9.0], [-9.0, -9.0]]]).double()
    labels = torch.tensor([[0, 0]])
    value = reliability_mix(student, teacher, labels, 1.0)
    alone = reliability_mix(student[..., 1:], teacher[..., 1:], labels[:, 1:], 1.0)
    assert value.item() == pytest.approx(alone.item(), rel=1e-5)


@pytest.mark.parametrize('over', ['places', 'classes'])
def test_a_weight_is_how_often_a_place_counts(over: str) -> None:
    student, teacher, labels = draw(2, 5, 3)
    weight = torch.tensor([[1.0, 2.0, 0.0], [1.0, 1.0, 1.0]])
    places = [0, 1, 1], [0, 1, 2]
    flat = [
        torch.stack([x[n][..., i] for n, i in enumerate(places)])
        for x in (student, teacher, labels)
    ]
    torch.testing.assert_close(
        reliability_mix(student, teacher, labels, 2.0, over, weight=weight),
        reliability_mix(*flat, 2.0, over),
    )
    ones = torch.ones(2, 3)
    assert reliability_mix(student, teacher, labels, weight=ones) == reliability_mix(
        student, teacher, labels
    )


def test_places_and_images_without_a_label_are_left_out() -> None:
    student, teacher, labels = draw(3, 5, 6)
    labels[0, :3], labels[1] = 255, 255
    parts = [
        reliability_mix(*(x[n : n + 1, ..., i:] for x in (student, teacher, labels)))
        for n, i in ((0, 3), (2, 0))
    ]
    torch.testing.assert_close(reliability_mix(student, teacher, labels), sum(parts) / 2)


def test_bad_input() -> None:
    student, teacher, labels = draw(2, 5, 3)
    with pytest.raises(TypeError, match='reliability mix needs labels of an integer dtype'):
        reliability_mix(student, teacher, labels.float())
    with pytest.raises(ValueError, match='student has 5 classes but teacher has 4'):
        reliability_mix(student, teacher[:, :4], labels)
    with pytest.raises(ValueError, match='single class'):
        reliability_mix(student[:, :1], teacher[:, :1], labels)
    with pytest.raises(ValueError, match="over must be .*'places', 'classes'.*got 'pixels'"):
        ReliabilityMixLoss(over='pixels')
    with pytest.raises(ValueError, match='tau must be a finite number above 0'):
        ReliabilityMixLoss(tau=0.0)
