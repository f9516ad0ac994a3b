"""Class maps: masses of groups are sums of probabilities, whatever the teacher's classes are."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from mmengine.config import Config
from torch import Tensor, nn

from mmkd.distiller.objectives.class_logits import LabelSet
from mmkd.distiller.objectives.class_map import ClassMap, merge_classes
from mmkd.losses import PixelWiseKLLoss, pixel_wise_kl
from mmkd.structures.batch import read_batch

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
INDEX = torch.tensor([1, -1, 0, 1, 2, 0, 1])  # seven classes in three groups, one in none


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow(x: Tensor, index: Tensor, number: int) -> Tensor:
    """Return softmax masses of the groups by loops, under the condition of a group, in float64."""
    p = x.double().softmax(1)
    masses = p.new_zeros(len(p), number, *p.shape[2:])
    for c, group in enumerate(index.tolist()):
        if group >= 0:
            masses[:, group] += p[:, c]
    return masses / masses.sum(1, keepdim=True)


# ---------------------------------------------------------------------- the masses


@pytest.mark.parametrize('shape', [(2, 7), (2, 7, 5), (2, 7, 3, 4)], ids=str)
def test_masses_are_sums_of_probabilities(shape: tuple[int, ...]) -> None:
    x = logits(*shape)
    got = merge_classes(x, INDEX, 3)
    torch.testing.assert_close(got.double().softmax(1), slow(x, INDEX, 3), rtol=1e-6, atol=1e-8)


def test_hand_values() -> None:
    """p = ½, ¼, ⅛, ⅛; the first two are one class, the last has no counterpart."""
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]])
    got = merge_classes(p.log(), torch.tensor([0, 0, 1, -1]), 2)
    torch.testing.assert_close(got.exp(), torch.tensor([[0.75, 0.125]]))
    torch.testing.assert_close(got.softmax(1), torch.tensor([[6 / 7, 1 / 7]]))


def test_equals_logsumexp_of_each_group() -> None:
    x = logits(2, 7, 4)
    groups = [torch.logsumexp(x[:, g == INDEX], 1) for g in range(3)]
    torch.testing.assert_close(merge_classes(x, INDEX, 3), torch.stack(groups, 1))


def test_in_log_space() -> None:
    """A group far below another keeps its logit; sums of probabilities would be 0."""
    x = torch.tensor([[0.0, 500.0, -400.0, -400.0]])
    got = merge_classes(x, torch.tensor([0, 0, 1, 1]), 2)
    torch.testing.assert_close(got, torch.tensor([[500.0, math.log(2) - 400]]))
    huge = merge_classes(1e4 * x, torch.tensor([0, 0, 1, 1]), 2)
    assert huge.isfinite().all()


def test_infinite_logits_are_as_of_logsumexp() -> None:
    inf = torch.inf
    x = torch.tensor([[-inf, -inf, 1.0, -inf], [inf, 0.0, 1.0, 2.0]])
    got = merge_classes(x, torch.tensor([0, 0, 1, 1]), 2)
    expected = torch.stack([torch.logsumexp(x[:, :2], 1), torch.logsumexp(x[:, 2:], 1)], 1)
    assert torch.equal(got, expected)


def test_what_is_left_out_reaches_nothing() -> None:
    x, y = logits(2, 7, 3), logits(2, 7, 3)
    y[:, 1] = torch.nan
    assert torch.equal(merge_classes(x, INDEX, 3), merge_classes(y, INDEX, 3))


def test_half_precision_is_summed_in_float32() -> None:
    x = logits(2, 7, 3).bfloat16()
    got = merge_classes(x, INDEX, 3)
    assert got.dtype == torch.float32
    assert torch.equal(got, merge_classes(x.float(), INDEX, 3))


def labels(number: int, names: str = '') -> LabelSet:
    return LabelSet('segmentation', number, number, tuple(names))


def mapped(given: Any, teacher: LabelSet, student: LabelSet) -> ClassMap:
    one = ClassMap('it', given)
    one.resolve(teacher, student)
    return one


def test_an_identity_changes_nothing_bit_for_bit() -> None:
    x = logits(2, 4, 3)
    one = mapped([0, 1, 2, 3], labels(4), labels(4))
    assert torch.equal(one.teach(x), x)
    assert one.learn(x) is x
    assert torch.equal(merge_classes(x, torch.arange(4), 4), x)
    half = x.half()
    assert torch.equal(one.teach(half), half)
    assert one.teach(half).dtype == torch.float16


def test_a_permutation_permutes() -> None:
    x = logits(2, 4, 3)
    one = mapped([2, 0, 3, 1], labels(4), labels(4))
    assert torch.equal(one.teach(x)[:, [2, 0, 3, 1]], x)
    assert torch.equal(merge_classes(x, torch.tensor([2, 0, 3, 1]), 4), one.teach(x))


@pytest.mark.parametrize(
    'given',
    [
        [1, None, 0, 1, 2, 0, 1],
        [1, -1, 0, 1, 2, 0, 1],
        ['q', None, 'p', 'q', 'r', 'p', 'q'],
        dict(zip('acdefg', 'qpqrpq', strict=True)),
        {0: 1, 2: 0, 3: 1, 4: 2, 5: 'p', 'g': 1, 'b': None},
    ],
)
def test_ways_to_write_one_map(given: Any) -> None:
    one = mapped(given, labels(7, 'abcdefg'), labels(3, 'pqr'))
    x = logits(2, 7, 3)
    torch.testing.assert_close(one.teach(x), merge_classes(x, INDEX, 3))
    assert one.whole


def test_equal_names() -> None:
    """Two classes of the teacher may have one name; both are the student's."""
    one = mapped('names', labels(5, 'xbaba'), labels(3, 'abc'))
    x = logits(2, 5, 3)
    expected = merge_classes(x, torch.tensor([-1, 1, 0, 1, 0]), 2)
    torch.testing.assert_close(one.teach(x), expected)
    assert torch.equal(one.learn(logits(2, 3, 3)), logits(2, 3, 3)[:, :2])


