"""BinaryKLLoss by value."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from mmkd.losses import BinaryKLLoss, binary_kl, pixel_wise_kl
from mmkd.registry import build_part


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_(), 2 * torch.randn(
        *shape, dtype=torch.float64
    )


def reference(
    student: Tensor, teacher: Tensor, tau: float = 1.0, mask: Tensor | None = None
) -> float:
    """The equation, class by class and place by place."""
    total, count = 0.0, 0
    s, t = (x.detach().movedim(1, -1).reshape(-1, x.shape[1]).tolist() for x in (student, teacher))
    for place, counts in enumerate([True] * len(s) if mask is None else mask.flatten().tolist()):
        if not counts:
            continue
        count += 1
        for a, b in zip(s[place], t[place], strict=True):
            q, p = (1 / (1 + math.exp(-z / tau)) for z in (a, b))
            total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return tau**2 * total / max(count, 1)


def test_hand_value() -> None:
    """Odds of 1 against 3: 3/4 ln 3/2 + 1/4 ln 1/2; odds of 1 against 1: 0."""
    student, teacher = (
        torch.zeros(1, 2, dtype=torch.float64),
        torch.tensor([[3.0, 1.0]], dtype=torch.float64).log(),
    )
    assert binary_kl(student, teacher).item() == pytest.approx(
        0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-12
    )


@pytest.mark.parametrize('shape', [(3, 4), (2, 5, 3), (2, 3, 3, 4), (1, 1, 2, 2)])
@pytest.mark.parametrize('tau', [1.0, 2.5])
def test_equals_the_slow_loop_and_torchs_distributions(shape: tuple[int, ...], tau: float) -> None:
    student, teacher = pair(*shape)
    mask = torch.rand(shape[0], *shape[2:]) > 0.4
    for m in (None, mask):
        expected = reference(student, teacher, tau, m)
        assert binary_kl(student, teacher, tau, m).item() == pytest.approx(expected, rel=1e-9)
    exact = (
        kl_divergence(Bernoulli(logits=teacher / tau), Bernoulli(logits=student / tau))
        .sum(1)
        .mean()
        * tau**2
    )
    torch.testing.assert_close(binary_kl(student, teacher, tau), exact)


def test_a_sigmoid_is_a_softmax_over_yes_and_no() -> None:
    """One class equals pixel-wise KL of the logits (0, z)."""
    student, teacher = pair(2, 1, 3, 4)
    both = [torch.cat([torch.zeros_like(x), x], 1) for x in (student, teacher)]
    for tau in (1.0, 3.0):
        torch.testing.assert_close(binary_kl(student, teacher, tau), pixel_wise_kl(*both, tau=tau))


def test_zero_with_zero_gradient_at_the_teacher_and_nowhere_beside_it() -> None:
    teacher = torch.randn(2, 19, 4, 4, dtype=torch.float64)
    student = teacher.clone().requires_grad_()
    value = binary_kl(student, teacher)
    assert value.item() == 0
    torch.testing.assert_close(
        torch.autograd.grad(value, student)[0], torch.zeros_like(teacher), atol=1e-17, rtol=0
    )
    assert binary_kl(teacher + 0.5, teacher).item() > 0, 'a shift of all logits is no freedom here'


def test_the_size_of_the_map_does_not_matter() -> None:
    student, teacher = pair(2, 4, 3, 3)
    torch.testing.assert_close(
        binary_kl(student.repeat(1, 1, 4, 2), teacher.repeat(1, 1, 4, 2)),
        binary_kl(student, teacher),
    )


def test_the_gradient_is_the_difference_of_probabilities() -> None:
    student, teacher = pair(2, 3, 2, 2)
    (gradient,) = torch.autograd.grad(binary_kl(student, teacher), student)
    torch.testing.assert_close(gradient, (student.detach().sigmoid() - teacher.sigmoid()) / 8)
    mask = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [1, 0]]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda s: binary_kl(s, teacher, 2.0, mask), student)


def test_a_large_temperature_approaches_an_eighth_of_the_squared_distance() -> None:
    student, teacher = pair(2, 3, 2, 2)
    limit = (student - teacher).square().sum(1).mean() / 8
    torch.testing.assert_close(binary_kl(student, teacher, tau=1e3), limit, rtol=1e-4, atol=0)


def test_confident_classes_stay_finite() -> None:
    student = torch.tensor([[-200.0, 200.0]]).requires_grad_()
    value = binary_kl(student, -student.detach())
    assert value.item() == pytest.approx(400)
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_masked_positions_change_neither_value_nor_gradient(bad: float) -> None:
    student, teacher = pair(2, 3, 3, 3)
    mask = torch.rand(2, 3, 3) > 0.5
    clean = binary_kl(student, teacher, 1.0, mask)
    dirty_s = student.detach().masked_fill(~mask[:, None], bad).requires_grad_()
    dirty = binary_kl(dirty_s, teacher.masked_fill(~mask[:, None], bad), 1.0, mask)
    assert dirty == clean
    assert torch.equal(
        *(torch.autograd.grad(v, x)[0] for v, x in ((clean, student), (dirty, dirty_s)))
    )


def test_an_empty_mask_gives_exactly_zero_with_zero_gradient() -> None:
    student, teacher = pair(2, 3, 2, 2)
    value = binary_kl(student, teacher, 1.0, torch.zeros(2, 2, 2, dtype=torch.bool))
    assert value.item() == 0
    assert (torch.autograd.grad(value, student)[0] == 0).all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = (x.detach().to(dtype) for x in pair(2, 19, 4, 4))
    value = binary_kl(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference(student.double(), teacher.double()), rel=1e-4)
    with torch.autocast('cpu', torch.bfloat16):
        assert binary_kl(student, teacher) == value


def test_module_equals_function_and_the_teacher_gets_no_gradient() -> None:
    student, teacher = pair(2, 3, 4, 4)
    teacher.requires_grad_()
    value = build_part(dict(type='BinaryKLLoss', tau=2.0, loss_weight=0.5))(
        student=student, teacher=teacher
    )
    assert value == 0.5 * binary_kl(student, teacher, 2.0)
    value.backward()
    assert teacher.grad is None
    assert BinaryKLLoss().loss_name == 'loss_binary_kl_loss'


def test_refusals() -> None:
    with pytest.raises(ValueError, match='tau must be a finite number above 0, got 0'):
        BinaryKLLoss(tau=0)
    with pytest.raises(
        ValueError, match=r'student has 3 classes but teacher has 4 \(student \(2, 3\)'
    ):
        binary_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(
        ValueError, match=r'binary KL needs logits \(N, C, \*S\), got student \(3,\)'
    ):
        binary_kl(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ValueError, match='differ in shape.*connectors=dict'):
        binary_kl(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5))
    with pytest.raises(TypeError, match='mask must be a bool tensor'):
        binary_kl(torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(2))
