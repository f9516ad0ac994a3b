"""The probe: one forward on generated data, so that wiring mistakes end before training starts."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from mmkd.distiller.draws import own_draws
from mmkd.distiller.members.blame import during
from mmkd.distiller.members.stand_in import copy_module
from mmkd.distiller.objectives.objective import Objective
from mmkd.losses.functional import on_one_rank
from mmkd.structures.batch import Batch
from mmkd.structures.record import Record
from mmkd.tasks.base import task_of


@contextmanager
def probing() -> Iterator[None]:
    """Run members of the probe inside: without gradients, by draws of its own, errors say when."""
    when = during("in mmkd's probe, before training")
    with torch.no_grad(), own_draws('probe'), on_one_rank(), when:
        yield


def probe_batch(
    students: Mapping[str, nn.Module], source: nn.Module, size: tuple[int, int] | None = None
) -> Batch:
    """Return one generated image, with labels that every student can take, where there are such.

    Args:
        students: Name -> student.
        source: The data preprocessor that makes the batches.
        size: Height and width; None takes the data preprocessor's, else the task's.
    """
    device = next(next(iter(students.values())).parameters()).device
    tasks = [task_of(model, source) for model in students.values()]
    size = size or tasks[0].size_for(source)
    inputs = tasks[0].preprocessed(size, torch.Generator().manual_seed(0)).to(device)
    samples = None
    if len({task.kind for task in tasks}) == 1 and tasks[0].known:
        sample = tasks[0].sample(size, torch.Generator().manual_seed(0), masked=False)
        samples = [sample.to(device)]
    return Batch(inputs, samples, tasks[0].ignore_index, tasks[0])


@torch.no_grad()
def try_objective(objective: Objective, record: Record, runs: Iterable[Any] = ()) -> list[str]:
    """Fit an objective's connectors and critics, run a copy of it once; return what was fitted.

    Args:
        objective: The objective.
        record: What it reads.
        runs: What runs the members: of a loss that was told of them they are not copied with it.
    """
    for stream in objective.running():
        record[stream.key] = stream.collect(record)
    with own_draws('objective', objective.name, 'fit'), on_one_rank():
        fitted = objective.fit(record)
    # a loss checks its shapes before it finds that it waits for data, which is no mistake here
    with own_draws('probe'), on_one_rank(), suppress(NotFittedError):
        copy_module(objective, f'objective {objective.name!r}', runs).eval()(record)
    return fitted
