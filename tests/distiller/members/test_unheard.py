"""Teachers that nothing reads are not run, and nothing else changes by that."""

from typing import Any

import pytest
import torch
from helpers.tiny import batch, build, sgd
from test_kinds import EMA_OF_STUDENT, big, config, net, reads
from torch import nn

from mmkd.distiller.members.run import Run
from mmkd.noise.base import Noise
from mmkd.structures.batch import Batch

TEACHERS = dict(a=big(3), b=big(4))


def made(*args: Any, **options: Any) -> Any:
    torch.manual_seed(1)
    return build(config(*args, **options))


def counting(model: Any) -> dict[str, int]:
    """Count the forwards of every teacher from now on."""
    counts = dict.fromkeys(model.teachers, 0)

    def hook(name: str) -> Any:
        def count(*_: Any) -> None:
            counts[name] += 1

        return count

    for name, teacher in model.teachers.items():
        teacher.backbone.register_forward_hook(hook(name))
    return counts


def trained(model: Any, steps: int = 3) -> tuple[dict, dict[str, int]]:
    torch.manual_seed(0)
    counts, wrapper = counting(model), sgd(model, lr=0.1)
    for step in range(steps):
        model.train_step(batch(2, 32, 3, seed=step), wrapper)
    return model.state_dict(), counts


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run every teacher in every step, whatever is read."""
    return lambda: monkeypatch.setattr(Run, 'heard', True)


def test_only_what_is_read_runs_and_the_run_is_the_same(always: Any) -> None:
    found, counts = trained(made(TEACHERS, reads('a')))
    assert counts == dict(a=3, b=0)
    always()
    wanted, counts = trained(made(TEACHERS, reads('a')))
    assert counts == dict(a=3, b=3)
    assert same(found, wanted)


def test_a_combination_runs_what_it_is_made_of_where_it_is_read() -> None:
    both = dict(TEACHERS, both=dict(kind='mean', of=['a', 'b']))
    assert trained(made(both, reads('both')), 2)[1] == dict(a=2, b=2)
    assert trained(made(both, reads('a')), 2)[1] == dict(a=2, b=0)


def test_a_copy_that_nobody_reads_begins_and_follows_all_the_same(always: Any) -> None:
    teachers = dict(a=big(3), ema=EMA_OF_STUDENT, past=dict(kind='past', of='student', steps=2))
    found, counts = trained(made(teachers, reads('a')))
    assert counts == dict(a=3, ema=0, past=0)
    always()
    wanted, counts = trained(made(teachers, reads('a')))
    assert counts == dict(a=3, ema=3, past=3)
    assert same(found, wanted)
    assert found['teachers.ema.steps'] == 3


class Drawing(Noise):
    """Draws from the generator that all share."""

    role = 'teacher'

    def on_batch(self, batch: Batch) -> Batch:
        torch.rand(1)
        return batch


def test_a_teacher_under_noise_draws_as_ever(always: Any) -> None:
    """Its draws come before those of the student's dropout, so it runs on, read or not."""
    student = dict(model=net(2, dropout=0.5))
    options = dict(noise=[Drawing(members=['b'])], student=student)
    found, counts = trained(made(TEACHERS, reads('a'), **options))
    assert counts == dict(a=3, b=3)
    always()
    assert same(found, trained(made(TEACHERS, reads('a'), **options))[0])


def test_it_is_said_once_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr('mmkd.distiller.distiller.print_log', lambda text, **_: said.append(text))
    model = made(TEACHERS, reads('a'))
    trained(model, 2)
    told = [line for line in said if 'no step runs it' in line]
    assert told == ["mmkd: teacher 'b' is read by no objective, so no step runs it"]
    assert isinstance(model.teachers['b'], nn.Module)
