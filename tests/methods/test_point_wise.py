"""Presets that match features place by place have the value of the official formula and weight."""

import math
from collections.abc import Callable
from dataclasses import replace
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
BOTH = dict(student=MODEL, teacher=MODEL)
STAGED = [
    *(('ab', 'segmentation'), ('ab', 'classification'), ('at', 'classification')),
    *(('ofd', 'segmentation'), ('ofd', 'classification')),
]


def objectives(task: str, name: str, **options: Any) -> dict[str, dict]:
    pair = Pair(TASKS[task], models=BOTH, method=name)
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
    assert value(task, 'foundation') == pytest.approx(unic, rel=1e-6)
    radio = official(task, lambda s, t: 0.9 * distance(s, t) + 0.1 * F.smooth_l1_loss(s, t))
    found = value(task, 'foundation', cosine=0.9, huber=0.1)
    assert found == pytest.approx(radio, rel=1e-6)
    assert len(objectives(task, 'foundation')) == (3 if task == 'detection' else 1)


@pytest.mark.parametrize('task', TASKS)
def test_fitnet_of_means_is_the_first_term_of_srrl(task: str) -> None:
    """Their statm_loss, of weight 1, behind convolution, normalisation and ReLU."""

    def means(s: Tensor, t: Tensor) -> Tensor:
        return (s.flatten(2).mean(2) - t.flatten(2).mean(2)).pow(2).mean(1).mean()

    assert value(task, 'fitnet', pooled=True) == pytest.approx(official(task, means), rel=1e-6)
    for one in objectives(task, 'fitnet', pooled=True).values():
        assert one['connectors'] == dict(student='auto:conv-bn-relu')


def boundary(student: Tensor, teacher: Tensor) -> Tensor:
    """Return criterion_alternative_L2 of the authors, of margin 1."""
    off = (student + 1) ** 2 * ((student > -1) & (teacher <= 0)).double()
    on = (student - 1) ** 2 * ((student <= 1) & (teacher > 0)).double()
    return (off + on).abs().sum()


def test_ab_of_images() -> None:
    """Halved at each stage before the last, times 3 / 1000 over images, of CIFAR's WRN-22-4."""
    found, expected = 0.0, 0.0
    plan = objectives('classification', 'ab')
    shapes = ((64, 32), (128, 16), (256, 8))
    for k, (one, (channels, side)) in enumerate(zip(plan.values(), shapes, strict=True)):
        pair = [torch.randn(2, channels, side, side, dtype=torch.float64) for _ in range(2)]
        found += one['weight'] * build_part(dict(one['loss']))(*pair)
        expected += boundary(*pair) / 2 / 2 ** (3 - k - 1) / 1000 * 3
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('task', ['segmentation', 'classification'])
def test_ft(task: str) -> None:
    """The authors' 500 of nn.L1Loss of factors of unit norm, of 32 channels and 8×8 places."""
    one = objectives(task, 'ft')['ft']
    loss = build_part(dict(one['loss']))
    student, teacher = (torch.randn(2, c, 8, 8, dtype=torch.float64) for c in (16, 64))
    assert loss.build(student=student, teacher=teacher).endswith('to factors of 32 channels')
    loss.double().paraphraser.draw(torch.Generator().manual_seed(0))
    factors = loss.translator(student), loss.paraphraser(teacher)
    ours, theirs = (F.normalize(x.flatten(1)) for x in factors)
    torch.testing.assert_close(
        one['weight'] * loss(student, teacher), 500 * F.l1_loss(ours, theirs)
    )
    assert one['connectors'] == dict(student='auto')
    plan = find_method('ft')(Pair(TASKS[task]))
    assert plan.hooks == [dict(type='mmkd.FitHook')]


@pytest.mark.parametrize('name', ['ab', 'ofd'])
def test_stages_have_the_authors_connector(name: str) -> None:
    for task in ('segmentation', 'classification'):
        plan = objectives(task, name)
        assert [(one['on'], one['connectors']) for one in plan.values()] == [
            (f'stage{n}', dict(student='auto:conv-bn')) for n in (1, 2, 3)
        ]
        plan = objectives(task, name, regressor='auto', weight=2.0)
        assert {one['connectors']['student'] for one in plan.values()} == {'auto'}


def test_ab_of_label_maps() -> None:
    plan = objectives('segmentation', 'ab', margin=0.5)
    assert [one['weight'] for one in plan.values()] == [10.0] * 3
    assert plan['ab1']['loss'] == dict(type='ActivationBoundaryLoss', margin=0.5)


