"""What a loss says of itself is acted on: roles, the attributes of 0.1, and plain modules."""

import re
from typing import Any

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from mmkd.distiller.objectives.objective import Objective
from mmkd.losses import AdversarialLoss, PixelWiseKLLoss
from mmkd.losses.as_loss import as_loss, check_roles, role_of
from mmkd.losses.base import Loss, Place
from mmkd.losses.ensemble.statistics import EnsembleStatistics
from mmkd.losses.roles import Many, Map, OfBatch, Running
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record, Streams

KNOWN = dict(student=['x', 'y'], t1=['x'], t2=['x'])


class Echo(Loss):
    """Keeps what it was given; its subclasses say how that arrives."""

    def forward(
        self, student: Any, teacher: Any = None, teachers: Any = None, labels: Any = None
    ) -> Tensor:
        self.got = dict(student=student, teacher=teacher, teachers=teachers, labels=labels)
        first = student[0] if isinstance(student, list) else student
        return first.sum()


class PlainEcho(nn.Module):
    """The same, and no Loss."""

    forward = Echo.forward


def saying(base: type[nn.Module], **words: Any) -> nn.Module:
    """Return a loss of a class with these attributes."""
    return type('Said', (base,), words)()


def record() -> dict:
    labels = torch.arange(16).view(1, 4, 4)
    return dict(
        batch=Batch(torch.zeros(1, 3, 4, 4), [SegDataSample(gt_sem_seg=PixelData(data=labels))]),
        student=dict(
            x=torch.randn(1, 3, 2, 2, requires_grad=True),
            y=torch.randn(1, 5, 4, 4, requires_grad=True),
        ),
        t1=dict(x=torch.randn(1, 3, 2, 2)),
        t2=dict(x=torch.randn(1, 3, 2, 2)),
    )


def objective(loss: nn.Module, **reads: Any) -> Objective:
    return Objective('echo', loss, KNOWN, reads=dict(student='student.x') | reads)


def given(loss: nn.Module, **reads: Any) -> dict:
    """Return what a loss is given of a record."""
    one, seen = objective(loss, **reads), record()
    rec = Record(seen.pop('batch'), Streams(one.running()))
    for member, taps in seen.items():
        rec.add(member, taps)
    one(rec)
    return one.loss.got


def running(self: nn.Module) -> EnsembleStatistics:
    return EnsembleStatistics()


# Each pair says the same: today's word, and that of 0.1.
SAYINGS = {
    'many': (dict(roles=dict(student=Many())), dict(lists=('student',))),
    'running': (
        dict(roles=dict(teachers=Running()), running=running),
        dict(streams=('teachers',), running=running),
    ),
    'whole': (dict(roles=dict(labels=OfBatch(whole=True))), dict(whole=('labels',))),
}


@pytest.mark.parametrize('said', [0, 1], ids=['roles', 'attributes'])
@pytest.mark.parametrize('base', [Echo, PlainEcho])
def test_a_list_of_tensors_of_any_shapes(base: type[nn.Module], said: int) -> None:
    loss = saying(base, **SAYINGS['many'][said])
    student = given(loss, student=['student.x', 'student.y'])['student']
    assert [tuple(x.shape) for x in student] == [(1, 3, 2, 2), (1, 5, 4, 4)]
    with pytest.raises(ValueError, match='student stacks .*, whose shapes differ'):
        given(base(), student=['student.x', 'student.y'])


@pytest.mark.parametrize('said', [0, 1], ids=['roles', 'attributes'])
@pytest.mark.parametrize('base', [Echo, PlainEcho])
def test_running_statistics(base: type[nn.Module], said: int) -> None:
    loss = saying(base, **SAYINGS['running'][said])
    assert given(loss, teachers='t?.x')['teachers'].count == 2
    assert given(loss, teachers='t1.x')['teachers'].count == 1  # which an ensemble's loss refuses
    assert objective(loss, teachers='t?.x').streams == dict(teachers=['t1.x', 't2.x'])
    assert given(base(), teachers='t?.x')['teachers'].shape == (2, 1, 3, 2, 2)


