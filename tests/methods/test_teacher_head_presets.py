"""Methods with the teacher's own head: their values are the official formulas times the weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.classification import classifier
from helpers.classification import config as config_of_images
from helpers.runs import need_mmdet, train
from helpers.tiny import batch, build, distiller, segmentor, sgd
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from test_detection import fcos, gfl, retina
from torch import Tensor

from mmkd.distiller.export import export_student
from mmkd.distiller.objectives.through import aligned
from mmkd.losses import binary_kl
from mmkd.methods import Pair, expand, find_method
from mmkd.models import BorrowedClassifier, BorrowedImageClassifier
from mmkd.tasks import Classification, Described, Detection, generated_batch


def of_method(method: Any, **overrides: Any) -> Any:
    torch.manual_seed(0)
    config = distiller(method=method, **overrides)
    for key in ('objectives', 'taps'):
        config.pop(key)
    return build(config)


def of_images(method: Any) -> Any:
    torch.manual_seed(0)
    model = dict(
        type='mmkd.Distiller',
        student=dict(model=classifier(8)),
        teacher=dict(model=classifier(14), allow_untrained=True),
        method=method,
    )
    return build(model)


def seen(model: Any, data: dict) -> Any:
    model.eval()
    return model.observe(**model.data_preprocessor(data, True))[0]


def mse(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).mean()


# ---------------------------------------------------------------------- SRRL


@pytest.mark.parametrize(('feature', 'logits'), [(1.0, 5.0), (1.0, 1.0)])
def test_srrl_is_both_codes_terms(feature: float, logits: float) -> None:
    """statm_loss and F.mse_loss behind one connector, 1 and 5 of cls_KD, 1 and 1 of the authors."""
    model = of_images(dict(type='srrl', feature=feature, logits=logits))
    record = seen(model, generated_batch(4, (32, 32), model.task))
    objective = model.objectives['srrl']
    regressor = objective.connectors['student'].conv.eval()
    assert [type(layer).__name__ for layer in regressor] == ['Conv2d', 'BatchNorm', 'ReLU']
    fs, ft = regressor(record['student']['feat']), record['teacher']['feat']
    stat = ((fs.flatten(2).mean(2) - ft.flatten(2).mean(2)) ** 2).mean(1).mean()
    classifier_of_teacher = model.teacher.head['fc']
    sr = F.mse_loss(classifier_of_teacher(fs.mean((2, 3))), record['teacher']['logits'])
    value = objective(record)['srrl.loss']
    assert value.item() == pytest.approx((feature * stat + logits * sr).item(), rel=1e-5)
    assert min(stat, sr) > 1e-6


def test_srrl_of_label_maps_is_place_by_place() -> None:
    model = of_method('srrl')
    record = seen(model, batch())
    objective = model.objectives['srrl']
    assert objective.through.heads[0].modules == ['decode_head.conv_seg']
    fs, ft = (
        objective.connectors['student'].conv(record['student']['feat']),
        record['teacher']['feat'],
    )
    sr = mse(model.teacher.decode_head.conv_seg(fs), record['teacher']['logits'])
    expected = mse(fs.mean((2, 3)), ft.mean((2, 3))) + 5 * sr
    assert objective(record)['srrl.loss'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_srrl_by_probabilities() -> None:
    model = of_method(dict(type='srrl', feature=0.0, logits=2.0, penalty='kl', tau=3.0))
    record = seen(model, batch())
    objective = model.objectives['srrl']
    fs = objective.connectors['student'].conv(record['student']['feat'])
    s, t = (x / 3 for x in (model.teacher.decode_head.conv_seg(fs), record['teacher']['logits']))
    kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
    assert objective(record)['srrl.loss'].item() == pytest.approx(2 * 9 * kl.item(), rel=1e-4)


@pytest.mark.bad_input
def test_srrl_of_a_temperature_that_squares_do_not_have() -> None:
    said = "'srrl': tau would change nothing, .* got tau=4.0. Mend: leave tau out, or penalty='kl'"
    with pytest.raises(ValueError, match=said):
        of_method(dict(type='srrl', tau=4.0))


def test_srrl_of_a_student_with_the_teachers_features_is_nothing() -> None:
    model = of_method(dict(type='srrl', regressor='auto'), student=dict(model=segmentor(8)))
    model.student.load_state_dict(model.teacher.state_dict())
    record = seen(model, batch())
    assert model.objectives['srrl'](record)['srrl.loss'] == 0


# ---------------------------------------------------------------------- CrossKD


def test_crosskd_of_label_maps() -> None:
    model = of_method('crosskd')
    record = seen(model, batch())
    objective = model.objectives['crosskd']
    fs = objective.connectors['student'].conv(record['student']['feat'])
    s, t = model.teacher.decode_head.conv_seg(fs), record['teacher']['logits']
    kl = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum(1).mean()
    value = objective(record)['crosskd.loss']
    assert value.item() == pytest.approx(10 * kl.item(), rel=1e-4)
    value.backward()
    assert model.student.backbone.stem[0].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.parameters())


def deep(detector: dict, convs: int = 4) -> dict:
    detector['bbox_head'].update(stacked_convs=convs)
    return detector


def detectors(student: dict, teacher: dict, **options: Any) -> Any:
    need_mmdet()
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=student, scope='mmdet'),
                teacher=dict(model=teacher, scope='mmdet', allow_untrained=True),
                method=dict(type='crosskd', **options),
            )
        )


def branch(head: Any, feats: list[Tensor], kind: str, convs: int) -> list[Tensor]:
    """Return what comes after so many convolutions of a head."""
    found = []
    for x in feats:
        for conv in getattr(head, f'{kind}_convs')[:convs]:
            x = conv(x)
        found.append(x)
    return found


def test_crosskd_passes_the_rest_of_a_detectors_head() -> None:
    model = detectors(deep(gfl(8)), deep(gfl(16))).eval()
    model.teacher.bbox_head.gfl_reg.weight.data.mul_(30)
    data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
    losses = model(**data, mode='loss')
    head, own = model.teacher.bbox_head, model.student.bbox_head
    theirs, ours = (one.extract_feat(data['inputs']) for one in (model.teacher, model.student))
    said, edges = head(theirs)
    for k, (s, t) in enumerate(
        zip(branch(own, ours, 'cls', 3), branch(head, theirs, 'cls', 3), strict=True)
    ):
        passed = head.gfl_cls(head.cls_convs[3](aligned(s, t)))
        expected = 10 / 5 * binary_kl(passed, said[k])
        assert losses[f'crosskd{k}.loss'].item() == pytest.approx(expected.item(), rel=1e-4)
    # KnowledgeDistillationKLDivLoss(class_reduction='sum', T=1, loss_weight=4), avg_factor 4, over
    # the sum of the teacher's best scores
    total = weights = 0.0
    for k, (s, t) in enumerate(
        zip(branch(own, ours, 'reg', 3), branch(head, theirs, 'reg', 3), strict=True)
    ):
        passed = head.scales[k](head.gfl_reg(head.reg_convs[3](aligned(s, t))))
        flat = [x.permute(0, 2, 3, 1).reshape(-1, 17) for x in (passed, edges[k])]
        weight = said[k].max(1)[0].flatten().sigmoid()
        each = F.kl_div(flat[0].log_softmax(1), flat[1].softmax(1), reduction='none').sum(1)
        total += 4.0 * (each * weight[:, None].expand(-1, 4).reshape(-1)).sum().item() / 4.0
        weights += weight.sum().item()
    assert losses['crosskd_edges.loss'].item() == pytest.approx(total / weights, rel=1e-4)


def atss(width: int) -> dict:
    detector = gfl(width)
    detector['type'], head = 'ATSS', detector['bbox_head']
    head.pop('loss_dfl')
    head.pop('loss_cls')
    coder = dict(
        type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
    )
    head.update(type='ATSSHead', bbox_coder=coder)
    return detector


def normed(width: int) -> dict:
    detector = fcos(width)
    detector['bbox_head'].update(norm_on_bbox=True)
    return detector


def decoded(head: Any, maps: list[Tensor], images: int) -> Tensor:
    """Return the boxes of maps of all levels (M, 4) in pixels, by the head's own coder."""
    sizes = [tuple(x.shape[2:]) for x in maps]
    found = []
    for k, places in enumerate(head.prior_generator.grid_priors(sizes, device='cpu')):
        flat = maps[k].permute(0, 2, 3, 1)
        stride = head.prior_generator.strides[k][0]
        if hasattr(head, 'integral'):
            distances = stride * head.integral(flat.reshape(-1, 4 * (head.reg_max + 1)))
            centers = (places[:, :2] + places[:, 2:]) / 2
            found.append(head.bbox_coder.decode(centers.repeat(images, 1), distances))
        elif hasattr(head, 'norm_on_bbox'):
            x = flat.reshape(-1, 4)
            x = x.clamp(min=0) * stride if head.norm_on_bbox else x.exp()
            found.append(head.bbox_coder.decode(places.repeat(images, 1), x))
        else:
            found.append(head.bbox_coder.decode(places.repeat(images, 1), flat.reshape(-1, 4)))
    return torch.cat(found)


