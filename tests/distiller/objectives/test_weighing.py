"""``where=`` of an objective: what parts are given, what the loss gets, and what is refused."""

import copy
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmkd.distiller import Distiller
from mmkd.distiller.objectives.objective import Objective, build_objective
from mmkd.losses import Loss, feature_matching, pixel_wise_kl
from mmkd.registry import MODELS
from mmkd.structures.batch import Batch
from mmkd.where import TeacherConfidence, Where

KNOWN = dict(student=['logits', 'feat'], teacher=['logits', 'feat'])


class Ramp(Where):
    """A part of a user's own: the column counts, from 1."""

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        self.got = student, teacher
        width = student.shape[-1]
        return torch.arange(1.0, width + 1).expand(len(student), *student.shape[2:])


class Other(Where):
    """Gives what it was built with."""

    def __init__(self, weight: Any) -> None:
        super().__init__()
        self.weight = weight

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        return self.weight


class Labelled(Where):
    labels = True

    def weigh(self, batch: Batch, student: Tensor, teacher: Tensor | None) -> Tensor:
        return batch.valid.float()


def record(size: int = 4, channels: int = 6, teacher_size: int | None = None) -> dict:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    labels = torch.randint(0, 3, (2, 1, 8, 8), generator=generator)
    labels[:, :, :2] = 255
    samples = [SegDataSample(gt_sem_seg=PixelData(data=one)) for one in labels]
    other = teacher_size or size
    return dict(
        batch=Batch(draw(2, 3, 8, 8), samples),
        student=dict(
            logits=draw(2, 3, size, size).requires_grad_(),
            feat=draw(2, channels, size, size).requires_grad_(),
        ),
        teacher=dict(logits=draw(2, 3, other, other), feat=draw(2, channels, size, size)),
    )


def objective(where: Any, loss: Any = None, **options: Any) -> Objective:
    loss = dict(type='PixelWiseKLLoss') if loss is None else loss
    options = dict(on='logits') | options
    return build_objective('it', dict(loss=loss, where=where, **options), KNOWN)


def test_the_weight_is_that_of_the_part_and_the_product_of_several():
    seen = record()
    maps = seen['student']['logits'], seen['teacher']['logits']
    ramp = torch.arange(1.0, 5).expand(2, 4, 4)
    (value,) = objective(Ramp(), weight=3.0)(seen).values()
    assert value == 3 * pixel_wise_kl(*maps, weight=ramp)
    assert value != 3 * pixel_wise_kl(*maps)
    (value,) = objective([Ramp(), Ramp()])(seen).values()
    assert value == pixel_wise_kl(*maps, weight=ramp.square())


def test_ones_change_nothing_and_neither_does_no_part():
    seen = record()
    plain = objective(None, reads=dict(mask='batch.valid'))(seen)
    for where in (Other(torch.ones(2, 4, 4)), [], [Other(torch.ones(2, 4, 4))] * 2):
        assert objective(where, reads=dict(mask='batch.valid'))(seen) == plain


def test_beside_a_mask_a_weight_means_nothing_where_it_is_false():
    seen = record()
    weight = torch.ones(2, 4, 4)
    weight[:, 0] = torch.nan  # there labels are ignored
    plain = objective(None, reads=dict(mask='batch.valid'))(seen)
    assert objective(Other(weight), reads=dict(mask='batch.valid'))(seen) == plain


@pytest.mark.parametrize('wrong', [torch.nan, -1.0])
def test_a_weight_that_is_none_makes_no_number_of_the_loss(wrong):
    weight = torch.ones(2, 4, 4)
    weight[1, 2, 3] = wrong
    (value,) = objective(Other(weight))(record()).values()
    assert not value.isfinite()


def test_a_part_is_given_what_the_loss_compares_detached():
    seen, part = record(), Ramp()
    objective(part)(seen)
    student, teacher = part.got
    assert torch.equal(student, seen['student']['logits'])
    assert torch.equal(teacher, seen['teacher']['logits'])
    assert not student.requires_grad


def test_a_part_reads_another_tap_of_its_own():
    seen = record()
    part = dict(type='TeacherConfidence', reads=dict(teacher='teacher.logits'))
    it = objective(part, dict(type='FeatureMatchingLoss'), on='feat')
    assert it.references == ['student.feat', 'teacher.feat', 'teacher.logits']
    assert it.kept == it.references
    (value,) = it(seen).values()
    weight = TeacherConfidence()(None, seen['student']['feat'], seen['teacher']['logits'])
    maps = seen['student']['feat'], seen['teacher']['feat']
    assert value == feature_matching(*maps, weight=weight)


def test_a_weight_of_another_size_is_averaged_over_cells():
    seen = record()
    weight = torch.rand(2, 8, 8)
    (value,) = objective(Other(weight))(seen).values()
    cells = weight.view(2, 4, 2, 4, 2).mean((2, 4))
    maps = seen['student']['logits'], seen['teacher']['logits']
    assert value.item() == pytest.approx(pixel_wise_kl(*maps, weight=cells).item(), rel=1e-6)


def test_the_size_is_the_losss_map_and_not_that_of_a_read_of_the_part():
    seen = record(teacher_size=8)
    part = Ramp(reads=dict(student='teacher.logits'))
    (value,) = objective(part, dict(type='FeatureMatchingLoss'), on='feat')(seen).values()
    maps = seen['student']['feat'], seen['teacher']['feat']
    ramp = torch.tensor([1.5, 3.5, 5.5, 7.5]).expand(2, 4, 4)
    assert value.item() == pytest.approx(feature_matching(*maps, weight=ramp).item(), rel=1e-6)


