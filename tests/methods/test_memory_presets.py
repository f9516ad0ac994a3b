"""Presets of contrast: the authors' formula times their weight, training, resume, exports.

Each formula is written as the authors' code computes it, with its own normaliser.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.classification import classifier
from helpers.classification import config as classify
from helpers.runs import model_of, run_config, train
from helpers.tiny import batch, segmentor
from helpers.unlabelled import mark
from mmengine.registry import MODELS
from references.memory_contrast import mean_of_random
from torch import Tensor

from mmkd.distiller.objectives.objective import build_objective
from mmkd.losses.memory.ring import Ring
from mmkd.methods import Pair, expand, find_method
from mmkd.registry import build_part
from mmkd.structures.batch import Batch
from mmkd.tasks import Classification, Segmentation

CLASSES = 19
PAIR = Pair(Segmentation(CLASSES), method='x')
SMALL = dict(type='cirkd-memory', pixels=6, regions=4)


def draw(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, dtype=torch.float64, generator=generator).unbind()


def full(loss: Any) -> Any:
    """Return a loss whose memories are full of unit vectors, and stay as they are."""
    generator = torch.Generator().manual_seed(7)
    for ring in loss.double().modules():
        if isinstance(ring, Ring):
            rows = torch.randn(ring.rows[:-1].shape, dtype=torch.float64, generator=generator)
            ring.rows[:-1] = F.normalize(rows)
            ring.pushed.fill_(ring.size)
    return loss.eval()


# ---------------------------------------------------------------------- CIRKD


def test_cirkd_memory_is_the_official_formula_times_its_weights() -> None:
    """Both divergences of the authors over labelled pixels, batchmean, τ 0.1, T 1, λ 0.1 each."""
    one = find_method('cirkd-memory')(PAIR, pixels=30, regions=20).objectives['cirkd_memory']
    student, teacher = draw(3, 8, 4, 6)
    labels = torch.randint(CLASSES, (3, 4, 6), generator=torch.Generator().manual_seed(1))
    labels[0, :2] = 255
    loss = build_part(dict(one['loss']))
    loss.build(student=student, teacher=teacher, labels=labels)
    value = one['weight'] * full(loss)(student, teacher, labels)

    s, t = (F.normalize(x, dim=1).permute(0, 2, 3, 1)[labels != 255] for x in (student, teacher))
    official = torch.zeros((), dtype=torch.float64)
    for queue in (loss.pixel.rows[:-1], loss.region.rows[:-1]):
        log_s, p_t = (s @ queue.T / 0.1).log_softmax(1), (t @ queue.T / 0.1).softmax(1)
        official += 0.1 * F.kl_div(log_s, p_t, reduction='batchmean') * 1.0**2
    torch.testing.assert_close(value, official, rtol=1e-9, atol=0)


def test_cirkd_memory_has_the_sizes_of_the_authors() -> None:
    plan = find_method('cirkd-memory')(PAIR)
    one = plan.objectives['cirkd_memory']
    loss = build_part(dict(one['loss']))
    assert (loss.num_classes, loss.pixels, loss.regions) == (19, 2000, 2000)
    assert (loss.pixel_keys, loss.region_keys, loss.push) == (4096, 1024, 16)
    assert one['connectors'] == dict(
        student=dict(type='auto', kind='conv-bn-relu-conv', bias=False)
    )
    assert one['reads'] == dict(labels='batch.labels')
    assert plan.taps == dict(feat='auto:feature')
    fewer = find_method('cirkd-memory')(PAIR, pixel_keys=512, region_keys=128)
    few = build_part(dict(fewer.objectives['cirkd_memory']['loss']))
    assert (few.pixel_keys, few.region_keys) == (512, 128)


# ---------------------------------------------------------------------- CRD


def test_crd_is_the_official_formula_times_its_weight() -> None:
    """Their NCE with Z = n · E e^(cos/T), the mean over a random memory, of n = 500 images.

    Negatives are drawn of other classes, of which m are known here.
    """
    pair = Pair(Classification(100))
    one = find_method('crd')(pair, size=40, embed=16).objectives['crd']
    loss = build_part(dict(one['loss'], student_channels=5, teacher_channels=7))
    full(loss)
    student, teacher = draw(6, 7)
    student = student[:, :5]
    labels = torch.arange(6) % 3
    tags = torch.arange(40) % 4
    loss.queue.tags[:-1] = loss.student_queue.tags[:-1] = tags
    value = one['weight'] * loss(student, teacher, labels=labels)
    assert one['reads'] == dict(labels='batch.labels', mask='batch.labelled')

    n, m, tau = 500, 30, 0.07
    z = n * mean_of_random(16, tau)
    v1 = F.normalize(loss.student_layer(student))
    v2 = F.normalize(loss.teacher_layer(teacher))
    official = torch.zeros((), dtype=torch.float64)
    for own, positive, memory in (
        (v1, v2, loss.queue.rows[:-1]),
        (v2, v1, loss.student_queue.rows[:-1]),
    ):
        others = torch.stack([memory[tags != label] for label in labels])
        scores = torch.einsum('nd,nkd->nk', own, torch.cat([positive[:, None], others], 1))
        p = (scores / tau).exp() / z
        positives = (p[:, 0] / (p[:, 0] + m / n)).log().sum()
        negatives = (m / n / (p[:, 1:] + m / n)).log().sum()
        official += -(positives + negatives) / len(own)
    torch.testing.assert_close(value, 0.8 * official, rtol=1e-9, atol=0)


def test_crd_has_the_sizes_of_the_authors() -> None:
    plan = find_method('crd')(Pair(Classification(100)))
    loss = build_part(dict(plan.objectives['crd']['loss']))
    assert (loss.size, loss.embed, loss.tau, loss.compare) == (16384, 128, 0.07, 'nce')
    assert plan.objectives['crd']['weight'] == 0.8
    plain = find_method('crd')(Pair(Classification(100)), embed=None).objectives['crd']
    assert plain['connectors'] == dict(student='auto')
    alone = find_method('crd')(Pair(Classification(100)), labels=False).objectives['crd']
    assert 'reads' not in alone


# ---------------------------------------------------------------------- Af-DCD


def test_afdcd_is_the_official_formula_times_its_weights() -> None:
    """λ 2e-6 of a sum of squares over an image, 5e-3 of a sum over groups and mean over places."""
    places, channels = (16, 32), 32
    one = find_method('afdcd')(PAIR).objectives['afdcd']
    loss = build_part(dict(one['loss'], teacher_channels=channels)).double()
    student, teacher = draw(2, channels, *places)
    # of an image of 2048 channels and 64×128 places the sum is so many times as large
    share = channels * places[0] * places[1] / (2048 * 64 * 128)
    loss.mimic *= share
    torch.manual_seed(2)
    value = one['weight'] * loss(student, teacher)

    torch.manual_seed(2)
    lots = torch.rand(2, 1, *places)
    # theirs keeps what is below 0.25, of the same share
    assert torch.where(lots > 1 - 0.75, 0, 1).double().mean().item() == pytest.approx(
        0.25, abs=0.05
    )
    assert (lots >= 0.75).double().mean().item() == pytest.approx(0.25, abs=0.05)
    made = loss.generator(student * (lots >= 0.75))
    fd = F.mse_loss(made, teacher, reduction='sum') / 2
    s, t = (F.max_pool2d(x, 4) for x in (made, teacher))
    ctr = contrast(s, t) / 2
    torch.testing.assert_close(value, 2e-6 * fd + 0.005 * ctr, rtol=1e-9, atol=0)


def contrast(s: Tensor, t: Tensor, m: int = 16, side: int = 4, tau: float = 0.07) -> Tensor:
    """Return their cross-entropy of pooled maps, over (H · W)."""
    n, c, h, w = s.shape

    def rows(x: Tensor) -> Tensor:
        x = x.view(n, m, c // m, h // side, side, w // side, side)
        return x.permute(0, 3, 5, 4, 6, 1, 2).reshape(-1, side * side * m, c // m)

    similarity = -torch.cdist(rows(s), rows(t), p=1) / tau
    group = torch.arange(side * side * m) % m
    negatives = similarity[:, group.unsqueeze(0) != group.unsqueeze(1)]
    negatives = negatives.view(-1, side * side * (m - 1))
    positives = similarity.diagonal(dim1=1, dim2=2).reshape(-1, 1)
    logits = torch.cat([positives, negatives], 1)
    target = torch.zeros(len(logits), dtype=torch.long)
    return F.cross_entropy(logits, target, reduction='sum') / (h * w)


def test_afdcd_reads_the_last_stage_or_what_the_classifier_reads() -> None:
    assert find_method('afdcd')(PAIR).taps == dict(feat='auto:stages[-1]')
    assert find_method('afdcd')(PAIR, on='feature').taps == dict(feat='auto:feature')
    one = find_method('afdcd')(PAIR).objectives['afdcd']
    assert one['loss']['contrast'] == pytest.approx(0.08)
    assert one['loss']['mimic'] == pytest.approx(33.55, abs=0.01)


# ---------------------------------------------------------------------- whole runs


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('method', 'message'),
    [
        (dict(type='afdcd', on='logits'), r"on must be one of \('stage', 'feature'\)"),
        (dict(type='cirkd-memory', weight=0), "method 'cirkd-memory': the weight of its objective"),
        (dict(type='crd'), "method 'crd': it is made for classification, but the student"),
    ],
    ids=str,
)
def test_bad_options_name_the_method(method: dict, message: str) -> None:
    net = dict(type='EncoderDecoder', decode_head=dict(num_classes=3))
    with pytest.raises(ValueError, match=message):
        expand(dict(student=dict(model=net), teacher=dict(model=net), method=method))


@pytest.mark.bad_input
def test_a_memory_of_classes_wants_labels() -> None:
    """Of images, and of a place: other tasks, and batches that hold none, are refused."""
    net = dict(model=classifier(2))
    with pytest.raises(ValueError, match="method 'cirkd-memory': it is made for segmentation"):
        expand(dict(student=net, teacher=net, method='cirkd-memory'))
    one = find_method('cirkd-memory')(PAIR, pixels=6, regions=4).objectives['cirkd_memory']
    maps = dict(zip(('student', 'teacher'), draw(2, 8, 4, 4), strict=True))
    config = {key: value for key, value in one.items() if key != 'connectors'}
    objective = build_objective('memory', config, dict(student=['feat'], teacher=['feat']))
    record: dict[str, Any] = {name: dict(feat=x.requires_grad_()) for name, x in maps.items()}
    record['batch'] = Batch(torch.zeros(2, 3, 32, 32), task=PAIR.task)
    with pytest.raises(ValueError, match=r"objective 'memory': batch\.labels got .*labels"):
        objective(record)


@pytest.mark.bad_input
@pytest.mark.parametrize('number', [5, 12])
def test_a_memory_of_other_classes_than_the_labels(number: int) -> None:
    """Of fewer, places of the others would be neither remembered nor compared, silently."""
    loss = dict(type='MemoryContrastLoss', num_classes=number, pixels=4, regions=4)
    reads = dict(student='student.map', teacher='teacher.map', labels='batch.labels')
    own = dict(loss=loss, reads=reads, connectors=dict(student='auto'))
    taps = dict(map='auto:feature')
    with pytest.raises(ValueError, match=f'has num_classes={number}, .* of the 11 classes.*Mend:'):
        of_two_segmentors(None, objectives=dict(memory=own), taps=taps)
    loss['num_classes'] = 11
    assert of_two_segmentors(None, objectives=dict(memory=own), taps=taps)


def of_two_segmentors(method: Any, **others: Any) -> Any:
    torch.manual_seed(0)
    config = dict(
        type='mmkd.Distiller',
        student=dict(model=segmentor(8)),
        teacher=dict(model=segmentor(16), allow_untrained=True),
        **others,
    )
    return MODELS.build(config if method is None else dict(config, method=method))


@pytest.mark.parametrize(
    'method', [SMALL, dict(type='afdcd'), dict(type='afdcd', on='feature')], ids=str
)
def test_a_preset_trains_two_segmentors(method: dict) -> None:
    """From a name to a gradient in the student: taps are found, projectors inserted."""
    distiller = of_two_segmentors(method)
    data = batch(2, ignore=0.2)
    losses = distiller(**distiller.data_preprocessor(data, True), mode='loss')
    values = [losses[f'{name}.loss'] for name in distiller.objectives]
    assert all(value.item() > 0 for value in values)
    sum(values).backward()
    assert distiller.student.backbone.layer1[0].conv1.weight.grad.abs().sum() > 0
    assert all(p.grad is not None for p in distiller.objectives.parameters())


def test_images_without_labels_are_not_remembered() -> None:
    distiller = of_two_segmentors(SMALL)
    data = mark(batch(4), [0, 2])
    losses = distiller(**distiller.data_preprocessor(data, True), mode='loss')
    assert losses['cirkd_memory.loss'].item() > 0
    region = distiller.objectives.cirkd_memory.loss.region
    assert region.pushed.max() == 2, 'of two images'
    void = mark(batch(2), [0, 1])
    value = distiller(**distiller.data_preprocessor(void, True), mode='loss')['cirkd_memory.loss']
    assert value.item() == 0
    assert region.pushed.max() == 2


def test_a_run_is_resumed_bit_for_bit_and_its_student_has_no_memory(tmp_path: Path) -> None:
    """Draws, projector and rings included, after they went round."""
    model = model_of(critic=False, method=SMALL)
    del model['objectives'], model['taps']
    whole = train(run_config(tmp_path, model, name='whole', max_iters=6, interval=3))
    train(run_config(tmp_path, model, name='parts', max_iters=3, interval=3))
    rest = train(run_config(tmp_path, model, name='parts', max_iters=6, interval=3), resume=True)
    expected, actual = (run.model.state_dict() for run in (whole, rest))
    assert list(expected) == list(actual)
    for key, value in expected.items():
        assert torch.equal(value, actual[key]), key
    rings = [key for key in expected if key.endswith(('rows', 'pushed'))]
    assert len(rings) == 4
    assert expected['objectives.cirkd_memory.loss.pixel.pushed'].max() > 6
    student = torch.load(tmp_path / 'whole/student/iter_6.pth', weights_only=True)['state_dict']
    assert not [key for key in student if 'rows' in key or 'objectives' in key]
    scalars = whole.message_hub.log_scalars
    assert {f'train/cirkd_memory.{name}' for name in ('loss', 'pixel', 'region', 'filled')} <= {
        *scalars
    }


def test_crd_by_name_trains_and_resumes(tmp_path: Path) -> None:
    model = dict(
        type='mmkd.Distiller',
        student=dict(model=classifier(2)),
        teacher=dict(model=classifier(4), allow_untrained=True),
        method=dict(type='crd', size=10, embed=4),
    )
    whole = train(classify(tmp_path, model, name='whole'))
    train(classify(tmp_path, model, max_iters=2, name='parts'))
    rest = train(classify(tmp_path, model, name='parts'), resume=True)
    expected, actual = (run.model.state_dict() for run in (whole, rest))
    for key, value in expected.items():
        assert torch.equal(value, actual[key]), key
    loss = rest.model.objectives.crd.loss
    assert loss.queue.pushed.tolist() == [12]
    assert loss.student_layer.weight.shape == (4, 8)
    assert loss.teacher_layer.weight.shape == (4, 16)
    assert whole.message_hub.log_scalars['train/crd.loss'].data[0][-1] > 0