@pytest.mark.parametrize(
    ('make', 'options'),
    [(fcos, {}), (normed, {}), (retina, {}), (atss, {}), (gfl, dict(boxes=2.0, edges=0.0))],
)
def test_crosskd_of_boxes_is_the_authors_term(make: Any, options: dict) -> None:
    """IoULoss of 0.75 (FCOS), GIoULoss of 1, weighted by the teacher's best scores.

    Anchors, points and strides are in theirs alone. They divide by the number M of positions with
    an object, which is times Σ scores / M here.
    """
    need_mmdet()
    from mmdet.models.losses import GIoULoss, IoULoss

    model = detectors(deep(make(8), 2), deep(make(16), 2), **options).eval()
    head, own = model.teacher.bbox_head, model.student.bbox_head
    last = next(x for x in ('gfl_reg', 'retina_reg', 'atss_reg', 'conv_reg') if hasattr(head, x))
    getattr(head, last).weight.data.mul_(10)
    if make is normed:
        head.conv_reg.bias.data.fill_(2.0)
    data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
    losses = model(**data, mode='loss')
    theirs, ours = (one.extract_feat(data['inputs']) for one in (model.teacher, model.student))
    said = head(theirs)[0]
    passed, teacher = [], []
    pairs = [branch(each, feats, 'reg', 1) for each, feats in ((own, ours), (head, theirs))]
    for k, (s, t) in enumerate(zip(*pairs, strict=True)):
        scale = head.scales[k] if hasattr(head, 'scales') else torch.nn.Identity()
        for found, x in ((passed, aligned(s, t)), (teacher, t)):
            found.append(scale(getattr(head, last)(head.reg_convs[1](x))))
    boxes, targets = (decoded(head, maps, 2) for maps in (passed, teacher))
    scores = [x.permute(0, 2, 3, 1).reshape(-1, head.cls_out_channels) for x in said]
    weights = torch.cat(scores).max(1)[0].sigmoid()
    positions = 7.0
    term: Any = GIoULoss(loss_weight=options.get('boxes', 1.0))
    if make in (fcos, normed):
        term = IoULoss(loss_weight=0.75)
    there = (targets[:, 2:] - targets[:, :2]).prod(1) > 1e-6
    official = term(boxes[there], targets[there], weights[there], avg_factor=positions)
    expected = official * positions / weights[there].sum()
    value = losses['crosskd_boxes.loss']
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert value > 1e-2
    assert 'crosskd_edges.loss' not in losses
    value.backward()
    conv = own.reg_convs[0].conv.weight
    assert conv.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.bad_input
