"""KD-DETR of two real detectors: what is asked, values, steps, refusals."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.detectors import deformable, detector, detr, spread
from helpers.runs import need_mmdet
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from references.query_answers import official
from torch import Tensor

from mmkd.losses import SharedQueriesLoss
from mmkd.methods.kd_detr import kd_detr
from mmkd.methods.pair import Pair, read_pair
from mmkd.structures.batch import Batch
from mmkd.tasks import Described, Detection, generated_batch

KINDS = ['DETR', 'ConditionalDETR', 'DABDETR']
SEVERAL = {
    'one stage': dict(kind='DeformableDETR'),
    'refined': dict(kind='DeformableDETR', refine=True),
    'two stages': dict(kind='DeformableDETR', stages=2, refine=True),
    'DINO': dict(kind='DINO'),
}  # of several levels


@pytest.fixture(autouse=True)
def mmdet() -> None:
    need_mmdet()


def distiller(student: Any, teacher: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=student, scope='mmdet'),
                teacher=dict(model=teacher, scope='mmdet', allow_untrained=True),
                method=dict(type='kd-detr', **options),
            )
        )


def batch_of(model: Any, padded: bool = True) -> dict:
    """Return two images of 64×64, the second one of 40×64 where it is padded."""
    data = generated_batch(2, (64, 64), model.task)
    if padded:
        data['inputs'][1] = data['inputs'][1][:, :40]
        data['data_samples'][1].set_metainfo(dict(img_shape=(40, 64)))
    return model.data_preprocessor(data, True)


def asked(own: Any, data: dict, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a detector says when its own queries are others, by its own forward."""
    before = own.query_embedding, own.num_queries
    own.query_embedding, own.num_queries = torch.nn.Embedding.from_pretrained(queries), len(queries)
    try:
        made = own.forward_transformer(own.extract_feat(data['inputs']), data['data_samples'])
        return own.bbox_head(**made)
    finally:
        own.query_embedding, own.num_queries = before


def expected(model: Any, data: dict, queries: Tensor) -> float:
    """Return the authors' terms, weights 1, 5 and 2, summed over the student's layers.

    Their classes are Σ w / C times what a mean over queries and a sum over classes are.
    """
    logits, boxes = asked(model.student, data, queries)
    said, targets = (x[-1] for x in asked(model.teacher, data, queries))
    total = 0.0
    for own, box in zip(logits, boxes, strict=True):
        classes, l1, giou, weight = official(own, said, box, targets)
        total += float(classes * said.shape[-1] / weight.sum() + 5 * l1 + 2 * giou)
    return total


@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('kind', ['ConditionalDETR', 'DABDETR'])
def test_its_value_is_the_authors_terms(kind: str, padded: bool) -> None:
    """Of a sigmoid a class; DAB-DETR's queries are boxes, so that widths may differ."""
    model = distiller(detr(kind, 4, 32 if kind == 'DABDETR' else 16), detr(kind, 8)).eval()
    data = batch_of(model, padded)
    with torch.no_grad():
        queries = model.teacher.query_embedding.weight
        torch.manual_seed(3)
        losses = model(**data, mode='loss')
        value = expected(model, data, queries)
        assert losses['kd_detr.loss'].item() == pytest.approx(value, rel=1e-4)
        torch.manual_seed(3)
        drawn = torch.randn(300, queries.shape[1])
        value = expected(model, data, drawn)
        assert losses['kd_detr_random.loss'].item() == pytest.approx(value, rel=1e-4)


