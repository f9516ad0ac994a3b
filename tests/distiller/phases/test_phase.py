"""Phases: how they are read, and that one forward gives every phase the gradient a forward of its
own would give.
"""

from typing import Any

import pytest
import torch
from helpers.phased import CRITIC_PHASE, STUDENT_PHASE, quiet_distiller, wrappers
from helpers.tiny import batch, build, distiller, segmentor, sgd
from mmengine.optim import OptimWrapper
from torch import nn

from mmkd.distiller.phases.gradients import PhaseRunner
from mmkd.distiller.phases.phase import Phase, read_phases
from mmkd.engine.optimizers.phase_constructor import PhaseOptimWrapperDict

CRITIC = dict(pixel=False, holistic=True)


def change(phase: dict, **changes: Any) -> dict:
    return {k: v for k, v in {**phase, **changes}.items() if v is not None}


# ---------------------------------------------------------------- reading


def test_implicit_phases() -> None:
    assert read_phases(None, dict(pixel=False)) == [
        Phase('student', 'student', ('student',), ('pixel',))
    ]
    assert read_phases(None, CRITIC) == [
        Phase('student', 'student', ('student',), ('pixel', 'holistic')),
        Phase('critic', 'critic', critics=('holistic',)),
    ]


def test_written_phases_equal_the_implicit_ones() -> None:
    assert read_phases([STUDENT_PHASE, CRITIC_PHASE], CRITIC) == read_phases(None, CRITIC)


def test_own_losses_by_student() -> None:
    """Peers may have an optimizer each; task=True is all of them; each student's own losses have
    one phase.
    """
    phases = [
        dict(name='one', optimizer='one', task=['a'], objectives=['pixel']),
        dict(name='two', optimizer='two', task=['b']),
    ]
    assert [p.task for p in read_phases(phases, dict(pixel=False), ['a', 'b'])] == [('a',), ('b',)]
    phases[0]['task'] = True
    with pytest.raises(ValueError, match=r"own losses of student 'b', got \['one', 'two'\]"):
        read_phases(phases, dict(pixel=False), ['a', 'b'])
    assert read_phases(phases[:1], dict(pixel=False), ['a', 'b'])[0].task == ('a', 'b')
    with pytest.raises(ValueError, match=r"own losses of student 'c', got \[\]"):
        read_phases(
            [phases[1] | dict(task=['a', 'b'], objectives=['pixel'])],
            dict(pixel=False),
            ['a', 'b', 'c'],
        )


def test_order_and_names_are_the_configs() -> None:
    phases = read_phases(
        [CRITIC_PHASE, change(STUDENT_PHASE, name='net', optimizer='main')], CRITIC
    )
    assert [(p.name, p.optimizer) for p in phases] == [('critic', 'critic'), ('net', 'main')]