def test_crosskd_of_boxes_refuses_what_is_not_decoded() -> None:
    with pytest.raises(ValueError, match='boxes must be a finite number, 0 or above, got -1'):
        detectors(deep(fcos(8), 2), deep(fcos(8), 2), boxes=-1.0)
    with pytest.raises(ValueError, match="overlap must be one of .*'iou'"):
        detectors(deep(fcos(8), 2), deep(fcos(8), 2), overlap='iou')
    unread = "no overlap of boxes is compared here, got overlap='giou'. Mend: leave overlap out"
    with pytest.raises(ValueError, match=unread):
        detectors(deep(gfl(8), 2), deep(gfl(8), 2), overlap='giou')
    with pytest.raises(ValueError, match=unread):
        of_method(dict(type='crosskd', overlap='giou'))
    other = deep(retina(8), 2)
    other['bbox_head'].update(
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.1, 0.1])
    )
    with pytest.raises(
        ValueError, match=r'target_means of 0 and any target_stds, got .*0\.1.*boxes=0'
    ):
        detectors(deep(retina(8), 2), other)
    assert 'crosskd_boxes' not in detectors(deep(retina(8), 2), other, boxes=0.0).objectives


@pytest.mark.parametrize('make', [retina, atss])
@pytest.mark.parametrize('coder', [None, dict(type='DeltaXYWHBBoxCoder')])
def test_crosskd_of_a_coder_that_a_config_leaves_to_mmdet(make: Any, coder: dict | None) -> None:
    """Its target_stds are 1, the class's own defaults."""
    student, teacher = (deep(make(width), 2) for width in (8, 16))
    for one in (student, teacher):
        one['bbox_head'].pop('bbox_coder', None)
        if coder is not None:
            one['bbox_head'].update(bbox_coder=dict(coder))
    model = detectors(student, teacher)
    found = model.objectives['crosskd_boxes'].loss.spread
    assert found == tuple(model.teacher.bbox_head.bbox_coder.stds) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize('make', [fcos, normed, retina, atss, gfl])
def test_crosskd_of_a_student_that_is_the_teacher_is_nothing(make: Any) -> None:
    model = detectors(deep(make(8), 2), deep(make(8), 2), align=False).eval()
    model.student.load_state_dict(model.teacher.state_dict())
    data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
    losses = model(**data, mode='loss')
    found = {key: abs(float(value)) for key, value in losses.items() if 'crosskd' in key}
    assert len(found) == 6, 'edges or boxes beside the five levels of classes'
    assert max(found.values()) == 0


def test_crosskd_from_the_neck_where_the_head_is_one_convolution() -> None:
    model = detectors(fcos(8), fcos(16))
    assert model.runs['teacher'].taps.paths['cls0'].text == 'neck[0]'
    modules = model.objectives['crosskd0'].through.heads[0].modules
    assert modules == ['bbox_head.cls_convs.0', 'bbox_head.conv_cls']
    data = generated_batch(2, (256, 256), model.task)
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)))
    assert log['crosskd0.loss'] > 0


@pytest.mark.bad_input
@pytest.mark.parametrize('depth', [3, -1, True, 1.0])
def test_crosskd_cannot_be_cut_behind_a_head(depth: Any) -> None:
    said = rf'depth is from 0 to the 1 convolutions of the heads, got {depth}. Mend: depth=0, or l'
    with pytest.raises(ValueError, match=said):
        detectors(fcos(8), fcos(16), depth=depth)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'option', [dict(edges=1.0), dict(boxes=0.0), dict(depth=2), dict(align=False)]
)
def test_crosskd_of_label_maps_has_no_options_of_detectors(option: dict) -> None:
    ((name, given),) = option.items()
    said = f"'crosskd': {name} would change nothing, .* got {name}={given}. Mend: leave {name} out"
    with pytest.raises(ValueError, match=said):
        of_method(dict(type='crosskd', **option))


def test_crosskd_of_heads_of_other_widths() -> None:
    """Classes pass a convolution; branches of boxes, which one loss reads together, have none."""
    narrow = fcos(8)
    narrow['bbox_head'].update(feat_channels=8)
    with pytest.raises(ValueError, match='8 and 16 channels.*Mend: feat_channels=16.*or boxes=0'):
        detectors(copy.deepcopy(narrow), fcos(16), depth=1)
    model = detectors(narrow, fcos(16), boxes=0.0, depth=1)
    assert list(model.objectives) == [f'crosskd{k}' for k in range(5)]
    conv = model.objectives['crosskd0'].connectors['student'].conv
    assert tuple(conv.weight.shape) == (16, 8, 1, 1)
    data = generated_batch(2, (256, 256), model.task)
    before = conv.weight.detach().clone()
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)))
    assert log['crosskd0.loss'] > 0
    assert not torch.equal(conv.weight, before)


@pytest.mark.parametrize('make', [fcos, retina])
def test_crosskd_of_a_teacher_with_edges_for_a_student_without(make: Any) -> None:
    """The student gives features alone; edges are what the teacher's head makes of them."""
    model = detectors(deep(make(16), 2), deep(gfl(16), 2)).eval()
    assert [*model.objectives][5:] == ['crosskd_edges']
    data = model.data_preprocessor(generated_batch(2, (256, 256), model.task), True)
    value = model(**data, mode='loss')['crosskd_edges.loss']
    value.backward()
    assert value > 0
    assert model.student.bbox_head.reg_convs[0].conv.weight.grad.abs().sum() > 0


@pytest.mark.bad_input
def test_crosskd_of_edges_that_a_teacher_has_not() -> None:
    with pytest.raises(ValueError, match='got RetinaHead and edges=9.0. Mend: leave edges out'):
        detectors(gfl(16), retina(16), edges=9.0)
    assert [*detectors(deep(gfl(16), 2), deep(retina(16), 2)).objectives][5:] == ['crosskd_boxes']


@pytest.mark.bad_input
@pytest.mark.parametrize('method', ['crosskd', 'kd-detr'])
def test_a_detector_of_another_kind_is_told(method: str) -> None:
    two_stages = dict(type='FasterRCNN', roi_head=dict(type='StandardRoIHead'))
    models = {one: Described(two_stages, 'mmdet') for one in ('student', 'teacher')}
    message = "'student' is a FasterRCNN without one. Mend: (such|two DETRs)"
    with pytest.raises(ValueError, match=message):
        find_method(method)(Pair(Detection(3), models=models))


# ---------------------------------------------------------------------- OFA


