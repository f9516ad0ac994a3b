"""Presets that match features place by place have the value of the official formula and weight."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.classification import classifier
from helpers.detectors import detector
from helpers.runs import need_mmdet
from helpers.tiny import batch, build, segmentor, sgd
from mmengine.registry import DefaultScope
from torch import Tensor

from mmkd.methods import Pair, find_method
from mmkd.registry import build_part
from mmkd.tasks import (
    Classification,
    Depth,
    Described,
    Detection,
    Segmentation,
    Task,
    generated_batch,
)

TASKS: dict[str, Task] = dict(
    segmentation=Segmentation(19),
    classification=Classification(100),
    depth=Depth(),
    detection=Detection(20),
)
MODEL = Described(dict(backbone=dict(out_indices=(0, 1, 2)), neck=dict(num_outs=3)))


def objectives(task: str, name: str, **options: Any) -> dict[str, dict]:
    pair = Pair(TASKS[task], models=dict(student=MODEL, teacher=MODEL), method=name)
    return find_method(name)(pair, **options).objectives


def maps(number: int) -> tuple[Tensor, Tensor]:
    """Return random maps of student and teacher at the tap of that number."""
    generator = torch.Generator().manual_seed(number)
    student, teacher = (torch.randn(2, 6, 8, 16, generator=generator) for _ in range(2))
    return student.double(), 3 * teacher.double() + 1


def value(task: str, name: str, **options: Any) -> float:
    """Return the preset's value on random maps: Σ weight · loss."""
    total = 0.0
    for one in objectives(task, name, **options).values():
        loss, number = build_part(dict(one['loss'])), int(f'0{one["on"].lstrip("abcdefgst")}')
        total += one['weight'] * loss(*maps(number)).item()
    return total


