"""Presets of fused levels have the value of the official formula and weight."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.classification import classifier
from helpers.classification import distiller as classifiers
from helpers.detectors import detector
from helpers.runs import model_of, need_mmdet, run_config, train
from helpers.tiny import build, segmentor
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from mmkd.distiller.export import student_state_dict
from mmkd.methods import Pair, expand, find_method
from mmkd.registry import build_part
from mmkd.tasks import Classification, Described, Detection, Segmentation, generated_batch

TASKS = dict(
    segmentation=Segmentation(19), classification=Classification(10), detection=Detection(80)
)


def pair(task: str, backbone: str = 'MixVisionTransformer', stages: int = 4) -> Pair:
    config = dict(
        backbone=dict(type=backbone, out_indices=tuple(range(stages))), neck=dict(num_outs=5)
    )
    model = Described(config)
    return Pair(
        TASKS[task], models=dict(student=model, teacher=model), iterations=2400, method='transkd'
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def hcl(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return hcl of both authors, the sum over levels."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, teacher, strict=True):
        loss, count, counts = F.mse_loss(s, t), 1.0, 1.0
        for side in (4, 2, 1):
            if side >= s.shape[2]:
                continue
            count /= 2.0
            loss = loss + count * F.mse_loss(
                F.adaptive_avg_pool2d(s, (side, side)), F.adaptive_avg_pool2d(t, (side, side))
            )
            counts += count
        total = total + loss / counts
    return total


def value_of(one: dict, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Return an objective's value, and its connector's maps, from the maps that are read."""
    fusion = build_part(dict(one['connectors']['student']))
    fusion.build(student, teacher)
    fusion.double()
    maps = fusion(student, [tuple(x.shape[2:]) for x in teacher])
    found = one['weight'] * build_part(dict(one['loss']))(maps, teacher)
    return found, maps


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('weight', [1.0, 5.0])
def test_reviewkd(task: str, weight: float) -> None:
    """λ times the sum over stages, and pooled features of images, or levels of the neck."""
    one = find_method('reviewkd')(pair(task), weight=weight).objectives['review']
    count = dict(segmentation=4, classification=5, detection=5)[task]
    sides = (16, 8, 4, 2, 1)[:count]
    student = [draw(2, 3 + k, side, side, seed=k) for k, side in enumerate(sides)]
    teacher = [draw(2, 5 + k, side, side, seed=9 + k) for k, side in enumerate(sides)]
    found, maps = value_of(one, student, teacher)
    torch.testing.assert_close(found, weight * hcl(maps, teacher), rtol=1e-12, atol=0)
    assert one['connectors'] == dict(student=dict(type='LevelFusion'))
    assert one['loss'] == dict(type='HierarchicalContextLoss')


def test_reviewkd_reads_what_the_authors_read() -> None:
    plan = find_method('reviewkd')(pair('classification', stages=3))
    assert plan.taps == dict(
        stage1='auto:stages[0]', stage2='auto:stages[1]', stage3='auto:stages[2]',
        feat='auto:feature',
    )  # fmt: skip
    assert plan.objectives['review']['reads']['student'] == [
        *('student.stage1', 'student.stage2', 'student.stage3', 'student.feat')
    ]
    assert plan.warm_up == 20 / 240
    assert plan.objectives['review']['weight'] == 4.0
    plan = find_method('reviewkd')(pair('segmentation'), mid_channels=64, stages=2)
    assert list(plan.taps) == ['stage1', 'stage2']
    assert plan.warm_up is None
    assert plan.objectives['review']['connectors']['student']['mid_channels'] == 64
    assert list(find_method('reviewkd')(pair('detection')).taps.values()) == [
        f'auto:neck[{k}]' for k in range(5)
    ]


def test_transkd() -> None:
    """hcl of fused stages, and the weighted means of embeddings behind linear layers."""
    plan = find_method('transkd')(pair('segmentation'))
    names = [f'embedding{k}' for k in range(1, 5)]
    assert list(plan.objectives) == ['fusion', *names]
    assert [plan.taps[name] for name in names] == [f'backbone.layers.{k}.0[0]' for k in range(4)]
    sides, own, other = (16, 8, 4, 2), (3, 4, 5, 6), (6, 8, 9, 10)
    student, teacher = (
        [
            draw(2, c, n, n, seed=seed + k)
            for k, (c, n) in enumerate(zip(channels, sides, strict=True))
        ]
        for seed, channels in ((0, own), (9, other))
    )
    one = plan.objectives['fusion']
    assert one['connectors']['student'] == dict(
        type='LevelFusion', gate='selective', mid_channels=64
    )
    found, maps = value_of(one, student, teacher)
    torch.testing.assert_close(found, 1.0 * hcl(maps, teacher), rtol=1e-12, atol=0)

    for k, published in enumerate((0.1, 0.1, 0.5, 1.0)):
        one = plan.objectives[names[k]]
        tokens = [x.flatten(2).mT for x in (student[k], teacher[k])]
        linear = nn.Linear(own[k], other[k]).double()
        official = published * nn.MSELoss()(linear(tokens[0]), tokens[1])
        found = one['weight'] * build_part(dict(one['loss']))(linear(tokens[0]), tokens[1])
        torch.testing.assert_close(found, official)
        assert one['connectors'] == dict(student='auto:conv')


