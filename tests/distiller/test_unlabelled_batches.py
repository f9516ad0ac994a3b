"""Images without labels in a batch: what the student's own losses and the objectives make of it."""

import copy
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.phased import wrappers
from helpers.unlabelled import distiller, freeze_norms, mixed, observe, part
from mmengine.structures import BaseDataElement, PixelData
from torch import Tensor, nn

from mmkd.distiller.members.parts import OWN, join_taps
from mmkd.engine.hooks.gradient_share import shares_of
from mmkd.structures.batch import Batch, read_batch
from mmkd.tasks.classification import Classification
from mmkd.tasks.depth import Depth
from mmkd.tasks.segmentation import Segmentation

OWN_LOSSES = ['decode.loss_ce', 'decode.acc_seg', 'aux.loss_ce', 'aux.acc_seg']


@pytest.mark.parametrize('places', [[2, 3, 4], [0, 2, 4]], ids=['behind', 'between'])
@pytest.mark.parametrize('dropout', [0.0, 0.5])
def test_own_losses_are_those_of_the_labelled_images_alone(places: list[int], dropout: float):
    """Values and gradients, with norms over the batch and dropout, whatever lies beside."""
    labelled = [place for place in range(5) if place not in places]
    data = mixed(5, places, ignore=0.2)
    model = distiller(dropout)
    plain = copy.deepcopy(model.student)
    _, losses = observe(model, data)
    torch.manual_seed(5)
    expected = plain(**model.data_preprocessor(part(data, labelled), True), mode='loss')
    assert list(losses) == OWN_LOSSES
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value.item(), abs=1e-6), key
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    sum(value for key, value in expected.items() if 'loss' in key).backward()
    for (name, own), other in zip(
        model.student.named_parameters(), plain.parameters(), strict=True
    ):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-5, atol=1e-7, msg=name)
    # the trap: one pass gives other losses, since CE divides by all pixels and norms mix
    model.runs['student'].learns_labels = False
    _, joined = observe(model, data)
    assert joined['decode.loss_ce'].item() != pytest.approx(expected['decode.loss_ce'].item(), 0.1)


def test_taps_are_joined_in_the_order_of_the_batch():
    model, data = distiller(), mixed(4, [0, 2])
    plain = copy.deepcopy(model)
    record, _ = observe(model, data)
    for places in ([1, 3], [0, 2]):
        seen, _ = observe(plain, part(data, places))
        torch.testing.assert_close(record['student']['logits'][places], seen['student']['logits'])
    loss = model.objectives['pixel'](record)['pixel.loss']
    s, t = (torch.log_softmax(record[one]['logits'], 1) for one in ('student', 'teacher'))
    assert s.shape == (4, 11, 4, 4)
    assert loss.item() == pytest.approx(10 * (t.exp() * (t - s)).sum(1).mean().item(), rel=1e-5)
    torch.testing.assert_close(
        record['student'][OWN.format('logits')], record['student']['logits'][[1, 3]]
    )


def test_running_statistics_take_both_parts_in_turn():
    model, data = distiller(), mixed(4, [2, 3])
    norm = next(one for one in model.student.modules() if isinstance(one, nn.BatchNorm2d))
    means: list[Tensor] = []
    norm.register_forward_pre_hook(lambda _, given: means.append(given[0].mean((0, 2, 3))))
    observe(model, data)
    first, second = means
    torch.testing.assert_close(norm.running_mean, 0.9 * (0.1 * first) + 0.1 * second)
    assert norm.num_batches_tracked == 2


def test_where_all_have_labels_nothing_changes():
    model, data = distiller(0.5), tiny.batch(4, 32)
    plain = copy.deepcopy(model.student)
    passes: list[Any] = []
    model.student.register_forward_pre_hook(lambda *given: passes.append(given))
    record, losses = observe(model, data)
    torch.manual_seed(5)
    expected = plain(**model.data_preprocessor(data, True), mode='loss')
    assert len(passes) == 1
    assert all(torch.equal(losses[key], value) for key, value in expected.items())
    assert list(record['student']) == ['logits']
    assert all(
        torch.equal(own, other)
        for own, other in zip(model.student.buffers(), plain.buffers(), strict=True)
    )


