"""Equal seeds, equal students: who draws initial weights from which generator."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.runs import model_of, run_config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from torch import Tensor, nn

from mmkd.apis.launch import build_runner
from mmkd.apis.prepare import prepare_config
from mmkd.distiller.draws import Apart, own_draws


def draw() -> tuple:
    return torch.rand(1).item(), np.random.rand(), random.random()


def test_what_is_drawn_apart_follows_seed_and_name_and_leaves_the_others_alone() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw(), draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    first = draw()
    with own_draws('teacher', 'a'):
        inside = draw()
    assert torch.initial_seed() == 1
    other = []

    def break_off() -> None:
        with own_draws('teacher', 'b'):
            other.extend(draw())
            raise RuntimeError('broken')

    with pytest.raises(RuntimeError, match='broken'):
        break_off()
    assert (first, draw()) == expected
    with own_draws('teacher', 'a'):
        assert draw() == inside  # whatever was drawn in between
    assert all(x != y for x, y in zip(inside, other, strict=True))
    torch.manual_seed(2)
    with own_draws('teacher', 'a'):
        assert draw()[0] != inside[0]


class Drawn(nn.Module):
    """Its weight is the number that init_weights draws."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def init_weights(self) -> None:
        nn.init.uniform_(self.weight)


def test_apart_initialises_each_by_its_own_name_but_the_plain_one() -> None:
    def weights(names: str, plain: str | None = None) -> dict[str, float]:
        modules = Apart(
            {**{name: Drawn() for name in names}, 'fixed': nn.Linear(1, 1)}, 'student', plain
        )
        torch.manual_seed(0)
        modules.init_weights()
        return {name: modules[name].weight.item() for name in names}

    torch.manual_seed(0)
    expected = torch.rand(1).item()
    assert weights('ab', 'a')['a'] == weights('a', 'a')['a'] == expected
    alone, other = weights('b')['b'], weights('cba', 'a')
    assert alone == other['b'] != other['c']
    assert other['a'] == expected


@HOOKS.register_module(force=True)
class Look(Hook):
    """Keeps the weights and the next random number as a run starts with them."""

    priority = 'HIGHEST'

    def before_train(self, runner: Any) -> None:
        model = getattr(runner.model, 'students', {'student': runner.model})
        self.students = {
            name: {k: v.clone() for k, v in one.state_dict().items()} for name, one in model.items()
        }
        self.state = torch.get_rng_state()
        self.teachers = {
            name: {k: v.clone() for k, v in one.state_dict().items()}
            for name, one in getattr(runner.model, 'teachers', {}).items()
        }


def start(folder: Path, model: dict, name: str) -> Look:
    """Start a run by the hooks of the runtime; return what it starts with."""
    runner = build_runner(
        prepare_config(
            run_config(folder, model, max_iters=1, interval=9, val_interval=9, name=name)
        )
    )
    look = Look()
    runner.register_hook(look)
    runner.train()
    return look


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(value, other[key]) for key, value in one.items()
    )


def test_equal_seeds_give_equal_students_with_and_without_teachers(tmp_path: Path) -> None:
    net = tiny.segmentor(4, num_classes=3, size=32)
    plain = start(tmp_path, net, 'plain')
    wide = dict(model=tiny.segmentor(8, num_classes=3, size=32), allow_untrained=True)
    runs = dict(
        pixel=model_of(critic=False),
        holistic=model_of(),
        other=model_of(
            teacher=wide | dict(model=tiny.segmentor(16, num_classes=3, size=32)),
            objectives=tiny.objectives(
                pixel=None, pair=tiny.objectives()['pair'] | dict(connectors=dict(student='auto'))
            ),
        ),
    )
    found = {name: start(tmp_path, model, name) for name, model in runs.items()}
    for name, look in found.items():
        assert same(look.students['student'], plain.students['student']), name
        assert torch.equal(look.state, plain.state), name
    assert same(found['pixel'].teachers['teacher'], found['holistic'].teachers['teacher'])
    kl = dict(type='PixelWiseKLLoss')
    peers = start(
        tmp_path,
        dict(
            type='mmkd.Distiller',
            students=dict(a=dict(model=net), b=dict(model=net)),
            taps=dict(logits='decode_head.conv_seg'),
            objectives=dict(
                a_from_b=dict(loss=kl, reads=dict(student='a.logits', teacher='b.logits'))
            ),
        ),
        'peers',
    )
    assert same(peers.students['a'], plain.students['student'])
    assert not any(
        torch.equal(value, peers.students['b'][key])
        for key, value in peers.students['a'].items()
        if key.endswith(('conv1.weight', 'conv_seg.weight'))
    )


def test_untrained_teachers_and_critics_are_drawn_by_seed_and_name() -> None:
    def weights(seed: int, before: int, name: str = 't') -> tuple[Tensor, Tensor]:
        torch.manual_seed(seed)
        torch.rand(before)
        model = MODELS.build(
            tiny.distiller(
                teacher=None,
                teachers={name: dict(model=tiny.segmentor(8), allow_untrained=True)},
                objectives=dict(
                    holistic=tiny.holistic()
                    | dict(
                        on=None,
                        reads=dict(
                            student='student.logits', teacher=f'{name}.logits', image='batch.inputs'
                        ),
                    )
                ),
            )
        )
        model.init_weights()
        critic = model.objectives['holistic'].loss.critic
        return model.teacher.backbone.layer1[0].conv1.weight, next(
            p for p in critic.parameters() if p.dim() == 4
        )

    first, again = weights(1, 0), weights(1, 7)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, weights(2, 0), strict=True))
    assert not torch.equal(first[0], weights(1, 0, 'u')[0])
