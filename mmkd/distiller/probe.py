"""The probe: one forward on generated data, so that wiring mistakes end before training starts."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from mmkd.distiller.draws import own_draws
from mmkd.distiller.members.blame import during
from mmkd.distiller.members.run import Run
from mmkd.distiller.members.stand_in import copy_module
from mmkd.distiller.objectives.objective import Objective
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record, Streams
from mmkd.tasks.base import CLASSIFICATION, UNKNOWN, Task
from mmkd.tasks.generated import default_size, generated_sample


@torch.no_grad()
def probe(
    runs: Mapping[str, Run], streams: Streams, source: nn.Module, predict_with: str
) -> Record:
    """Run every member once on generated images, and return what their taps saw.

    Students run as stand-ins: nothing of them is touched.

    Args:
        runs: The members, teachers first.
        streams: What objectives read as running statistics.
        source: The data preprocessor that makes the batches.
        predict_with: The student whose labels the batch has.
    """
    students = [run for run in runs.values() if run.role == 'student']
    device = next(students[0].model.parameters()).device
    size = tuple(getattr(source, 'size', None) or default_size(students[0].model))
    generator = torch.Generator().manual_seed(0)
    if hasattr(source, 'generate'):
        inputs = torch.stack(source.generate(1, generator))  # type: ignore[operator]
    else:
        inputs = torch.randn(1, 3, *size, generator=generator)
    with own_draws('probe'), during("in mmkd's probe, before training"):
        samples = _samples([run.task for run in students], size, device)
        record = Record(Batch(inputs.to(device), samples, runs[predict_with].ignore_index), streams)
        for name, run in runs.items():
            record.add(name, run.probe(record.batch))
    return record


@torch.no_grad()
def try_objective(objective: Objective, record: Record) -> list[str]:
    """Fit an objective's connectors and critics, run a copy of it once; return what was fitted."""
    with own_draws('objective', objective.name, 'fit'):
        fitted = objective.fit(record)
    # a loss checks its shapes before it finds that it waits for data, which is no mistake here
    with own_draws('probe'), suppress(NotFittedError):
        copy_module(objective, f'objective {objective.name!r}').eval()(record)
    return fitted


def _samples(tasks: list[Task], size: tuple[int, ...], device: torch.device) -> list[Any] | None:
    """Return labels that every student can take; None (no task loss is run) where there are none."""
    if len({task.kind for task in tasks}) > 1 or tasks[0] in (Task(UNKNOWN), Task(CLASSIFICATION)):
        return None
    generator = torch.Generator().manual_seed(0)
    return [generated_sample(tasks[0], (size[0], size[1]), generator, device, masked=False)]
