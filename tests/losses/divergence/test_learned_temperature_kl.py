"""LearnedTemperatureKLLoss by value: the student learns, and the temperature against it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmkd.losses import LearnedTemperatureKLLoss, pixel_wise_kl
from mmkd.losses.functional import reverse_gradient


def draw() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator)
    return student.requires_grad_(), 3 * teacher


def official(student: Tensor, teacher: Tensor, theta: Tensor) -> Tensor:
    """Return what the authors' code computes, without its reversal."""
    tau = 1 + 20 * torch.sigmoid(theta)
    each = F.kl_div(
        F.log_softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1), reduction='batchmean'
    )
    return each * tau * tau


def loss(**options: float) -> LearnedTemperatureKLLoss:
    return LearnedTemperatureKLLoss(**options).double()


@pytest.mark.parametrize('reversal', [0.0, 0.3, 1.0])
def test_value_and_gradients_are_the_authors(reversal: float) -> None:
    """That of θ through τ², student and teacher, times −λ; that of the student as it is."""
    student, teacher = draw()
    module = loss(reversal=reversal)
    theta = torch.ones((), dtype=torch.float64, requires_grad=True)
    expected = official(student, teacher, theta)
    value = module(student, teacher)
    torch.testing.assert_close(value, expected)
    of_student, of_theta = torch.autograd.grad(expected, [student, theta])
    got = torch.autograd.grad(value, [student, module.raw])
    torch.testing.assert_close(got[0], of_student)
    torch.testing.assert_close(got[1], -reversal * of_theta)
    assert of_theta.abs() > 1e-4


def test_the_gradient_of_a_temperature_is_that_of_differences() -> None:
    student, teacher = draw()
    tau = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    for direction in ('forward', 'reverse', 'js', ('alpha-beta', 0.5, 0.5)):
        for standardize in (False, True):
            assert torch.autograd.gradcheck(
                lambda t, d=direction, z=standardize: pixel_wise_kl(
                    student, teacher, t, d, standardize=z
                ),
                tau,
            )
    assert pixel_wise_kl(student, teacher, tau) == pixel_wise_kl(student, teacher, 2.5)


def test_a_step_makes_the_loss_larger_in_the_temperature_and_smaller_in_the_student() -> None:
    student, teacher = draw()
    module = loss()
    before, tau = module(student, teacher), module.temperature().item()
    optimizer = torch.optim.SGD([student, module.raw], lr=1e-2)
    before.backward()
    optimizer.step()
    after = module.temperature().item()
    fixed = [pixel_wise_kl(draw()[0], teacher, t) for t in (tau, after)]
    assert fixed[1] > fixed[0]
    assert pixel_wise_kl(student, teacher, tau) < before


def test_it_begins_where_the_authors_do_and_stays_within_its_range() -> None:
    module = loss()
    assert module.temperature().item() == pytest.approx(1 + 20 * 0.7310585786)
    for raw, tau in ((-1e4, 2.0), (0.0, 4.0), (1e4, 6.0)):
        assert loss(lowest=2.0, span=4.0, raw=raw).temperature().item() == tau


def test_its_parameter_is_in_the_state_and_its_temperature_in_the_logs() -> None:
    student, teacher = draw()
    module = loss()
    module(student, teacher)
    assert list(module.state_dict()) == ['raw']
    tau = module.diagnostics['temperature']
    assert tau == module.temperature()
    assert not tau.requires_grad
    copied = copy.deepcopy(module)
    assert copied.raw == module.raw


def test_half_precision_of_the_module_keeps_the_temperature() -> None:
    student, teacher = (x.detach().float() for x in draw())
    module = LearnedTemperatureKLLoss().to(torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        value = module(student.bfloat16(), teacher.bfloat16())
    expected = pixel_wise_kl(student.bfloat16(), teacher.bfloat16(), module.temperature().item())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_reversed_gradients() -> None:
    x = torch.tensor([1.0, float('nan'), 3e38], requires_grad=True)
    value = reverse_gradient(x, 0.5)
    assert value.isnan().tolist() == [False, True, False]
    assert value[[0, 2]].tolist() == x[[0, 2]].tolist()  # to the bit
    assert torch.autograd.grad(value.sum(), x)[0].tolist() == [-0.5, -0.5, -0.5]


def test_bad_input() -> None:
    student, teacher = draw()
    for tau in (torch.ones(1), torch.tensor(2)):
        with pytest.raises(
            ValueError, match=r'tau must be one number, or one for each of 6 images, got a .* mend'
        ):
            pixel_wise_kl(student, teacher, tau)
    for options in (dict(lowest=0.0), dict(span=0.0), dict(reversal=-1.0)):
        with pytest.raises(ValueError, match=f'{next(iter(options))} must be a finite number'):
            LearnedTemperatureKLLoss(**options)
    with pytest.raises(ValueError, match='direction must be one of'):
        LearnedTemperatureKLLoss(direction='backward')
    with pytest.raises(ValueError, match='single class'):
        loss()(student[:, :1], teacher[:, :1])