def test_transkd_of_other_transformers() -> None:
    plan = find_method('transkd')(
        pair('segmentation', 'PVT', 2),
        embedding_weights=(0.0, 1.0),
        embeddings='backbone.embeds.{}',
        weight=3.0,
    )
    assert list(plan.objectives) == ['fusion', 'embedding2']
    assert plan.taps['embedding2'] == 'backbone.embeds.1'
    assert plan.objectives['fusion']['weight'] == 6.0
    alone = find_method('transkd')(pair('segmentation', 'PVT', 2), embedding_weights=(0, 0))
    assert list(alone.objectives) == ['fusion']


@pytest.mark.bad_input
def test_transkd_refuses_embeddings_that_it_does_not_know() -> None:
    method = find_method('transkd')
    with pytest.raises(ValueError, match="embeddings of 'student' are not known, a ResNet.* Mend"):
        method(pair('segmentation', 'ResNet'))
    with pytest.raises(ValueError, match=r'are not one for each of 2 stages. Mend: dict'):
        method(pair('segmentation', stages=2))
    with pytest.raises(ValueError, match='embedding_weights must be a finite number, 0 or above'):
        method(pair('segmentation'), embedding_weights=(1, -1, 1, 1))


@pytest.mark.bad_input
def test_transkd_refuses_weights_and_embeddings_that_are_none() -> None:
    method = find_method('transkd')
    for given in (0.1, '0.1'):
        with pytest.raises(
            ValueError, match=f"'transkd': embedding_weights .* {given!r}. Mend: em"
        ):
            method(pair('segmentation'), embedding_weights=given)
    for path in ('backbone.patch_embed', 3):
        with pytest.raises(ValueError, match=f"a path with '{{}}' .* got {path!r}: .* Mend: dict"):
            method(pair('segmentation'), embeddings=path)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('name', 'task'),
    [('reviewkd', 'classification'), ('transkd', 'segmentation'), ('semckd', 'classification')],
)
@pytest.mark.parametrize('stages', [0, '4', True])
def test_stages_that_are_no_number_of_maps(name: str, task: str, stages: Any) -> None:
    said = f"'{name}': stages must be a whole number of at least 1, got {stages!r}. Mend: stages=4"
    with pytest.raises(ValueError, match=said):
        find_method(name)(replace(pair(task), method=name), stages=stages)


@pytest.mark.bad_input
def test_stages_of_detectors_are_their_necks() -> None:
    said = 'stages would change nothing, since of detectors .* got stages=4. Mend: leave stages out'
    for name in ('reviewkd', 'transkd'):
        with pytest.raises(ValueError, match=said):
            find_method(name)(pair('detection'), stages=4)


def official_semckd(loss: Any, maps: list[Tensor], targets: list[Tensor], pairs: Any) -> Tensor:
    """Return SemCKDLoss of the authors on their SelfA, of a full batch and square maps."""
    count, levels, others = len(maps[0]), len(maps), len(targets)
    rows = [
        [(x.reshape(count, -1) @ x.reshape(count, -1).t()) for x in part]
        for part in (maps, targets)
    ]

    def embed(net: Any, x: Tensor) -> Tensor:
        x = net.last(torch.relu(net.first(x)))
        return x / x.pow(2).sum(1, keepdim=True).sqrt()

    query = torch.stack([embed(net, x) for net, x in zip(loss.queries, rows[0], strict=True)], 1)
    key = torch.stack([embed(net, x) for net, x in zip(loss.keys, rows[1], strict=True)], 2)
    weight = torch.softmax(torch.bmm(query, key) / 1.0, -1)
    apart = torch.zeros(count, levels, others, dtype=torch.float64)
    for i, own in enumerate(maps):
        for j, target in enumerate(targets):
            here, there = own.shape[2], target.shape[2]
            if here > there:
                source = F.adaptive_avg_pool2d(own, (there, there))
            else:
                source, target = own, F.adaptive_avg_pool2d(target, (here, here))
            square = (pairs.pairs[i][j](source) - target) ** 2
            apart[:, i, j] = square.reshape(count, -1).mean(-1)
    return (weight * apart).sum() / (1.0 * count * levels)


