"""Presets of divergences: what a method is worth is the authors' formula times their weight.

Each formula is written as the authors' code computes it, with its own normaliser.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny import batch, segmentor, sgd
from mmengine.registry import MODELS
from test_presets import BY_FORMULA
from torch import Tensor

from mmkd.distiller.export import student_state_dict
from mmkd.engine.hooks.schedule import ScheduleHook
from mmkd.engine.schedules.targets import Target
from mmkd.methods import Pair, find_method
from mmkd.tasks import Classification, Segmentation

CLASSES = 20
PAIRS = dict(
    map=Pair(Segmentation(CLASSES), iterations=240),
    image=Pair(Classification(CLASSES), iterations=240),
)


def draw(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of student and teacher, and labels."""
    generator = torch.Generator().manual_seed(5)
    shape = (3, CLASSES, 4, 6) if kind == 'map' else (8, CLASSES)
    student, teacher = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return student, 3 * teacher, torch.randint(CLASSES, (shape[0], *shape[2:]), generator=generator)


def rows(*maps: Tensor) -> tuple[Tensor, ...]:
    """Return maps (N, C, H, W) as (N · H · W, C)."""
    return tuple(x.movedim(1, -1).reshape(-1, x.shape[1]) for x in maps)


def cwd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    n, c = student.shape[:2]
    s, t = (x.reshape(n * c, -1) / 4 for x in (student, teacher))
    total = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum()
    return 3 * 4**2 * total / (c * n)


def cgd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    n, groups = len(student), CLASSES // 10
    s, t = (x.reshape(n * groups, -1) / 2 for x in (student, teacher))
    return 3 * F.kl_div(s.log_softmax(1), t.softmax(1), reduction='sum') / (n * groups)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return F.cosine_similarity(a, b, dim=1, eps=1e-8)


def dist(student: Tensor, teacher: Tensor, tau: float, beta: float, gamma: float) -> Tensor:
    s, t = ((x / tau).softmax(1) for x in rows(student, teacher))
    inter = tau**2 * (1 - pearson(s, t).mean())
    intra = tau**2 * (1 - pearson(s.T, t.T).mean())
    return beta * inter + gamma * intra


def dkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return TCKD + 8 NCKD as mdistiller writes them, the label at −1000."""
    n = labels.numel()
    target = F.one_hot(labels.flatten(), CLASSES).bool()
    s, t = (x / 4 for x in rows(student, teacher))
    both_s, both_t = (
        torch.stack([(p * target).sum(1), (p * ~target).sum(1)], 1)
        for p in (s.softmax(1), t.softmax(1))
    )
    of_label = F.kl_div(both_s.log(), both_t, reduction='sum') * 4**2 / n
    s, t = (x - 1000.0 * target for x in (s, t))
    of_rest = F.kl_div(s.log_softmax(1), t.softmax(1), reduction='sum') * 4**2 / n
    return 1 * of_label + 8 * of_rest


def gdkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return λ_kd = 1 of seg-gdkd's three terms, of all of its pixels."""
    s, t = rows(student, teacher)
    front = torch.zeros_like(t).scatter(1, t.topk(3, 1).indices, 1).bool()
    p, q = s.softmax(1), t.softmax(1)
    masses = [torch.stack([(x * front).sum(1), (x * ~front).sum(1)], 1) for x in (p, q)]
    parts = [F.kl_div(masses[0].log(), masses[1], reduction='batchmean')]
    for own in (front, ~front):
        a, b = (x - 1000.0 * ~own for x in (s, t))
        parts.append(F.kl_div(a.log_softmax(1), b.softmax(1), reduction='batchmean'))
    return 1.0 * (1 * parts[0] + 1 * parts[1] + 2 * parts[2])


def lskd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    s, t = (
        (x - x.mean(1, keepdim=True)) / (1e-7 + x.std(1, keepdim=True)) / 2
        for x in rows(student, teacher)
    )
    each = F.kl_div(s.log_softmax(1), t.softmax(1), reduction='none').sum(1)
    return 9 * each.mean() * 2**2


def nkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    s, t = rows(student, teacher)
    label = labels.flatten()[:, None]
    log_s, p_t = s.log_softmax(1).gather(1, label), t.softmax(1).gather(1, label)
    others = ~F.one_hot(labels.flatten(), CLASSES).bool()
    rest_s, rest_t = (x[others].view(-1, CLASSES - 1) for x in (s, t))
    of_rest = (rest_t.softmax(1) * rest_s.log_softmax(1)).sum(1)
    return -(p_t * log_s).mean() - 1.5 * 1**2 * of_rest.mean()


def jml(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    p, q = (x.softmax(1) for x in rows(student, teacher))
    sizes, apart = p.sum(0) + q.sum(0), (p - q).abs().sum(0)
    tp = (sizes - apart) / 2
    return 0.75 * (1 - tp / (sizes - tp)).mean()


def wsld(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return α T² · mean of the weighted soft loss, as the authors' distiller writes it."""
    s, t = rows(student, teacher)
    soft = -torch.sum((t / 2).softmax(1) * (s / 2).log_softmax(1), 1, keepdim=True)
    label = F.one_hot(labels.flatten(), CLASSES)
    own, theirs = (-torch.sum(label * x.log_softmax(1), 1, keepdim=True) for x in (s, t))
    weight = 1 - torch.exp(-torch.max(own / (theirs + 1e-7), torch.zeros(1, dtype=own.dtype)))
    return 2.5 * 2**2 * torch.mean(weight * soft)


def ctkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return T² KL ÷ N at 1 + 20 σ(1), with which the authors begin."""
    s, t = rows(student, teacher)
    tau = 1 + 20 * torch.sigmoid(torch.ones(1))
    each = F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction='batchmean')
    return (each * tau * tau).squeeze()


# method -> kind of the pair -> (official formula with its weight, weight of the labels)
OFFICIAL: dict[str, dict[str, tuple[Callable, float]]] = {
    'cwd': dict(map=(cwd, 1.0)),
    'cgd': dict(map=(cgd, 1.0)),
    'ctkd': dict(
        map=(ctkd, 1.0),
        image=(lambda s, t, labels: 0.9 * ctkd(s, t, labels), 0.1),
    ),
    'dist': dict(
        map=(lambda s, t, labels: dist(s, t, 1, 1, 1), 1.0),
        image=(lambda s, t, labels: dist(s, t, 4, 2, 2), 1.0),
    ),
    'dkd': dict(map=(dkd, 1.0), image=(dkd, 1.0)),
    'gdkd': dict(map=(gdkd, 1.0), image=(gdkd, 1.0)),
    'lskd': dict(map=(lskd, 1.0), image=(lskd, 0.1)),
    'nkd': dict(map=(nkd, 1.0), image=(nkd, 1.0)),
    'jml': dict(map=(jml, 0.25)),
    'wsld': dict(map=(wsld, 1.0), image=(wsld, 1.0)),
}
CASES = [(name, kind) for name, kinds in OFFICIAL.items() for kind in kinds]


ROUNDED = {
    'ctkd',  # its parameter is one of float32
    'wsld',  # the authors add 1e-7 to what is divided by
}


def value_of(objective: dict[str, Any], *given: Tensor) -> Tensor:
    student, teacher, labels = given
    reads = objective.get('reads') or {}
    loss = MODELS.build({**objective['loss'], 'type': f'mmkd.{objective["loss"]["type"]}'})
    own = dict(labels=labels) if 'labels' in reads else {}
    return objective.get('weight', 1.0) * loss(student, teacher, **own)


@pytest.mark.parametrize(('name', 'kind'), CASES)
def test_a_preset_is_the_official_formula_times_its_weight(name: str, kind: str) -> None:
    formula, of_labels = OFFICIAL[name][kind]
    plan = find_method(name)(PAIRS[kind])
    (objective,) = plan.objectives.values()
    expected = formula(*draw(kind))
    tolerance = dict(rtol=1e-6, atol=0) if name in ROUNDED else {}
    torch.testing.assert_close(
        value_of(objective, *draw(kind)), expected.double(), **tolerance, check_dtype=False
    )
    assert (1.0 if plan.task_weight is None else plan.task_weight) == of_labels


def test_every_preset_is_here() -> None:
    assert set(OFFICIAL) < BY_FORMULA


def test_the_reversal_of_ctkd_rises_over_the_first_24th_of_a_run() -> None:
    """From the first of the authors' ten values, of epochs 1 to 10 of 240, to the last."""
    plan = find_method('ctkd')(Pair(Segmentation(CLASSES), iterations=24000))
    (hook,) = plan.hooks
    schedule = ScheduleHook(hook['schedules']).schedules['ctkd.loss.reversal']
    theirs = [-((math.cos(i * math.pi / 10) + 1) * 0.5 * (0 - -1) + -1) for i in range(1, 11)]
    assert schedule(0) == pytest.approx(theirs[0], rel=1e-2)
    assert schedule(1000) == theirs[-1] == 1
    assert schedule.length == 1000
    for epoch, value in enumerate(theirs, 1):
        assert schedule(100 * epoch) == pytest.approx(value, abs=0.025)
    with pytest.raises(ValueError, match="'ctkd': length is a 24th .* Mend: method=dict"):
        find_method('ctkd')(Pair(Segmentation(CLASSES), method='ctkd'))


def test_ctkd_of_instances_begins_where_the_global_one_does() -> None:
    """T² KL ÷ N at 1 + 20 σ(1), and it is the layers that learn."""
    torch.manual_seed(0)
    distiller = MODELS.build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=segmentor(8)),
            teacher=dict(model=segmentor(16), allow_untrained=True),
            method=dict(type='ctkd', length=5, kind='instance'),
        )
    )
    loss = distiller.objectives['ctkd'].loss
    before = loss.instance.layers[-1].weight.clone()
    log = distiller.train_step(batch(2, ignore=0.2), sgd(distiller, lr=1.0))
    assert log['ctkd.temperature'].item() == pytest.approx(1 + 20 * 0.7310585786)
    assert not torch.equal(loss.instance.layers[-1].weight, before)
    state = distiller.state_dict()
    assert 'objectives.ctkd.loss.instance.layers.0.weight' in state
    assert student_state_dict(state).keys() == distiller.student.state_dict().keys()


