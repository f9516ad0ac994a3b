"""LevelFusion by value: what is handed on from deep to shallow, and how a Distiller makes it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import two_ranks_norm
from helpers.processes import ranks
from helpers.tiny import batch, build, distiller, segmentor, sgd
from torch import Tensor, nn

from mmkd.connectors import LevelFusion, LevelsConnector
from mmkd.connectors.level_fusion import ReviewGate, SelectiveGate
from mmkd.distiller.export import student_state_dict
from mmkd.distiller.objectives.objective import build_objective

IN, OUT = (3, 4, 6), (5, 7, 2)
SIZES = ((8, 12), (4, 6), (2, 3))
WANTED = [(8, 12), (5, 6), (1, 3)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


MAPS = [draw(2, c, *size, seed=k) for k, (c, size) in enumerate(zip(IN, SIZES, strict=True))]
TEACHER = [
    draw(2, c, *size, seed=9 + k) for k, (c, size) in enumerate(zip(OUT, WANTED, strict=True))
]


def made(gate: str, channels: int | None = 4) -> LevelFusion:
    torch.manual_seed(0)
    return LevelFusion(gate, channels, IN, OUT).double()


def normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)


def review(level: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return the fused map of ReviewKD's ABF, z of both beside each other."""
    n, _, h, w = x.shape
    z = F.conv2d(torch.cat([x, y], 1), level.gate.conv.weight, level.gate.conv.bias).sigmoid()
    return x * z[:, 0].view(n, 1, h, w) + y * z[:, 1].view(n, 1, h, w)


def selective(level: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return the fused map of TransKD's SK."""
    both = torch.stack([x, y], 1)
    mean = both.sum(1).mean((2, 3), keepdim=True)
    narrow = F.conv2d(mean, level.gate.squeeze.weight)
    narrow = normalised(narrow, level.gate.norm).relu()
    shares = torch.stack([level.gate.own(narrow), level.gate.other(narrow)], 1).softmax(1)
    return (both * shares).sum(1)


@pytest.mark.parametrize('gate', ['review', 'selective'])
def test_it_is_the_loop_of_the_authors(gate: str) -> None:
    """Deep to shallow, by their own code's steps, at sizes that are no squares."""
    fusion, fuse = made(gate), dict(review=review, selective=selective)[gate]
    expected: list[Tensor] = []
    handed = None
    for level, x, size in list(zip(fusion.levels, MAPS, WANTED, strict=True))[::-1]:
        x = normalised(F.conv2d(x, level.bring[0].weight), level.bring[1])
        if handed is not None:
            x = fuse(level, x, F.interpolate(handed, x.shape[-2:], mode='nearest'))
        handed = F.interpolate(x, size, mode='nearest')
        made_one = F.conv2d(handed, level.give[0].weight, padding=1)
        expected.insert(0, normalised(made_one, level.give[1]))
    found = fusion(MAPS, WANTED)
    assert [tuple(x.shape) for x in found] == [(2, c, *s) for c, s in zip(OUT, WANTED, strict=True)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('gate', ['review', 'selective'])
def test_a_shallow_level_holds_all_deeper_ones_and_no_deep_one_holds_a_shallow(gate: str) -> None:
    fusion = made(gate)
    given = [x.clone().requires_grad_() for x in MAPS]
    weights = [draw(*x.shape, seed=20 + k) for k, x in enumerate(TEACHER)]
    for k, one in enumerate(fusion(given, WANTED)):
        slopes = torch.autograd.grad(
            (one * weights[k]).sum(), given, retain_graph=True, allow_unused=True
        )
        reached = [slope is not None and bool(slope.abs().sum() > 0) for slope in slopes]
        assert reached == [level >= k for level in range(3)]


def test_by_hand() -> None:
    """Gates without weights give half of each; identities leave the rest as it is."""
    fusion = LevelFusion(mid_channels=1, in_channels=(1, 1), out_channels=(1, 1)).eval()
    for level in fusion.levels:
        level.bring[0].weight.data.fill_(2.0)
        level.give[0].weight.data.zero_()[0, 0, 1, 1] = 3.0
        for norm in (level.bring[1], level.give[1]):
            norm.eps = 0.0
    for parameter in fusion.levels[0].gate.parameters():
        parameter.data.zero_()
    maps = [torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[[[10.0]]]])]
    shallow, deep = fusion(maps)
    assert deep.item() == 60.0
    expected = 3 * (torch.arange(4.0) + 10.0)  # ½ · 2 x + ½ · 2 · 10
    torch.testing.assert_close(shallow.flatten(), expected)
    fusion.levels[0].gate.conv.bias.data.copy_(torch.tensor([50.0, -50.0]))  # of itself alone
    torch.testing.assert_close(fusion(maps)[0].flatten(), 6 * torch.arange(4.0))