def ofa_of_the_authors(s: Tensor, t: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Return their ofa_loss of vectors, at temperature 1."""
    target = F.one_hot(labels, s.shape[1])
    prod = (t.softmax(1) + target) ** eps
    return torch.sum(-(prod - target) * torch.log(s.softmax(1)), dim=-1).mean()


def test_ofa_is_a_term_for_each_stage_and_one_for_the_logits() -> None:
    model = of_images('ofa')
    assert list(model.objectives) == ['exit0', 'exit1', 'exit2', 'ofa']
    record = seen(model, generated_batch(4, (32, 32), model.task))
    labels, t = record.batch.labels, record['teacher']['logits']
    for k in range(3):
        objective = model.objectives[f'exit{k}']
        stage = record['student'][f'stage{k}'].mean((2, 3), keepdim=True)
        expected = ofa_of_the_authors(objective.loss.head(stage).flatten(1), t, labels, 1.5)
        assert objective(record)[f'exit{k}.loss'].item() == pytest.approx(expected.item(), rel=1e-5)
    expected = ofa_of_the_authors(record['student']['logits'], t, labels, 1.5)
    value = model.objectives['ofa'](record)['ofa.loss']
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_ofa_of_label_maps_trains_the_stages_and_leaves_no_exit_in_the_student() -> None:
    model = of_method(dict(type='ofa', power=1.0))
    assert list(model.objectives) == ['exit0', 'exit1', 'exit2', 'exit3', 'ofa']
    logs = model.train_step(batch(), sgd(model))
    assert all(logs[f'{name}.loss'] > 0 for name in model.objectives)
    assert not [key for key in model.student.state_dict() if 'exit' in key]


def test_ofa_of_a_label_map_is_the_vectors_formula_at_every_place() -> None:
    model = of_method('ofa')
    record = seen(model, batch(ignore=0.3))
    objective = model.objectives['exit1']
    logits = objective.loss.head(record['student']['stage1'])
    size = logits.shape[2:]
    t = F.interpolate(record['teacher']['logits'], size=size, mode='bilinear', align_corners=False)
    labels = F.interpolate(record.batch.labels[:, None].float(), size=size).long()[:, 0].flatten()
    s, t = (x.permute(0, 2, 3, 1).reshape(-1, 11)[labels != 255] for x in (logits, t))
    expected = ofa_of_the_authors(s, t, labels[labels != 255], 1.5)
    assert objective(record)['exit1.loss'].item() == pytest.approx(expected.item(), rel=1e-5)


def test_ofa_without_the_logits_term() -> None:
    assert list(of_method(dict(type='ofa', logits=0.0, stages=2)).objectives) == ['exit0', 'exit1']


@pytest.mark.bad_input
@pytest.mark.parametrize('stages', [-1, '4', True])
def test_ofa_of_no_stages(stages: Any) -> None:
    said = f"'ofa': stages must be a whole number of at least 0, got {stages!r}. Mend: stages=4"
    with pytest.raises(ValueError, match=said):
        of_method(dict(type='ofa', stages=stages))
    assert list(of_method(dict(type='ofa', stages=0)).objectives) == ['ofa']
    with pytest.raises(ValueError, match="'ofa': stages=0 and logits=0 teach nothing. Mend"):
        of_method(dict(type='ofa', stages=0, logits=0))


# ---------------------------------------------------------------------- HeteroAKD


def hetero_of_others(s: Tensor, t: Tensor, labels: Tensor, tau: float = 4.0) -> tuple[Tensor, ...]:
    """Return the mix and the labels' term of an implementation by others, of maps of one size."""
    valid = (labels != 255).unsqueeze(1).float()
    one_hot = F.one_hot(labels.masked_fill(labels == 255, 0), s.shape[1]).movedim(-1, 1).float()
    bce = torch.nn.BCEWithLogitsLoss(reduction='none')
    h_s, h_t = bce(s, one_hot), bce(t, one_hot)
    share = 1 - h_t / (h_t + h_s + 1e-6)
    hybrid = share * t + (1 - share) * s
    importance = h_s + (h_s - bce(hybrid, one_hot)).clamp(min=0)
    importance = importance.masked_fill(valid.expand_as(importance) == 0, -torch.inf)
    weights = importance.flatten(2).softmax(2).reshape(importance.shape)
    p, q = (hybrid / tau).sigmoid(), (s / tau).sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    projection = ((h_s + h_t) * valid).sum() / (valid.sum() * s.shape[1])
    return (each * weights).sum((2, 3)).mean() * tau**2, projection


def test_heteroakd_of_label_maps_is_the_formula_of_others() -> None:
    """Weight 1 of both terms on the last stage, 0.1 of plain distillation at τ = 4."""
    model = of_method('heteroakd')
    assert list(model.objectives) == ['mixed1', 'pixel']
    record = seen(model, batch(ignore=0.3))
    loss = model.objectives['mixed1'].loss
    s, t = (loss.exits[side](record[side]['deep1']) for side in ('student', 'teacher'))
    labels = F.interpolate(record.batch.labels[:, None].float(), size=s.shape[2:]).long()[:, 0]
    assert (labels == 255).any()
    mix, projection = hetero_of_others(s.double(), t.double(), labels)
    value = model.objectives['mixed1'](record)['mixed1.loss']
    assert value.item() == pytest.approx((1.0 * mix + 1.0 * projection).item(), rel=1e-4)
    assert mix > 1e-4
    log_s, log_t = ((record[side]['logits'] / 4).log_softmax(1) for side in ('student', 'teacher'))
    kl = (log_t.exp() * (log_t - log_s)).sum(1).mean() * 4**2
    value = model.objectives['pixel'](record)['pixel.loss']
    assert value.item() == pytest.approx(0.1 * kl.item(), rel=1e-4)


def test_heteroakd_of_images() -> None:
    """The same formula on the exits of pooled stages, whose places are the images of the batch."""
    model = of_images(dict(type='heteroakd', kd=20.0, ce=3.0, logits=0.0, stages=2))
    assert list(model.objectives) == ['mixed1', 'mixed2']
    record = seen(model, generated_batch(4, (32, 32), model.task))
    for k, channels in ((1, 32), (2, 16)):
        loss, row = model.objectives[f'mixed{k}'].loss, []
        assert loss.exits['student'].in_channels == channels
        for side in ('student', 'teacher'):
            pooled = record[side][f'deep{k}'].mean((2, 3), keepdim=True)
            row.append(loss.exits[side](pooled).flatten(1).T[None, ..., None].double())
        mix, projection = hetero_of_others(*row, record.batch.labels[None, :, None])
        value = model.objectives[f'mixed{k}'](record)[f'mixed{k}.loss']
        assert value.item() == pytest.approx((20 * mix + 3 * projection).item(), rel=1e-4)


def test_heteroakd_trains_student_and_exits_and_leaves_none_in_the_student() -> None:
    """From a teacher of other classes too, where the logits are left out."""
    method = dict(type='heteroakd', logits=0.0, over='classes')
    teacher = dict(model=segmentor(8, num_classes=5), allow_untrained=True)
    model = of_method(method, teacher=teacher)
    own = dict(model.objectives.named_parameters())
    assert len(own) == 4
    before = {key: p.detach().clone() for key, p in own.items()}
    stem = model.student.backbone.stem[0].weight.detach().clone()
    logs = model.train_step(batch(), sgd(model, 0.1))
    assert logs['mixed1.loss'] > 0
    assert not any(torch.equal(p, before[key]) for key, p in own.items())
    assert not torch.equal(stem, model.student.backbone.stem[0].weight)
    assert all(p.grad is None for p in model.teacher.parameters())
    assert not [key for key in model.student.state_dict() if 'exit' in key]


@pytest.mark.bad_input
def test_heteroakd_of_no_stages() -> None:
    with pytest.raises(ValueError, match="'heteroakd': stages are counted .* got 0. Mend: 1 or m"):
        of_method(dict(type='heteroakd', stages=0))
    with pytest.raises(ValueError, match='over must be'):
        of_method(dict(type='heteroakd', over='pixels'))


# ---------------------------------------------------------------------- SimKD


def segmentation(model: dict) -> Any:
    return MODELS.build({**copy.deepcopy(model), '_scope_': 'mmseg'})


def simkd(folder: Path, **options: Any) -> dict:
    """Return the config of a Distiller, whose teacher has a checkpoint."""
    torch.manual_seed(5)
    teacher = segmentation(segmentor(8, auxiliary=False))
    torch.save(dict(state_dict=teacher.state_dict()), folder / 'teacher.pth')
    return dict(
        type='mmkd.Distiller',
        student=dict(model=segmentor(4, auxiliary=False)),
        teacher=dict(model=segmentor(8, auxiliary=False), checkpoint=str(folder / 'teacher.pth')),
        method=dict(type='simkd', **options),
    )


def test_simkd_is_the_mean_square_of_features_before_one_classifier(tmp_path: Path) -> None:
    model = build(simkd(tmp_path, weight=2.0))
    head, theirs = model.student.decode_head.head.conv_seg, model.teacher.decode_head.conv_seg
    assert torch.equal(head.classifier.weight, theirs.weight)
    assert torch.equal(head.classifier.bias, theirs.bias)
    assert head.projector[3].kernel_size == (3, 3)
    assert (head.projector[7].weight == 1).all()
    assert head.projector[0].out_channels == 8, 'half of the channels of the teacher'
    record = seen(model, batch())
    expected = F.mse_loss(record['student']['feat'], record['teacher']['feat'])
    value = model.objectives['simkd'](record)['simkd.loss']
    assert value.item() == pytest.approx(2 * expected.item(), rel=1e-6)
    assert value > 0


def test_simkd_trains_all_but_the_classifier(tmp_path: Path) -> None:
    model = build(simkd(tmp_path))
    before = copy.deepcopy(model.student.state_dict())
    optimizer = sgd(model, 0.1)
    for _ in range(2):  # the last norm of a residual block begins with 0
        model.train_step(batch(), optimizer)
    now = model.student.state_dict()
    same = [key for key, x in now.items() if torch.equal(x, before[key])]
    assert same == [f'decode_head.head.conv_seg.classifier.{one}' for one in ('weight', 'bias')]


def test_simkd_exports_a_student_that_predicts_as_the_distiller_does(tmp_path: Path) -> None:
    config = Config(dict(default_scope='mmseg', model=simkd(tmp_path)))
    cfg = prepared(config)
    model = build(cfg.model.to_dict())
    model.train_step(batch(), sgd(model))
    model.eval()
    meta = dict(cfg=cfg.pretty_text)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'iter_1.pth')
    weights, path = export_student(tmp_path / 'iter_1.pth', tmp_path / 'out')
    exported = Config.fromfile(path)
    assert exported.custom_imports['imports'] == ['mmkd']
    assert exported.model.decode_head.pretrained is None, 'the classifier is in the weights'
    plain = segmentation(exported.model.to_dict()).eval()
    plain.init_weights()
    state = torch.load(weights, weights_only=False)['state_dict']
    plain.load_state_dict(state)
    x = model.data_preprocessor(batch(), False)['inputs']
    with torch.no_grad():
        assert torch.equal(plain(x), model(x))
        assert not torch.equal(model(x), model.teacher(x))
    lacking = {key: one for key, one in state.items() if '.projector.' not in key}
    part = {key: one for key, one in state.items() if '.projector.3.' not in key}
    for some in (lacking, part):
        with pytest.raises(RuntimeError, match='lack the projector of .*Mend: the weights that mm'):
            plain.load_state_dict(some, strict=False)