def test_a_softmax_has_a_background_that_is_no_confidence() -> None:
    """DETR's: boxes are weighted by the likeliest of the other classes."""
    options = dict(classes=0.0, giou=0.0, number=0)
    model = distiller(detr('DETR', 4), detr('DETR', 8), **options).eval()
    data = batch_of(model)
    assert list(model.objectives) == ['kd_detr']
    with torch.no_grad():
        queries = model.teacher.query_embedding.weight
        boxes = asked(model.student, data, queries)[1]
        said, targets = (x[-1] for x in asked(model.teacher, data, queries))
        weight = said.softmax(-1)[..., :3].amax(-1)
        total = sum((5 * (own - targets).abs().mean(-1) * weight).sum() for own in boxes)
        value = model(**data, mode='loss')['kd_detr.loss']
    torch.testing.assert_close(value, total / weight.sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize('kind', KINDS)
def test_a_student_of_its_teachers_weights_has_nothing_to_learn(kind: str) -> None:
    """Of one layer: inner ones learn from the last one, which says something else."""
    one = detr(kind)
    one['decoder'].update(num_layers=1)
    model = distiller(one, copy.deepcopy(one)).eval()
    model.student.load_state_dict(model.teacher.state_dict())
    losses = model(**batch_of(model), mode='loss')
    for name in model.objectives:
        assert abs(float(losses[f'{name}.loss'])) < 1e-5


@pytest.mark.parametrize('kind', KINDS)
def test_a_step_teaches_decoder_encoder_and_backbone(kind: str) -> None:
    model = distiller(detr(kind), detr(kind, 8), task_weight=0.0)
    teacher = copy.deepcopy(model.teacher.state_dict())
    before = {name: p.clone() for name, p in model.student.named_parameters()}
    data = generated_batch(2, (64, 64), model.task)
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    assert log['kd_detr.loss'] > 0
    assert log['kd_detr_random.loss'] > 0
    moved = {name for name, p in model.student.named_parameters() if not p.equal(before[name])}
    assert 'query_embedding.weight' not in moved, 'its own queries were not asked'
    for part in ('backbone.conv1', 'encoder.layers.0', 'decoder.layers.1', 'bbox_head'):
        assert any(name.startswith(part) for name in moved), part
    for key, x in model.teacher.state_dict().items():
        assert torch.equal(x, teacher[key]), key
    assert not [key for key in model.state_dict() if 'objectives' in key]


def test_random_queries_are_others_at_each_step() -> None:
    model = distiller(detr(), detr(width=8)).eval()
    data = batch_of(model)
    with torch.no_grad():
        values = [model(**data, mode='loss') for _ in range(2)]
    first, second = values
    assert first['kd_detr.loss'] == second['kd_detr.loss']
    assert first['kd_detr_random.loss'] != second['kd_detr_random.loss']


def test_a_copy_asks_the_copied_student() -> None:
    model = distiller(detr(), detr(width=8))
    other = copy.deepcopy(model)
    student, teacher = other.objectives['kd_detr'].loss.sides
    assert student.model is other.student
    assert teacher.model is model.teacher


def test_building_copies_no_student_for_an_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which torch could not copy one with weight_norm."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        student = MODELS.build(detr())
    torch.nn.utils.weight_norm(student.bbox_head.fc_cls)
    copied = []
    plain = copy.deepcopy

    def watched(x: Any, memo: Any = None) -> Any:
        copied.append(type(x).__name__)
        return plain(x, memo)

    monkeypatch.setattr('mmkd.distiller.members.stand_in.copy.deepcopy', watched)
    model = distiller(student, detr(width=8))
    assert copied.count('DABDETR') == 1, 'the stand-in of the probe'
    assert copied.count('Objective') == len(model.objectives)
    for objective in model.objectives.values():
        assert objective.loss.sides[0].model is student


def test_a_wrapper_in_the_students_place_is_asked() -> None:
    model = distiller(detr(), detr(width=8), number=0, task_weight=0.0)
    asked = []

    class Wrapper(torch.nn.Module):
        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module, self.bbox_head = module, module.bbox_head
            self.query_embedding, self.embed_dims = module.query_embedding, module.embed_dims

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.module(*args, **kwargs)

        def forward_decoder(self, **given: Any) -> Any:
            asked.append(len(given))
            return self.module.forward_decoder(**given)

    run = model.runs['student']
    run.modules = dict(student=Wrapper(model.student))
    model(**batch_of(model), mode='loss')
    assert asked == [5]


def test_autocast_asks_both_sides_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = distiller(detr(), detr(width=8), task_weight=0.0).eval()
    asked: list[Tensor] = []
    for one in (model.student, model.teacher):
        own = one.forward_decoder

        def watched(own: Any = own, **given: Tensor) -> Any:
            asked.append(given['query_pos'])
            return own(**given)

        # as what it stands in for: the forwards' own queries are asked through it, too
        monkeypatch.setattr(one, 'forward_decoder', watched)
    data = batch_of(model)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(**data, mode='loss')
    assert losses['kd_detr.loss'].isfinite()
    asked = asked[-4:]  # teacher's queries of both sides, then random ones
    for ours, theirs in (asked[:2], asked[2:]):
        assert torch.equal(ours, theirs)
        assert ours.dtype == torch.float32


def several(case: str, width: int = 8, **options: Any) -> Any:
    """Return a detector of several levels; as a config, mmdet leaves weights unwritten."""
    torch.manual_seed(width)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return spread(MODELS.build(deformable(width=width, **SEVERAL[case], **options)))


def watch(monkeypatch: pytest.MonkeyPatch, model: Any) -> list[dict]:
    """Return what decoders are asked from now on, call by call."""
    calls: list[dict] = []
    own = model.forward_decoder

    def watched(**given: Tensor) -> Any:
        calls.append(given)
        return own(**given)

    monkeypatch.setattr(model, 'forward_decoder', watched)
    return calls


def asked_anew(own: Any, data: dict, queries: dict) -> tuple[Tensor, Tensor]:
    """Return what a detector says by its own forward, where it picks these queries."""
    own.pre_decoder = lambda memory, **_: (dict(queries, memory=memory), {})
    try:
        made = own.forward_transformer(own.extract_feat(data['inputs']), data['data_samples'])
        return own.bbox_head(**made)
    finally:
        del own.pre_decoder


@pytest.mark.parametrize('case', SEVERAL)
def test_of_several_levels_its_value_is_the_authors_terms(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of padded images; the teacher's queries are those of its normal forward.

    The student has other layers, levels and numbers of queries.
    """
    model = distiller(several(case, 4, layers=3, levels=3, queries=8), several(case)).train()
    data = batch_of(model)
    asked = [watch(monkeypatch, one) for one in (model.student, model.teacher)]
    with torch.no_grad():
        losses = model(**data, mode='loss')
        students, (normal, teachers, drawn) = [*asked[0][1:]], [*asked[1]]
        for name in ('query', 'reference_points'):
            assert teachers[name].equal(normal[name])
        for name, given in dict(kd_detr=teachers, kd_detr_random=drawn).items():
            picked = ('query', 'query_pos', 'reference_points')
            queries = {part: given[part] for part in picked if part in given}
            if case == 'DINO':
                queries['dn_mask'] = None
            logits, boxes = asked_anew(model.student, data, queries)
            said, targets = (x[-1] for x in asked_anew(model.teacher, data, queries))
            total = 0.0
            for own, box in zip(logits, boxes, strict=True):
                classes, l1, giou, weight = official(own, said, box, targets)
                total += float(classes * said.shape[-1] / weight.sum() + 5 * l1 + 2 * giou)
            assert losses[f'{name}.loss'].item() == pytest.approx(total, rel=1e-4)
            ours = students.pop(0)
            for part, x in queries.items():
                assert part == 'dn_mask' or x.equal(ours[part]), 'both are asked the same'
    assert drawn['query'].shape[1] == 300


@pytest.mark.parametrize('case', SEVERAL)
def test_of_several_levels_a_student_of_its_teachers_weights_has_nothing_to_learn(
    case: str,
) -> None:
    """Of boxes the value alone: at its kink, a forward without gradients may round otherwise."""
    for options in ({}, dict(l1=0.0, giou=0.0)):
        model = distiller(several(case, layers=1), several(case, layers=1), **options).train()
        model.student.load_state_dict(model.teacher.state_dict())
        losses = model(**batch_of(model), mode='loss')
        values = [losses[f'{name}.loss'] for name in model.objectives]
        assert max(abs(float(value)) for value in values) < 1e-4
    weights = [p for p in model.student.parameters() if p.requires_grad]
    found = torch.autograd.grad(sum(values), weights, allow_unused=True)
    assert max(float(x.abs().max()) for x in found if x is not None) < 1e-4


@pytest.mark.parametrize('case', SEVERAL)
def test_of_several_levels_a_step_teaches_decoder_encoder_and_backbone(case: str) -> None:
    """What makes the student's own queries is not asked."""
    model = distiller(several(case, 4), several(case), task_weight=0.0)
    kept = copy.deepcopy(model.teacher.state_dict())
    before = {name: p.clone() for name, p in model.student.named_parameters()}
    data = generated_batch(2, (64, 64), model.task)
    log = model.train_step(data, OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)))
    for name in ('kd_detr', 'kd_detr_random'):
        assert 0 < log[f'{name}.loss'] < float('inf')
    moved = {name for name, p in model.student.named_parameters() if not p.equal(before[name])}
    for part in ('backbone.conv1', 'encoder.layers.0', 'decoder.layers.1', 'bbox_head'):
        assert any(name.startswith(part) for name in moved), part
    for part in ('query_embedding', 'reference_points_fc', 'pos_trans', 'memory_trans'):
        assert not any(name.startswith(part) for name in moved), part
    for key, x in model.teacher.state_dict().items():
        assert torch.equal(x, kept[key]), key
    assert not any(p.grad is not None for p in model.teacher.parameters())
    names = {name.removeprefix('students.student.') for name in model.state_dict()}
    assert names == {*several(case, 4).state_dict()}, 'nothing of it is in the checkpoint'


