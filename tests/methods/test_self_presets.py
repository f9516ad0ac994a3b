"""Presets of students that teach themselves, and of peers: the papers' formulas, number by number.

Each formula is written as the authors' code computes it, or one that re-implements it, on what the
members of a Distiller said.
"""

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.peers import classifier
from helpers.tiny import NUM_CLASSES, batch, build, segmentor, sgd
from test_presets import BY_FORMULA
from torch import Tensor

from mmkd.apis.pairing import Pairing, config_text
from mmkd.distiller.export import student_state_dict
from mmkd.engine.hooks import LastBatchHook
from mmkd.engine.hooks.schedule import ScheduleHook
from mmkd.losses import ExitLoss
from mmkd.methods import Pair, expand, find_method
from mmkd.tasks import Classification, Segmentation, generated_batch

KINDS = ('map', 'image')


def net(kind: str, width: int = 4) -> dict:
    if kind == 'map':
        return dict(model=segmentor(width, auxiliary=False, size=32))
    return dict(model=classifier(width))


def data(kind: str, seed: int = 0) -> dict:
    if kind == 'map':
        return batch(2, 32, seed=seed, ignore=0.2)
    torch.manual_seed(seed)
    return generated_batch(4, (32, 32), Classification(3))


def alone(kind: str, method: Any, **changes: Any) -> Any:
    given = dict(type='mmkd.Distiller', student=net(kind), method=method) | changes
    return louder(build(given))


def peers(kind: str, method: Any) -> Any:
    students = dict(a=net(kind, 4), b=net(kind, 2))
    return louder(build(dict(type='mmkd.Distiller', students=students, method=method)))


def louder(model: Any) -> Any:
    """Let the students say something: as they are drawn, all classes are nearly alike."""
    for student in model.students.values():
        last = student.decode_head.conv_seg if hasattr(student, 'decode_head') else student.head.fc
        last.weight.data *= 30
    return model


def said(model: Any, given: dict) -> tuple[dict, Tensor, dict[str, Tensor]]:
    """Return what the members said, the labels at the size of their maps, and the objectives."""
    model._stepping = True
    record, _ = model.observe(**model.data_preprocessor(given, True))
    labels = record.batch.labels
    logits = next(iter(record[name]['logits'] for name in model.students))
    if labels.dim() == 3:
        labels = F.interpolate(labels[:, None].float(), logits.shape[2:])[:, 0].long()
    found = model.compare(model.objectives, record)
    return record, labels, {key: x.detach().double() for key, x in found.items()}


def rows(x: Tensor) -> Tensor:
    return x.detach().double().movedim(1, -1).reshape(-1, x.shape[1])


def kl(student: Tensor, teacher: Tensor, tau: float) -> Tensor:
    """Return T² KL ÷ the number of rows."""
    s, t = rows(student) / tau, rows(teacher) / tau
    return tau**2 * F.kl_div(s.log_softmax(1), t.softmax(1), reduction='batchmean')


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('kind', KINDS)
def test_ema_is_the_kl_to_the_copy(kind: str) -> None:
    model = alone(kind, dict(type='ema', momentum=0.5, tau=2.0, weight=3.0))
    wrapper = sgd(model, lr=0.1)
    for step in range(2):
        model.train_step(data(kind, step), wrapper)
    record, _, found = said(model, data(kind, 2))
    close(found['ema.loss'], 3 * kl(record['student']['logits'], record['ema']['logits'], 2.0))
    assert found['ema.loss'] > 0
    assert model.runs['ema'].rule.momentum_at(1) == 2 / 11