def test_semckd() -> None:
    """Weight 400 of the authors' value, of three stages each."""
    plan = find_method('semckd')(pair('classification', stages=3), images=4)
    one = plan.objectives['semckd']
    maps = [draw(4, c, n, n, seed=n) for c, n in ((3, 8), (4, 4), (5, 2))]
    targets = [draw(4, c, n, n, seed=50 + n) for c, n in ((6, 8), (7, 4), (8, 2))]
    connector = build_part(dict(one['connectors']['student']))
    connector.build(maps, targets)
    loss = build_part(dict(one['loss']))
    loss.build(maps, targets, maps)
    connector.double(), loss.double()
    brought = connector(maps, [tuple(x.shape[2:]) for x in targets])
    found = one['weight'] * loss(brought, targets, maps)
    torch.testing.assert_close(found, 400 * official_semckd(loss, maps, targets, connector))
    assert one['reads']['student'] == one['reads']['student_maps'] == [
        'student.stage1', 'student.stage2', 'student.stage3'
    ]  # fmt: skip
    plan = find_method('semckd')(pair('classification'), stages=2, softness=2.0)
    assert plan.taps == dict(stage1='auto:stages[0]', stage2='auto:stages[1]')
    assert plan.objectives['semckd']['loss'] == dict(type='CrossLevelLoss', images=64, softness=2.0)


@pytest.mark.parametrize(('own', 'other'), [(3, 4), (4, 3)])
def test_semckd_of_other_numbers_of_stages(own: int, other: int) -> None:
    """All stages of both, and no tap of a stage that a member does not have."""
    models = {
        name: pair('classification', stages=n).models['student']
        for name, n in (('student', own), ('teacher', other))
    }
    plan = find_method('semckd')(replace(pair('classification'), models=models), images=4)
    assert plan.taps == {f'stage{k + 1}': f'auto:stages[{k}]' for k in range(3)}
    longer = 'student' if own > other else 'teacher'
    assert plan.member_taps == {longer: dict(stage4='auto:stages[3]')}
    one = plan.objectives['semckd']
    assert one['reads'] == dict(
        student=[f'student.stage{k + 1}' for k in range(own)],
        teacher=[f'teacher.stage{k + 1}' for k in range(other)],
        student_maps=[f'student.stage{k + 1}' for k in range(own)],
    )
    maps = [draw(4, c, n, n, seed=n) for c, n in ((3, 8), (4, 4), (5, 2), (6, 1))[:own]]
    targets = [draw(4, c, n, n, seed=50 + n) for c, n in ((6, 8), (7, 4), (8, 2), (9, 1))[:other]]
    connector = build_part(dict(one['connectors']['student']))
    connector.build(maps, targets)
    loss = build_part(dict(one['loss']))
    loss.build(maps, targets, maps)
    connector.double(), loss.double()
    found = 400 * loss(connector(maps, [tuple(x.shape[2:]) for x in targets]), targets, maps)
    torch.testing.assert_close(found, 400 * official_semckd(loss, maps, targets, connector))


# ---------------------------------------------------------------------- by name


def segformer(width: int) -> dict:
    backbone = dict(
        type='MixVisionTransformer',
        embed_dims=width,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 4, 8],
        patch_sizes=[7, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        out_indices=(0, 1, 2, 3),
        mlp_ratio=2,
    )
    head = dict(
        type='SegformerHead',
        in_channels=[width, 2 * width, 4 * width, 8 * width],
        in_index=[0, 1, 2, 3],
        channels=16,
        num_classes=3,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss'),
    )
    return segmentor(4, 3, auxiliary=False) | dict(backbone=backbone, decode_head=head)


def losses_of(model: dict, size: tuple[int, int]) -> tuple[Any, dict]:
    built = build(model)
    data = built.data_preprocessor(generated_batch(2, size, built.task), True)
    return built, built(**data, mode='loss')


def test_transkd_by_name_teaches_a_segformer() -> None:
    """Of maps that are no squares; linear layers between embeddings, and none is exported."""
    config = dict(
        type='mmkd.Distiller',
        student=dict(model=segformer(8)),
        teacher=dict(model=segformer(16), allow_untrained=True),
        method='transkd',
    )
    model, found = losses_of(config, (64, 96))
    names = ['fusion', *(f'embedding{k}' for k in range(1, 5))]
    assert [key for key in found if key.split('.')[0] in names] == [f'{n}.loss' for n in names]
    sum(found[f'{name}.loss'] for name in names).backward()
    assert model.objectives['embedding3'].connectors['student'].conv.weight.shape == (64, 32, 1, 1)
    linear = [p for o in model.objectives.values() for p in o.parameters()]
    assert linear
    assert all(p.grad is not None and p.grad.isfinite().all() for p in linear)
    assert student_state_dict(model.state_dict()).keys() == model.student.state_dict().keys()