REGRESSORS: dict[tuple[str, str], Any] = {
    ('segmentation', 'fitnet'): dict(type='auto', bias=False),
    ('classification', 'fitnet'): 'auto:conv-bn-relu',
    ('depth', 'fitnet'): 'auto',
    ('detection', 'fitnet'): 'auto',
    ('segmentation', 'vid'): dict(type='auto', kind='conv-relu-conv-relu-conv', bias=False),
    ('classification', 'vid'): dict(type='auto', kind='conv-relu-conv-relu-conv', bias=False),
    ('segmentation', 'foundation'): 'auto',
}


@pytest.mark.parametrize(('task', 'name'), REGRESSORS)
def test_regressors_are_those_of_the_code_that_weights_are_from(task: str, name: str) -> None:
    for one in objectives(task, name).values():
        assert one['connectors'] == dict(student=REGRESSORS[task, name])
    for one in objectives(task, name, regressor='auto:conv-relu-conv').values():
        assert one['connectors'] == dict(student='auto:conv-relu-conv')


def test_cwd_on_features_has_a_convolution_where_channels_differ() -> None:
    """Of CIRKD, without bias; on logits there is none."""
    one = objectives('segmentation', 'cwd', on='feature')['cwd']
    assert one['connectors'] == dict(student=dict(type='auto', bias=False, always=False))
    one = objectives('segmentation', 'cwd', on='feature', regressor='auto:conv-bn')['cwd']
    assert one['connectors'] == dict(student='auto:conv-bn')
    one = objectives('segmentation', 'cwd', regressor='auto:conv-bn')['cwd']
    assert one['connectors'] == dict(teacher='auto')


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


@pytest.mark.parametrize(('name', 'task'), STAGED)
def test_stages_of_backbones_that_do_not_say(name: str, task: str) -> None:
    """The option is what the refusal proposes, and counts before what configs say."""
    silent = Pair(TASKS[task], models=dict(student=Described(dict(backbone={}))), method=name)
    with pytest.raises(
        ValueError, match=rf"how many maps .* Mend: dict\(type='{name}', stages=4\)"
    ):
        find_method(name)(silent)
    for pair, number in ((silent, 4), (replace(silent, models=BOTH), 2)):
        plan = find_method(name)(pair, stages=number)
        assert [one['on'] for one in plan.objectives.values()] == [*plan.taps]
        assert plan.taps == {f'stage{k + 1}': f'auto:stages[{k}]' for k in range(number)}
        own = find_method(name)(replace(silent, models=BOTH)).objectives[f'{name}3']['weight']
        assert plan.objectives[f'{name}{number}']['weight'] == own


@pytest.mark.bad_input
@pytest.mark.parametrize(('name', 'task'), STAGED)
@pytest.mark.parametrize('stages', [0, '4', True, 2.0])
def test_stages_that_are_no_number_of_maps(name: str, task: str, stages: Any) -> None:
    said = f"'{name}': stages must be a whole number of at least 1, got {stages!r}. Mend: stages=4"
    with pytest.raises(ValueError, match=said):
        objectives(task, name, stages=stages)


@pytest.mark.bad_input
def test_at_of_label_maps_has_no_stages() -> None:
    said = "'at': stages would change nothing, since of label maps .* got stages=3. Mend: leave sta"
    with pytest.raises(ValueError, match=said):
        objectives('segmentation', 'at', stages=3)


@pytest.mark.parametrize('name', ['fitnet', 'nfd', 'cosine', 'pkd', 'foundation'])
def test_they_read_the_last_features_and_fit_the_student(name: str) -> None:
    for task in TASKS:
        for one in objectives(task, name, weight=2.0).values():
            assert one['weight'] == 2.0
            assert name == 'fitnet' or one['connectors'] == dict(student='auto')
            assert one['on'].startswith('feat')
    pair = Pair(TASKS['classification'])
    assert find_method(name)(pair).taps == dict(feat='auto:stages[-1]')
    assert find_method(name)(Pair(TASKS['segmentation'])).taps == dict(feat='auto:feature')


ALL = ('fitnet', 'nfd', 'cosine', 'pkd', 'at', 'vid', 'ofd', 'ab', 'foundation')


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
    assert len(found) == (4 if name in ('ofd', 'ab') else 1)
    assert model.student.backbone.stem[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize('name', ALL)
def test_a_step_of_two_classifiers_teaches_the_student(name: str) -> None:
    model = build(distiller(name, classifier(2), classifier(4)))
    found = losses_of(model, generated_batch(4, (32, 32), model.task))
    assert len(found) == (3 if name in ('at', 'ofd', 'ab') else 1)
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize('name', ['fitnet', 'nfd', 'cosine', 'pkd', 'foundation'])
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
