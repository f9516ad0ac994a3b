"""A tap's tensor replaced on its way, and a teacher's own loss under it."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from helpers.runs import model_of
from helpers.tiny import batch, build
from torch import Tensor, nn

from mmkd.distiller.taps.changing import changing
from mmkd.distiller.taps.tap_path import TapPath
from mmkd.structures.batch import Batch

Pair = namedtuple('Pair', 'first second')


class Giver(nn.Module):
    """Gives what a function makes of its input."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.give = give

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        return self.give(x)


class Model(nn.Module):
    def __init__(self, give: Any) -> None:
        super().__init__()
        self.inner = Giver(give)

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, x)


X = torch.ones(1, 2)


@pytest.mark.parametrize(
    ('give', 'path', 'expected'),
    [
        (lambda x: x, 'inner', 5 * X),
        (lambda x: x, 'inner:input', 5 * X),
        (lambda x: (x, -x), 'inner[1]', (X, -5 * X)),
        (lambda x: [x, -x], 'inner[0]', [5 * X, -X]),
        (lambda x: [x, -x], 'inner[-1]', [X, -5 * X]),
        (lambda x: dict(a=x, b=(x, x)), 'inner[b][0]', dict(a=X, b=(5 * X, X))),
        (lambda x: Pair(x, -x), 'inner[1]', Pair(X, -5 * X)),
        (lambda x: x, 'inner:input[1]', X),
    ],
)
def test_what_comes_after_reads_the_changed_tensor(give: Any, path: str, expected: Any) -> None:
    model = Model(give)
    before = model(X)
    with changing(model, TapPath.parse(path), lambda x: 5 * x, 'tap'):
        found = model(X)
    torch.testing.assert_close(found, expected)
    assert type(found) is type(expected)
    torch.testing.assert_close(model(X), before)
    assert not model.inner._forward_hooks
    assert not model.inner._forward_pre_hooks


@pytest.mark.bad_input
@pytest.mark.parametrize('path', ['inner#0', 'inner#*', 'inner:query', 'inner:input[x]'])
def test_what_cannot_be_changed(path: str) -> None:
    with (
        pytest.raises(ValueError, match="tap 'a' cannot be changed on its way.*Mend: a tap such"),
        changing(Model(lambda x: x), TapPath.parse(path), lambda x: x, "tap 'a'"),
    ):
        pass


def test_a_teacher_has_its_own_loss_of_it() -> None:
    """Of the tensor as it is, the loss that it has anyway; and it needs a tap that counts."""
    model = build(model_of(critic=False))
    run, data = model.runs['teacher'], model.data_preprocessor(batch(size=32, num_classes=3), True)
    one = Batch(**data, task=model.task)
    tap = next(name for name, path in run.taps.paths.items() if 'conv_seg' in path.text)
    scale = torch.ones((), requires_grad=True)
    value = run.loss_with(tap, one, lambda x: scale * x)
    with torch.no_grad():
        losses = run.model(one.inputs, one.data_samples, mode='loss')
    own = sum(x for key, x in losses.items() if 'loss' in key)
    torch.testing.assert_close(value.detach(), own)
    value.backward()
    assert scale.grad != 0
    assert all(p.grad is None for p in run.model.parameters())
    with pytest.raises(ValueError, match="teacher's own loss does not depend on it. Mend: a tap"):
        run.loss_with(tap, one, lambda x: x)