def test_what_the_log_says() -> None:
    one = ClassMap('it', dict(a='p', b='p', c='r'))
    assert one.resolve(labels(4, 'abcd'), labels(4, 'pqrs')) == (
        'class_map: 3 of 4 classes of the teacher become 2 of 4 of the student; left out of both, '
        'since nobody teaches them: q, s'
    )


# ---------------------------------------------------------------------- under a loss


def test_classes_that_nobody_teaches_are_left_out_of_both_sides() -> None:
    """The divergence is that of both distributions under the condition of a class that both know,
    and no gradient reaches the student's logit of another one.
    """
    one = mapped([1, None, 0, 1, 3, 0, 1], labels(7), labels(5))
    student = logits(2, 5, 4, seed=1).requires_grad_()
    teacher = logits(2, 7, 4)
    value = pixel_wise_kl(one.learn(student), one.teach(teacher))
    q = slow(teacher, torch.tensor([1, -1, 0, 1, 2, 0, 1]), 3)
    p = student.detach().double().softmax(1)[:, [0, 1, 3]]
    p = p / p.sum(1, keepdim=True)
    expected = (q * (q / p).log()).sum(1).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    value.backward()
    assert student.grad is not None
    assert (student.grad[:, [2, 4]] == 0).all()
    assert (student.grad[:, [0, 1, 3]] != 0).all()


def test_zero_where_the_student_says_what_the_teacher_does() -> None:
    one = mapped([1, None, 0, 1, 2, 0, 1], labels(7), labels(3))
    teacher = logits(2, 7, 4).double()
    student = one.teach(teacher).clone().requires_grad_()
    value = pixel_wise_kl(student, one.teach(teacher))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-12)


def test_gradcheck_of_the_student() -> None:
    one = mapped([1, None, 0, 1, 3, 0, 1], labels(7), labels(5))
    teacher = logits(1, 7, 2).double()
    student = logits(1, 5, 2, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: pixel_wise_kl(one.learn(x), one.teach(teacher)), student
    )


# ---------------------------------------------------------------------- in a Distiller


MAP = [k % 11 for k in range(15)] + [None] * 5


