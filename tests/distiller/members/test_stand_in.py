"""Stand-ins: what is copied, what sleeps, and that any weights will do."""

import threading

import pytest
import torch
from helpers import tiny
from mmcv.cnn.bricks.drop import DropPath
from mmengine.registry import MODELS
from torch import nn
from torch.nn.utils import weight_norm

from mmkd.distiller.members.stand_in import copy_module, sleeps, stand_in


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_weights_are_small_whatever_they_were_and_the_student_keeps_its_own() -> None:
    net = MODELS.build({**tiny.segmentor(4), '_scope_': 'mmseg'})
    for parameter in net.parameters():  # uninitialised memory may hold anything
        parameter.data.fill_(float('nan'))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    made = stand_in(net, 'student', generator())
    assert torch.equal(torch.get_rng_state(), random)
    conv = made.backbone.layer1[0].conv1.weight
    bound = conv[0].numel() ** -0.5
    assert conv.abs().max() <= bound
    assert conv.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)  # of a uniform distribution
    assert all(p.min() >= 0.5 and p.max() <= 1 for p in made.parameters() if p.dim() == 1)
    with torch.no_grad():
        assert made(torch.randn(1, 3, 64, 64)).isfinite().all()
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    again = stand_in(net, 'student', generator())
    assert all(
        torch.equal(x, y) for x, y in zip(made.parameters(), again.parameters(), strict=True)
    )


def test_all_but_norms_and_dropouts_is_awake() -> None:
    class StochasticDepth(nn.Module):
        pass

    class OwnNorm(nn.Module):
        pass

    class DropoutHead(nn.Sequential):
        """Its name alone: a module of modules may choose its path by its mode."""

    net = nn.Sequential(
        nn.Conv2d(1, 1, 1),
        nn.BatchNorm2d(1),
        nn.SyncBatchNorm(1),
        nn.Dropout2d(),
        DropPath(),
        StochasticDepth(),
        OwnNorm(),
        DropoutHead(nn.ReLU()),
    ).eval()
    made = stand_in(net, 'student', generator())
    assert [module.training for module in made] == [
        True,
        False,
        False,
        False,
        False,
        False,
        False,
        True,
    ]
    assert made.training
    assert not any(module.training for module in net.modules())
    assert [sleeps(module) for module in made] == [not module.training for module in made]


def test_what_is_computed_from_a_parameter_is_copied_by_value() -> None:
    net = weight_norm(nn.Linear(3, 2))
    assert net.weight.grad_fn is not None
    made = copy_module(net, 'student')
    assert torch.equal(made(torch.ones(1, 3)), net(torch.ones(1, 3)))
    assert made.weight_v is not net.weight_v


def test_what_cannot_be_copied_is_named() -> None:
    net = nn.Linear(1, 1)
    net.lock = threading.Lock()
    with pytest.raises(
        TypeError,
        match=r"student 'b' \(a Linear\) cannot be copied \(TypeError: cannot pickle "
        r"'_thread.lock' object\).*Mend: hold no open files, locks or computed",
    ):
        copy_module(net, "student 'b'")
