"""Presets that match features place by place have the value of the official formula and weight."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import batch, build, segmentor, sgd
from torch import Tensor

from mmkd.methods import Pair, find_method
from mmkd.registry import build_part
from mmkd.tasks import Classification, Depth, Described, Detection, Segmentation, Task

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
    assert [one['on'] for one in plan.values()] == ['stage0', 'stage1', 'stage2']
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


@pytest.mark.parametrize('name', ['fitnet', 'nfd', 'cosine', 'pkd', 'at', 'vid'])
def test_a_step_of_two_segmentors_teaches_the_student(name: str) -> None:
    """Of other widths, with a convolution between; the log has a value that learns."""
    model = build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=segmentor(4)),
            teacher=dict(model=segmentor(8), allow_untrained=True),
            method=name,
        )
    )
    data = model.data_preprocessor(batch(), True)
    losses = model(**data, mode='loss')
    found = {key: one for key, one in losses.items() if key.endswith('.loss')}
    assert found
    model.zero_grad()
    sum(found.values()).backward()
    assert all(one.item() > 1e-4 for one in found.values())
    assert model.student.backbone.stem[0].weight.grad.abs().sum() > 0


def test_the_optimizer_of_the_student_trains_the_variances() -> None:
    model = build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=segmentor(4)),
            teacher=dict(model=segmentor(8), allow_untrained=True),
            method='vid',
        )
    )
    wrapper = sgd(model)
    raw = model.objectives['vid'].loss.raw
    before = raw.detach().clone()
    log = model.train_step(batch(), wrapper)
    assert (raw != before).all()
    assert log['vid.variance'].item() == pytest.approx(5)
