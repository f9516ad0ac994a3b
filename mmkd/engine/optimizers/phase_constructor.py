"""Optimizers by phase: their constructor, the dictionary it returns, their schedules."""

import copy
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from mmkd.distiller.phases.phase import Phase, check_optimizers, grad_norm_key
from mmkd.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmkd.utils.checks import nearest


class PhaseOptimWrapperDict(OptimWrapperDict):
    """An OptimWrapperDict that tells every wrapper where training stands; mmengine's tells none."""

    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Pass the counts on: the last partial accumulation is not lost, and resume counts on."""
        for wrapper in self.optim_wrappers.values():
            wrapper.initialize_count_status(model, cur_iter, max_iters)


class _Restricted(DefaultOptimWrapperConstructor):
    """mmengine's constructor, over the parameters that an optimizer owns."""

    owned: set[int]

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', **kwargs: Any
    ) -> None:
        """Add the owned parameters of ``module``, with mmengine's paramwise options."""
        super().add_params(params, module, prefix, **kwargs)
        # once the whole model is walked: filtered before, bypass_duplicate would miss duplicates
        if not prefix:
            params[:] = [group for group in params if id(group['params'][0]) in self.owned]


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PhaseOptimWrapperConstructor:
    """Build one optimizer per name.

    They are ``student=dict(type='OptimWrapper', optimizer=…), critic=dict(…)``. By default
    ``student`` holds students, connectors and the losses' own parameters, ``critic`` the critics;
    ``params='students' | 'critics' | [prefixes of parameter names]`` says otherwise. Optimizers
    that no phase uses are dropped, and one that remains is returned as a plain wrapper, so that one
    schedule serves a plain student, a distillation without critic and one with.

    Args:
        optim_wrapper_cfg: Optimizer name -> wrapper config.
        paramwise_cfg: mmengine's paramwise options for every optimizer; an optimizer's own come
            first.

    Raises:
        TypeError: Stray keys of a single optimizer (``type``, ``optimizer``, ``clip_grad``) beside
            the names.
        KeyError: A phase's optimizer is missing; a prefix names no parameter.
        ValueError: An optimizer owns no parameter; a student's own losses would train nothing.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.configs = {name: copy.deepcopy(cfg) for name, cfg in optim_wrapper_cfg.items()}
        self.paramwise_cfg = paramwise_cfg
        stray = sorted(
            k for k, v in self.configs.items() if not (isinstance(v, dict) and 'optimizer' in v)
        )
        if stray:
            raise TypeError(
                'optim_wrapper names optimizers (student=dict(type=…, optimizer=dict(...)), '
                f'critic=dict(...)), but the keys {stray} of a single optimizer stand beside them. '
                'Mend: optim_wrapper=dict(_delete_=True, '
                "constructor='mmkd.PhaseOptimWrapperConstructor', student=dict(...))"
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Return the wrappers of the phases.

        A model without phases takes the ``student`` optimizer for all that it has.
        """
        model = getattr(model, 'module', model)
        phases = getattr(model, 'phases', None)
        if phases is None:
            name = self._plain_name()
            return self._known(self._build(name, model, {id(p) for p in model.parameters()}), name)
        names = [phase.optimizer for phase in phases]
        check_optimizers(phases, list(self.configs))
        for name in set(self.configs) - set(names):
            print_log(
                f'mmkd: no phase uses the optimizer {name!r}, so it is not built', logger='current'
            )
        owned = {name: self._owned(name, model) for name in names}
        wrappers = {name: self._build(name, model, owned[name]) for name in names}
        for phase in phases:
            _check_task(model, phase, owned[phase.optimizer])
            _check_objectives(model, phase, owned)
            _check_gates(model, phase, owned)
            _check_learners(model, phase, owned[phase.optimizer])
        _warn_of_idle(model, set().union(*owned.values()))
        for name, wrapper in wrappers.items():
            wrapper.grad_name = grad_norm_key(phases, name)
        if len(wrappers) == 1:
            return self._known(wrappers[names[0]], names[0])
        return self._known(PhaseOptimWrapperDict(**wrappers))

    def _known(self, wrapper: OptimWrapper, name: str | None = None) -> OptimWrapper:
        """Note for schedules which optimizer this is, if one alone, and which the config names."""
        wrapper.optimizer_name, wrapper.optimizer_names = name, list(self.configs)
        return wrapper

    def _plain_name(self) -> str:
        if 'student' in self.configs:
            return 'student'
        if len(self.configs) == 1:
            return next(iter(self.configs))
        raise KeyError(
            f"a plain model takes the optimizer 'student', which is not among {list(self.configs)}"
        )

    def _build(self, name: str, model: nn.Module, owned: set[int]) -> OptimWrapper:
        config = dict(self.configs[name])
        config.pop('params', None)
        paramwise = config.pop('paramwise_cfg', None) or self.paramwise_cfg
        if not owned:
            raise ValueError(
                f"optimizer {name!r} owns no parameter. Mend: params='students', 'critics' or "
                f'[prefixes]'
            )
        if not paramwise:  # one group: hundreds of groups of one would make each step slower
            own = nn.ParameterList(p for p in model.parameters() if id(p) in owned)
            return DefaultOptimWrapperConstructor(config)(own)
        constructor = _Restricted(config, paramwise)
        constructor.owned = owned
        return constructor(model)

    def _owned(self, name: str, model: Any) -> set[int]:
        """Return the ids of the parameters that an optimizer steps on."""
        params = self.configs[name].get('params') or ('critics' if name == 'critic' else 'students')
        if isinstance(params, list | tuple):
            return _with_prefix(model, name, params)
        if params not in ('students', 'critics'):
            raise ValueError(
                f"optimizer {name!r}: params must be 'students', 'critics' or a list of prefixes "
                f'of parameter names, got {params!r}'
            )
        critics = tuple(
            f'objectives.{key}.loss.critic.'
            for key, objective in model.objectives.items()
            if objective.adversarial
        )
        return {
            id(parameter)
            for key, parameter in model.named_parameters()
            if key.startswith(critics) == (params == 'critics')
        }