@pytest.mark.parametrize('gate', ['review', 'selective'])
def test_a_list_from_deep_to_shallow_is_fused_the_same_way(gate: str) -> None:
    """As mmseg's U-Net gives it: the same maps, in the other order."""
    natural, turned = LevelFusion(gate), LevelFusion(gate)
    natural.build(MAPS, TEACHER)
    turned.build(MAPS[::-1], TEACHER[::-1])
    for level, other in zip(natural.levels, reversed(turned.levels), strict=True):
        other.load_state_dict(level.state_dict())
    found = turned.double()(MAPS[::-1], WANTED[::-1])[::-1]
    for one, other in zip(found, natural.double()(MAPS, WANTED), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (natural.order, turned.order) == ([0, 1, 2], [2, 1, 0])


def test_maps_of_one_size_are_deeper_by_their_place_in_the_list() -> None:
    """A vision transformer's; and the last stages of a network with dilated convolutions."""
    fusion = LevelFusion()
    fusion.build([MAPS[0], MAPS[0], MAPS[0]], [TEACHER[0]] * 3)
    assert fusion.order == [0, 1, 2]
    assert [level.gate is None for level in fusion.levels] == [False, False, True]


def test_one_level_is_two_convolutions_alone() -> None:
    fusion = LevelFusion('review', 4, IN[:1], OUT[:1]).double()
    assert fusion.levels[0].gate is None
    level = fusion.levels[0]
    (found,) = fusion(MAPS[:1])
    torch.testing.assert_close(found, level.give(level.bring(MAPS[0])))


def test_vectors_are_maps_of_one_place() -> None:
    """What a classifier reads as the deepest level."""
    fusion = LevelFusion('review', 4, IN, OUT).double()
    vectors = [*MAPS[:2], MAPS[2].mean((2, 3))]
    sizes = [*WANTED[:2], ()]
    found = fusion(vectors, sizes)
    assert found[2].shape == (2, 2, 1, 1)
    again = fusion([*vectors[:2], vectors[2][..., None, None]], [*WANTED[:2], (1, 1)])
    assert all(map(torch.equal, found, again))


def test_gates() -> None:
    """Selective shares sum to 1, without a batch as well; review's are between 0 and 1."""
    x, y = draw(2, 5, 3, 4), draw(2, 5, 3, 4, seed=1)
    gate = SelectiveGate(5).double()
    for images in (1, 2):
        own, other = gate(x[:images], y[:images])
        assert own.shape == (images, 5, 1, 1)
        torch.testing.assert_close(own + other, torch.ones_like(own))
    assert gate.squeeze.weight.shape == (32, 5, 1, 1)
    assert SelectiveGate(1024).squeeze.weight.shape == (64, 1024, 1, 1)
    own, other = ReviewGate(5).double()(x, y)
    assert own.shape == other.shape == (2, 1, 3, 4)
    assert 0 < own.min() < own.max() < 1


def test_as_wide_as_the_deepest_and_begins_as_the_authors() -> None:
    fusion = LevelFusion(in_channels=(8, 1024), out_channels=(3, 3))
    assert fusion.levels[0].bring[0].weight.shape == (512, 8, 1, 1)
    assert made('review', None).levels[0].bring[0].weight.shape == (6, 3, 1, 1)
    weight = fusion.levels[1].give[0].weight  # uniform within √(3 / fan-in)
    assert weight.abs().max().item() == pytest.approx((3 / (512 * 9)) ** 0.5, rel=1e-2)
    assert fusion.levels[0].bring[0].bias is None


# ---------------------------------------------------------------------- in a Distiller


def levels(number: int = 4, teacher: int | None = None, **changes: Any) -> dict:
    """Return a Distiller that compares the stages of two ResNets."""
    stages = [f'stage{k}' for k in range(4)]
    objective = dict(
        loss=dict(type='HierarchicalContextLoss'),
        reads=dict(
            student=[f'student.{name}' for name in stages[:number]],
            teacher=[f'teacher.{name}' for name in stages[: teacher or number]],
        ),
        connectors=dict(student=dict(type='LevelFusion', mid_channels=8)),
    )
    return distiller(
        student=dict(model=segmentor(4)),
        teacher=dict(model=segmentor(8), allow_untrained=True),
        taps={name: f'auto:stages[{k}]' for k, name in enumerate(stages)},
        objectives=dict(review=objective | changes),
    )


def test_a_distiller_builds_it_and_trains_it() -> None:
    """Channels are found, all of it learns, and the exported student is without."""
    model = build(levels())
    fusion = model.objectives['review'].connectors['student']
    assert [level.bring[0].weight.shape[1] for level in fusion.levels] == [4, 8, 16, 32]
    assert [level.give[0].weight.shape[0] for level in fusion.levels] == [8, 16, 32, 64]
    before = {name: x.clone() for name, x in fusion.named_parameters()}
    log = model.train_step(batch(), sgd(model))
    assert log['review.loss'] > 0
    still = [name for name, x in fusion.named_parameters() if torch.equal(x, before[name])]
    assert still == []
    state = model.state_dict()
    assert 'objectives.review.connectors.student.levels.0.gate.conv.weight' in state
    assert student_state_dict(state).keys() == model.student.state_dict().keys()
    other = build(levels())
    assert other.load_state_dict(state).missing_keys == []


@pytest.mark.bad_input
def test_lists_of_other_lengths_are_refused_by_name() -> None:
    message = (
        "objective 'review': the connector of 'student' got student=.* teacher=.*: student has 4 "
        'stages, teacher 3; mend: lists of one length'
    )
    with pytest.raises(ValueError, match=message):
        build(levels(4, 3))
    with pytest.raises(ValueError, match="objective 'review': .* student has 2 stages, teacher 4"):
        build(levels(2, 4, connectors={}))


@pytest.mark.bad_input
def test_what_is_refused() -> None:
    for options, message in (
        (dict(gate='sum'), r"gate must be one of \('review', 'selective'\)"),
        (dict(mid_channels=0), 'mid_channels must be a whole number'),
        (dict(in_channels=(3, 4), out_channels=(3,)), 'in_channels has 2 stages, out_channels 1'),
        (dict(in_channels=(0,), out_channels=(3,)), 'channels of LevelFusion must be a whole'),
    ):
        with pytest.raises(ValueError, match=message):
            LevelFusion(**options)
    fusion = LevelFusion()
    with pytest.raises(RuntimeError, match='the levels are not built.* Mend: in_channels'):
        fusion(MAPS)
    with pytest.raises(TypeError, match='student must be a list of maps'):
        fusion.build(MAPS[0], TEACHER)
    assert fusion.build(MAPS, TEACHER) == (
        '3 levels of [3, 4, 6] channels -> [5, 7, 2] by review fusion of 6'
    )
    assert fusion.build(MAPS, TEACHER) == ''
    with pytest.raises(ValueError, match='a fusion of 3 levels got 2; mend: the taps'):
        fusion.double()(MAPS[:2])
    with pytest.raises(
        ValueError, match='one list runs from shallow to deep, the other from deep to shallow. Mend'
    ):
        LevelFusion().build(MAPS, TEACHER[::-1])
    known = dict(student=['a', 'b'], teacher=['a', 'b'])
    both = dict(student=['student.a', 'student.b'], teacher=['teacher.a', 'teacher.b'])
    objective = dict(loss=dict(type='HierarchicalContextLoss'), reads=both)
    with pytest.raises(ValueError, match="connector of 'teacher' has weights, .* never be"):
        build_objective(
            'review', objective | dict(connectors=dict(teacher=dict(type='LevelFusion'))), known
        )
    with pytest.raises(ValueError, match="connectors=dict.student='auto'. would do nothing"):
        build_objective('review', objective | dict(connectors=dict(student='auto')), known)
    for method in (LevelsConnector().build, LevelsConnector().forward):
        with pytest.raises(NotImplementedError, match='LevelsConnector does not say'):
            method(MAPS, TEACHER)


@pytest.mark.slow
def test_a_gate_of_two_ranks_with_one_image_each_is_that_of_both(tmp_path: Path) -> None:
    """One value of one rank has no variance, but two ranks have two."""
    ranks(two_ranks_norm.gate, tmp_path)
    found = [json.loads((tmp_path / f'gate{rank}.json').read_text()) for rank in range(2)]
    together = [mine + other for mine, other in zip(*found, strict=True)]
    for got, expected in zip(together, two_ranks_norm.gated(0, 2), strict=True):
        assert got == pytest.approx(expected, rel=1e-12)
