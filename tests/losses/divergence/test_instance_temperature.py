"""CTKD of instances by value: a temperature for each image, read off both predictions."""

import pytest
import torch
from torch import Tensor

from mmkd.losses import LearnedTemperatureKLLoss, pixel_wise_kl
from mmkd.losses.divergence.instance_temperature import InstanceTemperature


def draw() -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of 3 images of 2 × 4 places and 5 classes, and a mask."""
    generator = torch.Generator().manual_seed(4)
    student, teacher = torch.randn(2, 3, 5, 2, 4, dtype=torch.float64, generator=generator)
    return student.requires_grad_(), 3 * teacher, torch.arange(24).view(3, 2, 4) % 3 != 1


def loss(**options: float) -> LearnedTemperatureKLLoss:
    torch.manual_seed(0)
    module = LearnedTemperatureKLLoss(kind='instance', classes=5, width=8, **options).double()
    torch.nn.init.normal_(module.instance.layers[-1].weight)
    return module


def read(student: Tensor, teacher: Tensor, mask: Tensor, front: int) -> Tensor:
    """Return what the layers are shown of an image, place by place."""
    rows = []
    for place in mask.nonzero().tolist():
        s, t = (x[:, place[0], place[1]].softmax(0) for x in (student, teacher))
        order = sorted(range(len(t)), key=lambda c, t=t: -t[c].item())[:front]
        rows.append(torch.stack([*t[order], *s[order]]))
    return torch.stack(rows).mean(0)


@pytest.mark.parametrize('front', [2, 5, 100])
def test_what_is_read_of_an_image_is_the_mean_over_its_places(front: int) -> None:
    student, teacher, mask = draw()
    says = InstanceTemperature(5, front)
    got = says.read(student, teacher, mask, None)
    expected = [read(s, t, m, front) for s, t, m in zip(student, teacher, mask, strict=True)]
    torch.testing.assert_close(got, torch.stack(expected).detach())
    assert not got.requires_grad
    assert says.layers[0].in_features == 2 * min(front, 5)


def test_a_weight_counts_in_what_is_read() -> None:
    """A place of weight 2 is two places; what is masked may be NaN."""
    student, teacher, mask = draw()
    says = InstanceTemperature(5)
    twice = [torch.cat([x, x[..., :1]], -1) for x in (student, teacher)]
    weight = torch.ones(3, 2, 4)
    weight[..., 0] = 2
    torch.testing.assert_close(
        says.read(student, teacher, None, weight), says.read(*twice, None, None)
    )
    holed = student.detach().masked_fill(~mask.unsqueeze(1), torch.nan)
    assert torch.equal(
        says.read(holed, teacher, mask, None), says.read(student, teacher, mask, None)
    )


def test_the_layers_by_hand() -> None:
    """θ = 4 · relu(¾ − ½) − 1 = 0 of the likeliest class: τ = 1 + 20 / 2."""
    says = InstanceTemperature(classes=2, front=1, width=1, start=-1.0)
    with torch.no_grad():
        says.layers[0].weight.copy_(torch.tensor([[1.0, -1.0]]))
        says.layers[0].bias.zero_()
        says.layers[2].weight.fill_(4.0)
    student, teacher = torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]).log()
    assert says(student, teacher).tolist() == pytest.approx([0.0], abs=1e-6)
    module = LearnedTemperatureKLLoss(kind='instance', classes=2)
    module.instance = says
    value = module(student, teacher)
    assert value.item() == pytest.approx(pixel_wise_kl(student, teacher, 11.0).item(), rel=1e-5)
    assert module.diagnostics['temperature'].item() == pytest.approx(11.0)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('reversal', [0.0, 0.3, 1.0])
def test_value_and_gradients_are_those_of_a_loop_over_images(masked: bool, reversal: float) -> None:
    """Each image at its own temperature; what says it gets its gradient times −λ."""
    student, teacher, mask = draw()
    mask = mask if masked else torch.ones_like(mask)
    module, total = loss(reversal=reversal), mask.sum()
    parameters = [*module.instance.parameters()]
    expected = student.new_zeros(())
    for s, t, m in zip(student, teacher, mask, strict=True):
        shown = read(s, t, m, 5).detach()
        tau = 1 + 20 * module.instance.layers(shown).sigmoid()
        p, q = ((x[:, m] / tau).softmax(0) for x in (s, t))
        expected = expected + (tau**2 * (q * (q.log() - p.log())).sum()).squeeze() / total
    value = module(student, teacher, mask if masked else None)
    torch.testing.assert_close(value, expected)
    want = torch.autograd.grad(expected, [student, *parameters])
    got = torch.autograd.grad(value, [student, *parameters])
    torch.testing.assert_close(got[0], want[0])
    for a, b in zip(got[1:], want[1:], strict=True):
        torch.testing.assert_close(a, -reversal * b)
        assert b.abs().max() > 1e-5
    temperatures = module.temperature(student, teacher, mask)
    assert temperatures.std() > 0.1
    assert module.diagnostics['temperature'] == temperatures.mean()


def test_one_temperature_for_all_is_that_of_a_number() -> None:
    student, teacher, mask = draw()
    for reduction in ('mean', 'batch_sum'):
        for direction in ('forward', 'reverse', 'js'):
            options = dict(direction=direction, reduction=reduction, mask=mask)
            many = pixel_wise_kl(student, teacher, torch.full((3,), 2.5).double(), **options)
            torch.testing.assert_close(many, pixel_wise_kl(student, teacher, 2.5, **options))


def test_the_gradient_of_many_temperatures_is_that_of_differences() -> None:
    student, teacher, mask = draw()
    taus = torch.tensor([0.7, 2.0, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: pixel_wise_kl(student, teacher, t, mask=mask), taus)


def test_an_image_of_which_nothing_counts_adds_nothing() -> None:
    student, teacher, mask = draw()
    mask[1] = False
    module = loss()
    value = module(student, teacher, mask)
    kept = [0, 2]
    torch.testing.assert_close(value, module(student[kept], teacher[kept], mask[kept]))
    assert torch.autograd.grad(value, student)[0][1].abs().max() == 0


def test_classes_that_are_left_out_are_found_and_layers_are_in_the_state() -> None:
    student, teacher, _ = draw()
    module = LearnedTemperatureKLLoss(kind='instance', raw=0.0)
    with pytest.raises(RuntimeError, match='temperature are not built.*Mend: classes='):
        module(student, teacher)
    assert module.build(student, teacher).endswith('temperature of an image of 5 classes')
    assert module.build(student, teacher) == ''
    assert LearnedTemperatureKLLoss().build(student, teacher) == ''
    shapes = {name: tuple(p.shape) for name, p in module.state_dict().items()}
    assert shapes == {
        'instance.layers.0.weight': (256, 10),
        'instance.layers.0.bias': (256,),
        'instance.layers.2.weight': (1, 256),
        'instance.layers.2.bias': (1,),
    }
    assert module.temperature(student, teacher).tolist() == [11.0] * 3, 'where all begin'


def test_bad_input() -> None:
    for options in (dict(kind='local'), dict(front=0), dict(width=0)):
        with pytest.raises(ValueError, match=f'{next(iter(options))} must be'):
            LearnedTemperatureKLLoss(**options)
    with pytest.raises(ValueError, match='classes must be'):
        LearnedTemperatureKLLoss(kind='instance', classes=1)
    student, teacher, _ = draw()
    with pytest.raises(ValueError, match=r'read off 7 classes, got student .* mend: classes=5'):
        LearnedTemperatureKLLoss(kind='instance', classes=7)(student, teacher)