def _with_prefix(model: nn.Module, optimizer: str, prefixes: Sequence[str]) -> set[int]:
    """Return the ids of the parameters whose names begin with one of these."""
    named = dict(model.named_parameters())
    found: set[int] = set()
    for prefix in prefixes:
        own = {id(parameter) for name, parameter in named.items() if is_within(name, prefix)}
        if not own:
            tops = {'.'.join(name.split('.')[:3]) for name in named}
            raise KeyError(
                f'optimizer {optimizer!r}: params prefix {prefix!r} names no parameter'
                f'{nearest(prefix, tops)}'
            )
        found |= own
    return found


def is_within(name: str, prefix: str) -> bool:
    """Return whether a parameter is of a module, or is named itself.

    >>> [is_within('students.ab.conv.weight', one) for one in ('students.a', 'students.ab.')]
    [False, True]
    """
    return f'{name}.'.startswith(f'{prefix.rstrip(".")}.')


def schedules_by_name(schedulers: Any) -> bool:
    """Return whether ``param_scheduler`` is given by the names of optimizers.

    >>> [schedules_by_name(given) for given in (dict(student=[]), dict(type='PolyLR'), [])]
    [True, False, False]
    """
    return isinstance(schedulers, dict) and 'type' not in schedulers


def check_schedule_names(schedulers: Any, optimizers: Iterable[str]) -> None:
    """Refuse schedules of an optimizer that ``optim_wrapper`` does not name.

    Raises:
        KeyError: Names the nearest one.
    """
    optimizers = list(optimizers)
    for name in schedulers if schedules_by_name(schedulers) else ():
        if name not in optimizers:
            raise KeyError(
                f'param_scheduler names the optimizer {name!r}{nearest(name, optimizers)} '
                f'(optim_wrapper has {optimizers})'
            )


def complete_schedules(schedulers: Any, wrapper: OptimWrapper) -> Any:
    """Complete ``param_scheduler``: mmengine's Runner dies where an optimizer has no schedule.

    Args:
        schedulers: ``param_scheduler``; by name: an optimizer without schedules keeps its learning
            rate, and those of an optimizer that no phase uses are left out.
        wrapper: The optimizers that were built.

    Raises:
        KeyError: A schedule of an unknown optimizer.
    """
    if not schedules_by_name(schedulers):
        return schedulers
    several = isinstance(wrapper, OptimWrapperDict)
    built = list(wrapper.keys()) if several else [getattr(wrapper, 'optimizer_name', None)]
    check_schedule_names(schedulers, getattr(wrapper, 'optimizer_names', built if several else []))
    complete = {name: schedulers.get(name, []) for name in built}
    return complete if several else complete[built[0]]


