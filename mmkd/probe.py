"""The probe: one forward on generated data, so that wiring mistakes end before training starts."""
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from mmkd.batch import Batch
from mmkd.generated import default_size, generated_sample
from mmkd.tasks import CLASSIFICATION, UNKNOWN, Task, task_of

if TYPE_CHECKING:
    from mmkd.distiller import Distiller


@torch.no_grad()
def probe(distiller: 'Distiller') -> list[str]:
    """Run every member and objective once on generated images; return the connectors and critics that were fitted.

    Students run ``mode='loss'`` (taps of auxiliary heads fire there alone) in eval mode, and every buffer is restored.
    The compiled form of a teacher is left alone: its hooks must be there when it is first traced.
    """
    source, device = distiller.data_preprocessor, next(distiller.students.parameters()).device
    size = tuple(getattr(source, 'size', None) or default_size(next(iter(distiller.students.values()))))
    # A generator of its own: torch.manual_seed would also seed every GPU, and the run's seed would be lost there.
    generator = torch.Generator().manual_seed(0)
    if hasattr(source, 'generate'):
        inputs = torch.stack(source.generate(1, generator))
    else:
        inputs = torch.randn(1, 3, *size, generator=generator)
    inputs = inputs.to(device)
    with torch.random.fork_rng(devices=[]):
        samples = _samples(distiller.students.values(), size, inputs.device)
        batch = Batch(inputs, samples, distiller.members[distiller.predict_with].ignore_index)
        record = distiller.observe_teachers(batch, compiled=False)
        for name, run in distiller.teachers.runs.items():
            distiller.noises.prove(name, run.model, partial(run.observe, batch, compiled=False), run.member.where)
        for name, student in distiller.students.items():
            with _frozen(student), distiller.taps[name].recording() as seen:
                student(inputs, samples, mode='loss' if samples else 'tensor')
            record[name] = distiller.taps[name].read(seen)
            for objective in distiller.objectives.values():
                objective.absorb(name, record[name], record)
    fitted = []
    for objective in distiller.objectives.values():
        fitted += objective.fit(record)  # what is built here is drawn from the run's own seed
        # A loss checks its shapes before it finds that it waits for data (a vocabulary): that is no mistake here.
        with torch.random.fork_rng(devices=[]), _frozen(objective), suppress(NotFittedError):
            objective(record)
    return fitted


class _frozen:  # noqa: N801  a context manager
    """Eval mode inside the block; modes and buffers as before afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.modes = [(m, m.training) for m in self.module.modules()]
        self.buffers = [(m, name, b, b.clone()) for m in self.module.modules() for name, b in m._buffers.items()
                        if b is not None]
        self.module.eval()

    def __exit__(self, *error: Any) -> None:
        for module, training in self.modes:
            module.training = training
        for module, name, buffer, value in self.buffers:
            module._buffers[name] = buffer.copy_(value)  # it may have been replaced as well as written to


def _samples(students: Any, size: tuple[int, int], device: torch.device) -> list | None:
    """Return labels that every student can take; None (no task loss is run) where there are none."""
    tasks = [task_of(student) for student in students]
    if len({task.kind for task in tasks}) > 1 or tasks[0] in (Task(UNKNOWN), Task(CLASSIFICATION)):
        return None
    return [generated_sample(tasks[0], size, torch.Generator().manual_seed(0), device, masked=False)]