@pytest.mark.parametrize('weight', [1.0, 0.0])
def test_a_batch_without_labels_has_no_own_losses(weight: float):
    model, data = distiller(task_weight=weight), mixed(2, [0, 1])
    record, losses = observe(model, data)
    assert {key: value.item() for key, value in losses.items()} == {
        'decode.loss_ce': 0.0,
        'aux.loss_ce': 0.0,
    }
    total, log = model.parse_losses({**losses, **model.compare(model.objectives, record)})
    assert log['loss'] == log['pixel.loss'] > 0
    total.backward()
    gradients = {name: p.grad for name, p in model.student.named_parameters()}
    assert all(gradient is not None for gradient in gradients.values()), 'DDP waits for each'
    assert gradients['decode_head.conv_seg.weight'].any()
    assert not gradients['auxiliary_head.conv_seg.weight'].any()
    assert model.void_batches.total == 0, 'it is meant so'


def test_a_loss_that_is_nan_without_labels_is_none():
    model = distiller()
    model.student.decode_head.loss_decode.forward = lambda *_, **__: torch.tensor(torch.nan)
    model.student.auxiliary_head.loss_decode.forward = lambda *_, **__: torch.tensor(torch.nan)
    _, losses = observe(model, mixed(2, [0, 1]))
    assert losses['decode.loss_ce'] == 0


def test_without_a_task_all_images_pass_at_once():
    model, data = distiller(task_weight=0.0), mixed(4, [1, 3])
    passes: list[int] = []
    model.student.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    _, losses = observe(model, data)
    assert passes == [4]
    assert losses['decode.loss_ce'] == 0


@pytest.mark.parametrize(
    ('loss', 'reads'),
    [
        (dict(type='PixelWiseKLLoss'), dict(mask='batch.valid')),
        (dict(type='PixelWiseKLLoss'), dict(mask='batch.labelled')),
        (dict(type='DecoupledKLLoss'), dict(labels='batch.labels')),
        (dict(type='IntraClassVariationLoss'), dict(labels='batch.labels')),
    ],
    ids=lambda given: str(given.get('type', given)),
)
def test_objectives_that_need_labels_skip_the_others(loss: dict, reads: dict):
    objective = dict(loss=loss, on='logits', reads=reads)
    model = freeze_norms(distiller(objectives=dict(one=objective)))
    data = mixed(4, [0, 3])
    values = []
    for given in (data, part(data, [1, 2])):
        record, _ = observe(model, given)
        values.append(model.objectives['one'](record)['one.loss'].item())
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    record, _ = observe(model, part(data, [0, 3]))
    loss = model.objectives['one'](record)['one.loss']
    assert loss == 0
    loss.backward()


@pytest.mark.parametrize('places', [[0], [0, 1]])
def test_where_labelled_and_unlabelled(places: list[int]):
    def objective(**part: float) -> dict:
        where = dict(type='Labelled', **part)
        return dict(loss=dict(type='PixelWiseKLLoss'), on='logits', where=where)

    objectives = dict(
        own=objective(),
        others=objective(labelled=0.0, unlabelled=1.0),
        both=objective(unlabelled=0.5),
    )
    model = freeze_norms(distiller(objectives=objectives))
    record, _ = observe(model, mixed(3, places))
    found = {name: one(record)[f'{name}.loss'].item() for name, one in model.objectives.items()}
    s, t = (torch.log_softmax(record[one]['logits'], 1) for one in ('student', 'teacher'))
    each = (t.exp() * (t - s)).sum(1).mean((1, 2))
    own = each[len(places) :]
    assert found['own'] == pytest.approx(own.mean().item(), rel=1e-5)
    assert found['others'] == pytest.approx(each[places].mean().item(), rel=1e-5)
    total = own.sum() + 0.5 * each[places].sum()
    assert found['both'] == pytest.approx((total / (3 - 0.5 * len(places))).item(), rel=1e-5)