@pytest.mark.parametrize('said', [0, 1], ids=['roles', 'attributes'])
@pytest.mark.parametrize('base', [Echo, PlainEcho])
def test_parts_of_the_batch_stay_whole(base: type[nn.Module], said: int) -> None:
    reads = dict(labels='batch.labels')
    assert given(saying(base, **SAYINGS['whole'][said]), **reads)['labels'].shape == (1, 4, 4)
    assert given(base(), **reads)['labels'].tolist() == [[[0, 2], [8, 10]]]


@pytest.mark.parametrize(
    ('roles', 'before', 'expected'),
    [
        ({}, {}, Map(('channels', 'size'))),
        (dict(student=Map(alike=('size',))), dict(needs=('size',)), Map(('size',))),
        (dict(student=Map(alike=())), dict(needs=[]), Map(())),
        (dict(student=Map(tokens=True)), dict(takes_tokens=True), Map(tokens=True)),
        (
            dict(student=Map(class_logits=True)),
            dict(class_logits=('student', 'teacher')),
            Map(class_logits=True),
        ),
        (
            dict(student=Running(class_logits=True)),
            dict(class_logits=('student',), streams=('student',)),
            Running(class_logits=True),
        ),
    ],
)
@pytest.mark.parametrize('base', [Echo, PlainEcho])
def test_roles_are_what_the_attributes_were(
    base: type[nn.Module], roles: dict, before: dict, expected: Map
) -> None:
    for words in (dict(roles=roles), before):
        assert role_of(saying(base, **words), 'student') == expected


def test_attributes_of_a_subclass_overrule_the_roles_of_its_base() -> None:
    loss = saying(PixelWiseKLLoss, needs=('size',), class_logits=())
    assert role_of(loss, 'teacher') == Map(('size',))
    assert role_of(loss, 'mask', of_batch=True) == OfBatch()
    assert role_of(saying(PixelWiseKLLoss, takes_tokens=True), 'teacher') == Map(
        class_logits=True, tokens=True
    )
    kept = saying(
        Echo, roles=dict(student=Many(), teachers=Running()), lists=(), streams=('teacher',)
    )
    assert [type(role_of(kept, name)) for name in ('student', 'teacher', 'teachers')] == [
        Map,
        Running,
        Map,
    ]
    assert not role_of(
        saying(Echo, roles=dict(labels=OfBatch(True)), whole=()), 'labels', True
    ).whole


def test_a_role_of_the_batch_is_brought_to_nothing_where_it_is_read_of_a_member() -> None:
    loss = saying(Echo, roles=dict(labels=OfBatch()))
    assert role_of(loss, 'labels') == Map(alike=())
    with pytest.raises(ValueError, match=r"connectors=dict\(labels='auto'\) would do nothing"):
        Objective(
            'echo',
            loss,
            KNOWN,
            reads=dict(student='student.x', labels='t1.x'),
            connectors=dict(labels='auto'),
        )


# ---------------------------------------------------------------------- defaults


def test_a_plain_module_has_the_defaults_of_every_loss() -> None:
    loss = as_loss(nn.MSELoss())
    assert dict(loss.roles) == {}
    assert (loss.fixed, dict(loss.diagnostics), loss.loss_weight) == ((), {}, 1.0)
    assert (loss.build, loss.critic_loss) == (None, None)
    assert loss.bind(Place('pixel', {}, (), {})) is None
    assert loss.stand_in(torch.Generator()) == ''
    with pytest.raises(NotImplementedError, match=r'^MSELoss names .* Mend: a method running\(\)'):
        loss.running()
    with pytest.raises(AttributeError):
        _ = loss.no_such_word