@pytest.mark.parametrize('kind', KINDS)
def test_dlb_is_the_authors_formula(kind: str) -> None:
    """alpha · T² · kl_div(…, 'batchmean') of the last batch, and the cross-entropy of both."""
    alpha, tau = 2.0, 4.0
    model = alone(kind, dict(type='dlb', tau=tau, weight=alpha))
    hook, wrapper = LastBatchHook(), sgd(model, lr=0.1)
    loop = SimpleNamespace(max_iters=9, val_interval=9)
    runner = SimpleNamespace(model=model, iter=0, train_loop=loop, hooks=[])
    hook.before_train(runner)
    first, second = data(kind, 0), data(kind, 1)
    number = len(first['inputs'])
    hook.before_train_iter(runner, 0, first)
    model.train_step(first, wrapper)
    pre_out = model.combined['last'].heard['logits']
    hook.before_train_iter(runner, 1, second)
    record, labels, found = said(model, second)
    out = record['student']['logits']
    assert len(out) == 2 * number
    s, t = rows(out[:number]), rows(pre_out)
    theirs = F.kl_div((s / tau).log_softmax(1), (t / tau).softmax(1), reduction='batchmean')
    close(found['dlb.loss'], alpha * theirs * tau * tau)
    assert found['dlb.loss'] > 0
    plan = find_method('dlb')(Pair(Segmentation(3), teachers=()))
    assert (plan.objectives['dlb']['loss']['tau'], plan.objectives['dlb']['weight']) == (3.0, 1.0)
    assert plan.task_weight is None  # the student's own loss is that of both halves
    assert plan.hooks == [dict(type='mmkd.LastBatchHook')]


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('own', ['past', 'ema'])
def test_psk_is_the_cross_entropy_with_the_mixed_target(kind: str, own: str) -> None:
    steps = dict(steps=1) if own == 'past' else {}
    model = alone(kind, dict(type='psk', length=100, kind=own, **steps))
    wrapper = sgd(model, lr=0.1)
    for step in range(2):
        logs = model.train_step(data(kind, step), wrapper)
        assert logs['loss'] == logs['psk.loss']  # the labels are in the target
    model.objectives['psk'].loss.alpha = 0.3
    record, labels, found = said(model, data(kind, 2))
    s, p = rows(record['student']['logits']), rows(record['past']['logits']).softmax(1)
    y = labels.flatten()
    own_label = F.one_hot(y.clamp(max=s.shape[1] - 1), s.shape[1])
    each = -((0.7 * own_label + 0.3 * p) * s.log_softmax(1)).sum(1)
    close(found['psk.loss'], each[y < s.shape[1]].mean())


@pytest.mark.parametrize('kind', KINDS)
def test_psk_without_its_past_is_the_labels_alone(kind: str) -> None:
    model = alone(kind, dict(type='psk', length=9, alpha=0.0))
    record, labels, found = said(model, data(kind))
    s, y = rows(record['student']['logits']), labels.flatten()
    close(found['psk.loss'], F.cross_entropy(s, y, ignore_index=255))


def test_the_share_of_psk_rises_as_the_authors_does() -> None:
    """Of theirs once an epoch, alpha_T · (epoch + 1) / E, here in every iteration of the run."""
    plan = find_method('psk')(Pair(Segmentation(3), teachers=(), iterations=600))
    (hook,) = plan.hooks
    schedule = ScheduleHook(hook['schedules']).schedules['psk.loss.alpha']
    for step in (0, 1, 299, 599):
        assert schedule(step) == pytest.approx(0.8 * (step + 1) / 600, rel=1e-12)
    assert plan.teachers == dict(past=dict(kind='past', of='student', steps=2))
    assert plan.task_weight == 0


@pytest.mark.parametrize('kind', KINDS)
def test_kdcl_is_the_kl_to_the_best_peer_of_each_place(kind: str) -> None:
    model = peers(kind, 'kdcl')
    record, labels, found = said(model, data(kind))
    a, b = (rows(record[name]['logits']) for name in 'ab')
    y = labels.flatten()
    known = y < a.shape[1]
    losses = torch.stack([F.cross_entropy(x, y.clamp(max=2), reduction='none') for x in (a, b)])
    if kind == 'map':
        own = y.where(known, 0)
        losses = torch.stack([F.cross_entropy(x, own, reduction='none') for x in (a, b)])
    best = torch.where((losses[0] <= losses[1])[:, None], a, b)
    mean = ((a.softmax(1) + b.softmax(1)) / 2).log()
    target = torch.where(known[:, None], best, mean)
    assert (kind == 'map') == bool((~known).any())
    for number, x in enumerate((a, b)):
        s, t = x / 3, target / 3
        expected = 9 * F.kl_div(s.log_softmax(1), t.softmax(1), reduction='batchmean')
        close(found[f'logit{number}.loss'], expected)


def test_kdcl_of_means() -> None:
    model = peers('image', dict(type='kdcl', kind='mean', tau=1.0))
    record, _, found = said(model, data('image'))
    mean = ((record['a']['logits'].softmax(1) + record['b']['logits'].softmax(1)) / 2).log()
    close(found['logit0.loss'], kl(record['a']['logits'], mean, 1.0))


@pytest.mark.parametrize('kind', KINDS)
def test_one_is_okddips_ensemble_of_branches(kind: str) -> None:
    """Σ over branches of T² KL, and the cross-entropy of the gated logits."""
    model = peers(kind, 'one')
    wrapper = sgd(model, lr=0.5)
    for step in range(2):
        model.train_step(data(kind, step), wrapper)
    record, labels, found = said(model, data(kind, 2))
    a, b = (record[name]['logits'].detach() for name in 'ab')
    u = torch.cat(
        [x.softmax(1).flatten(2).mean(2) if x.dim() > 2 else x.softmax(1) for x in (a, b)], 1
    )
    layer = model.combined['gate'].weigh
    assert layer.weight.abs().max() > 0
    g = F.softmax(F.linear(u, layer.weight, layer.bias), 1)
    shape = (len(a), 1, *[1] * (a.dim() - 2))
    ensemble = g[:, 0].view(shape) * a + g[:, 1].view(shape) * b
    close(found['logit0.loss'], kl(a, ensemble, 3.0))
    close(found['logit1.loss'], kl(b, ensemble, 3.0))
    y, z = labels.flatten(), rows(ensemble)
    close(found['ensemble.loss'], F.cross_entropy(z, y, ignore_index=255))