def test_reviewkd_by_name_trains_a_segmentor_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    def run(name: str, iters: int, resume: bool = False) -> Any:
        model = model_of(critic=False, method=dict(type='reviewkd', mid_channels=8))
        del model['objectives'], model['taps']
        return train(
            run_config(tmp_path, model, max_iters=iters, val_interval=9, name=name), resume
        )

    whole = run('whole', 4)
    run('parts', 2)
    parts = run('parts', 4, resume=True)
    state, other = whole.model.state_dict(), parts.model.state_dict()
    assert all(torch.equal(state[key], other[key]) for key in state)
    assert any('levels.3.bring.0' in key for key in state)
    values = whole.message_hub.log_scalars['train/review.loss'].data[0]
    assert len(values) == 4
    assert (values > 0).all()


def test_reviewkd_by_name_of_classifiers() -> None:
    """Three stages and the pooled vector, whose deepest fusion is 4 times the base wide."""
    config = {
        key: one for key, one in classifiers().items() if key not in ('taps', 'objectives')
    } | dict(method='reviewkd')
    expanded, additions = expand(config)
    with DefaultScope.overwrite_default_scope('mmkd'):
        model = MODELS.build({**expanded, 'type': 'mmkd.Distiller'})
        data = model.data_preprocessor(generated_batch(2, (16, 16), model.task), True)
        found = model(**data, mode='loss')
    assert found['review.loss'] > 0
    levels = model.objectives['review'].connectors['student'].levels
    assert [level.give[0].weight.shape[0] for level in levels] == [4, 8, 16, 16]
    assert 'length of the run' in additions.told[0]


def test_semckd_by_name_of_classifiers() -> None:
    """All of it learns; batches of more images than it is made of are refused by name."""
    config = {
        key: one for key, one in classifiers().items() if key not in ('taps', 'objectives')
    } | dict(method=dict(type='semckd', images=4))
    expanded, _ = expand(config)
    with DefaultScope.overwrite_default_scope('mmkd'):
        model = MODELS.build({**expanded, 'type': 'mmkd.Distiller'})
        for count in (2, 4):
            data = model.data_preprocessor(generated_batch(count, (16, 16), model.task), True)
            model(**data, mode='loss')['semckd.loss'].backward()
        own = [*model.objectives['semckd'].parameters()]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in own)
        assert student_state_dict(model.state_dict()).keys() == model.student.state_dict().keys()
        data = model.data_preprocessor(generated_batch(5, (16, 16), model.task), True)
        with pytest.raises(ValueError, match="objective 'semckd': .*images, got 5; mend: images=5"):
            model(**data, mode='loss')


def test_semckd_by_name_of_a_student_of_three_and_a_teacher_of_four_stages() -> None:
    """Each of three stages attends to all of four."""
    backbone = dict(segmentor(4)['backbone'], type='mmseg.ResNetV1c')
    teacher = dict(type='mmkd.ImageClassifier', num_classes=3, in_channels=32, backbone=backbone)
    config = dict(
        type='mmkd.Distiller',
        student=dict(model=classifier(2)),
        teacher=dict(model=teacher, allow_untrained=True),
        method=dict(type='semckd', images=4),
    )
    model = build(config)
    data = model.data_preprocessor(generated_batch(4, (32, 32), model.task), True)
    model(**data, mode='loss')['semckd.loss'].backward()
    objective = model.objectives['semckd']
    assert [len(row) for row in objective.connectors['student'].pairs] == [4, 4, 4]
    assert (len(objective.loss.queries), len(objective.loss.keys)) == (3, 4)
    assert [list(model.runs[name].taps.paths) for name in ('student', 'teacher')] == [
        [f'stage{k}' for k in range(1, n + 1)] for n in (3, 4)
    ]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())


def test_reviewkd_by_name_teaches_a_detector() -> None:
    need_mmdet()
    config = dict(
        type='mmkd.Distiller',
        student=dict(model=detector(8)),
        teacher=dict(model=detector(16), allow_untrained=True),
        method='reviewkd',
    )
    with DefaultScope.overwrite_default_scope('mmdet'):
        model, found = losses_of(config, (256, 192))
    found['review.loss'].backward()
    assert model.student.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0
    assert len(model.objectives['review'].connectors['student'].levels) == 5