def test_what_a_plain_module_says_is_heard() -> None:
    class Own(nn.Module):
        fixed = ('words',)

        def build(self, student: Tensor) -> str:
            return 'one part'

        def critic_loss(self, student: Tensor) -> Tensor:
            return student.sum()

        def forward(self, student: Tensor) -> Tensor:
            self.diagnostics = dict(seen=torch.tensor(1.0))
            return student.mean()

    one = objective(Own())
    rec = record()
    assert one.adversarial
    assert one.fit(rec) == ['echo: one part']
    assert one(rec)['echo.seen'] == 1
    assert one.critic_loss(rec)['echo.critic_loss'] == rec['student']['x'].sum()
    assert one.contract.fixed == ('words',)


def test_the_module_itself_lies_in_the_state_dict() -> None:
    plain = PlainEcho()
    plain.scale = nn.Parameter(torch.ones(2))
    one = objective(plain)
    assert one.loss is plain
    assert list(one.state_dict()) == ['loss.scale']
    assert list(objective(AdversarialLoss(nn.Conv2d(3, 1, 1)), teacher='t1.x').state_dict()) == [
        'loss.critic.weight',
        'loss.critic.bias',
    ]


def test_where_it_stands_and_what_stood_in_are_asked_of_the_loss() -> None:
    class Placed(Echo):
        def bind(self, place: Place) -> None:
            self.place = place

        def stand_in(self, generator: torch.Generator) -> str:
            self.drawn = torch.rand(1, generator=generator)
            return 'a random part here'

    one = Objective(
        'echo',
        Placed(),
        KNOWN,
        reads=dict(student='student.x', teacher='t1.x'),
        connectors=dict(student=nn.Conv2d(3, 3, 1)),
    )
    one.bind(dict(t1='the run'))
    place = one.loss.place
    assert (place.objective, dict(place.reads), place.runs) == (
        'echo',
        dict(student='student.x', teacher='t1.x'),
        dict(t1='the run'),
    )
    assert 'student' in place.connectors
    assert 'teacher' not in place.connectors
    assert (
        one.stand_in(torch.Generator().manual_seed(0)) == "objective 'echo' has a random part here"
    )
    assert torch.equal(one.loss.drawn, torch.rand(1, generator=torch.Generator().manual_seed(0)))
    assert objective(Echo()).stand_in(torch.Generator()) == ''


# ---------------------------------------------------------------------- refusals


@pytest.mark.bad_input
@pytest.mark.parametrize('base', [Echo, PlainEcho])
@pytest.mark.parametrize(
    ('roles', 'message'),
    [
        (
            dict(studnet=Many()),
            "roles of Said got an unknown key 'studnet'; did you mean 'student'",
        ),
        (
            dict(student='many'),
            "roles of Said: student must be Map(…), Many(…), Running(…) or OfBatch(…), got 'many'. "
            'Mend: student=Map()',
        ),
        (
            dict(student=Many),
            'student must be Map(…), Many(…), Running(…) or OfBatch(…), got <class',
        ),
        (['student'], "roles of Said must be a dictionary, got ['student']. Mend: dict("),
    ],
)
def test_roles_that_are_misspelt(base: type[nn.Module], roles: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        objective(saying(base, roles=roles))


@pytest.mark.bad_input
@pytest.mark.parametrize('alike', ['size', ('chanels',), 3])
def test_nothing_else_can_be_made_alike(alike: Any) -> None:
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"alike of a role must be a tuple of ('channels', 'size'), got {alike!r}. Mend"
        ),
    ):
        Map(alike=alike)


def test_a_loss_with_any_keyword_names_any_role() -> None:
    class Free(Loss):
        roles = dict(whatever=Many())

        def forward(self, student: Tensor, **others: Any) -> Tensor:
            return student.sum()

    check_roles(Free())


def test_a_subclass_with_another_forward_keeps_the_roles_of_its_base() -> None:
    class Base(Echo):
        roles = dict(teacher=Many(), teachers=Running())

    class Other(Base):
        def forward(self, student: Tensor, target: Tensor) -> Tensor:
            return student.sum()

    check_roles(Other())
    assert role_of(Other(), 'target') == Map()
    loss = Other()
    loss.roles = dict(teacher=Many())  # said of this forward
    with pytest.raises(TypeError, match="roles of Other got an unknown key 'teacher'"):
        check_roles(loss)