def test_the_ensembles_labels_reach_the_branches() -> None:
    """As in the implementation that is followed: the mix is not detached there."""
    model = peers('image', 'one')
    model._stepping = True
    record, _ = model.observe(**model.data_preprocessor(data('image'), True))
    loss = model.objectives['ensemble'](record)['ensemble.loss']
    weights = [model.students[name].head.fc.weight for name in 'ab']
    assert all(x.abs().max() > 0 for x in torch.autograd.grad(loss, weights))


@pytest.mark.parametrize('kind', KINDS)
def test_byot_is_the_authors_formula(kind: str) -> None:
    """0.7 CE + 0.3 of a cross-entropy at T = 3 without T², but for the entropy of its target."""
    model = alone(kind, dict(type='byot', stages=4 if kind == 'map' else 3))
    record, _, found = said(model, data(kind))
    last = record['student']['logits'].detach()
    number = 3 if kind == 'map' else 2
    assert [n for n in model.objectives if n.startswith('exit')] == [
        f'exit{k}' for k in range(number)
    ]
    for k in range(number):
        stage = record['student'][f'stage{k}'].detach()
        head = model.objectives[f'exit{k}'].loss.head
        if kind == 'image':
            stage = stage.mean((2, 3), keepdim=True)
        exit_ = F.conv2d(stage, head.weight, head.bias)
        target = last
        labels = record.batch.labels
        if kind == 'map':
            target = F.interpolate(last, exit_.shape[2:], mode='bilinear', align_corners=False)
            labels = F.interpolate(labels[:, None].float(), exit_.shape[2:])[:, 0].long()
        s, t = rows(exit_), rows(target)
        ce = F.cross_entropy(s, labels.flatten(), ignore_index=255)
        soft, log_soft = (t / 3).softmax(1), (t / 3).log_softmax(1)
        theirs = -((s / 3).log_softmax(1) * soft).sum(1).mean()
        entropy = -(soft * log_soft).sum(1).mean()
        close(found[f'exit{k}.loss'], 0.7 * ce + 0.3 * (theirs - entropy))
    for k in range(number - 1):
        connector = model.objectives[f'hint{k}'].connectors['student']
        deepest = record['student'][f'stage{number}'].detach()
        with torch.no_grad():
            mine = connector(record['student'][f'stage{k}'], size=tuple(deepest.shape[2:]))
        close(found[f'hint{k}.loss'], 0.03 * F.mse_loss(mine.double(), deepest.double()))


def test_exits_are_in_the_students_optimizer_and_in_no_export() -> None:
    model = alone('map', 'byot')
    named = [name for name, _ in model.named_parameters() if name.startswith('objectives.exit')]
    assert len(named) == 6
    before = model.objectives['exit0'].loss.head.weight.detach().clone()
    model.train_step(data('map'), sgd(model, lr=0.1))
    assert not torch.equal(before, model.objectives['exit0'].loss.head.weight)
    state = student_state_dict(model.state_dict())
    assert state.keys() == model.student.state_dict().keys()


@pytest.mark.parametrize(
    'method', ['dlb', 'ema', dict(type='psk', length=9), 'byot', 'kdcl', 'one']
)
def test_every_preset_trains_on_maps_and_on_images(method: Any) -> None:
    for kind in KINDS:
        own = method
        if method == 'byot' and kind == 'image':
            own = dict(type='byot', stages=3)
        model = peers(kind, own) if method in ('kdcl', 'one') else alone(kind, own)
        wrapper = sgd(model, lr=0.01)
        for step in range(2):
            logs = model.train_step(data(kind, step), wrapper)
        assert all(x.isfinite() for x in logs.values())


def test_a_student_teaches_itself_beside_a_teacher() -> None:
    teacher = dict(**net('map', 5), allow_untrained=True)
    model = alone('map', ['kd', 'ema'], teacher=teacher)
    assert list(model.runs) == ['teacher', 'ema', 'student']
    assert set(model.objectives) == {'pixel', 'ema'}


def test_the_config_wins_over_the_teacher_of_a_method() -> None:
    given = dict(type='mmkd.Distiller', student=net('map'), method='ema')
    own = dict(kind='ema', of='student', momentum=0.5)
    config, _ = expand({**given, 'teachers': dict(ema=own)})
    assert config['teachers']['ema'] == own
    config, additions = expand(given)
    assert config['teachers']['ema']['momentum'] == 0.999
    assert additions.beyond_the_model == []


