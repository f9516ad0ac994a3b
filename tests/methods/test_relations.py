"""Presets that relate pixels, images or channels have the official value times its weight."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.classification import classifier
from helpers.tiny import batch, build, segmentor
from torch import Tensor

from mmkd.methods import Pair, find_method
from mmkd.registry import build_part
from mmkd.tasks import Classification, Described, Segmentation, Task, generated_batch

TASKS: dict[str, Task] = dict(segmentation=Segmentation(19), classification=Classification(100))
MODEL = Described(dict(backbone=dict(out_indices=(0, 1, 2))))
BOTH = ('segmentation', 'classification')
STAGED = [('fsp', 'segmentation'), ('fsp', 'classification'), ('nst', 'classification')]


def pair_of(task: str, name: str) -> Pair:
    return Pair(TASKS[task], models=dict(student=MODEL, teacher=MODEL), method=name)


def objectives(task: str, name: str, **options: Any) -> dict[str, dict]:
    return find_method(name)(pair_of(task, name), **options).objectives


def maps(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator).double() for _ in range(2))
    return student, 3 * teacher + 1


def value(task: str, name: str, student: Tensor, teacher: Tensor, **options: Any) -> float:
    """Return the preset's value: Σ weight · loss."""
    total = 0.0
    for one in objectives(task, name, **options).values():
        total += one['weight'] * build_part(dict(one['loss']))(student, teacher).item()
    return total


def test_cirkd() -> None:
    """λ 1 of CriterionMiniBatchCrossImagePair at temperature 0.1, of every pair of images."""
    student, teacher = maps(3, 6, 8, 16)
    ours, theirs = (F.normalize(x, dim=1).flatten(2) for x in (student, teacher))
    total = 0.0
    for i in range(3):
        for j in range(3):
            p_s = F.log_softmax(ours[i].mT @ ours[j] / 0.1, 1)
            p_t = F.softmax(theirs[i].mT @ theirs[j] / 0.1, 1)
            total += F.kl_div(p_s, p_t, reduction='batchmean').item()
    assert value('segmentation', 'cirkd', student, teacher) == pytest.approx(total / 9)
    one = objectives('segmentation', 'cirkd', minibatch=2.0, nodes=None)['minibatch']
    assert one['weight'] == 2.0
    assert one['loss']['nodes'] is None


@pytest.mark.parametrize('task', BOTH)
def test_sp(task: str) -> None:
    """RepDistiller's 3000 of Similarity at its batches of 64."""
    student, teacher = maps(64, 3, 2, 4)
    ours, theirs = (F.normalize(x.flatten(1) @ x.flatten(1).T) for x in (student, teacher))
    expected = 3000 * (ours - theirs).square().sum().item() / 64**2
    assert value(task, 'sp', student, teacher) == pytest.approx(expected)


@pytest.mark.parametrize('task', BOTH)
def test_rkd(task: str) -> None:
    """RKDLoss of w_d 25 and w_a 50, of what an average over places leaves."""
    student, teacher = maps(8, 5, 2, 4)
    vectors = [F.adaptive_avg_pool2d(x, 1).flatten(1) for x in (student, teacher)]
    lengths = [torch.cdist(x, x) for x in vectors]
    ours, theirs = (d / d[d > 0].mean() for d in lengths)
    expected = 25 * F.smooth_l1_loss(ours, theirs)
    edges = [F.normalize(x.unsqueeze(0) - x.unsqueeze(1), p=2, dim=2) for x in vectors]
    expected += 50 * F.smooth_l1_loss(*(torch.bmm(e, e.mT).view(-1) for e in edges))
    assert value(task, 'rkd', student, teacher) == pytest.approx(expected.item())
    assert [*objectives(task, 'rkd', angle=0)] == ['rkd_distance']
    with pytest.raises(ValueError, match="method 'rkd': distance and angle are both 0.*Mend"):
        objectives(task, 'rkd', angle=0, distance=0)