def pair(class_map: Any = None, loss: str = 'PixelWiseKLLoss', **objective: Any) -> dict:
    teacher = dict(model=tiny.segmentor(4, num_classes=20), allow_untrained=True)
    one = dict(loss=dict(type=loss), on='logits', class_map=class_map) | objective
    return tiny.distiller(teacher=teacher, objectives=dict(one=one))


def observed(cfg: dict, **batch: Any) -> tuple[nn.Module, Any]:
    model = tiny.build(cfg)
    record, _ = model.observe(**model.data_preprocessor(tiny.batch(**batch), True))
    return model, record


@pytest.mark.parametrize(
    'loss', ['PixelWiseKLLoss', 'LogitMSELoss', 'DISTLoss', 'ChannelWiseKLLoss', 'SoftJaccardLoss']
)
def test_a_teacher_of_other_classes(loss: str) -> None:
    model, record = observed(pair(MAP, loss))
    index = torch.tensor([-1 if one is None else one for one in MAP])
    teacher = merge_classes(record['teacher']['logits'], index, 11)
    objective = model.objectives['one']
    expected = objective.loss(student=record['student']['logits'], teacher=teacher)
    torch.testing.assert_close(objective(record)['one.loss'], expected)
    assert not [key for key in model.state_dict() if key.startswith('objectives.')]
    assert model.train_step(tiny.batch(), tiny.sgd(model))['one.loss'] > 0