def official(task: str, formula: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the sum of a formula over the levels of a detector, or of one map."""
    levels = 3 if task == 'detection' else 1
    return sum(formula(*maps(number)).item() for number in range(levels))


@pytest.mark.parametrize(('task', 'weight'), [('segmentation', 10), ('classification', 100)])
def test_fitnet(task: str, weight: float) -> None:
    """CIRKD's λ 10 and RepDistiller's β 100 of nn.MSELoss."""
    expected = weight * official(task, F.mse_loss)
    assert value(task, 'fitnet') == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('task', TASKS)
def test_nfd(task: str) -> None:
    """MSE of features minus their mean over their deviation, by channel and image."""

    def norm(x: Tensor) -> Tensor:
        return F.instance_norm(x, eps=0)

    expected = official(task, lambda s, t: F.mse_loss(norm(s), norm(t)))
    assert value(task, 'nfd') == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('task', TASKS)
def test_cosine(task: str) -> None:
    """1 − cosine_similarity; UNIC's halves of cosine and smooth L1."""

    def distance(s: Tensor, t: Tensor) -> Tensor:
        return (1 - F.cosine_similarity(s, t, 1)).mean()

    assert value(task, 'cosine') == pytest.approx(official(task, distance), rel=1e-6)
    unic = official(task, lambda s, t: distance(s, t) / 2 + F.smooth_l1_loss(s, t) / 2)
    assert value(task, 'cosine', weight=0.5, huber=0.5) == pytest.approx(unic, rel=1e-6)


@pytest.mark.parametrize('task', TASKS)
def test_pkd(task: str) -> None:
    """mmrazor's PKDLoss of weight 6 at every level, with the biased deviation."""

    def norm(x: Tensor) -> Tensor:
        flat = x.permute(1, 0, 2, 3).reshape(x.shape[1], -1)
        return (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + 1e-6)

    n = 2 * 8 * 16
    expected = 6 * official(task, lambda s, t: F.mse_loss(norm(s), norm(t)) / 2)
    assert (n - 1) / n * value(task, 'pkd') == pytest.approx(expected, rel=1e-5)


def energy(student: Tensor, teacher: Tensor) -> Tensor:
    """Return at_loss of the authors."""
    ours, theirs = (F.normalize(x.pow(2).mean(1).flatten(1)) for x in (student, teacher))
    return (ours - theirs).pow(2).mean()


def test_at_of_label_maps() -> None:
    """CIRKD's 10000, at 512×1024 and stride 8."""
    student, teacher = (torch.randn(1, c, 64, 128, dtype=torch.float64) for c in (3, 5))
    one = objectives('segmentation', 'at')['at']
    found = one['weight'] * build_part(dict(one['loss']))(student, teacher)
    torch.testing.assert_close(found, 10000 * energy(student, teacher))


def test_at_of_images() -> None:
    """RepDistiller's 1000 at every stage of a network of CIFAR, 32×32, 16×16 and 8×8."""
    found, expected = 0.0, 0.0
    plan = objectives('classification', 'at')
    assert [one['on'] for one in plan.values()] == ['stage1', 'stage2', 'stage3']
    for one, side in zip(plan.values(), (32, 16, 8), strict=True):
        pair = [torch.randn(2, 4, side, side, dtype=torch.float64) for _ in range(2)]
        found += one['weight'] * build_part(dict(one['loss']))(*pair)
        expected += 1000 * energy(*pair)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_vid(task: str) -> None:
    """The code's mean of ½ ((s − t)² / v + ln v), its variances at 5."""
    one = objectives(task, 'vid')['vid']
    loss = build_part(dict(one['loss']))
    student, teacher = maps(0)
    loss.build(student=student, teacher=teacher)
    variance = F.softplus(torch.tensor(math.log(math.exp(5 - 1e-5) - 1))) + 1e-5
    expected = 0.5 * ((student - teacher) ** 2 / variance + variance.log()).mean()
    assert one['weight'] * loss(student, teacher).item() == pytest.approx(expected.item())


def overhaul(student: Tensor, teacher: Tensor) -> Tensor:
    """Return distillation_loss of the authors, the margin by its definition."""
    margin = torch.stack([x[x < 0].mean() for x in teacher.transpose(0, 1)]).view(-1, 1, 1)
    target = torch.max(teacher, margin)
    loss = F.mse_loss(student, target, reduction='none')
    return (loss * ((student > target) | (target > 0)).double()).sum()


def test_ofd_of_images() -> None:
    """Halved at each stage before the last, over images and 1000, of a WRN-40-4 on CIFAR."""
    found, expected = 0.0, 0.0
    plan = objectives('classification', 'ofd')
    shapes = ((64, 32), (128, 16), (256, 8))
    for k, (one, (channels, side)) in enumerate(zip(plan.values(), shapes, strict=True)):
        pair = [torch.randn(2, channels, side, side, dtype=torch.float64) for _ in range(2)]
        found += one['weight'] * build_part(dict(one['loss']))(*pair)
        expected += overhaul(*pair) / 2 ** (3 - k - 1) / 2 / 1000
    torch.testing.assert_close(found, expected)


def test_ofd_of_label_maps() -> None:
    plan = objectives('segmentation', 'ofd')
    assert [(one['on'], one['weight']) for one in plan.values()] == [
        (f'stage{n}', 10.0) for n in (1, 2, 3)
    ]


@pytest.mark.parametrize('name', ['fitnet', 'nfd', 'cosine', 'pkd'])
def test_they_read_the_last_features_and_fit_the_student(name: str) -> None:
    for task in TASKS:
        for one in objectives(task, name, weight=2.0).values():
            assert one['weight'] == 2.0
            assert one['connectors'] == dict(student='auto')
            assert one['on'].startswith('feat')
    pair = Pair(TASKS['classification'])
    assert find_method(name)(pair).taps == dict(feat='auto:stages[-1]')
    assert find_method(name)(Pair(TASKS['segmentation'])).taps == dict(feat='auto:feature')


ALL = ('fitnet', 'nfd', 'cosine', 'pkd', 'at', 'vid', 'ofd')


def distiller(method: str, student: dict, teacher: dict) -> dict:
    return dict(
        type='mmkd.Distiller',
        student=dict(model=student),
        teacher=dict(model=teacher, allow_untrained=True),
        method=method,
    )


def losses_of(model: Any, data: dict) -> dict[str, Tensor]:
    """Return what the method adds to the log, after a backward of that alone."""
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    found = {key: one for key, one in losses.items() if key.endswith('.loss')}
    sum(found.values()).backward()
    assert all(one.item() > 1e-4 for one in found.values())
    return found


@pytest.mark.parametrize('name', ALL)
def test_a_step_of_two_segmentors_teaches_the_student(name: str) -> None:
    """Of other widths, with a convolution between; the log has a value that learns."""
    model = build(distiller(name, segmentor(4), segmentor(8)))
    found = losses_of(model, batch())
    assert len(found) == (4 if name == 'ofd' else 1)
    assert model.student.backbone.stem[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('name', ALL)
def test_a_step_of_two_classifiers_teaches_the_student(name: str) -> None:
    model = build(distiller(name, classifier(2), classifier(4)))
    found = losses_of(model, generated_batch(4, (32, 32), model.task))
    assert len(found) == (3 if name in ('at', 'ofd') else 1)
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize('name', ['fitnet', 'nfd', 'cosine', 'pkd'])
def test_a_step_of_two_detectors_teaches_the_student(name: str) -> None:
    need_mmdet()
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = build(distiller(name, detector(8), detector(16)))
        found = losses_of(model, generated_batch(2, (256, 256), model.task))
    assert list(found) == [f'{name}{k}.loss' for k in range(5)]
    assert model.student.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0


def test_the_optimizer_of_the_student_trains_the_variances() -> None:
    model = build(distiller('vid', segmentor(4), segmentor(8)))
    wrapper = sgd(model)
    raw = model.objectives['vid'].loss.raw
    before = raw.detach().clone()
    log = model.train_step(batch(), wrapper)
    assert (raw != before).all()
    assert log['vid.variance'].item() == pytest.approx(5)