@pytest.mark.parametrize('task', BOTH)
def test_pkt(task: str) -> None:
    """RepDistiller's 30000 of PKT at its batches of 64."""
    student, teacher = maps(64, 5, 2, 4)
    rows = []
    for x in (student, teacher):
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        x = x / (x.norm(dim=1, keepdim=True) + 1e-7)
        similar = (x @ x.T + 1) / 2
        rows.append(similar / similar.sum(1, keepdim=True))
    expected = 30000 * (rows[1] * ((rows[1] + 1e-7) / (rows[0] + 1e-7)).log()).mean()
    assert value(task, 'pkt', student, teacher) == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize('task', BOTH)
def test_cc(task: str) -> None:
    """torchdistill's kernel of γ 0.4 and order 2; the mean of squares and the weight are ours."""
    student, teacher = maps(8, 5, 2, 4)
    kernels = []
    for x in (student, teacher):
        x = F.normalize(F.adaptive_avg_pool2d(x, 1).flatten(1))
        row = 1 + 0.8 * (x @ x.T) + 0.8**2 / 2 * (x @ x.T) ** 2
        kernels.append(torch.tensor(-0.8).exp() * row)
    expected = 100 * F.mse_loss(*kernels).item()
    assert value(task, 'cc', student, teacher) == pytest.approx(expected)


def neurons(s: Tensor, t: Tensor) -> Tensor:
    """Return nst_loss of RepDistiller."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a.unsqueeze(1) * b.unsqueeze(2)).sum(-1).pow(2).mean()

    s, t = (F.normalize(x.flatten(2), dim=2) for x in (s, t))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def test_nst() -> None:
    """RepDistiller's 50, of every stage where images are classified."""
    student, teacher = maps(2, 6, 8, 16)
    expected = 50 * neurons(student, teacher[:, :4]).item()
    assert value('segmentation', 'nst', student, teacher[:, :4]) == pytest.approx(expected)
    found = value('classification', 'nst', student, teacher[:, :4])
    assert found == pytest.approx(3 * expected)
    assert [one['on'] for one in objectives('classification', 'nst').values()] == [
        'stage1',
        'stage2',
        'stage3',
    ]


@pytest.mark.parametrize('task', BOTH)
def test_ickd(task: str) -> None:
    """The authors' 2.5, behind convolution and normalisation."""
    student, teacher = maps(3, 6, 8, 16)
    ours, theirs = (
        F.normalize(torch.bmm(x.flatten(2), x.flatten(2).mT), dim=2) for x in (student, teacher)
    )
    expected = 2.5 * ((ours - theirs) ** 2).sum().item() / (6 * 3)
    assert value(task, 'ickd', student, teacher) == pytest.approx(expected)
    one = objectives(task, 'ickd')['ickd']
    assert one['connectors'] == dict(student='auto:conv-bn')


def test_dsd() -> None:
    """CIRKD's 10 of CriterionCSD, of logits at 512×1024 and stride 8."""
    student, teacher = maps(1, 19, 64, 128)
    similar = []
    for x in (student, teacher):
        x = F.avg_pool2d(x, 2, 2, ceil_mode=True).flatten(2)
        x = F.softmax(x / 4, -1)
        similar.append(torch.bmm(x, x.mT))
    expected = 10 * ((similar[0] - similar[1]) ** 2).mean().item()
    found = value('segmentation', 'dsd', student, teacher, pixel=0.0)
    assert found == pytest.approx(expected)
    assert objectives('segmentation', 'dsd')['dsd']['on'] == 'logits'