def prepared(config: Config) -> Config:
    """Return the config with its method written out, as a run's is."""
    config = copy.deepcopy(config)
    config.model = expand(config.model)[0]
    return config


def test_simkd_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    config = simkd(tmp_path)
    one, other = build(copy.deepcopy(config)), build(copy.deepcopy(config))
    one.train_step(batch(), sgd(one))
    other.load_state_dict(one.state_dict())
    x = one.data_preprocessor(batch(), False)['inputs']
    with torch.no_grad():
        assert torch.equal(one.eval()(x), other.eval()(x))


def test_simkd_of_pairs_that_it_is_not_for(tmp_path: Path) -> None:
    config = simkd(tmp_path)
    config['teacher'] = dict(model=segmentor(8, num_classes=5), allow_untrained=True)
    with pytest.raises(ValueError, match='has 11 classes and the teacher 5. Mend'):
        build(config)
    config = simkd(tmp_path)
    config['student'] = segmentation(segmentor(4))
    with pytest.raises(ValueError, match='must be a config with one decode_head.*Mend: dict'):
        build(config)
    head = dict(type='mmkd.ESPHead', num_classes=11)
    with pytest.raises(TypeError, match='ends in a convolution conv_seg, got a ESPHead'):
        BorrowedClassifier(head, channels=8)