@pytest.mark.parametrize(('inner', 'weight'), [(True, 2.0), (False, 1.0)])
def test_a_decoder_that_says_its_last_layer_alone_is_one_layer(inner: bool, weight: float) -> None:
    student, teacher = detr('DETR'), detr('DETR', 8)
    student['decoder'].update(return_intermediate=inner)
    model = distiller(student, teacher)
    assert [one.weight for one in model.objectives.values()] == [weight] * 2


def test_padding_of_a_batch() -> None:
    task = Detection(3)
    samples = generated_batch(2, (4, 6), task)['data_samples']
    samples[1].set_metainfo(dict(img_shape=(2, 5)))
    batch = Batch(torch.zeros(2, 3, 4, 6), samples, task=task)
    padding = task.reads['padding'](batch)
    assert not padding[0].any()
    assert (~padding[1]).nonzero().amax(0).tolist() == [1, 4]
    assert (~padding[1]).sum() == 10


@pytest.mark.bad_input
def test_pairs_that_it_is_not_for() -> None:
    message = r'objective .kd_detr.: student is no detector whose decoder can be asked.*Mend: live'
    loss = dict(type='SharedQueriesLoss')
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(ValueError, match=message),
    ):
        MODELS.build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=detector(8)),
                teacher=dict(model=detector(8), allow_untrained=True),
                taps=dict(memory='neck[0]'),
                objectives=dict(
                    kd_detr=dict(
                        loss=loss,
                        reads=dict(
                            student='student.memory',
                            teacher='teacher.memory',
                            places='student.memory',
                            teacher_places='teacher.memory',
                            padding='batch.padding',
                        ),
                    )
                ),
            )
        )
    with pytest.raises(ValueError, match=r'cannot be asked the same queries: .*query.: \[32, 16\]'):
        distiller(detr('DETR', dim=32), detr('DETR'))
    with pytest.raises(ValueError, match=r'cannot be asked .*class logits.: \[3, 4\].*Mend: two'):
        distiller(detr(), detr(classes=4))
    for options in (dict(queries='mine'), dict(number=0), dict(tau=0.0), dict(l1=-1.0)):
        with pytest.raises(ValueError, match=next(iter(options))):
            SharedQueriesLoss(**options)
    x = torch.zeros(1, 4, 8)
    with pytest.raises(RuntimeError, match='asks decoders of which it has not been told. Mend'):
        SharedQueriesLoss()(x, x, x, x, F.pad(x, (0, 1)))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('student', 'teacher', 'names', 'apart'),
    [
        ('one stage', 'two stages', 'DeformableDETR and DeformableDETR', r'reference.: \[2, 4\]'),
        ('DINO', 'two stages', 'DINO and DeformableDETR', r'kind.: \["DINO\'s", "Deformable DETR'),
        ('', 'DINO', 'DABDETR and DINO', r'kind.: \[.learned queries, one level., "DINO'),
    ],
)
def test_pairs_of_two_kinds(student: str, teacher: str, names: str, apart: str) -> None:
    one = several(student) if student else detr()
    match = rf'\({names}\) cannot be asked the same queries: .*{apart}.*Mend: two detectors'
    with pytest.raises(ValueError, match=match):
        distiller(one, several(teacher))


