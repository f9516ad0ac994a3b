"""Phases: which objectives each optimizer steps on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkd.utils.checks import check_keys, nearest

PHASE_KEYS = ('name', 'optimizer', 'task', 'objectives', 'critics')


@dataclass(frozen=True)
class Phase:
    """One optimizer's share of an iteration.

    Args:
        name: Its name, the prefix of its gradient norm in the log.
        optimizer: The optimizer's name in ``optim_wrapper``.
        task: Students on whose own losses it steps.
        objectives: Objectives whose loss it steps on.
        critics: Objectives whose critic loss it steps on.
    """

    name: str
    optimizer: str
    task: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    critics: tuple[str, ...] = ()


def read_phases(
    phases: list[dict] | None, objectives: dict[str, bool], students: Sequence[str] = ('student',)
) -> list[Phase]:
    """Return the phases, the implicit ones for None.

    >>> [p.name for p in read_phases(None, dict(pixel=False, holistic=True))]
    ['student', 'critic']

    Args:
        phases: The ``phases`` of the config.
        objectives: Objective name -> whether it has a critic.
        students: The students; ``task=True`` takes the own losses of all, ``task=['peer0']`` those
            of the named.

    Raises:
        TypeError: An unknown key, a string in place of a list.
        KeyError: An unknown objective or student.
        ValueError: An objective, a critic or a student's own losses in two phases or in none, two
            phases of one name or optimizer, a phase with nothing to do.
    """
    critics = [name for name, adversarial in objectives.items() if adversarial]
    if phases is None:
        implicit = [Phase('student', 'student', tuple(students), tuple(objectives))]
        return implicit + ([Phase('critic', 'critic', critics=tuple(critics))] if critics else [])
    if isinstance(phases, dict):
        raise TypeError(
            f'phases must be a list, got a dict of {list(phases)}. Mend: phases=[dict(name=…, '
            'optimizer=…), …]'
        )
    if not phases:
        raise ValueError('phases is empty. Mend: phases=None for the implicit ones')
    read = [_read_phase(phase, objectives, students) for phase in phases]
    _once([p.name for p in read], 'two phases have the name', 'give each phase its own')
    _once(
        [p.optimizer for p in read],
        'two phases have the optimizer',
        'give each phase its own, or join them',
    )
    double = 'its gradient would count twice. Mend: leave it in one phase'
    _once([o for p in read for o in p.objectives], 'two phases name the objective', double)
    _once([o for p in read for o in p.critics], 'two phases name the critic of', double)
    for name in objectives:
        if not any(name in p.objectives for p in read):
            raise ValueError(
                f'no phase names the objective {name!r}, so it would contribute nothing. Mend: add '
                "it to a phase's objectives, or remove it"
            )
    for name in critics:
        if not any(name in p.critics for p in read):
            raise ValueError(
                f"no phase trains the critic of objective {name!r}. Mend: dict(name='critic', "
                f"optimizer='critic', critics=[{name!r}])"
            )
    for name in students:
        takers = [p.name for p in read if name in p.task]
        if len(takers) != 1:
            raise ValueError(
                f'exactly one phase takes the own losses of student {name!r}, got {takers}. Mend: '
                f'task=True in one phase (of all students), or task=[{name!r}]'
            )
    return read


def _read_phase(config: dict, objectives: dict[str, bool], students: Sequence[str]) -> Phase:
    where = f'phase {config.get("name", config)!r}'
    check_keys(config, PHASE_KEYS, where)
    if 'name' not in config or 'optimizer' not in config:
        raise ValueError(f'{where} needs name= and optimizer=, got {sorted(config)}')
    for key in ('objectives', 'critics', 'task'):
        if config.get(key) is True and key != 'task':
            known = (
                list(objectives)
                if key == 'objectives'
                else [n for n, critic in objectives.items() if critic]
            )
            raise TypeError(
                f'{where}: {key} must be a list of names, got True. Mend: {key}={known}'
            )
        if isinstance(config.get(key), str):
            name = config[key]
            raise TypeError(
                f'{where}: {key} must be a list of names, got {name!r}. Mend: {key}=[{name!r}]'
            )
    task = config.get('task') or ()
    phase = Phase(
        config['name'],
        config['optimizer'],
        tuple(students if task is True else task),
        tuple(config.get('objectives') or ()),
        tuple(config.get('critics') or ()),
    )
    _check_names(where, phase, objectives, students)
    if not (phase.task or phase.objectives or phase.critics):
        raise ValueError(
            f'{where} has nothing to do. Mend: task=True, objectives=[…] or critics=[…]'
        )
    return phase


def _check_names(
    where: str, phase: Phase, objectives: dict[str, bool], students: Sequence[str]
) -> None:
    for name in phase.task:
        if name not in students:
            raise KeyError(
                f'{where} takes the own losses of {name!r}, which is no '
                f'student{nearest(name, students)} (students: {list(students)})'
            )
    for name in phase.objectives + phase.critics:
        if name not in objectives:
            raise KeyError(
                f'{where} names the objective {name!r}, which is not '
                f'there{nearest(name, objectives)} (objectives: {list(objectives)})'
            )
    for name in phase.critics:
        if not objectives[name]:
            raise ValueError(f'{where}: objective {name!r} has no critic to train')
        if name in phase.objectives:
            raise ValueError(
                f'{where} takes the gradient of objective {name!r} and of its critic, which pull '
                "the critic two ways. Mend: a phase of its own, dict(name='critic', "
                f"optimizer='critic', critics=[{name!r}])"
            )


def _once(names: list[str], what: str, mend: str) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f'{what} {twice[0]!r}: {mend}')


def check_optimizers(phases: list[Phase], optimizers: list[str]) -> None:
    """Check that every phase's optimizer is there.

    Raises:
        KeyError: A phase's optimizer is not there; names the nearest one.
    """
    for phase in phases:
        if phase.optimizer not in optimizers:
            raise KeyError(
                f'phase {phase.name!r} needs the optimizer {phase.optimizer!r}'
                f'{nearest(phase.optimizer, optimizers)} (optim_wrapper has {optimizers})'
            )


def refuse_untrained_critics(objectives: Mapping[str, Any]) -> None:
    """Refuse a critic where there is one optimizer, which no phase of a critic has.

    Raises:
        ValueError: Names the first objective with a critic.
    """
    critics = [name for name, objective in objectives.items() if objective.adversarial]
    if critics:
        raise ValueError(
            f'objective {critics[0]!r} has a critic, but there is one optimizer and nothing would '
            "train it. Mend: optim_wrapper=dict(constructor='mmkd.PhaseOptimWrapperConstructor', "
            'student=dict(...), critic=dict(...))'
        )


def grad_norm_key(phases: list[Phase], optimizer: str) -> str:
    """Return the log key of an optimizer's gradient norm: two would write into one otherwise."""
    return next(
        (f'{p.name}.grad_norm' for p in phases if p.optimizer == optimizer),
        f'{optimizer}.grad_norm',
    )