@pytest.mark.bad_input
def test_simkd_of_a_teacher_without_a_file(tmp_path: Path) -> None:
    """A frozen classifier of random numbers would be kept for good."""
    config = simkd(tmp_path)
    for teacher in (
        segmentation(segmentor(8)),
        dict(model=segmentation(segmentor(8))),
        dict(model=segmentor(8), allow_untrained=True),
    ):
        config['teacher'] = teacher
        with pytest.raises(ValueError, match='a random one would be kept. Mend: teacher=dict'):
            build(copy.deepcopy(config))
    config['teacher'] = dict(
        model=segmentation(segmentor(8, auxiliary=False)),
        checkpoint=str(tmp_path / 'teacher.pth'),
    )
    model = build(config)
    own, theirs = model.student.decode_head.head, model.teacher.decode_head
    assert torch.equal(own.conv_seg.classifier.weight, theirs.conv_seg.weight)


def test_simkd_takes_the_classifier_of_the_network_that_teaches(tmp_path: Path) -> None:
    """Of a run of several networks that of the teacher's name, as the teacher itself does."""
    config = simkd(tmp_path)
    state = torch.load(tmp_path / 'teacher.pth', weights_only=False)['state_dict']
    others = {f'students.student.{key}': torch.zeros_like(x) for key, x in state.items()}
    run = {f'students.teacher.{key}': x for key, x in state.items()} | others
    torch.save(dict(state_dict=run), tmp_path / 'teacher.pth')
    model = build(config)
    own, theirs = model.student.decode_head.head, model.teacher.decode_head
    assert torch.equal(own.conv_seg.classifier.weight, theirs.conv_seg.weight)
    assert torch.equal(theirs.conv_seg.weight, state['decode_head.conv_seg.weight'])


@pytest.mark.bad_input
def test_simkd_of_a_cascade(tmp_path: Path) -> None:
    config = simkd(tmp_path)
    heads = [config['teacher']['model']['decode_head']] * 2
    config['teacher']['model'].update(type='CascadeEncoderDecoder', num_stages=2, decode_head=heads)
    with pytest.raises(ValueError, match="'teacher' has 2 decode heads, .*Mend: a teacher with"):
        build(config)


def test_a_head_that_calls_its_dropout_borrows_too() -> None:
    """mmseg's ANNHead asks not whether there is one."""
    sizes = dict(in_channels=(4, 4), in_index=(0, 1), channels=4, num_classes=3)
    head = dict(type='ANNHead', project_channels=2, **sizes)
    own = BorrowedClassifier(head, channels=8).eval()
    x = [torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)]
    assert own(x).shape == (1, 3, 8, 8)
    assert torch.equal(own(x), own(x)), 'nothing is dropped'
    assert torch.equal(own.train().head.dropout(x[0]), x[0])


def test_a_borrowed_classifier_is_initialised_once() -> None:
    head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=3)
    own = BorrowedClassifier(head, channels=8)
    before = copy.deepcopy(own.state_dict())
    own.init_weights()
    first = copy.deepcopy(own.state_dict())
    drawn = 'head.conv_seg.projector.0.weight'
    assert not torch.equal(first[drawn], before[drawn])
    own.init_weights()
    assert all(torch.equal(x, first[key]) for key, x in own.state_dict().items())


def test_simkd_of_a_teacher_whose_file_has_no_such_classifier(tmp_path: Path) -> None:
    torch.save(dict(state_dict=dict(x=torch.zeros(1))), tmp_path / 'other.pth')
    head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=11)
    own = BorrowedClassifier(head, channels=8, pretrained=str(tmp_path / 'other.pth'))
    with pytest.raises(RuntimeError, match='no classifier to borrow. Mend: the checkpoint'):
        own.init_weights()


def test_simkd_of_a_segmentor_that_was_made_by_simkd_takes_its_classifier(tmp_path: Path) -> None:
    """Its features are those behind its projector, of other channels than its own head has."""
    teacher = segmentor(8, auxiliary=False)
    own = dict(teacher['decode_head'], _scope_='mmseg')
    teacher['decode_head'] = dict(type='mmkd.BorrowedClassifier', head=own, channels=12)
    built = segmentation(teacher)
    assert built.decode_head.channels == 12
    torch.save(dict(state_dict=built.state_dict()), tmp_path / 'borrowed.pth')
    config = dict(simkd(tmp_path))
    config['teacher'] = dict(model=teacher, checkpoint=str(tmp_path / 'borrowed.pth'))
    model = build(config)
    assert [*model.objectives.parameters()] == []
    assert seen(model, batch())['teacher']['feat'].shape[1] == 12
    ours, theirs = (
        one.decode_head.head.conv_seg.classifier for one in (model.student, model.teacher)
    )
    assert torch.equal(ours.weight, theirs.weight)
    teacher['decode_head']['head'] = dict(own, num_classes=5)
    with pytest.raises(ValueError, match='has 11 classes and the teacher 5. Mend'):
        build(config)


def test_weights_that_init_cfg_loads_stay(tmp_path: Path) -> None:
    """Of the projector as of the classifier, which ``pretrained`` would give other numbers."""
    head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=3)
    backbone = dict(type='CIFARResNet', depth=8, base_channels=4)
    options = dict(num_classes=3, in_channels=16, channels=32)
    for kind, given, key, size in (
        (BorrowedClassifier, dict(head=head, channels=8), 'decode_head.conv_seg', (3, 8, 1, 1)),
        (BorrowedImageClassifier, dict(backbone=backbone, **options), 'head.fc', (3, 32)),
    ):
        whole, teacher = (str(tmp_path / name) for name in ('whole.pth', 'teacher.pth'))
        state = {name: torch.randn(x.shape) for name, x in kind(**given).state_dict().items()}
        torch.save(dict(state_dict=state), whole)
        others = {f'{key}.weight': torch.ones(size), f'{key}.bias': torch.ones(3)}
        torch.save(dict(state_dict=others), teacher)
        init_cfg = dict(type='Pretrained', checkpoint=whole)
        for cfg in (init_cfg, [init_cfg]):
            own = kind(**given, pretrained=teacher, init_cfg=cfg)
            own.init_weights()
            assert not [name for name, p in own.named_parameters() if not p.equal(state[name])]


