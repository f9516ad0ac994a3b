"""A copy of a student at work: it runs as a teacher does, and follows after every step."""

import copy
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.distiller.members.kinds.follow import Follow
from mmkd.distiller.members.member import Member
from mmkd.distiller.members.run import Run
from mmkd.distiller.members.teacher import Teacher
from mmkd.structures.batch import Batch

PREFIX = 'teachers'  # of its state in a checkpoint
STEPS, MODEL, RULE = 'steps', 'model', 'kept'


class Follower(Teacher):
    """A teacher that is a copy of a student: eval mode, no gradient, outside the module tree.

    Before training it has weights of its own making, as the student's may not be there yet; its
    first forward in a training makes it the student.

    Args:
        member: Its description.
        taps: The taps that objectives read, name -> path.
        source: The data preprocessor that makes the batches.
        copied: The copy, of any weights.
        student: What it follows.
        rule: How.
    """

    frozen = False

    def __init__(
        self,
        member: Member,
        taps: dict[str, str],
        source: nn.Module,
        copied: nn.Module,
        student: nn.Module,
        rule: Follow,
    ) -> None:
        super().__init__(member, taps, source, copied)
        self.renormalise = None  # it sees what the student sees
        self.student, self.rule = student, rule
        self.begun, self.steps = False, 0

    def __deepcopy__(self, memo: dict) -> 'Follower':
        """Return a copy that follows the copy of the student."""
        made = memo[id(self)] = copy.copy(self)
        own = {key: value for key, value in vars(self).items() if key != '_compiled'}
        made.__dict__.update(copy.deepcopy(own, memo), _compiled=None)
        return made

    def begin(self) -> None:
        """Make it the student, unless it has begun."""
        if not self.begun:
            self.rule.begin(self.model, self.student)
            self.begun = True

    def stand_by(self) -> None:
        """Make it the student before the first step, of which it says nothing."""
        self.begin()

    def run(self, batch: Batch) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run once without noise; return tap name -> tensor, and no losses."""
        self.begin()
        return super().run(batch)

    def after_step(self) -> None:
        """Follow the student, whose optimizer has just stepped."""
        self.begin()
        self.steps += 1
        self.rule.after_step(self.model, self.student, self.steps)

    def to(self, device: torch.device) -> None:
        """Move it, and what its kind remembers, to a device."""
        super().to(device)
        self.rule.to(device)

    # ------------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold of it; nothing before it has begun."""
        if not self.begun:
            return {}
        kept = {f'{RULE}.{key}': x for key, x in self.rule.state().items()}
        model = {f'{MODEL}.{key}': x for key, x in self.model.state_dict().items()}
        return {STEPS: torch.tensor(self.steps), **model, **kept}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint.

        Raises:
            RuntimeError: The weights are of another model.
            ValueError: What its kind remembers is not there, or of another kind.
        """
        self.model.load_state_dict(_within(MODEL, state))
        self.rule.load_state(_within(RULE, state))
        self.rule.to(next(self.model.parameters()).device)
        self.begun, self.steps = True, int(state[STEPS])


def _within(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what lies below a prefix, without it.

    >>> _within('model', {'model.a': 1, 'models.b': 2})
    {'a': 1}
    """
    begins = f'{prefix}.'
    return {key[len(begins) :]: x for key, x in state.items() if key.startswith(begins)}


def followers_of(runs: Mapping[str, Run]) -> list[Follower]:
    """Return the copies of students at work."""
    return [run for run in runs.values() if isinstance(run, Follower)]


def states_of(runs: Mapping[str, Run]) -> Iterator[tuple[str, Tensor]]:
    """Yield the state of every copy, as ``teachers.<name>.…``."""
    for run in followers_of(runs):
        yield from ((f'{PREFIX}.{run.name}.{key}', x) for key, x in run.state().items())


def load_states(runs: Mapping[str, Run], state: Mapping[str, Tensor]) -> list[str]:
    """Let every copy go on from a checkpoint; one that is not in it will begin as the student.

    Args:
        runs: The members at work.
        state: Of the whole checkpoint.

    Returns:
        What is wrong, in words.
    """
    wrong = []
    for run in followers_of(runs):
        own = _within(f'{PREFIX}.{run.name}', state)
        if STEPS not in own:
            run.begun, run.steps = False, 0
            if any(key.startswith(f'{PREFIX}.') for key in state):
                print_log(
                    f'mmkd: these weights hold nothing of {run.where}, so it begins as the student',
                    logger='current',
                    level=logging.WARNING,
                )
            continue
        try:
            run.load_state(own)
        except (RuntimeError, ValueError) as error:
            wrong.append(f'{run.where}: {error}')
    return wrong


def known_keys(runs: Mapping[str, Run], keys: Iterable[str]) -> set[str]:
    """Return those of the keys of a checkpoint that are the state of a copy."""
    begins = tuple(f'{PREFIX}.{run.name}.' for run in followers_of(runs))
    return {key for key in keys if key.startswith(begins)}