NAMES = [name for name in OFFICIAL if name != 'ctkd']
CHANGED = [dict(type='cwd', on='feature'), dict(type='ctkd', length=5)]


@pytest.mark.parametrize('method', [*NAMES, *CHANGED], ids=str)
def test_a_preset_trains_two_segmentors(method: Any) -> None:
    """From a name to a gradient in the student: taps are found, maps of two sizes compared."""
    torch.manual_seed(0)
    smaller = segmentor(8)
    smaller['backbone'].update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    distiller = MODELS.build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=smaller),
            teacher=dict(model=segmentor(16), allow_untrained=True),
            method=method,
        )
    )
    data = distiller.data_preprocessor(batch(2, ignore=0.2), True)
    losses = distiller(**data, mode='loss')
    name = method if isinstance(method, str) else method['type']
    value = losses[f'{name}.loss']
    assert value.item() > 0
    value.backward()
    assert distiller.student.backbone.layer1[0].conv1.weight.grad.abs().sum() > 0


def test_the_optimizer_of_the_student_trains_the_temperature() -> None:
    """It is in the checkpoint and not in the exported student; its factor is what is scheduled."""
    torch.manual_seed(0)
    distiller = MODELS.build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=segmentor(8)),
            teacher=dict(model=segmentor(16), allow_untrained=True),
            method=dict(type='ctkd', length=5),
        )
    )
    loss = distiller.objectives['ctkd'].loss
    assert Target('ctkd.loss.reversal').owner(distiller.objectives) is loss
    loss.reversal = 0.5
    data = batch(2, ignore=0.2)
    ready = distiller.data_preprocessor(data, True)
    torch.manual_seed(1)  # the student has a dropout
    (slope,) = torch.autograd.grad(distiller(**ready, mode='loss')['ctkd.loss'], loss.raw)
    before = loss.raw.item()
    torch.manual_seed(1)
    log = distiller.train_step(data, sgd(distiller, lr=100.0))
    assert log['ctkd.temperature'].item() == pytest.approx(1 + 20 * 0.7310585786)
    assert loss.raw.item() == pytest.approx(before - 100 * slope.item(), rel=1e-6)
    assert loss.raw.item() != pytest.approx(before, rel=1e-4)
    state = distiller.state_dict()
    assert state['objectives.ctkd.loss.raw'] == loss.raw
    assert student_state_dict(state).keys() == distiller.student.state_dict().keys()