@pytest.mark.parametrize(
    ('phases', 'error', 'message'),
    [
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, objectives=['pixel'])],
            ValueError,
            "two phases name the objective 'pixel': its gradient would count twice. Mend: leave it "
            'in one phase',
        ),
        (
            [STUDENT_PHASE, CRITIC_PHASE, change(CRITIC_PHASE, name='c2', optimizer='c2')],
            ValueError,
            "two phases name the critic of 'holistic': its gradient would count twice",
        ),
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, name='student')],
            ValueError,
            "two phases have the name 'student'",
        ),
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, optimizer='student')],
            ValueError,
            "two phases have the optimizer 'student': give each phase its own, or join them",
        ),
        (
            [change(STUDENT_PHASE, objectives=['pixle']), CRITIC_PHASE],
            KeyError,
            r"phase 'student' names the objective 'pixle', which is not there; did you mean "
            r"'pixel'\? \(objectives: \['pixel', 'holistic'\]\)",
        ),
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, critics=['holistik'])],
            KeyError,
            "names the objective 'holistik'.*did you mean 'holistic'",
        ),
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, critics=['pixel'])],
            ValueError,
            "phase 'critic': objective 'pixel' has no critic to train",
        ),
        (
            [change(STUDENT_PHASE, objectives=['holistic']), CRITIC_PHASE],
            ValueError,
            "no phase names the objective 'pixel', so it would contribute nothing. Mend: add it",
        ),
        (
            [STUDENT_PHASE],
            ValueError,
            r"no phase trains the critic of objective 'holistic'. Mend: dict\(name='critic', "
            r"optimizer='critic', critics=\['holistic'\]\)",
        ),
        (
            [change(STUDENT_PHASE, task=None), CRITIC_PHASE],
            ValueError,
            r"exactly one phase takes the own losses of student 'student', got \[\]. Mend: "
            r"task=True in one phase \(of all students\), or task=\['student'\]",
        ),
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, task=True)],
            ValueError,
            r"got \['student', 'critic'\]",
        ),
        (
            [change(STUDENT_PHASE, task='student'), CRITIC_PHASE],
            TypeError,
            r"phase 'student': task must be a list of names, got 'student'. Mend: "
            r"task=\['student'\]",
        ),
        (
            [change(STUDENT_PHASE, task=['studnet']), CRITIC_PHASE],
            KeyError,
            r"phase 'student' takes the own losses of 'studnet', which is no student; did you mean "
            r"'student'\? \(students: \['student'\]\)",
        ),
        (
            [STUDENT_PHASE, change(CRITIC_PHASE, critic='holistic')],
            TypeError,
            r"phase 'critic' got an unknown key 'critic'; did you mean 'critics'\?",
        ),
        (
            [STUDENT_PHASE, CRITIC_PHASE, dict(name='idle', optimizer='idle')],
            ValueError,
            r"phase 'idle' has nothing to do. Mend: task=True, objectives=\[…\] or critics=\[…\]",
        ),
        (
            [change(STUDENT_PHASE, optimizer=None), CRITIC_PHASE],
            ValueError,
            r"phase 'student' needs name= and optimizer=, got \['name', 'objectives', 'task'\]",
        ),
        (
            [change(STUDENT_PHASE, objectives='pixel'), CRITIC_PHASE],
            TypeError,
            r"phase 'student': objectives must be a list of names, got 'pixel'. Mend: "
            r"objectives=\['pixel'\]",
        ),
        ([], ValueError, r'phases is empty. Mend: phases=None'),
        (
            [change(STUDENT_PHASE, critics=['holistic'])],
            ValueError,
            r"phase 'student' takes the gradient of objective 'holistic' and of its critic, which "
            r"pull the critic two ways. Mend: a phase of its own, dict\(name='critic'",
        ),
    ],
)
def test_bad_phases(phases: list[dict], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_phases(phases, CRITIC)


def test_the_distiller_reads_its_phases() -> None:
    with pytest.raises(KeyError, match="names the objective 'piksel'.*did you mean 'pixel'"):
        build(
            distiller(
                phases=[
                    dict(name='s', optimizer='student', task=True, objectives=['piksel', 'pair'])
                ]
            )
        )


# ---------------------------------------------------------------- the runner of phases, on a model
# that is seen through


class Pair(nn.Module):
    """loss a·Σw + b·v·w0: gradients by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.v = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.unused = nn.Parameter(torch.tensor([5.0]))


def toy(
    clip: float | None = None, count: int = 1
) -> tuple[Pair, PhaseRunner, PhaseOptimWrapperDict]:
    net = Pair()
    phases = [Phase('a', 'x', ('net',)), Phase('b', 'y', objectives=('o',))]

    def make(params: Any) -> OptimWrapper:
        clipped = dict(clip_grad=dict(max_norm=clip)) if clip else {}
        return OptimWrapper(torch.optim.SGD(params, lr=1.0), accumulative_counts=count, **clipped)

    return (
        net,
        PhaseRunner(phases),
        PhaseOptimWrapperDict(x=make([net.w, net.unused]), y=make([net.w, net.v])),
    )


def test_two_optimizers_on_one_weight_by_hand() -> None:
    """x: d/dw 3·Σw = (3, 3). y: d/dw w·v = v, d/dv = w, at the old w although x has stepped
    before.
    """
    net, runner, optim = toy()
    runner.take_gradients(runner.phases[0], 3 * net.w.sum(), dict(optim.items()))
    runner.take_gradients(runner.phases[1], (net.w * net.v).sum(), dict(optim.items()))
    runner.step(dict(optim.items()))
    assert net.w.tolist() == [1 - 3 - 3, 2 - 3 - 4]
    assert net.v.tolist() == [3 - 1, 4 - 2]
    assert net.unused.tolist() == [5.0]
    assert net.w.grad is None


def test_clipping_a_summed_parameter_and_an_added_pair() -> None:
    """Clipping writes in place; autograd.grad gives a view of one number for Σw, and one tensor for
    both of w + v.
    """
    net, runner, optim = toy(clip=1.0)
    runner.take_gradients(runner.phases[0], 3 * net.w.sum(), dict(optim.items()))
    runner.take_gradients(
        runner.phases[1], ((net.w + net.v) * torch.tensor([3.0, 4.0])).sum(), dict(optim.items())
    )
    runner.step(dict(optim.items()))
    # x: (3, 3) clipped to (1, 1)/√2. y: w and v each (3, 4), together of norm √50
    expected = torch.tensor([1.0, 2.0]) - 0.5**0.5 - torch.tensor([3.0, 4.0]) / 50**0.5
    torch.testing.assert_close(net.w.detach(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        net.v.detach(), torch.tensor([3.0, 4.0]) * (1 - 1 / 50**0.5), rtol=1e-5, atol=1e-5
    )


def test_accumulation_on_shared_weights_by_hand() -> None:
    """mmengine's update_params would leave one optimizer's half gradient in the other's step."""
    net, runner, optim = toy(count=2)
    for factor in (1000.0, 2.0):
        runner.take_gradients(runner.phases[0], factor * net.w.sum(), dict(optim.items()))
        runner.take_gradients(runner.phases[1], net.v.sum(), dict(optim.items()))
        runner.step(dict(optim.items()))
    assert net.w.tolist() == [1 - 501, 2 - 501]
    assert net.v.tolist() == [2.0, 3.0]


def test_a_phase_that_trains_nothing_of_its_optimizer() -> None:
    net, runner, optim = toy()
    with pytest.raises(
        ValueError,
        match="phase 'a': no parameter of its optimizer 'x' has a part.*Mend: params='stud",
    ):
        runner.take_gradients(runner.phases[0], net.v.sum(), dict(optim.items()))
    with pytest.raises(
        ValueError, match="phase 'b': its losses carry no gradient, so it would train nothing"
    ):
        runner.take_gradients(runner.phases[1], net.v.detach().sum(), dict(optim.items()))


def test_optimizers_and_phases_must_match() -> None:
    net, runner, optim = toy()
    with pytest.raises(
        KeyError, match=r"phase 'b' needs the optimizer 'y'.*optim_wrapper has \['x', 'yy'\]"
    ):
        runner.match(PhaseOptimWrapperDict(x=optim['x'], yy=optim['y']))
    with pytest.raises(
        ValueError, match=r"the optimizers \['z'\] serve no phase. Mend: remove them, or name them"
    ):
        runner.match(PhaseOptimWrapperDict(x=optim['x'], y=optim['y'], z=optim['y']))
    with pytest.raises(
        ValueError,
        match=r"the phases \['a', 'b'\] need the optimizers \['x', 'y'\], but there is one",
    ):
        runner.match(optim['x'])


def test_a_critic_under_one_optimizer_is_refused() -> None:
    model = quiet_distiller()
    with pytest.raises(
        ValueError,
        match="objective 'holistic' has a critic, but there is one optimizer and nothing "
        "would train it. Mend: optim_wrapper=dict.constructor='mmkd.PhaseOptim",
    ):
        model.train_step(batch(2, 32), sgd(model))


def test_reentrant_checkpointing_is_refused_by_name() -> None:
    """A tap inside a checkpointed block carries no gradient; beside it, autograd.grad cannot pass
    the block.
    """
    student = segmentor(4, dropout=0.0, size=32)
    student['backbone']['with_cp'] = True
    model = quiet_distiller(student=dict(model=student))
    with pytest.raises(
        RuntimeError, match='reentrant activation checkpointing .with_cp=True.*Mend: with_cp=False'
    ):
        model.train_step(batch(2, 32), wrappers(model))


def test_phases_that_are_no_list_of_names() -> None:
    with pytest.raises(
        TypeError, match=r"phases must be a list, got a dict of \['name'\]. Mend: phases=\[dict"
    ):
        read_phases(dict(name='a'), dict(pixel=False))
    with pytest.raises(
        TypeError,
        match=r"objectives must be a list of names, got True. Mend: objectives=\['a', 'b'\]",
    ):
        read_phases(
            [dict(name='p', optimizer='o', task=True, objectives=True)], dict(a=False, b=True)
        )
    with pytest.raises(
        TypeError, match=r"critics must be a list of names, got True. Mend: critics=\['b'\]"
    ):
        read_phases([dict(name='p', optimizer='o', critics=True)], dict(a=False, b=True))