def test_a_projector_begins_as_torch_makes_it() -> None:
    """The authors' class has no initialisation: bounds ±1/√fan-in, where mmseg has 0.01."""
    head = dict(type='FCNHead', in_channels=4, channels=4, num_convs=1, num_classes=3)
    own = BorrowedClassifier(head, channels=64)
    own.init_weights()
    for conv in own.head.conv_seg.projector[::3]:
        bound = conv.weight[0].numel() ** -0.5
        assert 0.9 * bound < conv.weight.abs().max() <= bound
    torch.manual_seed(7)
    own.head.conv_seg.projector[0].reset_parameters()
    expected = own.head.conv_seg.projector[0].weight.clone()
    torch.manual_seed(7)
    assert torch.equal(torch.nn.Conv2d(4, 32, 1, bias=False).weight, expected)


@pytest.mark.bad_input
def test_a_classifier_that_cannot_be_borrowed_is_told(tmp_path: Path) -> None:
    backbone = dict(type='CIFARResNet', depth=8, base_channels=4)
    path = tmp_path / 'teacher.pth'
    for state, message in (
        (
            dict(weight=(3, 32)),
            r'teacher.pth has a head\.fc\.weight without a head\.fc\.bias.*Mend',
        ),
        (
            dict(weight=(3, 16), bias=(3,)),
            r'pth: head\.fc\.weight has the shape \(3, 16\), .*\(3, 32\).*Mend: channels=16',
        ),
        (dict(weight=(5, 32), bias=(5,)), r'shape \(5, 32\).*Mend: a teacher of the same classes'),
        (dict(weight=(3, 32), bias=(5,)), r'fc\.bias has the shape \(5,\).*Mend: a teacher of the'),
    ):
        weights = {f'head.fc.{name}': torch.zeros(size) for name, size in state.items()}
        torch.save(dict(state_dict=weights), path)
        own = BorrowedImageClassifier(
            backbone, num_classes=3, in_channels=16, channels=32, pretrained=str(path)
        )
        with pytest.raises(RuntimeError, match=message):
            own.init_weights()


@pytest.mark.bad_input
def test_simkd_of_a_student_that_loads_itself_whole(tmp_path: Path) -> None:
    """Its file has no projector; the message says where its backbone's weights are named."""
    torch.manual_seed(6)
    plain = segmentation(segmentor(4, auxiliary=False))
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'student.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'student.pth'))
    config = simkd(tmp_path)
    config['student']['model']['init_cfg'] = init_cfg
    mend = r"Mend: .*not the init_cfg of the model .*backbone=dict\(init_cfg=.*prefix='backbone\.'"
    with pytest.raises(RuntimeError, match=mend):
        build(config)
    config = simkd(tmp_path)
    config['student']['model']['backbone']['init_cfg'] = dict(init_cfg, prefix='backbone.')
    model = build(config)
    stem = 'backbone.stem.0.weight'
    assert torch.equal(model.student.state_dict()[stem], plain.state_dict()[stem])


# ---------------------------------------------------------------------- SimKD of images


def simkd_of_images(folder: Path, **options: Any) -> dict:
    """Return the config of a Distiller of classifiers, whose teacher has a checkpoint."""
    torch.manual_seed(5)
    teacher = MODELS.build(classifier(8))
    torch.save(dict(state_dict=teacher.state_dict()), folder / 'teacher.pth')
    return dict(
        type='mmkd.Distiller',
        student=dict(model=classifier(4)),
        teacher=dict(model=classifier(8), checkpoint=str(folder / 'teacher.pth')),
        method=dict(type='simkd', **options),
    )


def images(model: Any) -> dict:
    return generated_batch(4, (32, 32), model.task)


def test_simkd_of_images_is_the_authors_on_maps_before_one_classifier(tmp_path: Path) -> None:
    """nn.MSELoss of the projected map and the teacher's, weight 1; both pool and classify alike."""
    model = build(simkd_of_images(tmp_path, weight=2.0))
    own, theirs = model.student.head['fc'], model.teacher.head['fc']
    assert torch.equal(own.weight, theirs.weight)
    assert torch.equal(own.bias, theirs.bias)
    assert [layer.out_channels for layer in model.student.projector[::3]] == [16, 16, 32]
    record = seen(model, images(model))
    student, teacher = (record[side]['feat'] for side in ('student', 'teacher'))
    assert student.shape == teacher.shape == (4, 32, 8, 8)
    inputs = record.batch.inputs
    projected = model.student.projector(model.student.backbone(inputs)[-1])
    expected = 2 * F.mse_loss(projected, model.teacher.backbone(inputs)[-1])
    value = model.objectives['simkd'](record)['simkd.loss']
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value > 0
    torch.testing.assert_close(model.student(inputs), theirs(projected.mean((2, 3))))


def test_simkd_of_images_trains_all_but_the_classifier(tmp_path: Path) -> None:
    model = build(simkd_of_images(tmp_path))
    before = copy.deepcopy(model.student.state_dict())
    optimizer = sgd(model, 0.1)
    for _ in range(2):
        model.train_step(images(model), optimizer)
    now = model.student.state_dict()
    same = [key for key, x in now.items() if torch.equal(x, before[key])]
    assert [key for key in same if not key.startswith('data_preprocessor')] == [
        *('head.fc.weight', 'head.fc.bias')
    ]