def mend_schedules() -> None:
    """Make every Runner complete schedules that are given by name, whoever builds it."""
    build = Runner.build_param_scheduler

    def build_param_scheduler(runner: Runner, scheduler: Any) -> Any:
        return build(runner, complete_schedules(scheduler, runner.optim_wrapper))

    Runner.build_param_scheduler = build_param_scheduler


mend_schedules()


def _warn_of_idle(model: nn.Module, owned: set[int]) -> None:
    """Say which parameters no optimizer holds: prefixes may leave out more than was meant."""
    idle = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in owned]
    if idle:
        print_log(
            f'mmkd: no optimizer holds {len(idle)} parameters, which will not be trained: '
            f'{", ".join(idle[:3])}{", …" if len(idle) > 3 else ""}',
            logger='current',
            level=logging.WARNING,
        )


def _check_objectives(model: Any, phase: Phase, owned: dict[str, set[int]]) -> None:
    """Refuse a connector, a loss's layer or a critic that the phase's optimizer does not hold."""
    for name in dict.fromkeys((*phase.objectives, *phase.critics)):
        objective = model.objectives[name]
        critic = objective.loss.critic.parameters() if objective.adversarial else ()
        of_critic = set(map(id, critic))
        for key, parameter in objective.named_parameters():
            stepped_on = phase.critics if id(parameter) in of_critic else phase.objectives
            if not parameter.requires_grad or name not in stepped_on:
                continue
            what = f'takes the gradient of objective {name!r}'
            _check_held(parameter, f'objectives.{name}', key, phase, owned, what)


def _check_gates(model: Any, phase: Phase, owned: dict[str, set[int]]) -> None:
    """Refuse a gate that the phase's objectives train, and its optimizer does not hold."""
    for name in phase.objectives:
        learned = model.objectives[name].reads.learned()
        for gate in dict.fromkeys(reference.partition('.')[0] for reference in learned):
            parts = model.combined[gate].named_parameters() if gate in model.combined else ()
            what = f'takes objective {name!r}, which trains {gate!r}'
            for key, parameter in parts:
                _check_held(parameter, f'combined.{gate}', key, phase, owned, what)


def _check_held(
    parameter: nn.Parameter,
    module: str,
    key: str,
    phase: Phase,
    owned: dict[str, set[int]],
    what: str,
) -> None:
    """Refuse a parameter of a module that a phase trains, and its optimizer does not hold."""
    if id(parameter) not in owned[phase.optimizer]:
        raise ValueError(
            f'phase {phase.name!r} {what}, but its optimizer {phase.optimizer!r} does not hold '
            f'{module}.{key} ({_holder(parameter, owned)}), which would never be trained. Mend: '
            f'add {module!r} to params of {phase.optimizer!r}'
        )


def _holder(parameter: nn.Parameter, owned: dict[str, set[int]]) -> str:
    for optimizer, held in owned.items():
        if id(parameter) in held:
            return f'the optimizer {optimizer!r} holds it'
    return 'no optimizer holds it'


def _check_learners(model: Any, phase: Phase, owned: set[int]) -> None:
    """Refuse an objective whose gradient would reach no optimizer that holds a student of it."""
    for name in phase.objectives:
        learned = model.objectives[name].reads.learned()
        members = {reference.partition('.')[0] for reference in learned}
        students = sorted(members & {*model.students})
        held = any(id(p) in owned for one in students for p in model.students[one].parameters())
        if students and not held:
            raise ValueError(
                f'phase {phase.name!r} takes objective {name!r}, but its optimizer '
                f'{phase.optimizer!r} holds no parameter of {" and ".join(map(repr, students))}, '
                'which would learn nothing from it. Mend: the phase whose optimizer holds it, or '
                "params=['students.…'] of this one"
            )


def _check_task(model: Any, phase: Phase, owned: set[int]) -> None:
    """Refuse a student whose own losses would reach no optimizer that holds it."""
    for name in phase.task:
        if not any(id(p) in owned for p in model.students[name].parameters()):
            raise ValueError(
                f'phase {phase.name!r} takes the task losses, but its optimizer '
                f'{phase.optimizer!r} holds '
                f'no parameter of student {name!r}, whose own losses would train nothing. Mend: '
                f"params='students' in that optimizer, or task=[…] without {name!r} in that phase"
            )
