"""Gradients of all phases from one forward, each restricted to its optimizer's parameters."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn

from mmkd.distiller.phases.phase import Phase, check_optimizers

Gradients = list[Tensor | None]  # one for each parameter
Reduce = Callable[[Gradients, list[Tensor]], Gradients]  # over ranks


class PhaseRunner:
    """Takes each phase's gradient for its optimizer's own parameters, then steps in order.

    Each phase keeps its own gradient buffer, and ``p.grad`` is lent to it for clip, unscale and
    step only: two optimizers may hold the same weights, and a critic never leaks into a student or
    the reverse.
    """

    def __init__(self, phases: list[Phase]) -> None:
        self.phases = phases
        self.buffers: dict[str, list[Tensor | None]] = {}
        self.reduce: Reduce | None = None

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
                    "optim_wrapper=dict(constructor='mmkd.PhaseOptimWrapperConstructor', "
                    'student=dict(...), critic=dict(...))'
                )
            return {self.phases[0].optimizer: optim_wrapper}
        wrappers = dict(optim_wrapper.items())
        check_optimizers(self.phases, list(wrappers))
        idle = set(wrappers) - {phase.optimizer for phase in self.phases}
        if idle:
            raise ValueError(
                f'the optimizers {sorted(idle)} serve no phase. Mend: remove them, or name them in '
                'phases'
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
                'one forward serves all phases, so their optimizer wrappers need one precision, '
                f'got {kinds}. Mend: the same type and dtype for every optimizer'
            )
        with next(iter(wrappers.values())).optim_context(model):
            yield

    def take_gradients(self, phase: Phase, loss: Tensor, wrappers: dict[str, OptimWrapper]) -> None:
        """Add the phase's gradient to its buffer."""
        wrapper = wrappers[phase.optimizer]
        parameters = parameters_of(wrapper)
        if not loss.requires_grad:
            raise ValueError(
                f'phase {phase.name!r}: its losses carry no gradient, so it would train nothing. '
                'Mend: train what they read, or remove the phase'
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
                'checkpointing (with_cp=True of mmcv backbones) cannot serve. Mend: with_cp=False'
            ) from error
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f'phase {phase.name!r}: no parameter of its optimizer {phase.optimizer!r} has a '
                "part in its losses, so it would train nothing. Mend: params='students' | "
                "'critics' | [prefixes] in that optimizer"
            )
        old = self.buffers.get(phase.name) or [None] * len(parameters)
        self.buffers[phase.name] = [
            g if b is None else b if g is None else b + g
            for b, g in zip(old, _own_memory(gradients), strict=True)
        ]
        wrapper._inner_count += 1

    def step(self, wrappers: dict[str, OptimWrapper]) -> list[Phase]:
        """Step every optimizer that is due, in the listed order; return the phases of these."""
        due = [phase for phase in self.phases if wrappers[phase.optimizer].should_update()]
        if self.reduce is not None:
            for phase in due:
                self.buffers[phase.name] = self.reduce(
                    self.buffers[phase.name], parameters_of(wrappers[phase.optimizer])
                )
        for phase in due:
            wrapper = wrappers[phase.optimizer]
            parameters = parameters_of(wrapper)
            for parameter, gradient in zip(parameters, self.buffers.pop(phase.name), strict=True):
                parameter.grad = gradient
            wrapper.step()
            for parameter in parameters:
                parameter.grad = None
        return due


def parameters_of(wrapper: OptimWrapper) -> list[Tensor]:
    """Return what an optimizer trains."""
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
