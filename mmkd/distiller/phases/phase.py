"""Phases: which objectives each optimizer steps on, all gradients taken from one forward."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

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
                f'no phase names the objective {name!r}, so it would contribute nothing. Mend: '
                f'add it to '
                "a phase's objectives, or remove it"
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
    for name in phase.task:
        if name not in students:
            raise KeyError(
                f'{where} takes the own losses of {name!r}, which is no '
                f'student{nearest(name, students)} '
                f'(students: {list(students)})'
            )
    for name in phase.objectives + phase.critics:
        if name not in objectives:
            raise KeyError(
                f'{where} names the objective {name!r}, which is not '
                f'there{nearest(name, objectives)} '
                f'(objectives: {list(objectives)})'
            )
    for name in phase.critics:
        if not objectives[name]:
            raise ValueError(f'{where}: objective {name!r} has no critic to train')
    if not (phase.task or phase.objectives or phase.critics):
        raise ValueError(
            f'{where} has nothing to do. Mend: task=True, objectives=[…] or critics=[…]'
        )
    return phase


def _once(names: list[str], what: str, mend: str) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f'{what} {twice[0]!r}: {mend}')


class PhaseRunner:
    """Takes each phase's gradient, restricted to its optimizer's own parameters, then steps in the listed order.

    Each phase keeps its own gradient buffer, and ``p.grad`` is lent to it for clip, unscale and
    step only: two optimizers may hold the same weights, and a critic never leaks into a student or
    the reverse.
    """

    def __init__(self, phases: list[Phase]) -> None:
        self.phases = phases
        self.buffers: dict[str, list[Tensor | None]] = {}
        self.reduce: Callable[[list[Tensor | None], list[Tensor]], list[Tensor | None]] | None = (
            None
        )

    def match(self, optim_wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
        """Return phase optimizer -> wrapper.

        Raises:
            KeyError: A phase names an optimizer that is not there.
            ValueError: An optimizer serves no phase.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict):
            if len(self.phases) > 1:
                raise ValueError(
                    f'the phases {[p.name for p in self.phases]} need the optimizers '
                    f'{[p.optimizer for p in self.phases]}, but there is one. Mend: '
                    f'optim_wrapper=dict('
                    "constructor='mmkd.PhaseOptimWrapperConstructor', student=dict(...), "
                    'critic=dict(...))'
                )
            return {self.phases[0].optimizer: optim_wrapper}
        wrappers = dict(optim_wrapper.items())
        check_optimizers(self.phases, list(wrappers))
        idle = set(wrappers) - {phase.optimizer for phase in self.phases}
        if idle:
            raise ValueError(
                f'the optimizers {sorted(idle)} serve no phase. Mend: remove them, or name them '
                f'in phases'
            )
        return wrappers

    @contextmanager
    def context(self, wrappers: dict[str, OptimWrapper], model: nn.Module) -> Iterator[None]:
        """Enter the autocast that the wrappers share: one forward serves all phases.

        Raises:
            ValueError: The wrappers ask for different precisions.
        """
        kinds = {
            name: (type(w).__name__, str(getattr(w, 'cast_dtype', None)))
            for name, w in wrappers.items()
        }
        if len(set(kinds.values())) > 1:
            raise ValueError(
                f'one forward serves all phases, so their optimizer wrappers need one precision, '
                f'got '
                f'{kinds}. Mend: the same type and dtype for every optimizer'
            )
        with next(iter(wrappers.values())).optim_context(model):
            yield

    def take_gradients(self, phase: Phase, loss: Tensor, wrappers: dict[str, OptimWrapper]) -> None:
        """Add the phase's gradient to its buffer."""
        wrapper = wrappers[phase.optimizer]
        parameters = _parameters(wrapper)
        if not loss.requires_grad:
            raise ValueError(
                f'phase {phase.name!r}: its losses carry no gradient, so it would train nothing. '
                f'Mend: '
                'train what they read, or remove the phase'
            )
        loss = wrapper.scale_loss(loss)
        if hasattr(wrapper, 'loss_scaler'):
            loss = wrapper.loss_scaler.scale(loss)
        later = self.phases[self.phases.index(phase) + 1 :]
        try:
            gradients = torch.autograd.grad(
                loss,
                parameters,
                allow_unused=True,
                retain_graph=any(p.task or p.objectives for p in later),
            )
        except RuntimeError as error:
            if 'heckpoint' not in str(error):
                raise
            raise RuntimeError(
                'several phases take their gradients by autograd.grad, which reentrant activation '
                'checkpointing '
                '(with_cp=True of mmcv backbones) cannot serve. Mend: with_cp=False'
            ) from error
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f'phase {phase.name!r}: no parameter of its optimizer {phase.optimizer!r} has a '
                f'part in '
                "its losses, so it would train nothing. Mend: params='students' | 'critics' | "
                '[prefixes] '
                'in that optimizer'
            )
        old = self.buffers.get(phase.name) or [None] * len(parameters)
        self.buffers[phase.name] = [
            g if b is None else b if g is None else b + g
            for b, g in zip(old, _own_memory(gradients), strict=True)
        ]
        wrapper._inner_count += 1

    def step(self, wrappers: dict[str, OptimWrapper]) -> None:
        """Step every optimizer that is due, in the listed order."""
        due = [phase for phase in self.phases if wrappers[phase.optimizer].should_update()]
        if self.reduce is not None:
            for phase in due:
                self.buffers[phase.name] = self.reduce(
                    self.buffers[phase.name], _parameters(wrappers[phase.optimizer])
                )
        for phase in due:
            wrapper = wrappers[phase.optimizer]
            parameters = _parameters(wrapper)
            for parameter, gradient in zip(parameters, self.buffers.pop(phase.name), strict=True):
                parameter.grad = gradient
            wrapper.step()
            for parameter in parameters:
                parameter.grad = None


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


def _parameters(wrapper: OptimWrapper) -> list[Tensor]:
    return [p for group in wrapper.param_groups for p in group['params'] if p.requires_grad]


def _own_memory(gradients: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Give each gradient memory of its own: clipping and unscaling write in place.

    ``backward`` does so by itself; ``autograd.grad`` returns one tensor for both ends of an
    addition, and a view of a single number for what was only summed.
    """
    seen: set[int] = set()
    own: list[Tensor | None] = []
    for gradient in gradients:
        if gradient is not None:
            sides = zip(gradient.stride(), gradient.shape, strict=True)
            expanded = any(stride == 0 and size > 1 for stride, size in sides)
            if expanded or gradient.untyped_storage().data_ptr() in seen:
                gradient = gradient.clone(memory_format=torch.contiguous_format)
            seen.add(gradient.untyped_storage().data_ptr())
        own.append(gradient)
    return own


def grad_norm_key(phases: list[Phase], optimizer: str) -> str:
    """Return the log key of an optimizer's gradient norm: two wrappers would write into one otherwise."""
    return next(
        (f'{p.name}.grad_norm' for p in phases if p.optimizer == optimizer),
        f'{optimizer}.grad_norm',
    )
