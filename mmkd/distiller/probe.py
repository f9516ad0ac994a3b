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
from mmkd.tasks.base import Task, task_of


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
    tasks = [task_of(run.model, source) for run in students]
    size = tuple(getattr(source, 'size', None) or tasks[0].size)
    inputs = tasks[0].preprocessed(size, torch.Generator().manual_seed(0)).to(device)
    with own_draws('probe'), during("in mmkd's probe, before training"):
        samples = _samples(tasks, size, device)
        batch = Batch(inputs, samples, runs[predict_with].ignore_index, tasks[0])
        record = Record(batch, streams)
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
    """Return labels for students of these tasks; None, and no task loss, where there are none."""
    if len({task.kind for task in tasks}) > 1 or not tasks[0].known:
        return None
    generator = torch.Generator().manual_seed(0)
    return [tasks[0].sample((size[0], size[1]), generator, masked=False).to(device)]