def test_no_gradient_flows_through_weights():
    seen = record()

    class Through(Where):
        def weigh(self, batch, student, teacher):
            return student.square().sum(1)

    logits = seen['student']['logits']
    (value,) = objective(Through())(seen).values()
    weight = logits.detach().square().sum(1)
    plain = pixel_wise_kl(logits, seen['teacher']['logits'], weight=weight)
    (one,), (other,) = (torch.autograd.grad(x, logits) for x in (value, plain))
    assert torch.equal(one, other)


def test_labels_are_read_where_a_part_says_so():
    assert objective(Labelled()).reads_labels
    assert not objective(Ramp()).reads_labels


class NoWeight(Loss):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean()


class Learns(Where):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ('where', 'options', 'error', 'message'),
    [
        (Ramp(), dict(loss=NoWeight()), TypeError, 'NoWeight takes no weight, so where= would'),
        (Ramp(), dict(loss=dict(type='PairWiseAffinityLoss')), TypeError, 'takes no weight'),
        (dict(type='BoundaryBnd'), {}, KeyError, "did you mean 'BoundaryBand'"),
        (dict(type='BoundaryBand', radios=1), {}, TypeError, "did you mean 'radius'"),
        ([Ramp(), dict(type='Connector', in_channels=1)], {}, TypeError, r'where\[1\] is a Conne'),
        ('BoundaryBand', {}, TypeError, 'must be dict'),
        (Learns(), {}, ValueError, 'would never be trained'),
        (Ramp(reads=dict(teacher='teacher.logit')), {}, KeyError, "did you mean 'logits'"),
        (Ramp(reads=dict(teacher='batch.labels')), {}, ValueError, 'one tap of one member'),
        (Ramp(reads=dict(teacher='*.logits')), {}, ValueError, 'one tap of one member'),
        (
            TeacherConfidence(),
            dict(loss=dict(type='DirichletNLLLoss'), on=None)
            | dict(reads=dict(student='student.logits', teachers=['teacher.logits'])),
            TypeError,
            'takes no weight',
        ),
    ],
)
def test_what_is_refused_when_it_is_built(where, options, error, message):
    with pytest.raises(error, match=message):
        objective(where, **options)


def test_both_weights_are_refused():
    reads = dict(student='student.logits', teacher='teacher.logits', weight='batch.valid')
    with pytest.raises(TypeError, match='both give the weight'):
        objective(Ramp(), reads=reads, on=None)


def test_class_logits_that_nothing_reads_are_refused():
    class Alone(Loss):
        def forward(self, student, weight=None):
            return student.sum()

    with pytest.raises(ValueError, match='needs the class logits of one teacher, which the loss'):
        objective(TeacherConfidence(), Alone(), on=None, reads=dict(student='student.logits'))


@pytest.mark.parametrize(
    ('weight', 'error', 'message'),
    [
        (-torch.ones(2, 4, 4), ValueError, 'weights from -1 to -1'),
        (torch.full((2, 4, 4), torch.nan), ValueError, 'weights from nan to nan'),
        (torch.ones(2, 4, 4, dtype=torch.long), TypeError, 'Other gave torch.int64'),
        (torch.ones(2), ValueError, r'Other gave \(2,\)'),
        (None, ValueError, 'Other gave NoneType'),
    ],
)
def test_what_the_probe_refuses(weight, error, message):
    with pytest.raises(error, match=f"objective 'it': where got .*{message}"):
        objective(Other(weight)).fit(record())


def distiller(**pixel: Any) -> Distiller:
    teacher = dict(model=tiny.segmentor(), allow_untrained=True)
    taps = dict(logits='decode_head.conv_seg', feat='decode_head.bottleneck')
    objectives = dict(it=dict(loss=dict(type='PixelWiseKLLoss'), on='logits') | pixel)
    return Distiller(
        student=dict(model=tiny.segmentor()), teacher=teacher, taps=taps, objectives=objectives
    )


def test_a_distiller_tries_the_parts_before_training():
    part = dict(type='TeacherConfidence')
    loss = dict(type='FeatureMatchingLoss')
    with pytest.raises(ValueError, match='class logits of its model have 11. Mend: reads=dict'):
        distiller(loss=loss, on='feat', where=part)
    it = distiller(loss=loss, on='feat', where=[part | dict(reads=dict(teacher='teacher.logits'))])
    assert set(it.runs['teacher'].taps.paths) == {'logits', 'feat'}
    torch.manual_seed(0)
    losses = it(**it.data_preprocessor(tiny.batch(), True), mode='loss')
    assert losses['it.loss'] > 0
    assert not [key for key in it.state_dict() if 'where' in key]


def test_a_distiller_with_a_band_steps_and_is_copied():
    it = distiller(where=dict(type='BoundaryBand', radius=1), reads=dict(mask='batch.valid'))
    data = it.data_preprocessor(tiny.batch(ignore=0.2), True)
    assert copy.deepcopy(it.objectives['it'])
    losses = it(**data, mode='loss')
    losses['it.loss'].backward()
    assert it.student.decode_head.conv_seg.weight.grad.abs().sum() > 0


def test_a_registered_part_of_ones_own():
    MODELS.register_module(name='RampOfATest', module=Ramp)
    try:
        (value,) = objective(dict(type='RampOfATest'))(record()).values()
    finally:
        MODELS.module_dict.pop('RampOfATest')
    assert value == objective(Ramp())(record())['it.loss']