def test_a_line_of_the_command_needs_no_teacher() -> None:
    student = 'configs/pairs/baseline_resnet8_cifar10.py'
    text = config_text(Pairing(student, methods=('ema',)))
    assert 'teacher' not in text
    assert "method='ema'" in text
    with pytest.raises(ValueError, match='learns of another model'):
        config_text(Pairing(student, methods=('kd', 'ema')))
    with pytest.raises(ValueError, match='the student teaches itself'):
        config_text(Pairing(student, student, ('a.pth',), methods=('ema',)))


def test_a_method_of_one_teacher_takes_a_copy_of_the_student() -> None:
    made = dict(ema=dict(kind='ema', of='student'))
    model = alone('map', dict(type='skd-pi-pa'), teachers=made)
    assert list(model.runs) == ['ema', 'student']
    assert model.train_step(data('map'), sgd(model))['loss'].isfinite()


@pytest.mark.parametrize(
    ('method', 'text'),
    [
        (dict(type='ema', momentum=1.0), 'from 0 to below 1'),
        (dict(type='dlb', tau=0.0), 'tau must be'),
        (dict(type='psk', length=9, kind='now'), "'past', 'ema'"),
        (dict(type='psk'), 'length is that of the run'),
        (dict(type='psk', length=9, alpha=1.5), 'from 0 to 1'),
        (dict(type='byot', stages=1), 'stages before the last'),
        (dict(type='byot', ce=0.0, kd=0.0), 'learns nothing'),
        (dict(type='kdcl'), 'peers teach each other'),
        (dict(type='one'), 'peers teach each other'),
    ],
)
def test_a_mistake_is_told(method: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        alone('map', method)


def test_a_kind_that_kdcl_does_not_have_is_told() -> None:
    with pytest.raises(ValueError, match="'min-ce', 'mean'"):
        peers('image', dict(type='kdcl', kind='gate'))


def test_an_exit_that_does_not_fit_is_told() -> None:
    stage, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)
    with pytest.raises(RuntimeError, match='is not built'):
        ExitLoss()(stage, torch.zeros(2, 5), labels)
    loss = ExitLoss(student_channels=3, num_classes=5)
    for student, teacher in ((stage[..., 0], torch.zeros(2, 5)), (stage, torch.zeros(3, 5))):
        with pytest.raises(ValueError, match='an exit reads a stage'):
            loss(student, teacher, labels)
    assert loss(stage, torch.zeros(2, 5), labels).isfinite()
    mask = torch.tensor([True, False])
    stage[1] = torch.nan
    value = loss(stage, torch.zeros(2, 5), labels, mask)
    value.backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_an_exit_of_which_a_schedule_leaves_nothing_has_gradients_of_0() -> None:
    """DDP waits for those of every parameter."""
    loss = ExitLoss(student_channels=3, num_classes=5)
    loss.ce = loss.kd = 0.0
    loss(torch.randn(2, 3, 4, 4), torch.zeros(2, 5), torch.tensor([1, 2])).backward()
    assert all(p.grad is not None and not p.grad.any() for p in loss.parameters())


@pytest.mark.parametrize('options', [dict(kd=0.0), dict(power=1.5)])
@pytest.mark.parametrize('labels', [torch.tensor([[[0, 255], [2, 1]]]), torch.tensor([1, -1])])
def test_what_an_exit_finds_without_a_label_may_be_nan(options: dict, labels: Tensor) -> None:
    """Where labels alone decide what is learned: of the KL such a place counts."""
    torch.manual_seed(0)
    loss = ExitLoss(student_channels=3, num_classes=5, **options)
    stage = torch.randn(len(labels), 3, 2, 2)
    last = torch.randn(len(labels), 5, *labels.shape[1:])
    slopes = []
    for spoilt in (0.0, torch.nan, torch.inf):
        x = stage.clone()
        if labels.dim() == 1:
            x[1] = spoilt
        else:
            x[:, :, 0, 1] = spoilt
        value = loss(x, last, labels)
        slopes.append((value, *torch.autograd.grad(value, [*loss.parameters()])))
    for other in slopes[1:]:
        torch.testing.assert_close(other, slopes[0])
    with pytest.raises(ValueError, match='an exit needs labels'):
        loss(stage, last, labels[None])
    with pytest.raises(TypeError, match='mask must be a bool'):
        loss(stage, last, labels, labels.float())


def test_every_preset_is_here() -> None:
    assert {'byot', 'dlb', 'ema', 'kdcl', 'one', 'psk'} < BY_FORMULA
    assert NUM_CLASSES > 3
