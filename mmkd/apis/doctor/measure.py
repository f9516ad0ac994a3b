"""What a config's first batch shows: taps, objectives, their gradients, optimizers, sizes."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd.apis.doctor.report import Report
from mmkd.connectors.connector import Connector
from mmkd.distiller import Distiller
from mmkd.distiller.members.run import Run
from mmkd.distiller.objectives.objective import Objective

DOMINATES = 100.0


def gradient_norm(value: Tensor, parameters: Iterable[Tensor]) -> float:
    """Return the Euclidean norm of the gradient of ``value`` by all parameters; the graph stays.

    >>> w = torch.tensor([3., 4.], requires_grad=True)
    >>> gradient_norm(w.square().sum() / 2, [w])
    5.0
    """
    parameters = list(parameters)
    if not value.requires_grad or not parameters:
        return 0.0
    try:
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            value, parameters, retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:  # reentrant activation checkpointing serves backward() alone
        if 'heckpoint' not in str(error):
            raise
        gradients = _by_backward(value, parameters)
    return math.sqrt(sum(g.double().square().sum().item() for g in gradients if g is not None))


def _by_backward(value: Tensor, parameters: list[Tensor]) -> Sequence[Tensor | None]:
    before = [one.grad for one in parameters]
    for one in parameters:
        one.grad = None
    value.backward(retain_graph=True)
    found = [one.grad for one in parameters]
    for one, grad in zip(parameters, before, strict=True):
        one.grad = grad
    return found


def measure_objectives(model: Distiller, data: dict, report: Report) -> None:
    """Run every member once on a batch, in float32 and train mode; table taps and objectives."""
    parameters = [p for p in model.students.parameters() if p.requires_grad]
    with _counting_calls(model) as calls:
        record, task = model.observe(**data)
    report.table(
        'taps',
        ('member', 'tap', 'path', 'shape', 'type', 'calls'),
        [
            (member, tap, path.text, *_shape(record[member].get(tap)), calls[member, tap])
            for member, taps in _taps(model).items()
            for tap, path in taps.paths.items()
        ],
    )
    # a backbone without a head has no losses of its own
    total = model.parse_losses(task)[0] if task else record.batch.inputs.new_zeros(())
    task_norm = gradient_norm(total, parameters)
    rows = [
        (
            'task',
            ', '.join(key for key in task if 'loss' in key) or 'none',
            '',
            '',
            '',
            '',
            f'{total.item():.4g}',
            '1',
        )
    ]
    if task_norm == 0 and model.task_weight and task:
        report.error(
            "the students' own losses have no gradient: every parameter is frozen, or no label is "
            'valid'
        )
    for name, objective in model.objectives.items():
        value = objective(record)[f'{name}.loss']
        norm = gradient_norm(value, parameters)
        _judge(name, objective, value.item(), norm, task_norm, report)
        relative = f'{norm / task_norm:.3g}' if task_norm else '–'
        rows.append((name, *_describe(objective), f'{value.item():.4g}', relative))
        if objective.adversarial:
            value = objective.critic_loss(record)[f'{name}.critic_loss']
            if not math.isfinite(value.item()):
                report.error(
                    f'objective {name!r}: the critic loss is {value.item()} on the first batch'
                )
            norm = gradient_norm(value, objective.loss.critic.parameters())
            rows.append(
                (
                    f'{name}: its critic',
                    type(objective.loss.critic).__name__,
                    '',
                    '',
                    '',
                    '',
                    f'{value.item():.4g}',
                    f'|g| {norm:.3g}, critic only',
                )
            )
    report.table(
        'objectives',
        ('name', 'loss', 'reads', 'connector', 'weights', 'normaliser', 'value', 'gradient / task'),
        rows,
    )


def _judge(
    name: str, objective: Objective, value: float, norm: float, task_norm: float, report: Report
) -> None:
    if not math.isfinite(value) or not math.isfinite(norm):
        report.error(f'objective {name!r} is {value} on the first batch, and its gradient {norm}')
    elif norm == 0:
        report.warn(
            f'objective {name!r} has no gradient on the first batch (value {value:.4g}): the '
            'student would learn nothing from it'
        )
    elif task_norm and norm > DOMINATES * task_norm:
        report.warn(
            f'objective {name!r}: its gradient is {norm / task_norm:.3g} times that of the task '
            f'loss, which it drowns. Mend: weight={objective.weight * task_norm / norm:.2g} would '
            'make them equal'
        )


def _describe(objective: Objective) -> tuple[str, str, str, str, str]:
    loss = objective.loss
    reads = '\n'.join(
        str(read) if str(read).startswith(f'{role}.') else f'{role}={read}'
        for role, read in objective.reads.items()
    )
    reads += ''.join(f'\nwhere {part!r}' for part in objective.where)
    connectors = '\n'.join(
        f'{role}: {_connector(module)}' for role, module in objective.connectors.items()
    )
    return (
        type(loss).__name__,
        reads,
        connectors,
        f'{objective.weight:g} × {objective.contract.loss_weight:g}',
        normaliser(loss),
    )


def normaliser(loss: nn.Module) -> str:
    """Return what a loss says after ``Normaliser:``, in its class or the function behind it."""
    module = sys.modules[type(loss).__module__]
    documents = [
        type(loss).__doc__,
        *(
            f.__doc__
            for f in vars(module).values()
            if callable(f) and getattr(f, '__module__', '') == module.__name__
        ),
    ]
    for text in filter(None, documents):
        found = re.search(r'Normaliser:\s+(.+?)(?:[.;]\s|\n\s*\n|$)', text, re.DOTALL)
        if found:
            return ' '.join(found[1].split()).rstrip('.')
    return '–'


def _connector(module: nn.Module) -> str:
    if not isinstance(module, Connector):
        return type(module).__name__
    conv = module.conv
    steps = (
        [f'1×1 convolution {conv.in_channels} → {conv.out_channels}']
        if isinstance(conv, nn.Conv2d)
        else []
    )
    return ', '.join(steps + ['resize'] * module.resize) or 'nothing to do'


def _shape(value: Any) -> tuple[str, str]:
    if value is None:
        return 'kept as running statistics', ''
    tensors = value if isinstance(value, list) else [value]
    return (
        '\n'.join(str(tuple(t.shape)) for t in tensors),
        str(tensors[0].dtype).removeprefix('torch.'),
    )


def _taps(model: Distiller) -> dict[str, Any]:
    return {run.name: run.taps for run in students_first(model.runs)}


def students_first(runs: Mapping[str, Run]) -> list[Run]:
    """Return the members in the order in which people read them."""
    return sorted(runs.values(), key=lambda run: run.role)


@contextmanager
def _counting_calls(model: Distiller) -> Iterator[dict[tuple[str, str], int]]:
    counts: dict[tuple[str, str], int] = {}
    handles = []
    for member, taps in _taps(model).items():
        for tap, path in taps.paths.items():
            counts[member, tap] = 0
            if taps.model is None:  # of a stored teacher
                continue

            def called(*_: Any, key: tuple[str, str] = (member, tap)) -> None:
                counts[key] += 1

            handles.append(taps.model.get_submodule(path.module).register_forward_hook(called))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def named_wrappers(wrapper: OptimWrapper) -> dict[str, OptimWrapper]:
    """Return name -> wrapper, also of one that has no name."""
    return dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {'': wrapper}


def table_optimizers(model: nn.Module, wrapper: OptimWrapper, report: Report) -> None:
    """Table phases with their optimizers; warn of parameters that nobody trains."""
    wrappers = named_wrappers(wrapper)
    phases = getattr(model, 'phases', None)
    rows, held = [], set()
    for name, one in wrappers.items():
        phase = next((p for p in phases or () if p.optimizer == name or len(wrappers) == 1), None)
        steps = (
            []
            if phase is None
            else _own_losses(phase, model)
            + list(phase.objectives)
            + [f'critic of {critic}' for critic in phase.critics]
        )
        parameters = [p for group in one.param_groups for p in group['params']]
        held |= {id(p) for p in parameters}
        first = one.param_groups[0]
        rows.append(
            (
                phase.name if phase else '–',
                f'{type(one).__name__}, {type(one.optimizer).__name__}',
                ', '.join(steps) or 'task losses',
                count(parameters),
                len(one.param_groups),
                f'{first["lr"]:g}',
                f'{first.get("weight_decay", 0):g}',
                one._accumulative_counts,
            )
        )
    report.table(
        'phases',
        (
            'phase',
            'optimizer',
            'steps on',
            'parameters',
            'groups',
            'lr',
            'weight decay',
            'accumulates',
        ),
        rows,
    )
    idle = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if idle:
        report.warn(
            f'no optimizer holds {len(idle)} trainable parameters: {", ".join(idle[:3])}'
            f'{", …" if len(idle) > 3 else ""}'
        )


def _own_losses(phase: Any, model: Any) -> list[str]:
    """Say whose own losses a phase steps on."""
    every = len(phase.task) == len(model.students)
    return (
        ['task losses']
        if every and phase.task
        else [f'task losses of {name}' for name in phase.task]
    )


def table_cost(
    model: nn.Module,
    wrapper: OptimWrapper,
    transient: int,
    share: float,
    cfg: Config,
    report: Report,
) -> int:
    """Table checkpoint size and memory; return the bytes of a checkpoint.

    Args:
        model: After one step, so that its optimizers have their state.
        wrapper: The optimizers.
        transient: Peak bytes of a step after that one, on top of what was there.
        share: The config's batch size over that of the step, by which all but gradients grow.
        cfg: The config.
        report: Where the table goes.
    """
    weights = _bytes(model.state_dict().values())
    state = _bytes(
        t
        for one in named_wrappers(wrapper).values()
        for entry in one.optimizer.state.values()
        for t in entry.values()
    )
    averaged = sum(
        weights for hook in cfg.get('custom_hooks') or [] if 'EMAHook' in str(hook.get('type'))
    )
    frozen = getattr(model, 'teachers', {}).values()
    teachers = sum(_bytes(teacher.state_dict().values()) for teacher in frozen)
    checkpoint = weights + state + averaged
    resident = checkpoint + teachers
    gradients = _bytes(p for p in model.parameters() if p.requires_grad)
    step = gradients + max(transient - gradients, 0) * share
    report.table(
        'cost',
        ('what', 'MiB'),
        [
            (
                'a checkpoint',
                f'{_mib(checkpoint)} = weights {_mib(weights)} + optimizer {_mib(state)}'
                + (f' + averaged weights {_mib(averaged)}' if averaged else ''),
            ),
            ('teachers, in memory alone', _mib(teachers)),
            (
                'memory of a step, about',
                f'{_mib(resident + step)} = weights and optimizer {_mib(resident)} + '
                f'activations and gradients {_mib(step)}',
            ),
        ],
    )
    return checkpoint


def _mib(size: float) -> str:
    return f'{size / 2**20:.1f}'


def _bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def count(parameters: Iterable[Tensor]) -> str:
    """Return a number of parameters as people write it.

    >>> count([torch.zeros(1200, 1000)]), count([torch.zeros(300, 10)])
    ('1.20 M', '3.0 k')
    """
    number = sum(p.numel() for p in parameters)
    return f'{number / 1e6:.2f} M' if number >= 1e5 else f'{number / 1e3:.1f} k'
