"""Ensembles in the Distiller: members run one after the other, and losses get running statistics of
them.
"""

import gc
import re
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmkd.losses import EnsembleStatistics

LOSSES = {'DirichletNLLLoss': dict(temperature=2.0), 'ProxyDirichletLoss': {}, 'EnsembleKLLoss': {}}


def ensemble(members: int = 3, loss: str = 'ProxyDirichletLoss', **changes: Any) -> dict:
    """Return a Distiller of one student under untrained teachers of different widths."""
    teachers = {
        f't{i}': dict(model=tiny.segmentor(4 + 2 * i), allow_untrained=True) for i in range(members)
    }
    objective = dict(
        loss=dict(type=loss, **LOSSES[loss]),
        reads=dict(student='student.logits', teachers='t*.logits', mask='batch.valid'),
    )
    cfg = tiny.distiller(teachers=teachers, objectives=dict(ensemble=objective)) | changes
    del cfg['teacher']
    return cfg


@pytest.mark.parametrize('loss', LOSSES)
def test_running_statistics_give_what_the_stack_gives(loss: str) -> None:
    model = tiny.build(ensemble(loss=loss))
    data = model.data_preprocessor(tiny.batch(ignore=0.2), True)
    record, _ = model.observe(**data)
    value = model.objectives['ensemble'](record)['ensemble.loss']
    (gradient,) = torch.autograd.grad(
        value, model.student.decode_head.conv_seg.weight, retain_graph=True
    )

    alone = model.objectives['ensemble'].loss
    with torch.no_grad():
        stack = torch.stack([model.teachers[f't{i}'](data['inputs']) for i in range(3)])
    expected = alone(record['student']['logits'], stack, mask=record['batch'].valid[:, ::8, ::8])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected, model.student.decode_head.conv_seg.weight)[0]
    )


def test_logits_that_only_statistics_need_are_not_kept() -> None:
    pixel = dict(
        loss=dict(type='PixelWiseKLLoss'), reads=dict(student='student.logits', teacher='t1.logits')
    )
    cfg = ensemble()
    cfg['objectives']['pixel'] = pixel
    record, _ = (model := tiny.build(cfg)).observe(**model.data_preprocessor(tiny.batch(), True))
    assert [list(record[f't{i}']) for i in range(3)] == [[], ['logits'], []]
    assert tuple(record['ensemble(teachers)'].shape) == (3, 2, 11, 8, 8)


@pytest.mark.parametrize('members', [2, 6])
def test_memory_does_not_grow_with_the_members(members: int) -> None:
    """Count the logits that are alive whenever a teacher starts: the last one's, and never one a
    member.
    """
    model = tiny.build(ensemble(members))
    data = model.data_preprocessor(tiny.batch(), True)
    shape, alive = (2, 11, 8, 8), []

    def count(*_: Any) -> None:
        gc.collect()
        alive.append(
            sum(
                type(o) is Tensor and tuple(o.shape) == shape and o.dtype == torch.float32
                for o in gc.get_objects()
            )
        )

    for teacher in model.teachers.values():
        teacher.register_forward_pre_hook(count)
    gc.collect()
    before = sum(type(o) is Tensor and tuple(o.shape) == shape for o in gc.get_objects())
    model.observe(**data)
    assert len(alive) == members
    assert max(alive) - before <= 1


def test_a_connector_of_the_student_fits_it_to_the_members() -> None:
    cfg = ensemble(
        teachers={
            f't{i}': dict(
                model=tiny.segmentor(
                    4,
                    head='FCNHead',
                    backbone=dict(
                        tiny.segmentor(4)['backbone'], strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)
                    ),
                ),
                allow_untrained=True,
            )
            for i in range(2)
        }
    )
    with pytest.raises(
        ValueError, match=re.escape("Mend: connectors=dict(student='auto') resizes the student")
    ):
        tiny.build(cfg)
    cfg['objectives']['ensemble']['connectors'] = dict(student='auto')
    model = tiny.build(cfg)
    logs = model.train_step(
        tiny.batch(), OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
    )
    assert logs['ensemble.loss'].isfinite()
    record, _ = model.observe(**model.data_preprocessor(tiny.batch(), True))
    assert tuple(record['ensemble(teachers)'].shape) == (2, 2, 11, 4, 4)


def test_statistics_follow_a_temperature_that_changes() -> None:
    model = tiny.build(ensemble(loss='DirichletNLLLoss'))
    data = model.data_preprocessor(tiny.batch(), True)
    found = []
    for temperature in (2.0, 5.0):
        model.objectives['ensemble'].loss.temperature = temperature
        record, _ = model.observe(**data)
        found.append(record['ensemble(teachers)'].temperature)
        model.objectives['ensemble'](record)
    assert found == [2.0, 5.0]


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'ensemble': ProxyDirichletLoss got .*needs two members or more, "
        'got 1.*PixelWiseKLLoss',
    ):
        tiny.build(ensemble(1))


def test_members_that_disagree_on_classes_are_refused() -> None:
    teachers = {
        f't{i}': dict(model=tiny.segmentor(4, num_classes=11 + i), allow_untrained=True)
        for i in range(2)
    }
    with pytest.raises(
        ValueError,
        match="objective 'ensemble': .*disagree on classes: member 2 has 12, those before",
    ):
        tiny.build(ensemble(teachers=teachers))


def test_called_alone_a_loss_takes_statistics_or_the_stack() -> None:
    torch.manual_seed(0)
    student, teachers = torch.randn(2, 5, 3), torch.randn(4, 2, 5, 3)
    statistics = EnsembleStatistics()
    for member in teachers:
        statistics.update(member)
    for name in ('ProxyDirichletLoss', 'EnsembleKLLoss'):
        loss = tiny.MODELS.build(dict(type=f'mmkd.{name}'))
        torch.testing.assert_close(loss(student, statistics), loss(student, teachers))
