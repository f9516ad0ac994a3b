"""Localisation distillation of two real detectors: taps, values, steps, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.runs import need_mmdet
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from test_detection import fcos, gfl, retina
from torch import Tensor

from mmkd.losses import LocalizationKLLoss
from mmkd.methods import Pair, find_method
from mmkd.tasks import Detection, generated_batch


@pytest.fixture(autouse=True)
def mmdet() -> None:
    need_mmdet()


def with_bins(detector: dict, reg_max: int) -> dict:
    detector['bbox_head'].update(reg_max=reg_max)
    return detector


def distiller(student: dict, teacher: dict, **options: Any) -> Any:
    """Return a Distiller by the method's name, whose teacher is sure of some positions."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=student, scope='mmdet'),
                teacher=dict(model=teacher, scope='mmdet', allow_untrained=True),
                method=dict(type='ld', **options),
            )
        )
    model.teacher.bbox_head.gfl_cls.bias.data.fill_(-3.0)
    model.teacher.bbox_head.gfl_cls.weight.data.mul_(30)
    model.teacher.bbox_head.gfl_reg.weight.data.mul_(30)
    return model


def outputs(own: Any, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    return own.bbox_head(own.extract_feat(inputs))


def ldhead(student: list[Tensor], teacher: list[Tensor], scores: list[Tensor], bins: int) -> float:
    """Return 0.25 of LDHead's term, at positions where the teacher's score is 0.05 or more."""
    total = weights = 0.0
    for s, t, c in zip(student, teacher, scores, strict=True):
        s, t, c = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (s, t, c))
        weight = c.sigmoid().max(1)[0]
        chosen = (weight >= 0.05).nonzero().squeeze(1)
        pred, soft = (x[chosen].reshape(-1, bins) for x in (s, t))
        each = F.kl_div((pred / 10).log_softmax(1), (soft / 10).softmax(1), reduction='none')
        own = weight[chosen][:, None].expand(-1, 4).reshape(-1)
        total += float((each.mean(1) * 10 * 10 * own).sum() / 4.0)
        weights += float(weight[chosen].sum())
    return 0.25 * total / weights


def test_it_reads_every_level_of_a_detector_whose_edges_are_distributions() -> None:
    model = distiller(gfl(8), gfl(16))
    for member in ('student', 'teacher'):
        taps = model.runs[member].taps.paths
        assert [taps[f'edges{k}'].text for k in range(5)] == [
            f'bbox_head.scales.{k}' for k in range(5)
        ]
        scores = [f'score{k}' for k in range(5) if member == 'teacher']
        assert list(taps) == [*(f'edges{k}' for k in range(5)), *scores]


@pytest.mark.parametrize('scores', ['teacher', 'student'])
def test_its_value_is_ldheads_times_the_official_weight(scores: str) -> None:
    model = distiller(gfl(8), gfl(16), scores=scores, least=0.05 if scores == 'teacher' else 0.0)
    data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
    model.eval()
    value = model(**data, mode='loss')['ld.loss'].detach()
    with torch.no_grad():
        student, teacher = (outputs(own, data['inputs']) for own in (model.student, model.teacher))
    expected: Any
    if scores == 'teacher':
        expected = ldhead(student[1], teacher[1], teacher[0], 17)
    else:
        expected = LocalizationKLLoss(loss_weight=0.25 / 17)(student[1], teacher[1], student[0])
    assert float(value) == pytest.approx(float(expected), rel=1e-4)
    assert value > 1e-4


def test_a_step_teaches_the_student() -> None:
    model = distiller(gfl(8), gfl(16))
    before = [p.clone() for p in model.student.bbox_head.gfl_reg.parameters()]
    data = generated_batch(2, (256, 256), model.task)
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)))
    assert log['ld.loss'] > 0
    assert {'loss_cls', 'loss_bbox', 'loss_dfl'} < set(log)
    after = model.student.bbox_head.gfl_reg.parameters()
    assert not any(torch.equal(p, old) for p, old in zip(after, before, strict=True))


def test_a_student_of_its_teachers_weights_has_nothing_to_learn() -> None:
    model = distiller(gfl(8), gfl(8)).eval()
    model.student.load_state_dict(model.teacher.state_dict())
    data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
    assert model(**data, mode='loss')['ld.loss'].abs() < 1e-7


def test_pairs_that_it_is_not_for() -> None:
    with pytest.raises(KeyError, match=r"no 'edges' was found in its forward"):
        distiller(fcos(8), fcos(16))
    with pytest.raises(KeyError, match=r"no 'edges' was found"):  # 4 numbers for each of 9 anchors
        distiller(retina(8), retina(8))
    with pytest.raises(ValueError, match='of one shape, .* mend: heads of one reg_max'):
        distiller(with_bins(gfl(8), 8), gfl(16))
    with pytest.raises(ValueError, match="scores must be one of .*'labels'"):
        find_method('ld')(Pair(Detection(3)), scores='labels')