def test_the_batch_tells_which_images_have_labels():
    data = distiller().data_preprocessor(mixed(3, [1], ignore=0.3), True)
    batch = Batch(data['inputs'], data['data_samples'], 255, Segmentation(11))
    assert batch.labelled.tolist() == [True, False, True]
    assert batch.unlabelled.tolist() == [False, True, False]
    assert (batch.labelled_at, batch.unlabelled_at) == ([0, 2], [1])
    assert (batch.labels[1] == 255).all()
    assert not batch.valid[1].any()
    assert batch.valid[[0, 2]].flatten(1).any(1).all()
    assert 'gt_sem_seg' not in data['data_samples'][1], 'what was given stays'
    like = torch.zeros(3, 5, 2, 3)
    mask = read_batch(batch, 'labelled', like)
    assert mask.shape == (3, 2, 3)
    assert torch.equal(mask, batch.labelled.view(3, 1, 1).expand(3, 2, 3))
    assert torch.equal(read_batch(batch, 'labelled', torch.zeros(3, 5)), batch.labelled)
    assert torch.equal(read_batch(batch, 'unlabelled', None), batch.unlabelled)


def unmarked(**fields: Any) -> BaseDataElement:
    return BaseDataElement(**fields)


@pytest.mark.parametrize('first', [True, False])
def test_labels_of_whole_images(first: bool):
    samples = [unmarked(gt_label=torch.tensor([1])), BaseDataElement(metainfo=dict(labelled=False))]
    samples = samples if first else samples[::-1]
    for task in (Classification(3), None):
        batch = Batch(torch.zeros(2, 3, 4, 4), samples, task=task)
        assert sorted(batch.labels.tolist()) == [-100, 1]
        assert batch.valid.tolist() == [first, not first]
        assert batch.check_labels(3)


def test_depth_is_unknown():
    depth = unmarked(gt_depth_map=PixelData(data=torch.ones(1, 4, 4)))
    samples = [BaseDataElement(metainfo=dict(labelled=False)), depth]
    batch = Batch(torch.zeros(2, 3, 4, 4), samples, task=Depth())
    assert batch.valid.flatten(1).any(1).tolist() == [False, True]
    alone = Batch(torch.zeros(1, 3, 4, 4), samples[:1], task=Depth())
    assert alone.valid.shape == (1, 4, 4)
    assert not alone.check_labels(None)


@pytest.mark.parametrize('places', [[], [1], [0, 1]])
def test_images_without_labels_have_no_edges_either(places: list[int]):
    """PIDNet's loss reads maps of edges, which a pipeline of images without labels cannot make."""
    edges = PixelData(data=torch.ones(1, 4, 4, dtype=torch.long))
    maps = PixelData(data=torch.zeros(1, 4, 4, dtype=torch.long))
    samples = [unmarked(gt_sem_seg=maps, gt_edge_map=edges) for _ in range(2)]
    for place in places:
        samples[place] = BaseDataElement(metainfo=dict(labelled=False))
    batch = Batch(torch.zeros(2, 3, 4, 4), samples, task=Segmentation(3))
    made = Segmentation(3).void(batch, places)
    assert [int(one.gt_edge_map.data.sum()) for one in made] == [
        0 if place in places else 16 for place in range(2)
    ]
    assert all((made[place].gt_sem_seg.data == 255).all() for place in places)
    plain = [unmarked(gt_sem_seg=maps), BaseDataElement(metainfo=dict(labelled=False))]
    void = Segmentation(3).void(Batch(torch.zeros(2, 3, 4, 4), plain, task=Segmentation(3)), [1])
    assert 'gt_edge_map' not in void[1], 'nothing reads it'


def test_boxes_are_none():
    from helpers.runs import need_mmdet

    need_mmdet()
    from mmkd.tasks.detection import Detection, det_sample

    boxes, labels = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([1])
    samples = [
        det_sample(boxes, labels, (4, 4)),
        BaseDataElement(metainfo=dict(labelled=False)),
    ]
    for own in (samples, samples[1:]):
        batch = Batch(torch.zeros(len(own), 3, 4, 4), own, task=Detection(3))
        assert [len(one) for one in batch.boxes] == [1, 0][-len(own) :]
        assert batch.check_labels(3)


