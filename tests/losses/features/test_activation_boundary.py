"""ActivationBoundaryLoss by value: what it asks nothing of, what of the teacher counts, weights."""

import pytest
import torch
from references import activation_boundary as reference
from torch import Tensor

from mmkd.losses import ActivationBoundaryLoss, activation_boundary


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


STUDENT, TEACHER = draw(3, 4, 5, 6), 2 * draw(3, 4, 5, 6, seed=1)


def official(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Return the authors' criterion: two masked squares, summed."""
    off = (student + margin) ** 2 * ((student > -margin) & (teacher <= 0)).double()
    on = (student - margin) ** 2 * ((student <= margin) & (teacher > 0)).double()
    return (off + on).abs().sum()


@pytest.mark.parametrize('margin', [0.3, 1.0, 2.5])
def test_it_is_the_authors_over_channels_and_places(margin: float) -> None:
    """Value and gradient."""
    student = STUDENT.clone().requires_grad_()
    value = activation_boundary(student, TEACHER, margin)
    expected = official(student, TEACHER, margin) / student.numel()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (value, expected)))


def test_nothing_is_asked_where_signs_agree_beyond_the_margin() -> None:
    """And no gradient flows; just within the margin both are there."""
    side = torch.where(TEACHER > 0, 1.0, -1.0)
    student = (side * (1 + STUDENT.abs())).requires_grad_()
    value = activation_boundary(student, TEACHER)
    assert value == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()
    student = (0.9 * side).requires_grad_()
    value = activation_boundary(student, TEACHER)
    assert value.item() == pytest.approx(0.01)
    gradient = torch.autograd.grad(value, student)[0]
    assert (gradient * side < 0).all()


def test_of_the_teacher_the_sign_alone_counts() -> None:
    """After its ReLU a neuron that is off is 0, which is the same."""
    value = activation_boundary(STUDENT, TEACHER)
    for other in (TEACHER.sign(), 7 * TEACHER, TEACHER.relu()):
        assert activation_boundary(STUDENT, other) == value


def test_a_neuron_on_the_wrong_side_costs_the_square_of_its_way() -> None:
    for s, t, cost in ((0.5, -1, 2.25), (0.5, 1, 0.25), (-3.0, 0.1, 16.0), (-3.0, 0.0, 0.0)):
        student, teacher = torch.full((2, 3), s), torch.full((2, 3), float(t))
        assert activation_boundary(student, teacher).item() == pytest.approx(cost)


def test_weights() -> None:
    """Ones change nothing; others are the reference's, beside a mask too; zeros give zero."""
    ones, weight = torch.ones(3, 5, 6), draw(3, 5, 6, seed=7).relu()
    for kept in (None, torch.arange(90).view(3, 5, 6) % 3 != 1):
        whole = activation_boundary(STUDENT, TEACHER, mask=kept)
        assert activation_boundary(STUDENT, TEACHER, mask=kept, weight=ones) == whole
        expected = reference.activation_boundary(STUDENT, TEACHER, 1.0, kept, weight)
        got = ActivationBoundaryLoss()(STUDENT, TEACHER, kept, weight)
        assert got.item() == pytest.approx(expected)
        assert abs(got - whole) > 1e-4
    assert activation_boundary(STUDENT, TEACHER, weight=0 * ones) == 0


def test_what_is_refused() -> None:
    for margin in (0.0, -1.0, float('nan'), 'batch'):
        with pytest.raises(ValueError, match='margin must be a finite number above 0'):
            ActivationBoundaryLoss(margin=margin)
        with pytest.raises(ValueError, match='margin must be a finite number above 0'):
            activation_boundary(STUDENT, TEACHER, margin)
    with pytest.raises(ValueError, match=r'activation boundary needs maps .* mend: connectors'):
        activation_boundary(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(TypeError, match='weight must be a float tensor'):
        activation_boundary(STUDENT, TEACHER, weight=torch.ones(3, 5, 6).bool())
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        activation_boundary(STUDENT, TEACHER, mask=torch.ones(3, 5, 6))
