"""The probe: one forward on generated data, so that wiring mistakes end before training starts."""

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from sklearn.exceptions import NotFittedError

from mmkd.distiller.draws import own_draws
from mmkd.distiller.members.blame import blaming, during
from mmkd.distiller.stand_in import copy_module, stand_in
from mmkd.distiller.taps.taps import Taps
from mmkd.structures.batch import Batch
from mmkd.tasks.base import CLASSIFICATION, UNKNOWN, Task, task_of
from mmkd.tasks.generated import default_size, generated_sample

if TYPE_CHECKING:
    from mmkd.distiller import Distiller


@torch.no_grad()
def probe(distiller: 'Distiller') -> list[str]:
    """Run every member and objective once on generated images; return the connectors and critics that were fitted.

    Students run ``mode='loss'`` (taps of auxiliary heads fire there alone) as stand-ins, see
    :func:`mmkd.distiller.stand_in.stand_in`, and objectives as copies: nothing of a student is
    touched, and of an objective only what is fitted. The compiled form of a teacher is left alone:
    its hooks must be there when it is first traced.
    """
    source, device = distiller.data_preprocessor, next(distiller.students.parameters()).device
    size = tuple(
        getattr(source, 'size', None) or default_size(next(iter(distiller.students.values())))
    )
    generator = torch.Generator().manual_seed(0)
    if hasattr(source, 'generate'):
        inputs = torch.stack(source.generate(1, generator))
    else:
        inputs = torch.randn(1, 3, *size, generator=generator)
    inputs = inputs.to(device)
    with own_draws('probe'), during("in mmkd's probe, before training"):
        samples = _samples(distiller.students.values(), size, inputs.device)
        batch = Batch(inputs, samples, distiller.members[distiller.predict_with].ignore_index)
        record = distiller.observe_teachers(batch, compiled=False)
        for name, run in distiller.teachers.runs.items():
            distiller.noises.prove(
                name, run.model, partial(run.observe, batch, compiled=False), run.member.where
            )
        for name in distiller.students:
            record[name] = _observe(distiller, name, batch, generator)
            for objective in distiller.objectives.values():
                objective.absorb(name, record[name], record)
    fitted = []
    for name, objective in distiller.objectives.items():
        with own_draws('objective', name, 'fit'):
            fitted += objective.fit(record)
        # A loss checks its shapes before it finds that it waits for data (a vocabulary): that is no
        # mistake here.
        with own_draws('probe'), suppress(NotFittedError):
            copy_module(objective, f'objective {name!r}').eval()(record)
    return fitted


def _observe(
    distiller: 'Distiller', name: str, batch: Batch, generator: torch.Generator
) -> dict[str, Any]:
    """Run a stand-in of a student and return what its taps saw."""
    taps, where = distiller.taps[name], distiller.members[name].where
    model = stand_in(distiller.students[name], where, generator)
    own = Taps(model, {tap: path.text for tap, path in taps.paths.items()}, where)
    mode = 'loss' if batch.data_samples else 'tensor'
    with blaming(where, model, mode, batch.inputs), own.recording() as seen:
        model(batch.inputs, batch.data_samples, mode=mode)
    return own.read(seen)


def _samples(students: Any, size: tuple[int, int], device: torch.device) -> list | None:
    """Return labels that every student can take; None (no task loss is run) where there are none."""
    tasks = [task_of(student) for student in students]
    if len({task.kind for task in tasks}) > 1 or tasks[0] in (Task(UNKNOWN), Task(CLASSIFICATION)):
        return None
    return [
        generated_sample(tasks[0], size, torch.Generator().manual_seed(0), device, masked=False)
    ]