@pytest.mark.bad_input
def test_a_task_that_does_not_say_how_it_looks():
    from mmkd.tasks.base import Task

    sample = BaseDataElement(metainfo=dict(labelled=False))
    batch = Batch(torch.zeros(1, 3), None)
    batch.data_samples = [sample]
    with pytest.raises(NotImplementedError, match='Task does not say how an image without labels'):
        Task().void(batch, [0])


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('shapes', 'message'),
    [
        (((2, 3), (2, 3)), r"tap 'x' of it has the shapes \(2, 3\) for 2 images with labels and"),
        (((4, 2, 3), (4, 1, 3)), 'cannot be joined along the images. Mend: a tap'),
        (((2, 3), (1, 4)), 'cannot be joined along the images'),
        (((), ()), 'cannot be joined along the images'),
    ],
)
def test_taps_that_cannot_be_joined(shapes: tuple, message: str):
    x, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        join_taps('it', (dict(x=x), [0, 1]), (dict(x=y), [2]))


@pytest.mark.bad_input
def test_lists_of_calls_that_differ():
    x = torch.zeros(1, 2)
    joined = join_taps('it', (dict(x=[x, x]), [1]), (dict(x=[x + 1, x + 2]), [0]))
    assert [one[:, 0].tolist() for one in joined['x']] == [[1.0, 0.0], [2.0, 0.0]]
    with pytest.raises(ValueError, match='ran 2 times on images with labels and 1 times on those'):
        join_taps('it', (dict(x=[x, x]), [0]), (dict(x=[x]), [1]))


def test_several_phases_take_one_mixed_batch():
    model = distiller(objectives=tiny.objectives(holistic=tiny.holistic(mode='hinge')))
    before = copy.deepcopy(model.state_dict())
    log = model.train_step(mixed(4, [2, 3]), wrappers(model))
    assert all(torch.isfinite(value).all() for value in log.values())
    assert log['decode.loss_ce'] > 0
    moved = [k for k, v in model.state_dict().items() if not torch.equal(v, before[k])]
    assert any('critic' in key for key in moved)


def test_peers_pass_in_two_parts_each():
    peers = {f'peer{i}': dict(model=tiny.segmentor(4, dropout=0.0, size=32)) for i in range(2)}
    pixel = dict(
        loss=dict(type='PixelWiseKLLoss'),
        reads=dict(student='peer0.logits', teacher='peer1.logits'),
    )
    model = distiller(student=None, teacher=None, students=peers, objectives=dict(one=pixel))
    data = mixed(4, [0, 1])
    plain = {name: copy.deepcopy(one) for name, one in model.students.items()}
    record, losses = observe(model, data)
    ready = model.data_preprocessor(part(data, [2, 3]), True)
    for name, peer in plain.items():
        own = peer(**ready, mode='loss')['decode.loss_ce'].item()
        assert losses[f'{name}.decode.loss_ce'].item() == pytest.approx(own, abs=1e-6)
    assert len(record['peer0']['logits']) == 4


def test_the_gradient_share_of_a_mixed_batch():
    """The own loss reaches the labelled part alone, the objective all of it."""
    model = distiller(student=dict(model=tiny.segmentor(4, dropout=0.0, auxiliary=False, size=32)))
    data = mixed(4, [0, 2])
    share = shares_of(model, copy.deepcopy(data))['pixel']
    record, task = observe(model, data)
    own = record['student'][OWN.format('logits')]
    of_task = torch.autograd.grad(task['decode.loss_ce'], own, retain_graph=True)[0].norm()
    logits = record['student']['logits']
    loss = model.objectives['pixel'](record)['pixel.loss']
    of_objective = torch.autograd.grad(loss, logits)[0].norm()
    assert share == pytest.approx((of_objective / of_task).item(), rel=1e-4)


def test_label_noise_leaves_images_without_labels_alone():
    model = distiller(noise=[dict(type='LabelFlip', rate=0.5, num_classes=11)])
    assert observe(model, mixed(4, [1, 2]))[1]['decode.loss_ce'] > 0


def test_a_mark_hides_labels_that_are_there():
    data = tiny.batch(4, 32)
    for sample in data['data_samples'][2:]:
        sample.set_metainfo(dict(labelled=False))
    hidden = observe(distiller(), data)[1]['decode.loss_ce']
    absent = observe(distiller(), mixed(4, [2, 3]))[1]['decode.loss_ce']
    assert hidden == absent