def test_dsd_of_pixels() -> None:
    """CIRKD's 1000 of CriterionPSD, of the last features and of logits at 512×1024 and stride 8."""
    one = objectives('segmentation', 'dsd')['dsd_pixel']
    assert one['reads'] == dict(
        student=['student.feat', 'student.logits'], teacher=['teacher.feat', 'teacher.logits']
    )
    sides = [[x, y] for x, y in zip(maps(2, 24, 64, 128), maps(2, 19, 64, 128), strict=True)]
    residuals = []
    for side in sides:
        low, high = (F.normalize(x.pow(2).mean(1).view(2, -1)) for x in side)
        residuals.append(F.normalize(high - low))
    expected = 1000 * (residuals[0] - residuals[1]).pow(2).mean()
    found = one['weight'] * build_part(dict(one['loss']))(*sides)
    torch.testing.assert_close(found, expected)
    assert found > 0.1
    layers = [f'auto:stages[{k}]' for k in (1, 2, 3)]
    plan = find_method('dsd')(pair_of('segmentation', 'dsd'), weight=0.0, layers=layers)
    assert list(plan.objectives) == ['dsd_pixel']
    assert plan.taps == {f'layer{k}': one for k, one in enumerate(layers)}
    assert len(learn(distiller(dict(type='dsd', layers=layers), segmentor, 4, 8), batch())) == 2


@pytest.mark.bad_input
@pytest.mark.parametrize('layers', ['auto:stages[1]', ['auto:stages[1]'], [], [1, 2], 3])
def test_dsd_of_layers_that_are_not_two(layers: Any) -> None:
    with pytest.raises(ValueError, match="'dsd': layers must be a list of two .*Mend: layers="):
        find_method('dsd')(pair_of('segmentation', 'dsd'), layers=layers)


@pytest.mark.bad_input
def test_dsd_of_nothing() -> None:
    with pytest.raises(ValueError, match="'dsd': weight=0 and pixel=0 teach nothing. Mend: dict"):
        objectives('segmentation', 'dsd', weight=0.0, pixel=0.0)
    layers = ['auto:stages[1]', 'auto:stages[2]']
    said = 'layers would change nothing, since pixel=0 .* got layers=.* Mend: leave layers out, or'
    with pytest.raises(ValueError, match=said):
        objectives('segmentation', 'dsd', pixel=0, layers=layers)


@pytest.mark.parametrize(('name', 'task'), STAGED)
def test_stages_of_backbones_that_do_not_say(name: str, task: str) -> None:
    """The option is what the refusal proposes, and counts before what configs say."""
    silent = Pair(TASKS[task], models=dict(student=Described(dict(backbone={}))), method=name)
    with pytest.raises(
        ValueError, match=rf"how many maps .* Mend: dict\(type='{name}', stages=4\)"
    ):
        find_method(name)(silent)
    for pair, number in ((silent, 4), (pair_of(task, name), 2)):
        plan = find_method(name)(pair, stages=number)
        assert plan.taps == {f'stage{k + 1}': f'auto:stages[{k}]' for k in range(number)}
        assert len(plan.objectives) == number - (name == 'fsp')


@pytest.mark.bad_input
@pytest.mark.parametrize(('name', 'task'), STAGED)
def test_stages_that_are_no_number_of_maps(name: str, task: str) -> None:
    said = f"'{name}': stages must be a whole number of at least 1, got '4'. Mend: stages=4"
    with pytest.raises(ValueError, match=said):
        objectives(task, name, stages='4')


@pytest.mark.bad_input
def test_stages_that_are_not_compared() -> None:
    said = "'nst': stages would change nothing, since of label maps .* got stages=3. Mend: leave s"
    with pytest.raises(ValueError, match=said):
        objectives('segmentation', 'nst', stages=3)
    with pytest.raises(ValueError, match="'fsp': the backbones give one map.*Mend: .*; stages=2"):
        objectives('segmentation', 'fsp', stages=1)