@pytest.mark.bad_input
def test_pairs_of_other_widths_and_classes() -> None:
    with pytest.raises(ValueError, match=r'channels a query.: \[32, 16\]'):
        distiller(several('DINO', dim=32), several('DINO'))
    with pytest.raises(ValueError, match=r'class logits.: \[4, 3\]'):
        distiller(several('one stage', classes=4), several('refined'))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    'asked',
    [
        None,
        'teacher.query',
        ['teacher.query'],
        ['student.query', 'student.reference_points'],
        ['teacher.reference_points', 'teacher.query'],
    ],
)
def test_queries_that_are_picked_must_be_read(asked: Any) -> None:
    reads = dict(
        student='student.memory',
        teacher='teacher.memory',
        places='student.places',
        teacher_places='teacher.places',
        padding='batch.padding',
        **({} if asked is None else dict(asked=asked)),
    )
    message = (
        r"objective 'it': the teacher's queries .*\['query', 'reference_points'\], but asked=.*"
        r"Mend: taps=dict\(query='decoder:input\[query\]', .*asked=\['teacher.query', 'teacher.ref"
    )
    with (
        DefaultScope.overwrite_default_scope('mmdet'),
        pytest.raises(ValueError, match=message),
    ):
        MODELS.build(
            dict(
                type='mmkd.Distiller',
                student=dict(model=several('DINO')),
                teacher=dict(model=several('DINO'), allow_untrained=True),
                taps=dict(
                    memory='encoder',
                    places='positional_encoding#*',
                    query='decoder:input[query]',
                    reference_points='decoder:input[reference_points]',
                ),
                objectives=dict(it=dict(loss=dict(type='SharedQueriesLoss'), reads=reads)),
            )
        )