def test_an_identity_of_a_distiller() -> None:
    values = []
    for own in (dict(), dict(class_map=list(range(11)))):
        objectives = dict(one=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', **own))
        torch.manual_seed(0)
        model, record = observed(tiny.distiller(objectives=objectives))
        values.append(model.objectives['one'](record)['one.loss'])
    assert torch.equal(*values)


def test_masks_and_ignored_pixels_are_the_students() -> None:
    """The map is of channels: what is ignored stays where it was."""
    model, record = observed(pair(MAP, reads=dict(mask='batch.valid')), ignore=0.5)
    index = torch.tensor([-1 if one is None else one for one in MAP])
    student = record['student']['logits']
    teacher = merge_classes(record['teacher']['logits'], index, 11)
    mask = read_batch(record['batch'], 'valid', student)
    assert 0 < mask.sum() < mask.numel()
    got = model.objectives['one'](record)['one.loss']
    torch.testing.assert_close(got, pixel_wise_kl(student, teacher, mask=mask))


def test_a_teachers_map_is_resized_and_weighed_as_ever() -> None:
    cfg = pair(MAP, where=dict(type='TeacherConfidence'))
    cfg['teacher']['input_size'] = (96, 96)
    model, record = observed(cfg)
    assert 'teacher' in model.objectives['one'].connectors
    assert model.objectives['one'](record)['one.loss'] > 0
    raw = dict(type='TeacherConfidence', reads=dict(teacher='teacher.logits'))  # of all its classes
    assert observed(pair(MAP, where=raw))


def test_several_teachers_are_stacked() -> None:
    teacher = dict(model=tiny.segmentor(4, num_classes=20), allow_untrained=True)
    cfg = pair(MAP)
    cfg |= dict(teacher=None, teachers=dict(t0=teacher, t1=copy.deepcopy(teacher)))
    cfg['objectives']['one'].pop('on')
    cfg['objectives']['one']['loss'] = Mean()
    cfg['objectives']['one']['reads'] = dict(student='student.logits', teachers='t*.logits')
    model, record = observed(cfg)
    index = torch.tensor([-1 if one is None else one for one in MAP])
    both = [merge_classes(record[name]['logits'], index, 11) for name in ('t0', 't1')]
    expected = pixel_wise_kl(record['student']['logits'], (both[0] + both[1]) / 2)
    torch.testing.assert_close(model.objectives['one'](record)['one.loss'], expected)


class Mean(PixelWiseKLLoss):
    """The mean of stacked logits teaches."""

    roles = {
        'student': PixelWiseKLLoss.roles['student'],
        'teachers': PixelWiseKLLoss.roles['teacher'],
    }

    def forward(self, student: Tensor, teachers: Tensor) -> Tensor:  # type: ignore[override]
        return pixel_wise_kl(student, teachers.mean(0))


class Alone(nn.Module):
    """It reads no teacher."""

    def forward(self, student: Tensor) -> Tensor:
        return student.square().mean()


def test_ade20k_teaches_cityscapes() -> None:
    """The shipped map, by the names of the data sets; rider and train are left out."""
    class_map = Config.fromfile(CONFIGS / '_base_/class_maps/ade20k_to_cityscapes.py').class_map
    teacher = tiny.segmentor(4, num_classes=150, auxiliary=False)
    student = tiny.segmentor(4, num_classes=19, auxiliary=False)
    loader = dict(dataset=dict(type='RepeatDataset', dataset=dict(type='ADE20KDataset')))
    cfg = tiny.distiller(
        student=dict(model=student, classes='CityscapesDataset'),
        teacher=dict(
            cfg=Config(dict(model=teacher, train_dataloader=loader)), allow_untrained=True
        ),
        objectives=dict(
            one=dict(loss=dict(type='PixelWiseKLLoss'), on='logits', class_map=class_map)
        ),
    )
    model = tiny.build(cfg)
    one = model.objectives['one'].class_map
    assert (len(one.kept), one.number, one.whole) == (25, 17, False)
    assert sorted({*range(19)} - {*one.chosen.tolist()}) == [12, 16]  # rider, train
    assert model.train_step(tiny.batch(num_classes=19), tiny.sgd(model))['one.loss'] > 0

    cfg['objectives']['one']['class_map'] = 'names'
    model = tiny.build(cfg)
    equal = model.objectives['one'].class_map
    assert (len(equal.kept), equal.number) == (13, 13)  # bus, sky, truck … have one name


# ---------------------------------------------------------------------- bad input


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('given', 'error', 'message'),
    [
        (3, TypeError, r'it: class_map must be a dictionary of .*, got 3'),
        ('name', TypeError, r"it: class_map must be .*or 'names', got 'name'"),
        ([], TypeError, r'it: class_map must be .*, got \[\]'),
        ([0.5, 1], TypeError, r'it: class_map: 0: 0.5 is no class of the teacher and one of the'),
        ([True, 1], TypeError, r'it: class_map: 0: True is no class'),
        ({None: 1}, TypeError, r'it: class_map: None: 1 is no class'),
        (
            [0, 1],
            ValueError,
            'it lists 2 classes, but the teacher knows 4. Teacher: 0 a, 1 b',
        ),
        (
            {0: 0, 4: 1},
            ValueError,
            r'it: class_map: 4 is no class of the teacher, which knows 4. Teacher: 0 a, 1 b, 2 c, '
            r'3 d; student: 0 p, 1 q, 2 r. Mend: a dictionary of the teacher',
        ),
        ([0, 1, 3, 0], ValueError, '3 is no class of the student, which knows 3. Teacher: 0 a'),
        ([0, 1, -2, 0], ValueError, '-2 is no class of the student'),
        ({'aa': 'p', 'b': 'q'}, KeyError, "'aa' is no class of the teacher.*student: 0 p, 1 q"),
        ({'a': 'pp', 'b': 'q'}, KeyError, "'pp' is no class of the student.*Teacher: 0 a, 1 b"),
        ({'a': 'p', 0: 'q'}, ValueError, 'the class 0 of the teacher is named twice'),
        ({'a': 'p', 'b': 'p'}, ValueError, '1 of the classes are known to both, and a softmax'),
        ('names', ValueError, '0 of the classes are known to both'),
    ],
)
def test_maps_that_are_none(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mapped(given, labels(4, 'abcd'), labels(3, 'pqr'))


@pytest.mark.bad_input
def test_names_that_are_not_known() -> None:
    with pytest.raises(
        ValueError,
        match=r'it: class_map: the names of the classes of the teacher are not known: no data set '
        r'of a config says them \(give them to the member: teacher=dict\(…, '
        r"classes='CityscapesDataset'\), or a list\). Teacher: 4 classes of unknown names; stud",
    ):
        mapped('names', labels(4), labels(3, 'pqr'))
    with pytest.raises(ValueError, match='names of the classes of the student are not known'):
        mapped([0, 'p', 1, 1], labels(4), labels(3))
    with pytest.raises(ValueError, match='two classes of the student have one name'):
        mapped('names', labels(4, 'abcd'), labels(3, 'aab'))


@pytest.mark.bad_input
def test_other_classes_name_the_map() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'one': PixelWiseKLLoss compares class logits of models that know other "
        r"classes: \{'student.logits': 11, 'teacher.logits': 20\}.*; or class_map= of the objec",
    ):
        tiny.build(pair())
    cfg = pair()
    cfg['student']['classes'] = list('abcdefghijk')
    with pytest.raises(ValueError, match=r'student.logits: 0 a, 1 b, 2 c'):
        tiny.build(cfg)


