"""Bf16OptimWrapper: torch.autocast by hand, and OptimWrapper's own accumulation."""

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.nn import functional as F


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1))


def wrap(model: nn.Module, **kwargs: Any) -> Any:
    return OPTIM_WRAPPERS.build(
        dict(
            type='mmkd.Bf16OptimWrapper',
            **kwargs,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        )
    )


IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(5, (4, 4, 4), generator=torch.Generator().manual_seed(2))


def test_step_equals_autocast_by_hand() -> None:
    ours, hand, single = network(), network(), network()
    wrapper = wrap(ours)
    with wrapper.optim_context(ours):
        logits = ours(IMAGES)
        assert logits.dtype == torch.bfloat16
        loss = F.cross_entropy(logits.float(), LABELS)
    wrapper.update_params(loss)

    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = F.cross_entropy(hand(IMAGES).float(), LABELS)
    expected.backward()
    optimizer.step()
    assert torch.equal(loss, expected)
    for one, other in zip(ours.parameters(), hand.parameters(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)
    # and it is a different computation from float32, by about bfloat16's 2⁻⁸
    difference = (F.cross_entropy(single(IMAGES), LABELS) - loss).abs() / loss
    assert 0 < difference < 2**-7


def test_accumulates_as_optim_wrapper_does() -> None:
    ours, hand = network(), network()
    wrapper = wrap(ours, accumulative_counts=2, clip_grad=dict(max_norm=0.1))
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.1)
    before = [parameter.clone() for parameter in ours.parameters()]
    for half in (slice(0, 2), slice(2, 4)):
        assert all(map(torch.equal, ours.parameters(), before))  # no step before the second half
        with wrapper.optim_context(ours):
            loss = F.cross_entropy(ours(IMAGES[half]), LABELS[half])
        wrapper.update_params(loss)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            expected = F.cross_entropy(hand(IMAGES[half]), LABELS[half])
        (expected / 2).backward()
    torch.nn.utils.clip_grad_norm_(hand.parameters(), 0.1)
    optimizer.step()
    for one, other in zip(ours.parameters(), hand.parameters(), strict=True):
        assert torch.equal(one, other)


def test_holds_back_ddp_while_gradients_accumulate() -> None:
    class Distributed(nn.Linear):
        held = 0

        @contextmanager
        def no_sync(self) -> Any:
            self.held += 1
            yield

    model = Distributed(2, 2)
    wrapper, held = wrap(model, accumulative_counts=3), []
    for _ in range(6):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 2)).sum()
        wrapper.update_params(loss)
        held.append(model.held)
    assert held == [1, 2, 2, 3, 4, 4]


def test_backward_runs_outside_autocast() -> None:
    model = network()
    wrapper = wrap(model)
    with wrapper.optim_context(model):
        assert torch.is_autocast_enabled('cpu')
        assert torch.get_autocast_dtype('cpu') == torch.bfloat16
    assert not torch.is_autocast_enabled('cpu')


def test_state_holds_no_scaler() -> None:
    model = network()
    assert sorted(wrap(model).state_dict()) == ['param_groups', 'state']


def test_unknown_arguments_are_errors() -> None:
    with pytest.raises(TypeError, match='loss_scale'):
        wrap(network(), loss_scale='dynamic')