def test_simkd_of_images_of_a_teacher_that_was_made_by_simkd(tmp_path: Path) -> None:
    """Compared are what both projectors make; between them nothing is learned, which has no export.

    The teacher's last map has 16 channels, its classifier reads 32.
    """
    config = simkd_of_images(tmp_path)
    teacher = dict(classifier(4), type='mmkd.BorrowedImageClassifier', channels=32)
    built = MODELS.build(teacher)
    torch.save(dict(state_dict=built.state_dict()), tmp_path / 'borrowed.pth')
    for model in (teacher, built):
        config['teacher'] = dict(model=model, checkpoint=str(tmp_path / 'borrowed.pth'))
        made = build(copy.deepcopy(config))
        assert [*made.objectives.parameters()] == []
        record = seen(made, images(made))
        assert record['teacher']['feat'].shape[1] == made.student.channels == 32
        inputs = record.batch.inputs
        ours, theirs = (x.projector(x.backbone(inputs)[-1]) for x in (made.student, made.teacher))
        value = made.objectives['simkd'](record)['simkd.loss']
        assert value.item() == pytest.approx(F.mse_loss(ours, theirs).item(), rel=1e-6)
    config['teacher']['taps'] = dict(feat='auto:stages[-1]')
    with pytest.raises(ValueError, match=r"'simkd'.*32.*16"):
        build(config)


def test_simkd_of_images_exports_a_student_that_predicts_as_the_distiller_does(
    tmp_path: Path,
) -> None:
    cfg = prepared(Config(dict(default_scope='mmkd', model=simkd_of_images(tmp_path))))
    with DefaultScope.overwrite_default_scope('mmkd'):
        model = build(cfg.model.to_dict())
        model.train_step(images(model), sgd(model))
        model.eval()
        meta = dict(cfg=cfg.pretty_text)
        torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'iter_1.pth')
        weights, path = export_student(tmp_path / 'iter_1.pth', tmp_path / 'out')
        exported = Config.fromfile(path)
        assert exported.custom_imports['imports'] == ['mmkd']
        assert exported.model.pretrained is None, 'the classifier is in the weights'
        plain = MODELS.build(exported.model.to_dict()).eval()
        plain.init_weights()
        state = torch.load(weights, weights_only=False)['state_dict']
        plain.load_state_dict(state, strict=False)
        x = model.data_preprocessor(images(model), False)['inputs']
        with torch.no_grad():
            assert torch.equal(plain(x), model(x))
            assert not torch.equal(model(x), model.teacher(x))
        for part in ('projector', 'head'):
            lacking = {key: one for key, one in state.items() if not key.startswith(part)}
            with pytest.raises(RuntimeError, match=f'lack the {part} of a BorrowedImage.*Mend'):
                plain.load_state_dict(lacking, strict=False)


def test_simkd_of_images_by_name_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    model = simkd_of_images(tmp_path)
    model['student'] = dict(model=classifier(2))

    def run(name: str, iters: int, resume: bool = False) -> Any:
        return train(config_of_images(tmp_path, copy.deepcopy(model), iters, name), resume)

    whole = run('whole', 4)
    run('parts', 2)
    parts = run('parts', 4, resume=True)
    state, other = whole.model.state_dict(), parts.model.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert any('student.projector.0.weight' in key for key in state)


def test_simkd_of_images_takes_the_channels_of_a_linear_head() -> None:
    """mmpretrain's classifiers say them there, and end in head.fc as well."""
    head = dict(type='LinearClsHead', num_classes=3, in_channels=32)
    teacher = Described(dict(type='ImageClassifier', head=head), 'mmpretrain')
    models = dict(student=Described(classifier(4), 'mmkd'), teacher=teacher)
    pair = Pair(Classification(3), models=models, checkpoints=dict(teacher='t.pth'))
    plan = find_method('simkd')(pair)
    made = plan.cfg_options['student']['model']
    assert made == dict(
        classifier(4),
        _delete_=True,
        type='mmkd.BorrowedImageClassifier',
        channels=32,
        factor=2,
        pretrained='t.pth',
        member='teacher',
    )
    assert find_method('simkd')(pair, channels=9).cfg_options['student']['model']['channels'] == 9
    models['teacher'] = Described(dict(type='ImageClassifier'), 'mmpretrain')
    with pytest.raises(ValueError, match='must say how many channels .*Mend: dict'):
        find_method('simkd')(pair)


@pytest.mark.bad_input
def test_simkd_of_images_of_pairs_that_it_is_not_for(tmp_path: Path) -> None:
    config = simkd_of_images(tmp_path)
    config['teacher'] = dict(model=classifier(8, 5), allow_untrained=True)
    with pytest.raises(ValueError, match='has 3 classes and the teacher 5. Mend'):
        build(config)
    config = simkd_of_images(tmp_path)
    config['student'] = MODELS.build(classifier(4))
    with pytest.raises(ValueError, match='of images the student must be the config of a mmkd.*Me'):
        build(config)
    config = simkd_of_images(tmp_path)
    config['teacher'] = dict(model=classifier(8), allow_untrained=True)
    with pytest.raises(ValueError, match='a random one would be kept. Mend: teacher=dict'):
        build(config)
    torch.save(dict(state_dict=dict(x=torch.zeros(1))), tmp_path / 'other.pth')
    options = dict(num_classes=3, in_channels=16, channels=32)
    backbone = dict(type='CIFARResNet', depth=8, base_channels=4)
    own = BorrowedImageClassifier(backbone, pretrained=str(tmp_path / 'other.pth'), **options)
    with pytest.raises(RuntimeError, match='no classifier to borrow. Mend: the checkpoint of an'):
        own.init_weights()
    wrong = BorrowedImageClassifier(backbone, **options | dict(in_channels=8))
    with pytest.raises(ValueError, match='a projector of in_channels=8 reads a map .*Mend: in_c'):
        wrong(torch.zeros(2, 3, 32, 32))


def test_a_borrowed_image_classifier_is_initialised_once() -> None:
    backbone = dict(type='CIFARResNet', depth=8, base_channels=4)
    own = BorrowedImageClassifier(backbone, num_classes=3, in_channels=16, channels=32)
    before = copy.deepcopy(own.state_dict())
    own.init_weights()
    first = copy.deepcopy(own.state_dict())
    assert not torch.equal(first['projector.0.weight'], before['projector.0.weight'])
    own.init_weights()
    assert all(torch.equal(x, first[key]) for key, x in own.state_dict().items())