@pytest.mark.bad_input
def test_a_loss_of_labels_needs_all_classes() -> None:
    some = [0, 1, 2] + [None] * 17
    cfg = pair(some, loss='DecoupledKLLoss', reads=dict(labels='batch.labels'))
    with pytest.raises(
        ValueError,
        match=r"objective 'one': class_map: 3 of 20 classes .*; but DecoupledKLLoss reads "
        r"batch.labels, which are of all of the student's classes. Mend: a loss that reads no",
    ):
        tiny.build(cfg)
    cfg['objectives']['one']['class_map'] = MAP
    assert tiny.build(cfg)
    cfg = pair(some, where=dict(type='Focal'))
    with pytest.raises(ValueError, match='; but Focal reads batch.labels, which are of all of'):
        tiny.build(cfg)
    for where in (dict(type='Focal', target='teacher'), dict(type='ClassBalance')):
        assert tiny.build(pair(some, where=where))


@pytest.mark.bad_input
def test_where_a_map_has_no_place() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective 'one': student='student.feat' \(1, 8, 8, 8\) has 8 channels, but the cl"
        'ass logits of its model have 11',
    ):
        tiny.build(pair(MAP, loss='FeatureL1Loss', on='feat'))
    cfg = pair(MAP, on=None)
    cfg['objectives']['one'] |= dict(loss=Alone(), reads=dict(student='student.logits'))
    with pytest.raises(
        TypeError,
        match=r"objective 'one': class_map is for losses that compare class logits of a student and"
        r" a teacher, and Alone reads \['student'\]. Mend: leave it out",
    ):
        tiny.build(cfg)
    teacher = dict(model=tiny.segmentor(4, num_classes=20), allow_untrained=True)
    cfg = pair(MAP, loss='EnsembleKLLoss')
    cfg |= dict(teacher=None, teachers=dict(t0=teacher))
    cfg['objectives']['one'].pop('on')
    cfg['objectives']['one']['reads'] = dict(student='student.logits', teachers=['t0.logits'])
    with pytest.raises(ValueError, match=r"does not go with running statistics \(\['teachers'\]\)"):
        tiny.build(cfg)
    own = dict(student=dict(type='Connector', in_channels=11, out_channels=11))
    with pytest.raises(ValueError, match=r"does not go with connectors of its own \(\['student'\]"):
        tiny.build(pair(MAP, connectors=own))


@pytest.mark.bad_input
def test_one_sigmoid_has_no_classes_to_sum() -> None:
    cfg = pair([0, 1])
    two = tiny.segmentor(4, num_classes=2, auxiliary=False)
    sigmoid = dict(type='CrossEntropyLoss', use_sigmoid=True)
    two['decode_head'] |= dict(out_channels=1, threshold=0.5, loss_decode=sigmoid)
    cfg['teacher'] = dict(model=two, allow_untrained=True)
    with pytest.raises(
        ValueError, match=r"class_map needs one channel a class.*1 channels of 'teacher.logits'"
    ):
        tiny.build(cfg)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ('classes', 'error', 'message'),
    [
        (3, TypeError, r'classes of teacher must be a list of names or a data set.s type, got 3'),
        ([1, 2], TypeError, r'classes of teacher must be a list of names'),
        ('Cityscape', KeyError, r"classes of teacher: 'Cityscape' is no data set whose METAINFO"),
    ],
)
def test_names_of_a_member(classes: Any, error: type[Exception], message: str) -> None:
    cfg = pair(MAP)
    cfg['teacher']['classes'] = classes
    with pytest.raises(error, match=message):
        tiny.build(cfg)