@pytest.mark.parametrize('task', BOTH)
def test_fsp(task: str) -> None:
    """RepDistiller's sum over pairs of stages, as it initialises."""
    stages = [maps(2, c, *size) for c, size in ((3, (8, 16)), (4, (4, 8)), (5, (4, 8)))]

    def flows(side: int) -> list[Tensor]:
        found = []
        for low, high in zip(stages, stages[1:], strict=False):
            bottom = F.adaptive_avg_pool2d(low[side], high[side].shape[2:])
            bottom, top = bottom.flatten(2).unsqueeze(1), high[side].flatten(2).unsqueeze(2)
            found.append((bottom * top).mean(-1))
        return found

    pairs = zip(flows(0), flows(1), strict=True)
    expected = sum((s - t).pow(2).mean() for s, t in pairs)
    found = 0.0
    for one in objectives(task, 'fsp').values():
        reads = {
            argument: stages[int(tap[-1]) - 1][not tap.startswith('student')]
            for argument, tap in one['reads'].items()
        }
        found += one['weight'] * build_part(dict(one['loss']))(**reads)
        assert one['connectors'] == dict(student='auto', student_next='auto')
    torch.testing.assert_close(found, expected)
    single = Described(dict(backbone=dict(out_indices=(0,))))
    with pytest.raises(ValueError, match="method 'fsp': the backbones give one map.*Mend"):
        find_method('fsp')(
            Pair(TASKS[task], models=dict(student=single, teacher=single), method='fsp')
        )


OF_SEGMENTORS = ('cirkd', 'sp', 'rkd', 'pkt', 'cc', 'nst', 'ickd', 'dsd', 'fsp')
OF_CLASSIFIERS = ('sp', 'rkd', 'pkt', 'cc', 'nst', 'ickd', 'fsp')


def distiller(method: Any, member: Callable[..., dict], narrow: int, wide: int) -> Any:
    return build(
        dict(
            type='mmkd.Distiller',
            student=dict(model=member(narrow)),
            teacher=dict(model=member(wide), allow_untrained=True),
            method=method,
        )
    )


def learn(model: Any, data: dict) -> dict[str, Tensor]:
    """Return what the method adds to the log, after a backward of that alone."""
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    found = {key: one for key, one in losses.items() if key.endswith('.loss')}
    sum(found.values()).backward()
    assert all(one.isfinite() for one in found.values())
    assert all(one.item() > 0 for one in found.values())
    return found


@pytest.mark.parametrize('name', OF_SEGMENTORS)
def test_a_step_of_two_segmentors_teaches_the_student(name: str) -> None:
    """Of other widths; the probe before it sees one image."""
    model = distiller(name, segmentor, 4, 8)
    found = learn(model, batch(3) if name == 'rkd' else batch())
    assert len(found) == dict(rkd=2, fsp=3, dsd=2).get(name, 1)
    assert model.student.backbone.stem[0].weight.grad.abs().sum() > 0


def test_cirkd_stands_beside_its_memory_and_plain_distillation() -> None:
    whole: Any = ['cirkd', 'cirkd-memory', dict(type='kd', weight=1.0)]
    found = learn(distiller(whole, segmentor, 4, 8), batch())
    assert [*found] == ['minibatch.loss', 'cirkd_memory.loss', 'pixel.loss']


@pytest.mark.parametrize('name', OF_CLASSIFIERS)
def test_a_step_of_two_classifiers_teaches_the_student(name: str) -> None:
    model = distiller(name, classifier, 2, 4)
    found = learn(model, generated_batch(4, (32, 32), model.task))
    assert len(found) == dict(rkd=2, fsp=2, nst=3).get(name, 1)
    assert next(model.student.backbone.parameters()).grad.abs().sum() > 0


@pytest.mark.parametrize('name', ['sp', 'rkd', 'pkt', 'cc'])
def test_a_batch_of_one_image_is_refused_with_the_reason(name: str) -> None:
    model = distiller(name, classifier, 2, 4)
    with pytest.raises(ValueError, match=f'objective .{name}.*is one image.*Mend: a batch_size'):
        learn(model, generated_batch(1, (32, 32), model.task))