@pytest.mark.parametrize('built', [False, True])
def test_taps_by_the_kind_of_each_member(built: bool) -> None:
    def told(**options: Any) -> Any:
        cfg = deformable(**options)
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(cfg) if built else Described(cfg, 'mmdet')

    levels = dict(places='positional_encoding#*')
    picked = {name: f'decoder:input[{name}]' for name in ('query', 'reference_points')}
    placed = dict(query_pos='decoder:input[query_pos]')
    for kind, asked in dict(DINO=picked, DeformableDETR=picked | placed).items():
        models = dict(student=told(kind=kind), teacher=told(kind=kind, layers=3))
        plan = kd_detr(Pair(models=models))
        assert plan.member_taps == dict(student=levels, teacher=levels | asked)
        reads = plan.objectives['kd_detr']['reads']
        assert sorted(reads['asked']) == sorted(f'teacher.{name}' for name in asked)
        assert 'asked' not in plan.objectives['kd_detr_random']['reads']
        assert {one['weight'] for one in plan.objectives.values()} == {2.0}, "the student's layers"
    assert kd_detr(Pair(models=dict(student=Described(detr(), 'mmdet')))).member_taps == {}


def test_what_a_config_leaves_out_is_found_in_the_scope_of_its_member() -> None:
    model = deformable(kind='DINO')
    del model['num_feature_levels']
    members = {role: dict(model=model, scope='mmdet') for role in ('student', 'teacher')}
    pair = read_pair(members)
    assert pair.models['teacher'].num_feature_levels == 4, "mmdet's default"
    assert set(kd_detr(pair).member_taps['teacher']) == {'places', 'query', 'reference_points'}
